# SPDX-License-Identifier: GPL-2.0-or-later
"""How this node gets into etcd: the client of [store], logged in where etcd wants that, and what a refusal means.

**Password and token.** The JSON gateway takes no identity from a client certificate: with authentication enabled in
etcd it refuses every request that comes with a certificate with a common name (etcd issues 10366, 17025), and a
certificate without one says only that its holder may connect. So who we are is told by user and password, which
``/v3/auth/authenticate`` turns into a token for the ``Authorization`` header. A token ends on a member where nobody
used it for five minutes (``--auth-token-ttl``), when its member restarts from a snapshot (tokens live in memory), when
the user's password changes, and one that is a JWT by its date. All of that looks alike: the request is refused before
it is carried out. We log in once more and send it again, also where a request must not be
carried out twice. etcd hashes the password slowly (bcrypt, about 0.1 s of a CPU), so a refused login is not tried
again within a second unless the file has changed.

**Secrets.** The password stands in a file of its own, is read for each login and is forgotten after it. It goes over
TLS alone (``settings`` sees to that), and neither it nor a token is ever part of a message.

**A refusal is no answer.** Whatever etcd refuses for want of an identity or a permission is StoreUnavailable with what
to do about it, so that the caller denies and tries again later: permissions come back without a restart of ours.
An etcd on which authentication is not enabled (yet) is used without a token; so nodes can be prepared first.
"""

from __future__ import annotations

import asyncio
import logging
import os
import stat
from collections.abc import Mapping
from typing import TYPE_CHECKING

from enforcer.cluster.etcd_http import EtcdClient, EtcdRefused, Json
from enforcer.cluster.etcd_records import Layout
from enforcer.model.errors import BadConfiguration, StoreUnavailable
from enforcer.settings import Store

if TYPE_CHECKING:
    from enforcer.cluster.etcd_tls import Tls

log = logging.getLogger(__name__)
LOGIN_TRY_S = 2.0  # bcrypt on a busy member
HOLD_OFF_S = 1.0
MAX_SECRET = 4096  # bytes; a JWT is some hundreds

PERMISSION_DENIED, UNAUTHENTICATED = 7, 16  # google.golang.org/grpc/codes

# Texts of etcd's rpctypes/error.go, for what has no gRPC code of its own.
_NO_USER = "user name is empty"
_OLD_REVISION = "revision of auth store is old"
_NOT_ENABLED = "authentication is not enabled"
_WRONG = "authentication failed"
_COMMON_NAME = "CommonName of client"  # embed/serve.go
_PLAIN = "HTTP request to an HTTPS server"  # Go's net/http


class EtcdAccess:
    """Calls etcd as [store] says. Belongs to one event loop."""

    def __init__(self, store: Store) -> None:
        """Raises BadConfiguration for endpoints that are none."""
        self._store = store
        self._client = EtcdClient(store.endpoints, tls=_tls(store))
        self._token = ""
        self._open = False  # etcd wants no login
        self._logging_in = asyncio.Lock()
        self._refused: tuple[object, float, StoreUnavailable] | None = None  # password file, until when, why

    def change(self, store: Store) -> bool:
        """Go by other endpoints, certificates and user from now on; False if they are the same.

        They must lead to the same etcd cluster: sessions and leases stay where they are. Raises EnforcerError, naming
        the file, if one of them cannot be used; nothing has changed then.
        """
        if _reached_by(store) == _reached_by(self._store):
            return False
        tls = _tls(store)
        if tls is not None:
            tls.check()
        if store.username:
            read_password(store.password_file)
        self._client.change(store.endpoints, tls)
        self._store, self._token, self._open, self._refused = store, "", False, None
        return True

    async def close(self) -> None:
        """Drop idle connections."""
        await self._client.close()

    async def call(self, path: str, body: Mapping[str, object], *, budget_s: float, retry: bool = True) -> Json:
        """As EtcdClient.call, but a refusal for want of identity or permission is StoreUnavailable too."""
        clock = asyncio.get_running_loop().time
        end = clock() + budget_s
        renewed = False
        while True:
            token = await self._login(end) if self._store.username else ""
            headers = {"Authorization": token} if token else None
            try:
                left = max(0.0, end - clock())
                return await self._client.call(path, body, budget_s=left, retry=retry, headers=headers)
            except EtcdRefused as refused:
                if renewed or not self._store.username or not _wants_login(refused):
                    raise self._told(refused) from None
            renewed = True
            self._open = False
            if self._token == token:  # else another call has logged in meanwhile
                self._token = ""

    async def _login(self, end: float) -> str:
        """The token, "" where etcd wants none. Raises StoreUnavailable."""
        if self._token or self._open:
            return self._token
        clock = asyncio.get_running_loop().time
        left = max(0.0, end - clock())
        try:
            async with asyncio.timeout(left), self._logging_in:
                if not self._token and not self._open:
                    self._token = await self._authenticate(max(0.0, end - clock()))
        except TimeoutError:
            raise StoreUnavailable(f"the lease store did not answer: no login within {left:.1f} s") from None
        return self._token

    async def _authenticate(self, budget_s: float) -> str:
        user, file = self._store.username, self._store.password_file
        clock = asyncio.get_running_loop().time
        stamp, password = await asyncio.to_thread(read_password, file)
        if self._refused is not None and self._refused[0] == stamp and clock() < self._refused[1]:
            raise self._refused[2]
        try:
            answer = await self._client.call(
                "/auth/authenticate",
                {"name": user, "password": password},
                budget_s=budget_s,
                per_try_s=LOGIN_TRY_S,
            )
        except EtcdRefused as refused:
            if _NOT_ENABLED in str(refused):
                log.warning("authentication is not enabled in etcd: anybody who reaches it may change leases")
                self._open = True
                return ""
            told = self._told(refused)
            if isinstance(told, StoreUnavailable):
                self._refused = (stamp, clock() + HOLD_OFF_S, told)
            raise told from None
        token = answer.get("token")
        if (
            not isinstance(token, str)
            or not 0 < len(token) <= MAX_SECRET
            or not (
                token.isascii() and token.isprintable()  # it becomes a line of an HTTP head
            )
        ):
            raise StoreUnavailable("the lease store did not answer: malformed auth.authenticate")
        return token

    def _told(self, refused: EtcdRefused) -> StoreUnavailable | EtcdRefused:
        """A refusal in our words; itself if it is about the request and not about who sends it."""
        store, text = self._store, str(refused)
        user = f"the user {store.username!r}"
        if refused.code == PERMISSION_DENIED:
            root = Layout(store.cluster).root
            return _unusable(
                f"etcd does not let {user} use the keys below {root}",
                f"etcdctl role grant-permission ROLE readwrite --prefix {root}",
            )
        if _WRONG in text:
            return _unusable(
                f"etcd does not take the password in {store.password_file} for {user}",
                f"etcdctl user passwd {store.username}, or correct {store.password_file}",
            )
        if _COMMON_NAME in text:
            return _unusable(
                f"etcd refuses {store.cert or 'the client certificate'} because it has a common name",
                "issue it without one, names in subjectAltName alone; user and password say who we are",
            )
        if refused.code == UNAUTHENTICATED or _NO_USER in text or _OLD_REVISION in text:
            if store.username:
                return _unusable(f"etcd does not go on with the login of {user}", "look into etcd's log")
            return _unusable(
                "etcd wants a user and a password", "set username and password_file in [store] of enforcer.toml"
            )
        if _PLAIN in text:
            return _unusable(
                "the endpoints speak TLS", "write them as https:// in [store] of enforcer.toml, and set ca"
            )
        return refused


def _tls(store: Store) -> Tls | None:
    if not store.ca:
        return None
    try:
        from enforcer.cluster.etcd_tls import Tls, TlsFiles
    except ImportError:  # a keeper that began without TLS has put OpenSSL out of its own reach
        raise BadConfiguration(
            "from http to https it takes a restart", hint="systemctl restart enforcer-keeper"
        ) from None
    return Tls(TlsFiles(store.ca, store.cert, store.key, store.server_name))


def _reached_by(store: Store) -> tuple[object, ...]:
    return store.endpoints, store.ca, store.cert, store.key, store.server_name, store.username, store.password_file


def _unusable(what: str, remedy: str) -> StoreUnavailable:
    return StoreUnavailable(f"the lease store cannot be used: {what}", hint=remedy)


def _wants_login(refused: EtcdRefused) -> bool:
    text = str(refused)
    return refused.code == UNAUTHENTICATED or _NO_USER in text or _OLD_REVISION in text


def read_password(path: str) -> tuple[object, str]:
    """The file's stamp and the password in it: one line. Raises StoreUnavailable, naming the file.

    A file that others may read holds no secret and is refused, as ssh does with keys.
    """
    try:
        # O_NONBLOCK: a fifo in its place must not hold up the keeper
        with open(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY), "rb") as stream:
            found = os.fstat(stream.fileno())
            if not stat.S_ISREG(found.st_mode):
                raise _unusable(f"{path} is no regular file", "put the password into a file")
            if found.st_mode & 0o077:
                raise _unusable(f"{path} holds a password and is not private", f"chmod 600 {path}")
            if found.st_uid not in (0, os.geteuid()):
                raise _unusable(f"{path} holds a password and belongs to somebody else", f"chown root {path}")
            raw = stream.read(MAX_SECRET + 1)
    except OSError as error:
        remedy = "put it there, or correct password_file in [store] of enforcer.toml"
        raise _unusable(f"{path} cannot be read: {error.strerror}", remedy) from None
    try:
        password = raw.decode("utf-8").rstrip("\r\n")
    except UnicodeDecodeError:
        password = ""
    if not password or len(raw) > MAX_SECRET or not password.isprintable():
        raise _unusable(f"{path} does not hold a password on one line", "write the password into it, and nothing else")
    return (found.st_ino, found.st_mtime_ns, found.st_size), password
