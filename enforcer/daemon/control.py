# SPDX-License-Identifier: GPL-2.0-or-later
"""The control socket: one JSON object a line, one reply to one request.

Whoever may connect may read. What has an effect is done only for root of the initial user namespace, which the
kernel tells us of the peer (SO_PEERCRED, socket(7)); what the request says of itself counts for nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import struct
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path

from enforcer.audit.writer import AuditLog
from enforcer.model.errors import EnforcerError, Exit, PermissionRefused, UsageError
from enforcer.model.escape import to_json

Answer = dict[str, object]
Verb = Callable[[Mapping[str, object]], Awaitable[Answer]]
_MOST_BYTES = 65536
_MOST_PEERS = 64


class Control:
    """Serves verbs. ``reading`` verbs are for every peer, ``acting`` ones for root alone."""

    def __init__(
        self,
        path: Path,
        *,
        reading: Mapping[str, Verb],
        acting: Mapping[str, Verb],
        audit: AuditLog,
        group: int | None,
    ) -> None:
        self._path, self._reading, self._acting, self._audit, self._group = (
            path,
            reading,
            acting,
            audit,
            group,
        )
        self._server: asyncio.Server | None = None
        self._peers = 0

    async def start(self) -> None:
        """Listen. Raises OSError."""
        self._path.unlink(missing_ok=True)
        self._server = await asyncio.start_unix_server(self._serve, str(self._path), limit=_MOST_BYTES)
        if self._group is not None:
            os.chown(self._path, 0, self._group)
        self._path.chmod(0o660)

    async def close(self) -> None:
        """Stop listening."""
        if self._server is not None:
            self._server.close()
            self._path.unlink(missing_ok=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._peers += 1
        try:
            if self._peers > _MOST_PEERS:
                raise EnforcerError("too many clients at once", hint="try again")
            async with asyncio.timeout(30):
                line = await reader.readline()
            request = _parsed(line)
            verb = request.get("verb")
            if verb == "follow":
                await self._follow(reader, writer)
                return
            reply: Answer = {"ok": True, "data": await self._run(str(verb), request, _uid(writer))}
        except EnforcerError as error:
            reply = {"ok": False, "error": str(error), "hint": error.hint, "exit": int(error.exit_code)}
        except (TimeoutError, ValueError, ConnectionError):
            reply = {
                "ok": False,
                "error": "the request is not understood",
                "hint": "one JSON object on one line",
                "exit": int(Exit.USAGE),
            }
        finally:
            self._peers -= 1
        with contextlib.suppress(ConnectionError):
            writer.write(to_json(reply).encode() + b"\n")
            await writer.drain()
        writer.close()

    async def _run(self, verb: str, request: Mapping[str, object], uid: int) -> Answer:
        if verb in self._reading:
            return await self._reading[verb](request)
        if verb not in self._acting:
            raise UsageError(f"unknown verb {verb!r}", hint="are enforcer and enforcerd of the same version?")
        if uid != 0:
            raise PermissionRefused("only root may do that", hint="run it as root")
        return await self._acting[verb](request)

    async def _follow(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Send every record from now on until the peer goes; one that reads too slowly is dropped."""
        loop, records = asyncio.get_running_loop(), asyncio.Queue[Mapping[str, object]](1000)
        full = asyncio.Event()

        def put(record: Mapping[str, object]) -> None:
            try:
                records.put_nowait(dict(record))
            except asyncio.QueueFull:
                full.set()

        def hand_over(record: Mapping[str, object]) -> None:
            loop.call_soon_threadsafe(put, record)

        end = self._audit.subscribe(hand_over)
        gone = asyncio.ensure_future(reader.read(1))
        try:
            while not gone.done() and not full.is_set():
                following = asyncio.ensure_future(records.get())
                await asyncio.wait({following, gone}, return_when=asyncio.FIRST_COMPLETED)
                if not following.done():
                    following.cancel()
                    break
                writer.write(to_json(following.result()).encode() + b"\n")
                await writer.drain()
        except ConnectionError:
            pass
        finally:
            end()
            gone.cancel()
            writer.close()


def _parsed(line: bytes) -> dict[str, object]:
    value = json.loads(line)
    if not isinstance(value, dict):
        raise ValueError("not an object")
    return value


def _uid(writer: asyncio.StreamWriter) -> int:
    peer: socket.socket = writer.get_extra_info("socket")
    _pid, uid, _gid = struct.unpack("3i", peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    return int(uid)
