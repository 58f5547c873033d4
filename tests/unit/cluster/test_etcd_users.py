# SPDX-License-Identifier: GPL-2.0-or-later
"""Users, passwords and tokens of etcd: a wrong one is told once, one that is over is renewed, none is ever logged."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from lab_access import no_secret_is_logged as no_secret_is_logged
from lab_access import refusal
from lab_cluster import Cluster, play
from lab_tls import PASSWORD, Secured, put, secured

from enforcer.cluster.etcd_access import EtcdAccess
from enforcer.cluster.etcd_api import Etcd, get_prefix
from enforcer.cluster.etcd_api import put as put_op
from enforcer.model.errors import StoreUnavailable
from enforcer.model.lease import Denied, Granted, Standing

ROOT = "/enforcer/test/"


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
