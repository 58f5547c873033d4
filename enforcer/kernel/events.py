# SPDX-License-Identifier: GPL-2.0-or-later
"""The ring buffer: what happened in the kernel, in order, on the daemon's loop.

An event only wakes somebody; the truth is in the tables. So a lost event costs time, never safety.
"""

from __future__ import annotations

import asyncio
import ctypes as C
from collections.abc import Callable
from dataclasses import dataclass

from enforcer.kernel import abi
from enforcer.kernel.libbpf import library, on_ring_record
from enforcer.model.resource import DevNum


@dataclass(frozen=True, slots=True)
class KernelEvent:
    """One record of the ring buffer; strings are raw bytes of foreign origin."""

    kind: abi.EventKind
    at_ns: int
    intent: int
    tid: int
    tgid: int
    uid: int
    start_ns: int
    dev: DevNum
    mode: int
    error: int
    state: int
    flags: abi.EventFlag
    syscall_nr: int
    mount_ns: int
    comm: bytes
    fstype: bytes


def decode(data: bytes) -> KernelEvent | None:
    """Read one record; None if it is too short or of a kind that this version does not know."""
    if len(data) < C.sizeof(abi.Event):
        return None
    raw = abi.Event.from_buffer_copy(data)
    try:
        kind = abi.EventKind(raw.kind)
    except ValueError:
        return None
    return KernelEvent(
        kind,
        raw.at_ns,
        raw.intent,
        raw.tid,
        raw.tgid,
        raw.uid,
        raw.start_ns,
        DevNum.from_kernel(raw.dev),
        raw.mode,
        raw.error,
        raw.state,
        abi.EventFlag(raw.flags & 31),
        raw.syscall_nr,
        raw.mount_ns,
        abi.c_text(raw.comm),
        abi.c_text(raw.fstype),
    )


class EventStream:
    """Reads the ring buffer whenever it has something and hands each event to ``handle``."""

    def __init__(self, descriptor: int, handle: Callable[[KernelEvent], None]) -> None:
        def receive(data: bytes) -> None:
            event = decode(data)
            if event is None:
                self.unknown += 1
            else:
                handle(event)

        self.unknown = 0
        self._callback = on_ring_record(receive)  # must outlive the ring buffer
        self._ring = library().pointer("ring_buffer__new", descriptor, self._callback, None, None, what="ring buffer")
        self._epoll = library().check("ring_buffer__epoll_fd", self._ring, what="ring buffer")

    def start(self) -> None:
        """Attach to the running loop; what happened before is delivered first."""
        asyncio.get_running_loop().add_reader(self._epoll, self.drain)
        self.drain()

    def drain(self) -> None:
        """Deliver everything that is there."""
        library().call("ring_buffer__consume", self._ring)

    def close(self) -> None:
        """Detach from the loop and free the ring buffer."""
        asyncio.get_running_loop().remove_reader(self._epoll)
        library().call("ring_buffer__free", self._ring)
