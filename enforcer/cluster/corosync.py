# SPDX-License-Identifier: GPL-2.0-or-later
"""Quorum as corosync tells it, by ctypes: there is no Python binding.

Two libraries, because each knows half. libvotequorum answers who votes and whether two nodes may both be quorate;
libquorum has a descriptor that becomes readable when the membership changes, seconds before Pacemaker has drawn its
conclusions. Calls of both wait without a limit for a corosync that is stopped (lib/votequorum.c: CS_IPC_TIMEOUT_MS is
-1), so they are made in one thread that nobody waits for longer than ``ANSWER_S``; while it hangs, corosync is silent
for everybody. Only ``quorum_dispatch``, which takes what is there and waits for nothing, runs in the loop.

Constants and structures: include/corosync/corotypes.h, votequorum.h, quorum.h of corosync 3.1.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import logging
import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from enforcer.model.errors import StoreUnavailable

T = TypeVar("T")
log = logging.getLogger(__name__)

ANSWER_S = 2.0
CS_OK = 1
CS_DISPATCH_ALL = 2
CS_TRACK_CURRENT = 1
CS_TRACK_CHANGES = 2
TWO_NODE, QUORATE = 1, 2  # VOTEQUORUM_INFO_*
MEMBER = 1  # VOTEQUORUM_NODESTATE_MEMBER

# cs_error_t, where an administrator can do something about it
ERRORS = {
    2: "corosync is not running",
    6: "corosync is busy",
    9: "corosync has ended",
    11: "corosync lets only root ask",
    12: "corosync does not know this node",
}


class _Info(ctypes.Structure):
    """struct votequorum_info"""

    _fields_ = (
        ("node_id", ctypes.c_uint32),
        ("node_state", ctypes.c_uint),
        ("node_votes", ctypes.c_uint),
        ("node_expected_votes", ctypes.c_uint),
        ("highest_expected", ctypes.c_uint),
        ("total_votes", ctypes.c_uint),
        ("quorum", ctypes.c_uint),
        ("flags", ctypes.c_uint),
        ("qdevice_votes", ctypes.c_uint),
        ("qdevice_name", ctypes.c_char * 255),
    )


@dataclass(frozen=True, slots=True)
class Votes:
    """What votequorum says of this node's side."""

    node_id: int
    quorate: bool
    two_node: bool
    total: int
    expected: int


class _Silent(Exception):
    """cs_error: what it means."""


_Notify = ctypes.CFUNCTYPE(
    None, ctypes.c_uint64, ctypes.c_uint32, ctypes.c_uint64, ctypes.c_uint32, ctypes.POINTER(ctypes.c_uint32)
)


def _call(library: ctypes.CDLL, name: str, *arguments: object) -> None:
    result = getattr(library, name)(*arguments)
    if result != CS_OK:
        raise _Silent(ERRORS.get(result, f"{name}: cs_error {result}"))


class _Libraries:
    """Both connections. Every method but ``dispatch`` may wait for ever."""

    def __init__(self, heard: Callable[[bool], None]) -> None:
        """Raises _Silent, OSError."""
        self._votes = ctypes.CDLL("libvotequorum.so.8")
        self._push = ctypes.CDLL("libquorum.so.5")
        self._votes_handle, self._push_handle = ctypes.c_uint64(), ctypes.c_uint64()
        nothing = (ctypes.c_void_p * 8)()
        _call(self._votes, "votequorum_initialize", ctypes.byref(self._votes_handle), nothing)
        # kept as long as the library may call it; whatever it raises would only be printed
        self._notify = _Notify(lambda _handle, quorate, _ring, _count, _members: heard(bool(quorate)))
        callbacks = (ctypes.c_void_p * 1)(ctypes.cast(self._notify, ctypes.c_void_p))
        kind = ctypes.c_uint32()
        _call(self._push, "quorum_initialize", ctypes.byref(self._push_handle), callbacks, ctypes.byref(kind))
        flags = ctypes.c_uint(CS_TRACK_CURRENT | CS_TRACK_CHANGES)
        _call(self._push, "quorum_trackstart", self._push_handle, flags)
        fd = ctypes.c_int(-1)
        _call(self._push, "quorum_fd_get", self._push_handle, ctypes.byref(fd))
        self.fd = fd.value

    def votes(self) -> Votes:
        """Raises _Silent, also for what cannot be true."""
        info = _Info()
        _call(self._votes, "votequorum_getinfo", self._votes_handle, ctypes.c_uint(0), ctypes.byref(info))
        if info.node_state != MEMBER or info.total_votes == 0 or info.highest_expected == 0:
            raise _Silent("corosync counts votes that cannot be")
        flags = info.flags
        quorate, two = bool(flags & QUORATE), bool(flags & TWO_NODE)
        return Votes(info.node_id, quorate, two, info.total_votes, info.highest_expected)

    def dispatch(self) -> None:
        """Take in what has been pushed; waits for nothing. Raises _Silent."""
        _call(self._push, "quorum_dispatch", self._push_handle, ctypes.c_int(CS_DISPATCH_ALL))

    def close(self) -> None:
        """Both connections end."""
        self._votes.votequorum_finalize(self._votes_handle)
        self._push.quorum_finalize(self._push_handle)


class Corosync:
    """Asks corosync; one loop uses it. ``changed`` is called in the loop at each push, with the news: quorate?"""

    def __init__(self, changed: Callable[[bool], None] = lambda quorate: None) -> None:
        self._changed = changed
        self._jobs: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._hangs: asyncio.Future[object] | None = None
        self._libraries: _Libraries | None = None
        self._reads: int | None = None
        self.pushed: bool | None = None  # what the last push said; None without a connection

    async def votes(self) -> Votes:
        """As corosync answers now. Raises StoreUnavailable if it does not, within ``ANSWER_S``.

        What was pushed since is stricter than an answer that came before it.
        """
        try:
            async with asyncio.timeout(ANSWER_S):
                if self._libraries is None:
                    self._libraries = await self._in_thread(lambda: _Libraries(self._heard))
                    self._listen(self._libraries.fd)
                votes = await self._in_thread(self._libraries.votes)
        except TimeoutError:
            raise StoreUnavailable(f"corosync does not answer within {ANSWER_S:g} s") from None
        except (_Silent, OSError) as error:
            self._disconnect()
            raise StoreUnavailable(str(error), hint="systemctl status corosync") from None
        if votes.quorate and self.pushed is False:
            raise StoreUnavailable("corosync's answers about quorum do not agree")
        return votes

    async def close(self) -> None:
        """A thread that hangs in a call is left behind; it ends with the process."""
        self._disconnect()
        self._jobs.put(None)

    async def _in_thread(self, work: Callable[[], T]) -> T:
        while self._hangs is not None and not self._hangs.done():  # another ask is before us, or corosync hangs
            await asyncio.wait({self._hangs})
        loop = asyncio.get_running_loop()
        if self._thread is None:
            self._thread = threading.Thread(target=_serve, args=(self._jobs,), name="corosync", daemon=True)
            self._thread.start()
        future: asyncio.Future[T] = loop.create_future()
        self._hangs = loop.create_future()
        self._jobs.put(_job(work, future, self._hangs, loop))
        return await future

    def _listen(self, fd: int) -> None:
        self._reads = fd
        asyncio.get_running_loop().add_reader(fd, self._readable)

    def _readable(self) -> None:
        if self._libraries is None:
            return
        try:
            self._libraries.dispatch()
        except _Silent as error:
            log.warning("corosync: %s", error)
            self._disconnect()

    def _heard(self, quorate: bool) -> None:
        if quorate != self.pushed:
            self.pushed = quorate
            self._changed(quorate)

    def _disconnect(self) -> None:
        if self._reads is not None:
            with contextlib.suppress(RuntimeError, ValueError):
                asyncio.get_running_loop().remove_reader(self._reads)
        libraries, self._libraries, self._reads, self.pushed = self._libraries, None, None, None
        if libraries is not None:
            self._jobs.put(libraries.close)


def _serve(jobs: queue.SimpleQueue[Callable[[], None] | None]) -> None:
    while (job := jobs.get()) is not None:
        with contextlib.suppress(Exception):
            job()


def _job(
    work: Callable[[], T],
    future: asyncio.Future[T],
    over: asyncio.Future[object],
    loop: asyncio.AbstractEventLoop,
) -> Callable[[], None]:
    def done(result: T | None, error: Exception | None) -> None:
        if not over.done():
            over.set_result(None)
        if future.done():
            return  # nobody waits any more
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(result)  # type: ignore[arg-type]  # T or None, and there is no error

    def job() -> None:
        result: T | None = None
        error: Exception | None = None
        try:
            result = work()
        except Exception as raised:
            error = raised
        if future.cancelled() and isinstance(result, _Libraries):
            result.close()  # connected too late
        with contextlib.suppress(RuntimeError):  # the loop has ended meanwhile
            loop.call_soon_threadsafe(done, result, error)

    return job
