# SPDX-License-Identifier: GPL-2.0-or-later
"""Who gets into etcd, over TLS and by password; whoever does not reads why, and is never told that a device is free.

Certificates come from trustme, etcd is real and is asked by the product's own client alone.
"""

from __future__ import annotations

import asyncio
import os
import ssl
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import trustme
from cryptography.hazmat.primitives import serialization
from lab_access import lets_in, refusal
from lab_access import no_secret_is_logged as no_secret_is_logged
from lab_cluster import EtcdServer
from lab_tls import PASSWORD, Pki, Secured, put

from enforcer.cluster import etcd_tls
from enforcer.cluster.etcd_access import EtcdAccess
from enforcer.cluster.etcd_api import Etcd, get_prefix
from enforcer.cluster.etcd_tls import Tls, TlsFiles, validity
from enforcer.cluster.http1 import Connection
from enforcer.settings import Store, StoreKind

ROOT = "/enforcer/test/"


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


def test_the_dates_of_certificates_are_read(tmp_path: Path) -> None:
    now = datetime.now(UTC).replace(microsecond=0)
    for begin, end in ((now - timedelta(days=30), now + timedelta(days=1)), (now, now + timedelta(days=365 * 40))):
        leaf = trustme.CA().issue_cert("a.example", not_before=begin, not_after=end)
        der = ssl.PEM_cert_to_DER_cert(leaf.cert_chain_pems[0].bytes().decode())
        assert validity(der) == (begin, end), "UTCTime, and GeneralizedTime from 2050 on"
