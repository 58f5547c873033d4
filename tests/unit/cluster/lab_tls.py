# SPDX-License-Identifier: GPL-2.0-or-later
"""Authorities, certificates and users, and real etcd members that want them."""

from __future__ import annotations

import base64
import json
import ssl
import urllib.error
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import trustme
from lab_cluster import EtcdServer, serve

from enforcer.cluster.etcd_records import Layout
from enforcer.settings import Store, StoreKind

PASSWORD = "correct horse"


@dataclass
class Pki:
    """One authority, and where its files lie."""

    where: Path
    authority: trustme.CA = field(default_factory=trustme.CA)

    def __post_init__(self) -> None:
        self.where.mkdir(parents=True, exist_ok=True)
        self.authority.cert_pem.write_to_path(str(self.ca))

    @property
    def ca(self) -> Path:
        return self.where / "ca.pem"

    def issue(self, name: str, *names: str, common_name: str | None = None, days: float = 2) -> tuple[Path, Path]:
        """Certificate and key for ``names``, put in place whole; ``days`` < 0 has expired."""
        now = datetime.now(UTC)
        leaf = self.authority.issue_cert(
            *names,
            common_name=common_name,
            not_before=now - timedelta(days=9),
            not_after=now + timedelta(days=days),
        )
        cert, key = self.where / f"{name}.pem", self.where / f"{name}.key"
        put(cert, leaf.cert_chain_pems[0].bytes())
        put(key, leaf.private_key_pem.bytes(), mode=0o600)
        return cert, key


def put(path: Path, content: bytes, *, mode: int = 0o644) -> None:
    """Replace a file at once, as those who renew certificates do."""
    draft = path.with_name(path.name + ".new")
    draft.write_bytes(content)
    draft.chmod(mode)
    draft.replace(path)


@dataclass
class Secured:
    """One etcd that speaks TLS, and how a node of ours gets in."""

    server: EtcdServer
    pki: Pki
    store: Store
    root: str = ""  # root's token, once authentication is enabled

    def ask(self, path: str, body: dict[str, object], *, cert: tuple[Path, Path] | None = None) -> dict[str, Any]:
        """One request as the administrator, by a client that shares nothing with the product."""
        context = ssl.create_default_context(cafile=str(self.pki.ca))
        if cert := cert or ((Path(self.store.cert), Path(self.store.key)) if self.store.cert else None):
            context.load_cert_chain(*cert)
        headers = {"Accept": "application/json", **({"Authorization": self.root} if self.root else {})}
        request = urllib.request.Request(self.server.url + "/v3" + path, json.dumps(body).encode(), headers)
        try:
            with urllib.request.urlopen(request, timeout=5, context=context) as answer:
                said: dict[str, Any] = json.load(answer)
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{path}: {error.code} {error.read()!r}") from None
        return said

    def login(self) -> None:
        self.root = self.ask("/auth/authenticate", {"name": "root", "password": PASSWORD})["token"]

    def enable_auth(self, user: str = "node", prefix: str = Layout("test/").root[:-4]) -> None:
        """root, and a user who may use the keys of all clusters of the tests."""
        self.ask("/auth/user/add", {"name": "root", "password": PASSWORD})
        self.ask("/auth/user/grant", {"user": "root", "role": "root"})
        self.ask("/auth/role/add", {"name": "enforcer"})
        self.grant(prefix)
        self.ask("/auth/user/add", {"name": user, "password": PASSWORD})
        self.ask("/auth/user/grant", {"user": user, "role": "enforcer"})
        self.ask("/auth/enable", {})
        self.login()

    def grant(self, prefix: str) -> None:
        key, end = b64(prefix), b64(prefix[:-1] + chr(ord(prefix[-1]) + 1))
        permission = {"permType": "READWRITE", "key": key, "range_end": end}
        self.ask("/auth/role/grant", {"name": "enforcer", "perm": permission})

    def revoke(self, prefix: str) -> None:
        key, end = b64(prefix), b64(prefix[:-1] + chr(ord(prefix[-1]) + 1))
        self.ask("/auth/role/revoke", {"role": "enforcer", "key": key, "range_end": end})


def b64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def secured(
    where: Path,
    *,
    client_cert: bool = False,
    user: str = "",
    names: Sequence[str] = ("127.0.0.1",),
    options: Sequence[str] = (),
) -> Secured:
    """A member that speaks TLS, wants a client certificate or a password, or neither; with files for a node."""
    pki = Pki(where / "pki")
    cert, key = pki.issue("server", *names)
    own = pki.issue("node", "node-1.example") if client_cert else ("", "")
    password = where / "password"
    if user:
        put(password, PASSWORD.encode() + b"\n", mode=0o600)
    wanted = [f"--cert-file={cert}", f"--key-file={key}", "--bcrypt-cost=4", *options]
    if client_cert:
        wanted += ["--client-cert-auth", f"--trusted-ca-file={pki.ca}"]
    server = serve(where, scheme="https", options=wanted)
    store = Store(
        kind=StoreKind.ETCD,
        endpoints=(server.url,),
        ca=str(pki.ca),
        cert=str(own[0]),
        key=str(own[1]),
        username=user,
        password_file=str(password) if user else "",
    )
    made = Secured(server, pki, store)
    if user:
        made.enable_auth(user)
    return made
