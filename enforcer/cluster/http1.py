# SPDX-License-Identifier: GPL-2.0-or-later
"""HTTP/1.1 (RFC 9112) as far as the client of etcd needs it: POST on a stream, answers with a length or in chunks.

What comes back is a stranger's text: every number is checked, every size has a limit, and whatever is not understood
is an error. http.client would block, and whole HTTP libraries bring more than the keeper may hold in memory.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import urlsplit

from enforcer.model.errors import BadConfiguration

if TYPE_CHECKING:
    import ssl

MAX_ANSWER = 16 << 20  # bytes; etcd's own limit for one request is 1.5 MiB, a range may answer with more
MAX_HEADERS = 64


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


class Connection:
    """One HTTP/1.1 connection that carries one request at a time."""

    def __init__(
        self, endpoint: Endpoint, epoch: object, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self.endpoint = endpoint
        self.epoch = epoch
        self.answered = False
        self.reusable = False
        self._reader = reader
        self._writer = writer

    @property
    def dead(self) -> bool:
        return self._reader.at_eof() or self._writer.is_closing()

    def abort(self) -> None:
        with contextlib.suppress(OSError, RuntimeError):
            self._writer.transport.abort()

    @classmethod
    async def open(cls, endpoint: Endpoint, epoch: object, tls: ssl.SSLContext | None, name: str) -> Connection:
        """Connect; ``name`` is what the certificate must bear. Raises OSError, which ssl.SSLError is too."""
        try:
            reader, writer = await asyncio.open_connection(
                endpoint.host, endpoint.port, ssl=tls, server_hostname=name if tls else None
            )
        except ConnectionResetError:
            if tls is None:
                raise
            raise OSError("it hung up during the TLS handshake; does it speak TLS?") from None
        return cls(endpoint, epoch, reader, writer)

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
        elif status >= 400:  # in HTTP/1.0, up to its end: what a server of https says to http
            body, close = await self._reader.read(4096), True
        else:
            raise ValueError("an answer without a length")
        self.answered, self.reusable = True, not close
        return status, body

    async def _line(self) -> bytes:
        line = await self._reader.readline()  # ValueError beyond 64 KiB
        if not line.endswith(b"\n"):
            raise EOFError("the connection ended inside an answer")
        return line.strip()

    async def _status(self) -> int:
        try:
            line = await self._line()
        except EOFError:
            if self.answered or self.endpoint.tls:
                raise
            raise EOFError("it hung up before any answer; does it want https?") from None
        version, _, rest = line.partition(b" ")
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


def _digits(text: bytes, base: int) -> int:
    """A length in an HTTP head: digits only (int() would take signs and underscores), and of a sane size."""
    if not text or len(text) > 8 or not all(c in b"0123456789abcdefABCDEF"[: 10 if base == 10 else 22] for c in text):
        raise ValueError("a malformed number in an HTTP head")
    number = int(text, base)
    if number > MAX_ANSWER:
        raise ValueError("an answer beyond all measure")
    return number
