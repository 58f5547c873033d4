# SPDX-License-Identifier: GPL-2.0-or-later
"""The line to an external lease store: a program that we start, or a unix socket that somebody else serves.

Every request bears an id and waits for nobody but its own answer, each within the budget of its caller: a slow
answer holds up no other. A peer that breaks the form of a line (no JSON, another schema, too long, an id that was
never given) cannot be believed about any of what is under way: the line is cut, all who wait are told why, and the
next call makes a new one. So is one that owes answers and has been silent for ``HUNG_S``.

A program is started without a shell, in a session of its own, with an environment of nothing but PATH and LANG; the
end of its standard input tells it to end. One that dies at once is started again after ``PAUSE_S``, not at once. A
socket must be served by root or by our own user, as the kernel says (SO_PEERCRED, unix(7)), not the peer.

An answer to a request that nobody waits for any more goes to ``on_late``: the peer may have granted meanwhile.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from enforcer.cluster import external_protocol as protocol
from enforcer.model.errors import StoreUnavailable
from enforcer.model.escape import for_terminal

log = logging.getLogger(__name__)

CONNECT_S = 5.0  # for starting or reaching the peer and its hello
HUNG_S = 10.0  # of silence with answers owed
PAUSE_S = 1.0  # between two starts of a program
END_S = 1.0  # that a program has to end by itself
MOST_OWED = 1000  # requests without an answer
MOST_UNSENT_BYTES = 8 << 20
SHOWN_CHARS = 120  # of the peer's name in a sentence
ENVIRONMENT = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8"}
PEERCRED = struct.Struct("3i")  # struct ucred: pid, uid, gid

Answer = dict[str, Any]
OnLate = Callable[[Answer], None]


@dataclass(slots=True)
class _Line:
    """One connection, from its start to its cut."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    process: asyncio.subprocess.Process | None = None
    task: asyncio.Task[None] | None = None
    waiting: dict[int, tuple[asyncio.Future[Answer], OnLate | None]] = field(default_factory=dict)
    owed: dict[int, OnLate | None] = field(default_factory=dict)  # nobody waits for these any more
    last_id: int = 0
    quiet_since: float = 0.0
    wants: frozenset[str] = frozenset()
    cut: str = ""  # why it is over


class Peer:
    """One external store. ``hello`` is the body of the first request on every line."""

    def __init__(self, hello: Mapping[str, Any], *, command: Sequence[str] = (), path: str = "") -> None:
        self.where = f"the external lease store {for_terminal(' '.join(command) or path, SHOWN_CHARS)}"
        self.hint = f"look at its own log; {'enforcerd starts it again' if command else 'restart it'}"
        self._hello, self._command, self._path = hello, tuple(command), path
        self._line: _Line | None = None
        self._opening: asyncio.Task[_Line] | None = None
        self._not_before = 0.0
        self._why = ""  # the last line was cut
        self._ending: set[asyncio.Task[None]] = set()
        self._closed = False

    async def call(
        self, call: str, body: Mapping[str, Any], *, budget_s: float, on_late: OnLate | None = None
    ) -> Answer:
        """Send one request and return its answer. Raises StoreUnavailable, at the latest after ``budget_s`` seconds.

        ``on_late`` is called, on the loop, with an answer that comes when the caller has given up.
        """
        try:
            async with asyncio.timeout(budget_s):
                line = await self._ready()
                return await self._send(line, call, body, on_late)
        except TimeoutError:
            self._cut_if_hung()
            raise self.late(budget_s) from None

    async def wants(self, call: str, *, budget_s: float) -> bool:
        """Whether the peer named this optional call. Raises StoreUnavailable."""
        try:
            async with asyncio.timeout(budget_s):
                return call in (await self._ready()).wants
        except TimeoutError:
            raise self.late(budget_s) from None

    async def close(self) -> None:
        """End the line, and a program that we started, by asking first."""
        self._closed = True
        if self._opening is not None:
            self._opening.cancel()
            await asyncio.gather(self._opening, return_exceptions=True)
        if self._line is not None:
            self._cut(self._line, "was closed", gently=True)
        await asyncio.gather(*self._ending, return_exceptions=True)

    def trouble(self, what: str) -> StoreUnavailable:
        """``what`` the peer did, as an error that names it and says where to look."""
        return StoreUnavailable(f"{self.where} {what}", hint=self.hint)

    def late(self, budget_s: float) -> StoreUnavailable:
        """What a time-out means to people: if there is no peer at all, why the last one ended."""
        before = f"; before, it {self._why}" if self._line is None and self._why else ""
        return self.trouble(f"did not answer within {budget_s:.1f} s{before}")

    # -- requests and answers ------------------------------------------------------------------------------------

    async def _send(self, line: _Line, call: str, body: Mapping[str, Any], on_late: OnLate | None) -> Answer:
        if line.cut:
            raise self.trouble(line.cut)
        unsent = line.writer.transport.get_write_buffer_size()
        if len(line.waiting) + len(line.owed) >= MOST_OWED or unsent > MOST_UNSENT_BYTES:
            raise self.trouble(f"owes {len(line.waiting) + len(line.owed)} answers")
        number = line.last_id = line.last_id + 1
        try:
            data = protocol.request(number, call, body)
        except protocol.Nonsense as error:
            raise StoreUnavailable(str(error)) from None
        loop = asyncio.get_running_loop()
        if not line.waiting and not line.owed:
            line.quiet_since = loop.time()
        future: asyncio.Future[Answer] = loop.create_future()
        line.waiting[number] = (future, on_late)
        line.writer.write(data)
        try:
            return await future
        finally:
            if line.waiting.pop(number, None) is not None and not line.cut:
                line.owed[number] = on_late

    async def _read(self, line: _Line) -> None:
        try:
            while data := await line.reader.readline():
                if not data.endswith(b"\n"):
                    break  # it ended in the middle of a line
                self._received(line, data)
            why = "ended"
        except protocol.Nonsense as error:
            why = f"talks nonsense: {error}"
        except ValueError:  # StreamReader.readline
            why = f"talks nonsense: a line of more than {protocol.LINE_BYTES} bytes"
        except OSError as error:
            why = f"is gone: {error.strerror}"
        self._cut(line, why)

    def _received(self, line: _Line, data: bytes) -> None:
        number, body = protocol.parse_line(data)
        line.quiet_since = asyncio.get_running_loop().time()
        if number in line.waiting:
            future, _ = line.waiting.pop(number)
            if not future.done():
                future.set_result(body)
        elif number in line.owed:
            on_late = line.owed.pop(number)
            if on_late is not None:
                on_late(body)
        else:
            raise protocol.Nonsense("an answer that nobody asked for")

    def _cut_if_hung(self) -> None:
        line = self._line
        if line is not None and (line.waiting or line.owed):
            silent_s = asyncio.get_running_loop().time() - line.quiet_since
            if silent_s >= HUNG_S:
                self._cut(line, f"has been silent for {silent_s:.0f} s")

    # -- the line's beginning and end ----------------------------------------------------------------------------

    async def _ready(self) -> _Line:
        self._cut_if_hung()
        if self._closed:
            raise self.trouble("was closed")
        if self._line is not None:
            return self._line
        if self._opening is None:
            self._opening = asyncio.create_task(self._open())
            self._opening.add_done_callback(self._opened)
        return await asyncio.shield(self._opening)  # who gives up does not stop it for the others

    def _opened(self, task: asyncio.Task[_Line]) -> None:
        self._opening = None
        if not task.cancelled():
            task.exception()  # whoever waited has heard of it; perhaps nobody did

    async def _open(self) -> _Line:
        loop = asyncio.get_running_loop()
        if self._command:
            await asyncio.sleep(max(0.0, self._not_before - loop.time()))
            self._not_before = loop.time() + PAUSE_S
        try:
            async with asyncio.timeout(CONNECT_S):
                line = await (self._start() if self._command else self._connect())
        except TimeoutError:
            raise self.trouble(f"could not be reached within {CONNECT_S:.0f} s") from None
        except OSError as error:
            what = "started" if self._command else "reached"
            raise self.trouble(f"cannot be {what}: {error.strerror or error}") from None
        line.task = asyncio.create_task(self._read(line))
        try:
            async with asyncio.timeout(CONNECT_S):
                body = await self._send(line, "hello", self._hello, None)
            if protocol.answer(body) in ("unknown", "lost"):
                reason, remedy = protocol.read_why(body)
                raise StoreUnavailable(f"{self.where} does not serve this node: {reason}", hint=remedy or self.hint)
            if protocol.answer(body) != "hello":
                raise protocol.Nonsense("no hello in answer to hello")
            name, line.wants = protocol.read_hello(body)
        except TimeoutError:
            self._cut(line, f"did not say hello within {CONNECT_S:.0f} s")
        except protocol.Nonsense as error:
            self._cut(line, f"talks nonsense: {error}")
        except BaseException:
            self._cut(line, "was left before its hello")
            raise
        if line.cut:
            raise self.trouble(line.cut)
        log.info("%s is %s", self.where, name)
        self._line = line
        return line

    async def _start(self) -> _Line:
        process = await asyncio.create_subprocess_exec(
            *self._command,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            env=ENVIRONMENT,
            start_new_session=True,
            limit=protocol.LINE_BYTES,
        )
        assert process.stdin is not None and process.stdout is not None
        return _Line(process.stdout, process.stdin, process)

    async def _connect(self) -> _Line:
        reader, writer = await asyncio.open_unix_connection(self._path, limit=protocol.LINE_BYTES)
        peer = writer.get_extra_info("socket")
        _, uid, _ = PEERCRED.unpack(peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, PEERCRED.size))
        if uid not in (0, os.geteuid()):
            writer.transport.abort()
            raise self.trouble(f"is served by user {uid}, who is neither root nor this process's own")
        return _Line(reader, writer)

    def _cut(self, line: _Line, why: str, *, gently: bool = False) -> None:
        if line.cut:
            return
        line.cut = self._why = why
        if self._line is line:
            self._line = None
        if line.task is not None and line.task is not asyncio.current_task():
            line.task.cancel()
        for future, _ in list(line.waiting.values()):
            if not future.done():
                future.set_exception(self.trouble(why))
        line.owed.clear()
        if not gently:
            if not line.writer.transport.is_closing():  # of a program that ended it is over already
                line.writer.transport.abort()
            log.warning("%s %s", self.where, why)
        ending = asyncio.create_task(self._end(line, gently))
        self._ending.add(ending)
        ending.add_done_callback(self._ending.discard)

    async def _end(self, line: _Line, gently: bool) -> None:
        line.writer.close()
        process = line.process
        if process is None:
            with contextlib.suppress(OSError, TimeoutError):
                await asyncio.wait_for(line.writer.wait_closed(), END_S)
            return
        if gently:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(process.wait(), END_S)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # its own session: what it started goes with it
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(process.wait(), END_S)


__all__ = ["Peer"]
