# SPDX-License-Identifier: GPL-2.0-or-later
"""The kernel's own announcements of block devices, without udev between.

A NETLINK_KOBJECT_UEVENT socket in multicast group 1 (lib/kobject_uevent.c). A message is ``action@devpath``,
a NUL, then ``KEY=VALUE`` strings, each ended by a NUL. udevd sends its own messages to group 2, and any
process with CAP_NET_ADMIN may send to group 1: only what the kernel sent (netlink port 0) is taken. If we are
too slow the kernel drops messages and says ENOBUFS once; after that nothing is known, and everything must be
looked at again.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import TracebackType

from enforcer.model.resource import DevNum
from enforcer.storage.sysfs import escape

_NETLINK_KOBJECT_UEVENT = 15  # include/uapi/linux/netlink.h
_KERNEL_GROUP = 1
_SO_RCVBUFFORCE = 33  # include/uapi/asm-generic/socket.h
_BUFFER = 16 << 20
_LARGEST = 1 << 16  # UEVENT_BUFFER_SIZE is 2 KiB; room for what a future kernel may add


@dataclass(frozen=True, slots=True)
class Uevent:
    """One event of SUBSYSTEM=block. Strings are printable ASCII, other bytes escaped as ``%XX``."""

    action: str  # add, remove, change, move, online, offline, bind, unbind
    devpath: str  # below /sys
    dev: DevNum | None
    name: str  # DEVNAME: sda1, dm-0
    devtype: str  # disk or partition
    seqnum: int
    env: Mapping[str, str] = field(default_factory=dict, hash=False)

    @property
    def media_or_table_changed(self) -> bool:
        """True for the events after which a device may lie on other LUNs than before."""
        return self.action in ("add", "remove", "change", "move")


def parse(data: bytes) -> Uevent | None:
    """Read one message, or None if it is not a well-formed event of a block device. Never raises."""
    head, *rest = data.split(b"\0")
    action, at, devpath = head.partition(b"@")
    if not at or not action or not devpath.startswith(b"/"):
        return None
    env: dict[str, str] = {}
    for item in rest:
        key, equals, value = item.partition(b"=")
        if equals:
            env.setdefault(escape(key), escape(value))
    if env.get("SUBSYSTEM") != "block" or env.get("ACTION", escape(action)) != escape(action):
        return None
    try:
        dev = DevNum(_number(env["MAJOR"]), _number(env["MINOR"])) if "MAJOR" in env else None
        seqnum = _number(env.get("SEQNUM", "0"))
    except (KeyError, ValueError):
        return None
    name = env.get("DEVNAME") or escape(devpath.rsplit(b"/", 1)[1])
    return Uevent(escape(action), escape(devpath), dev, name, env.get("DEVTYPE", ""), seqnum, env)


def _number(text: str) -> int:
    if not text.isdigit() or len(text) > 20:
        raise ValueError(text)
    return int(text)


class UeventSocket:
    """A non-blocking socket of block uevents; ``fileno()`` is for asyncio's ``add_reader``."""

    def __init__(self, sock: socket.socket | None = None) -> None:
        """Bind to the kernel's group, or take a socket that is bound already. Raises OSError."""
        self._rescan = False
        if sock is None:
            sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_KOBJECT_UEVENT)
            try:
                try:
                    sock.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _BUFFER)
                except PermissionError:
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER)
                sock.bind((0, _KERNEL_GROUP))
            except OSError:
                sock.close()
                raise
        sock.setblocking(False)
        self._socket = sock

    def fileno(self) -> int:
        """The descriptor to wait on for reading."""
        return self._socket.fileno()

    def drain(self) -> list[Uevent]:
        """Every event that is waiting, in order. Never blocks. Raises OSError if the socket itself is broken.

        Look at ``take_rescan()`` afterwards.
        """
        found: list[Uevent] = []
        while True:
            try:
                data, _, flags, address = self._socket.recvmsg(_LARGEST)
            except BlockingIOError:
                return found
            except OSError as error:
                if error.errno == errno.ENOBUFS:
                    self._rescan = True
                    continue
                if error.errno == errno.EINTR:
                    continue
                raise
            if not _from_kernel(address):
                continue
            if flags & socket.MSG_TRUNC:
                self._rescan = True
                continue
            event = parse(data)
            if event is not None:
                found.append(event)

    def take_rescan(self) -> bool:
        """True once after events were lost: everything must be looked at again."""
        rescan, self._rescan = self._rescan, False
        return rescan

    def close(self) -> None:
        """Close the socket; a second time does nothing."""
        with contextlib.suppress(OSError):
            self._socket.close()

    def __enter__(self) -> UeventSocket:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _from_kernel(address: object) -> bool:
    """True for netlink port 0, which no process can have."""
    return isinstance(address, tuple) and len(address) == 2 and address[0] == 0


def trigger_path(devpath: str) -> str:
    """Where ``add`` is written to have the kernel announce a device again (for tests and rescans)."""
    return os.path.normpath(f"/sys/{devpath.lstrip('/')}/uevent")
