# SPDX-License-Identifier: GPL-2.0-or-later
"""Who gets into etcd, over TLS and by password; whoever does not reads why, and is never told that a device is free.

Certificates come from trustme, etcd is real and is asked by the product's own client alone.
"""

from __future__ import annotations

import asyncio
import os
import ssl
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import trustme
from cryptography.hazmat.primitives import serialization
from lab_cluster import Cluster, EtcdServer, play
from lab_tls import PASSWORD, Pki, Secured, put, secured

from enforcer.cluster import etcd_tls
from enforcer.cluster.etcd_access import EtcdAccess
from enforcer.cluster.etcd_api import Etcd, get_prefix
from enforcer.cluster.etcd_api import put as put_op
from enforcer.cluster.etcd_session import SessionFacts
from enforcer.cluster.etcd_store import EtcdStore
from enforcer.cluster.etcd_tls import Tls, TlsFiles, validity
from enforcer.cluster.http1 import Connection
from enforcer.model.errors import StoreUnavailable
from enforcer.model.lease import Claim, Denied, Granted, Holder, Standing
from enforcer.model.resource import ResourceId
from enforcer.settings import Store, StoreKind

ROOT = "/enforcer/test/"


@pytest.fixture(autouse=True)
def no_secret_is_logged(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Whatever happens in a test, at the most talkative level."""
    caplog.set_level(1)
    yield
    said = "\n".join(record.getMessage() for when in ("setup", "call") for record in caplog.get_records(when))
    assert PASSWORD not in said
    assert "authorization" not in said.lower()


def refusal(store: Store, *, budget_s: float = 5.0) -> StoreUnavailable:
    """What a node reads that asks an etcd which does not let it in; soon, and as a refusal of the device."""

    async def ask() -> StoreUnavailable:
        access = EtcdAccess(store)
        begun = time.monotonic()
        with pytest.raises(StoreUnavailable) as told:
            await Etcd(access).read([get_prefix(ROOT)], budget_s=budget_s)
        assert time.monotonic() - begun < 2, "a refusal needs no patience"
        me = Holder("n", "b", "s")
        leases = EtcdStore(access, "test", me, session=lambda: SessionFacts(1, 1, 9), ttl_s=9)
        denied = await leases.acquire(frozenset({Claim(ResourceId("a"))}), {}, budget_s=budget_s)
        assert denied == Denied(Standing.UNKNOWN, str(told.value), remedy=told.value.hint)
        assert told.value.hint
        assert PASSWORD not in f"{told.value} {told.value.hint} {access!r} {vars(access)}"
        await access.close()
        return told.value

    return asyncio.run(ask())


def lets_in(store: Store) -> None:
    async def ask() -> None:
        access = EtcdAccess(store)
        await Etcd(access).read([get_prefix(ROOT)], budget_s=3)
        await access.close()

    asyncio.run(ask())


@pytest.fixture
def pki(tmp_path: Path) -> Pki:
    """An authority that etcd does not know."""
    return Pki(tmp_path / "other")


def test_a_server_of_another_authority_is_refused(etcd_cert: Secured, pki: Pki) -> None:
    told = refusal(replace(etcd_cert.store, ca=str(pki.ca)))
    assert f"its certificate is not signed by an authority in {pki.ca}" in str(told)


def test_a_server_of_another_name_is_refused(etcd_cert: Secured) -> None:
    port = etcd_cert.server.url.rpartition(":")[2]
    told = refusal(replace(etcd_cert.store, endpoints=(f"https://localhost:{port}",)))
    assert "certificate is not valid for 'localhost'" in str(told)
    assert "server_name" in told.hint
    told = refusal(replace(etcd_cert.store, server_name="etcd.example"))
    assert "certificate is not valid for 'etcd.example'" in str(told)
    lets_in(replace(etcd_cert.store, endpoints=(f"https://localhost:{port}",), server_name="127.0.0.1"))


def test_without_a_client_certificate_the_remedy_is_named(etcd_cert: Secured) -> None:
    told = refusal(replace(etcd_cert.store, cert="", key=""))
    assert (str(told).rpartition(": ")[2], told.hint) == (
        "it wants a client certificate",
        "set cert and key in [store] of enforcer.toml",
    )


def test_a_client_certificate_of_another_authority_is_named(etcd_cert: Secured, pki: Pki) -> None:
    cert, key = pki.issue("node", "node-1.example")
    told = refusal(replace(etcd_cert.store, cert=str(cert), key=str(key)))
    assert f"it refuses the client certificate {cert} (" in str(told)


def test_an_expired_client_certificate_is_named_with_its_date(etcd_cert: Secured) -> None:
    cert, key = etcd_cert.pki.issue("expired", "node-1.example", days=-1)
    day = datetime.now(UTC) - timedelta(days=1)
    told = refusal(replace(etcd_cert.store, cert=str(cert), key=str(key)))
    assert f"it refuses the client certificate: {cert} expired on {day:%Y-%m-%d}" in str(told)
    assert told.hint == f"put a renewed one into {cert}"


def test_http_and_https_mistaken_for_each_other_are_told(etcd: EtcdServer, etcd_cert: Secured) -> None:
    plain = Store(kind=StoreKind.ETCD, endpoints=(etcd_cert.server.url.replace("https:", "http:"),))
    assert "it hung up before any answer; does it want https?" in str(refusal(plain, budget_s=0.5))
    secure = replace(etcd_cert.store, endpoints=(etcd.url.replace("http:", "https:"),))
    assert "it hung up during the TLS handshake; does it speak TLS?" in str(refusal(secure, budget_s=0.5))


def test_a_member_that_is_not_trusted_is_passed_over(etcd_cert: Secured, etcd_password: Secured) -> None:
    lets_in(replace(etcd_cert.store, endpoints=(etcd_password.server.url, etcd_cert.server.url)))


def test_only_tls_1_2_and_newer_and_no_keys_for_eavesdroppers(
    etcd_cert: Secured, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSLKEYLOGFILE", str(tmp_path / "keys"))
    context = asyncio.run(Tls(TlsFiles(etcd_cert.store.ca)).context())
    assert context.minimum_version is ssl.TLSVersion.TLSv1_2
    assert context.check_hostname and context.verify_mode is ssl.CERT_REQUIRED
    lets_in(etcd_cert.store)
    assert not (tmp_path / "keys").exists()


def test_what_was_connected_under_older_certificates_is_not_used_again(
    etcd_cert: Secured, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(etcd_tls, "LOOK_EVERY_S", 0.0)
    own = Pki(tmp_path / "own", etcd_cert.pki.authority)
    cert, key = own.issue("node", "node-1.example")
    opened: list[Connection] = []
    connect = Connection.open

    async def count(*how: Any) -> Connection:
        opened.append(await connect(*how))
        return opened[-1]

    monkeypatch.setattr(Connection, "open", count)

    async def scenario() -> None:
        access = EtcdAccess(replace(etcd_cert.store, cert=str(cert), key=str(key)))

        async def read(*, connections: int) -> None:
            await Etcd(access).read([get_prefix(ROOT)], budget_s=3)
            assert len(opened) == connections

        await read(connections=1)
        await read(connections=1)
        own.issue("node", "node-1.example")
        await read(connections=2)
        await read(connections=2)
        await access.close()

    asyncio.run(scenario())


def encrypt(key: Path) -> None:
    loaded = serialization.load_pem_private_key(key.read_bytes(), None)
    form = serialization.PrivateFormat.PKCS8
    locked = loaded.private_bytes(serialization.Encoding.PEM, form, serialization.BestAvailableEncryption(b"x"))
    put(key, locked, mode=0o600)


@pytest.mark.parametrize(
    ("which", "damage", "said"),
    [
        ("ca", Path.unlink, "cannot be read: No such file"),
        ("ca", lambda path: path.write_text("none"), "holds no certificate"),
        ("cert", Path.unlink, "cannot be read: No such file"),
        ("cert", lambda path: path.write_text("none"), "are no certificate with its key"),
        ("key", Path.unlink, "cannot be read: No such file"),
        ("key", lambda path: path.chmod(0o644), "is a private key that everybody may reach"),
        ("key", encrypt, "needs a passphrase"),
        ("key", lambda path: put(path, trustme.CA().private_key_pem.bytes(), mode=0o600), "is not the key of"),
        ("password_file", Path.unlink, "cannot be read: No such file"),
        ("password_file", lambda path: path.chmod(0o640), "holds a password and is not private"),
        ("password_file", lambda path: path.write_text("\n"), "does not hold a password on one line"),
        ("password_file", lambda path: path.write_text("a\nb\n"), "does not hold a password on one line"),
        ("password_file", lambda path: path.write_bytes(b"\xff"), "does not hold a password on one line"),
        ("password_file", lambda path: (path.unlink(), os.mkfifo(path, 0o600)), "is no regular file"),
        ("password_file", lambda path: (path.unlink(), path.mkdir()), "cannot be read: Is a directory"),
    ],
)
def test_a_file_that_cannot_be_used_is_named_in_one_sentence(
    etcd_password: Secured, tmp_path: Path, which: str, damage: Callable[[Path], object], said: str
) -> None:
    own = Pki(tmp_path / "own", etcd_password.pki.authority)
    cert, key = own.issue("node", "node-1.example")
    password = tmp_path / "password"
    put(password, PASSWORD.encode(), mode=0o600)
    store = replace(etcd_password.store, ca=str(own.ca), cert=str(cert), key=str(key), password_file=str(password))
    lets_in(store)
    path = Path(getattr(store, which))
    damage(path)
    told = refusal(store)
    assert str(told).startswith(f"the lease store cannot be used: {path} ")
    assert said in str(told)


def test_an_unreadable_key_is_named(etcd_cert: Secured, tmp_path: Path) -> None:
    cert, key = Pki(tmp_path, etcd_cert.pki.authority).issue("node", "node-1.example")
    key.unlink()
    key.mkdir()
    told = refusal(replace(etcd_cert.store, cert=str(cert), key=str(key)))
    assert f"{key} cannot be read: Is a directory" in str(told)


def test_a_wrong_password_is_told_and_not_tried_again_at_once(
    etcd_password: Secured, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = tmp_path / "wrong"
    put(wrong, b"incorrect", mode=0o600)
    told = refusal(replace(etcd_password.store, password_file=str(wrong)))
    assert (
        str(told) == f"the lease store cannot be used: etcd does not take the password in {wrong} for the user 'node'"
    )
    assert told.hint.startswith("etcdctl user passwd node")

    async def mend() -> None:
        access = EtcdAccess(replace(etcd_password.store, password_file=str(wrong)))
        asked = []
        call = access._client.call
        monkeypatch.setattr(access._client, "call", lambda *a, **k: asked.append(a[0]) or call(*a, **k))
        for _ in range(3):
            with pytest.raises(StoreUnavailable):
                await Etcd(access).read([get_prefix(ROOT)], budget_s=3)
        assert asked == ["/auth/authenticate"], "bcrypt costs etcd a tenth of a second"
        put(wrong, PASSWORD.encode(), mode=0o600)
        await Etcd(access).read([get_prefix(ROOT)], budget_s=3)
        await access.close()

    asyncio.run(mend())


def test_without_a_user_the_remedy_is_named(etcd_password: Secured) -> None:
    told = refusal(replace(etcd_password.store, username="", password_file=""))
    assert str(told) == "the lease store cannot be used: etcd wants a user and a password"


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Secured]:
    """A server of one's own, with users; tokens live for a second."""
    made = secured(tmp_path / "own", user="node", options=["--auth-token-ttl=1"])
    yield made
    made.server.kill()


def end_tokens(of: Secured) -> None:
    """As a new password does, and be it the same."""
    of.login()
    of.ask("/auth/user/changepw", {"name": "node", "password": PASSWORD})


@pytest.mark.parametrize("how", ["expired", "ended"])
def test_a_token_that_is_over_is_renewed_and_the_write_is_done_once(own: Secured, how: str) -> None:
    async def scenario(c: Cluster) -> None:
        node = await c.boot("node-1")
        held, access = await node.must_take("a"), node.client
        assert isinstance(access, EtcdAccess)
        etcd, token = Etcd(access), access._token
        before = (await etcd.read([get_prefix(ROOT)], budget_s=5)).revision
        await (asyncio.sleep(2.2) if how == "expired" else asyncio.to_thread(end_tokens, own))
        answer = await etcd.write([], [put_op("/enforcer/test-x", b"1")], budget_s=5)
        assert answer.revision == before + 1
        assert access._token != token
        again = await node.must_take("a")
        assert (again.token, again.fresh) == (held.token, False)

    play(Cluster("etcd", own.server.url, access=own.store), scenario)


def test_an_expired_certificate_of_the_server_is_told(own: Secured) -> None:
    own.pki.issue("server", "127.0.0.1", days=-1)  # etcd reads it again for each connection
    told = refusal(own.store)
    assert str(told).endswith("its certificate is not accepted: certificate has expired")
    assert told.hint.startswith("renew it on that member")


def test_many_calls_on_a_token_that_is_over_log_in_once(own: Secured, monkeypatch: pytest.MonkeyPatch) -> None:
    logins: list[float] = []
    authenticate = EtcdAccess._authenticate

    async def slowly(self: EtcdAccess, budget_s: float) -> str:
        logins.append(budget_s)
        await asyncio.sleep(0.2)  # bcrypt with its usual cost
        return await authenticate(self, budget_s)

    monkeypatch.setattr(EtcdAccess, "_authenticate", slowly)

    async def scenario() -> None:
        access = EtcdAccess(own.store)
        await Etcd(access).read([get_prefix(ROOT)], budget_s=3)
        await asyncio.to_thread(end_tokens, own)
        await asyncio.gather(*(Etcd(access).read([get_prefix(ROOT)], budget_s=5) for _ in range(20)))
        assert len(logins) == 2
        await access.close()

    asyncio.run(scenario())


def test_a_revoked_permission_denies_with_its_remedy_and_a_granted_one_needs_no_restart(own: Secured) -> None:
    prefix = "/enforcer/test"

    async def scenario(c: Cluster) -> None:
        one, two = await c.boot("node-1"), await c.boot("node-2")
        held = await one.must_take("a")
        own.login()
        own.revoke(prefix)
        for node in (one, two):
            denied = await node.take("a")
            assert isinstance(denied, Denied)
            assert denied.standing is Standing.UNKNOWN
            assert "etcd does not let the user 'node' use the keys below /enforcer/test%2F" in denied.reason
            assert denied.remedy.startswith("etcdctl role grant-permission ROLE readwrite --prefix /enforcer/test%2F")
        assert one.session is not None
        with pytest.raises(StoreUnavailable, match="does not let the user"):
            await one.session.renew()
        own.grant(prefix)
        await one.session.renew()
        again = await one.must_take("a")
        assert (again.token, again.fresh) == (held.token, False)
        blocked = await two.take("a")
        assert isinstance(blocked, Denied) and blocked.standing is Standing.ELSEWHERE

    play(Cluster("etcd", own.server.url, access=own.store), scenario)


def test_a_changed_password_ends_the_token_and_the_new_file_mends_it(own: Secured) -> None:
    async def scenario(c: Cluster) -> None:
        node = await c.boot("node-1")
        held = await node.must_take("a")
        own.login()
        own.ask("/auth/user/changepw", {"name": "node", "password": "another one"})
        denied = await node.take("a")
        assert isinstance(denied, Denied) and "etcd does not take the password in" in denied.reason
        put(Path(own.store.password_file), b"another one\n", mode=0o600)
        again = await node.must_take("a")
        assert (again.token, again.fresh) == (held.token, False)

    play(Cluster("etcd", own.server.url, access=own.store), scenario)


def test_nodes_with_a_password_go_on_when_authentication_is_enabled(tmp_path: Path) -> None:
    made = secured(tmp_path / "late", client_cert=True)
    password = tmp_path / "password"
    put(password, PASSWORD.encode(), mode=0o600)
    store = replace(made.store, username="node", password_file=str(password))

    async def scenario(c: Cluster) -> None:
        node = await c.boot("node-1")
        held = await node.must_take("a")
        made.enable_auth()
        again = await node.must_take("a")
        assert (again.token, again.fresh) == (held.token, False)
        # the gateway refuses who shows a common name, and takes a renewed certificate without a restart
        cert, key = Path(store.cert), Path(store.key)
        good = cert.read_bytes(), key.read_bytes()
        made.pki.issue("node", "node-1.example", common_name="node")
        await asyncio.sleep(0)
        assert node.client is not None
        await node.client.close()
        told = await asyncio.to_thread(refusal, store)
        assert str(told) == f"the lease store cannot be used: etcd refuses {cert} because it has a common name"
        put(key, good[1], mode=0o600)
        put(cert, good[0])
        lets_in_again = await node.take("a")
        assert isinstance(lets_in_again, Granted)

    try:
        play(Cluster("etcd", made.server.url, access=store), scenario)
    finally:
        made.server.kill()


@pytest.mark.parametrize("token", ["", "a\r\nX: y", "ä", 5, None, "x" * 5000])
def test_a_token_that_is_none_is_no_answer(
    etcd_password: Secured, monkeypatch: pytest.MonkeyPatch, token: object
) -> None:
    async def scenario() -> None:
        access = EtcdAccess(etcd_password.store)

        async def answer(*_: object, **__: object) -> dict[str, object]:
            return {"token": token}

        monkeypatch.setattr(access._client, "call", answer)
        with pytest.raises(StoreUnavailable, match="malformed auth"):
            await access.call("/kv/range", {}, budget_s=1)

    asyncio.run(scenario())


def test_the_dates_of_certificates_are_read(tmp_path: Path) -> None:
    now = datetime.now(UTC).replace(microsecond=0)
    for begin, end in ((now - timedelta(days=30), now + timedelta(days=1)), (now, now + timedelta(days=365 * 40))):
        leaf = trustme.CA().issue_cert("a.example", not_before=begin, not_after=end)
        der = ssl.PEM_cert_to_DER_cert(leaf.cert_chain_pems[0].bytes().decode())
        assert validity(der) == (begin, end), "UTCTime, and GeneralizedTime from 2050 on"
