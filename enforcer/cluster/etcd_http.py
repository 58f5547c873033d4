# SPDX-License-Identifier: GPL-2.0-or-later
"""A client for etcd's JSON gateway: HTTP/1.1 on plain asyncio streams, every time-out explicit.

No client from PyPI will do in a root daemon that must deny in time. Of those that install at all, one lacks
TLS and another hides the revision that becomes our token; others lose a watch without a word or go on calling
a lease alive that has expired, and most bring gRPC and protobuf, tens of MiB, into a process that is locked
in memory. The gateway (https://etcd.io/docs/v3.4/dev-guide/api_grpc_gateway/) needs none of it. Its traits:
bytes are base64, int64 are strings, fields that are zero or false are left out.

Four rules follow from how etcd fails:

- A hung server keeps its TCP connections open, so each try has its own short time-out (0.7 s) and the next
  try goes to the next endpoint, all within the budget of the call. A member that was cut off holds a request
  for 7 s.
- A request whose answer was lost may have been carried out. ``retry=False`` sends at most once, so that a
  caller who writes can look before it writes again.
- A cluster without a quorum refuses connections here, hangs there, and never says in its answers to reads what is
  wrong. So the last part of a budget is kept to ask every member whether it knows a leader: whoever is refused a
  mount for it should read "no quorum" and not the last of a dozen socket errors.
- What comes back is a stranger's text. Whatever is not a complete, well-formed answer of a sane size is
  StoreUnavailable: no answer at all, never a crash and never a permit.

Each request in flight has a connection of its own; idle ones are kept and used again.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import urlsplit

from enforcer.model.errors import BadConfiguration, EnforcerError, StoreUnavailable

if TYPE_CHECKING:
    import ssl

PER_TRY_S = 0.7
MAX_ANSWER = 16 << 20  # bytes; etcd's own limit for one request is 1.5 MiB, a range may answer with more
MAX_HEADERS = 64
MAX_IDLE = 4  # connections kept per endpoint
PAUSE_S = 0.02  # between two tries
LOOK_S = 1.0  # at most, at the end of a budget, to find out why there was no answer
SPARE_S = 1.0  # at most, of a budget, left to the caller: its own time-out must not come before our reason

# HTTP statuses that no repetition cures.
PERMANENT = frozenset({400, 401, 403, 404, 405, 409, 501})

Json = dict[str, object]


class EtcdRefused(EnforcerError):
    """etcd understood the request and will never fulfil it. ``code`` is the gRPC code, -1 if untold."""

    def __init__(self, message: str, *, status: int, code: int, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.status = status
        self.code = code


class Endpoint(NamedTuple):
    host: str
    port: int
    tls: bool

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"

    @classmethod
    def parse(cls, url: str) -> Endpoint:
        """Read ``http://host:port`` or ``https://host:port``. Raises BadConfiguration."""
        try:
            parts = urlsplit(url)
            port = parts.port or 2379
        except ValueError as error:
            raise BadConfiguration(f"{url!r} is no etcd endpoint: {error}") from None
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.path.strip("/"):
            raise BadConfiguration(f"{url!r} is no etcd endpoint", hint="write it as https://host:2379")
        return cls(parts.hostname, port, parts.scheme == "https")


class _Connection:
    """One HTTP/1.1 connection that carries one request at a time."""

    def __init__(self, endpoint: Endpoint, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.endpoint = endpoint
        self.reusable = False
        self._reader = reader
        self._writer = writer

    @property
    def dead(self) -> bool:
        return self._reader.at_eof() or self._writer.is_closing()

    def abort(self) -> None:
        with contextlib.suppress(OSError, RuntimeError):
            self._writer.transport.abort()

    async def post(self, path: str, payload: bytes, headers: Mapping[str, str]) -> tuple[int, bytes]:
        """Send one request, return status and body. Raises OSError, EOFError, ValueError."""
        self.reusable = False
        lines = [f"POST {path} HTTP/1.1", f"Host: {self.endpoint}", f"Content-Length: {len(payload)}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        self._writer.write("\r\n".join([*lines, "", ""]).encode("latin-1") + payload)
        await self._writer.drain()
        status = await self._status()
        length, chunked, close = await self._headers()
        if chunked:
            body = await self._chunks()
        elif length is not None:
            body = await self._reader.readexactly(length)
        else:
            raise ValueError("an answer without a length")
        self.reusable = not close
        return status, body

    async def _line(self) -> bytes:
        line = await self._reader.readline()  # ValueError beyond 64 KiB
        if not line.endswith(b"\n"):
            raise EOFError("the connection ended inside an answer")
        return line.strip()

    async def _status(self) -> int:
        version, _, rest = (await self._line()).partition(b" ")
        status = _digits(rest[:3], 10)
        if version not in (b"HTTP/1.1", b"HTTP/1.0") or status < 200:
            raise ValueError("not an HTTP answer")
        return status

    async def _headers(self) -> tuple[int | None, bool, bool]:
        length: int | None = None
        chunked = close = False
        for _ in range(MAX_HEADERS):
            line = await self._line()
            if not line:
                return length, chunked, close
            name, _, value = line.lower().partition(b":")
            value = value.strip()
            if name == b"content-length":
                length = _digits(value, 10)
            elif name == b"transfer-encoding":
                if value != b"chunked":
                    raise ValueError("an unknown transfer encoding")
                chunked = True
            elif name == b"connection":
                close = value == b"close"
        raise ValueError("too many headers")

    async def _chunks(self) -> bytes:
        body = bytearray()
        while size := _digits((await self._line()).partition(b";")[0].strip(), 16):
            if len(body) + size > MAX_ANSWER:
                raise ValueError("an answer beyond all measure")
            body += await self._reader.readexactly(size)
            if await self._line():
                raise ValueError("a chunk of the wrong length")
        for _ in range(MAX_HEADERS):
            if not await self._line():
                return bytes(body)
        raise ValueError("too many trailers")


class EtcdClient:
    """Calls one etcd cluster through any of its members. Belongs to one event loop.

    ``tls`` is used for https endpoints. ``headers`` go with every request (``Authorization``, for example).
    We always send ``Accept``: some servers take a request without it for one of their own and skip
    authentication.
    """

    def __init__(
        self,
        endpoints: Sequence[str],
        *,
        per_try_s: float = PER_TRY_S,
        tls: ssl.SSLContext | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """Raises BadConfiguration for endpoints that are none."""
        if not endpoints:
            raise BadConfiguration("no etcd endpoint is configured", hint="set [store] endpoints")
        self.endpoints = tuple(Endpoint.parse(url) for url in endpoints)
        if tls is None and any(endpoint.tls for endpoint in self.endpoints):
            raise BadConfiguration("an https endpoint needs a certificate authority", hint="set [store] ca")
        self._per_try_s = per_try_s
        self._tls = tls
        self._headers = {"Content-Type": "application/json", "Accept": "application/json", **(headers or {})}
        self._at = 0
        self._idle: dict[Endpoint, list[_Connection]] = {}

    async def close(self) -> None:
        """Drop idle connections. The client can be used again."""
        for connections in self._idle.values():
            for connection in connections:
                connection.abort()
        self._idle.clear()

    async def call(self, path: str, body: Mapping[str, object], *, budget_s: float, retry: bool = True) -> Json:
        """POST ``body`` to ``/v3`` + path and return the answer.

        Raises StoreUnavailable, which tells a lost quorum from other silence, if there is none within
        ``budget_s`` seconds (or, with ``retry=False``, as soon as a request that was sent got no usable answer:
        it may have been carried out), EtcdRefused if etcd will never fulfil the request.
        """
        payload = json.dumps(body, separators=(",", ":")).encode("ascii")
        clock = asyncio.get_running_loop().time
        end = clock() + budget_s
        look_s, spare_s = min(LOOK_S, budget_s / 8), min(SPARE_S, budget_s / 8)
        trouble = "no time was left"
        while (left := end - look_s - spare_s - clock()) > 0:
            endpoint = self.endpoints[self._at % len(self.endpoints)]
            connection: _Connection | None = None
            try:
                async with asyncio.timeout(min(self._per_try_s, left)):
                    connection = await self._connect(endpoint)
                    status, raw = await connection.post("/v3" + path, payload, self._headers)
                answer = _parse(raw, status)
                if answer is not None:
                    self._keep(connection)
                    connection = None
                    return answer
                trouble = f"{endpoint}: {_message(raw)[1] or f'HTTP status {status}'}"
            except TimeoutError:
                trouble = f"{endpoint}: no answer within {min(self._per_try_s, left):.1f} s"
            except (OSError, EOFError, ValueError, RecursionError) as error:
                trouble = f"{endpoint}: {error or type(error).__name__}"
            except EtcdRefused:
                if connection is not None:
                    self._keep(connection)
                    connection = None
                raise
            finally:
                sent = connection is not None
                if connection is not None:
                    connection.abort()
            if self.endpoints[self._at % len(self.endpoints)] is endpoint:
                self._at += 1
            if sent and not retry:
                break
            await asyncio.sleep(min(PAUSE_S, max(0.0, left)))
        raise StoreUnavailable(
            f"the lease store did not answer: {await self._why(trouble, look_s)}", hint="enforcer doctor"
        )

    async def _why(self, trouble: str, within_s: float) -> str:
        """The reason for a silence, from what each member says of itself; ``trouble`` is that of the last try."""
        known = await asyncio.gather(*(self._knows_leader(endpoint, within_s) for endpoint in self.endpoints))
        answering = [knows for knows in known if knows is not None]
        if not answering:
            return f"it is out of reach ({len(known)} tried, the last one: {trouble})"
        if any(answering):
            return trouble
        verb = "answers and knows" if len(answering) == 1 else "answer and know"
        return f"it has no quorum now ({len(answering)} of {len(known)} members {verb} no leader)"

    async def _knows_leader(self, endpoint: Endpoint, within_s: float) -> bool | None:
        """Whether a member knows a leader; True as well if it will not say, None if it does not answer.

        ``leader`` is left out of the answer if it is zero, raft's word for none (StatusResponse, rpc.proto). The
        member answers for itself, so this takes a millisecond even without a quorum.
        """
        connection: _Connection | None = None
        try:
            async with asyncio.timeout(within_s):
                connection = await self._connect(endpoint)
                status, raw = await connection.post("/v3/maintenance/status", b"{}", self._headers)
            answer = _parse(raw, status)
            return answer is None or answer.get("leader", "0") not in ("0", 0)
        except EtcdRefused:
            return True
        except (TimeoutError, OSError, EOFError, ValueError, RecursionError):
            return None
        finally:
            if connection is not None:
                connection.abort()

    async def _connect(self, endpoint: Endpoint) -> _Connection:
        idle = self._idle.get(endpoint, [])
        while idle:
            connection = idle.pop()
            if not connection.dead:
                return connection
            connection.abort()
        reader, writer = await asyncio.open_connection(
            endpoint.host, endpoint.port, ssl=self._tls if endpoint.tls else None
        )
        return _Connection(endpoint, reader, writer)

    def _keep(self, connection: _Connection) -> None:
        idle = self._idle.setdefault(connection.endpoint, [])
        if connection.reusable and len(idle) < MAX_IDLE:
            idle.append(connection)
        else:
            connection.abort()


def _digits(text: bytes, base: int) -> int:
    """A length in an HTTP head: digits only (int() would take signs and underscores), and of a sane size."""
    if not text or len(text) > 8 or not all(c in b"0123456789abcdefABCDEF"[: 10 if base == 10 else 22] for c in text):
        raise ValueError("a malformed number in an HTTP head")
    number = int(text, base)
    if number > MAX_ANSWER:
        raise ValueError("an answer beyond all measure")
    return number


def _parse(raw: bytes, status: int) -> Json | None:
    """The answer; None for an error that may pass. Raises EtcdRefused for one that will not, ValueError."""
    if status == 200:
        answer = json.loads(raw)
        if not isinstance(answer, dict):
            raise ValueError("the answer is no JSON object")
        if "error" not in answer:
            return answer
        inner = answer["error"]
        told = inner.get("http_code") if isinstance(inner, dict) else None  # the form of errors in streams
        status = told if isinstance(told, int) else 500
    if status in PERMANENT:
        code, message = _message(raw)
        hint = "check user, password and certificate of [store]" if status in (401, 403) else ""
        raise EtcdRefused(f"etcd refused: {message or status}", status=status, code=code, hint=hint)
    return None


def _message(raw: bytes) -> tuple[int, str]:
    """gRPC code and text of an error answer, which may be JSON of two shapes or plain text."""
    code: object = -1
    text: object = raw[:300].decode("utf-8", "replace")
    with contextlib.suppress(ValueError, RecursionError):
        body = json.loads(raw)
        inner = body.get("error") if isinstance(body, dict) else None
        if isinstance(inner, dict):
            code, text = inner.get("grpc_code", -1), inner.get("message", text)
        elif isinstance(body, dict):
            code, text = body.get("code", -1), inner or body.get("message", text)
    printable = "".join(c if c.isprintable() else " " for c in str(text)[:300]).strip()
    return (code if isinstance(code, int) else -1), printable
