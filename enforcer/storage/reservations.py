# SPDX-License-Identifier: GPL-2.0-or-later
"""Persistent reservations at one LUN, through the block layer (include/uapi/linux/pr.h): tried with SCSI.

The reservation is *Write Exclusive* and not "registrants only": a key is registered by whoever likes to, so a node that
was paused before it had registered could come back, register, and write beside its successor. With this type the
storage takes writes of the one holder alone, and the holder changes by PREEMPT only, which names the key of the holder
that it means: a compare-and-set at the storage.

Two traps of the ioctls: a refusal is the SCSI status as a *positive* return value, which fcntl.ioctl() passes on only
for a mutable buffer; and the first key of PREEMPT is one's own (sd_pr_preempt, drivers/scsi/sd.c).
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum
from pathlib import Path
from typing import Final, Protocol

from enforcer.model.lease import Lease
from enforcer.model.resource import DevNum
from enforcer.storage import nodes
from enforcer.storage.vetoes.marks import Damaged
from enforcer.storage.vetoes.medium import Disk
from enforcer.storage.vetoes.reservation import Action, Reservation, keys, kind, reservation

WRITE_EXCLUSIVE: Final = 1  # in pr.h and in SPC-4 alike
IGNORE_KEY: Final = 1
CONFLICT: Final = 0x18  # PR_STS_RESERVATION_CONFLICT
TRIES: Final = 3  # a unit attention is told once

_MARK = 0x4D45 << 48  # by which a key is known as one of ours
_KEPT = 1 << 47
_TOKEN_BITS = 26


class Port(Protocol):
    """One way to one LUN, held open."""

    def holder(self) -> Reservation | None:
        """The reservation in force. Raises OSError; ENOTSUP if the device knows no reservations."""

    def registered(self) -> tuple[int, ...]:
        """Every key that is registered, by whomever; none if the device knows no reservations. Raises OSError."""

    def register(self, key: int) -> None:
        """From now on this is our key, whatever it was. Raises OSError."""

    def reserve(self, key: int) -> bool:
        """Take it if nobody has it; False if somebody has. Raises OSError."""

    def preempt(self, key: int, victim: int) -> bool:
        """Take it from the holder with the key ``victim``, and abort what that one has under way; False if there is
        no such key any more. Raises OSError."""

    def unregister(self, key: int) -> None:
        """Give up the reservation and the key; nothing happens if the key is not ours any more. Raises OSError."""


def key_of(lease: Lease, *, kept: bool = False) -> int:
    """64 bits: a mark, whether it is kept, 21 bits of the node's name, 26 of the token. No two grants have the same.

    ``kept``: somebody was preempted, so the reservation is never given up.
    """
    return key_of_node(lease.holder.node) | int(kept) * _KEPT | lease.token & (1 << _TOKEN_BITS) - 1


def key_of_node(node: str) -> int:
    """What all keys of a node have in common; the key of no grant."""
    name = int.from_bytes(hashlib.sha256(node.encode()).digest()[:4], "big")
    return _MARK | name >> 11 << _TOKEN_BITS


def is_key(key: int) -> bool:
    """True for keys that :func:`key_of` makes."""
    return key >> 48 << 48 == _MARK


def is_kept(key: int) -> bool:
    """True for such a key under which the reservation is never given up."""
    return is_key(key) and bool(key & _KEPT)


def same_node(one: int, other: int) -> bool:
    """True if both are keys of one node, whatever the grant. An earlier boot of it writes no more."""
    return is_key(one) and (one | _KEPT) >> _TOKEN_BITS == (other | _KEPT) >> _TOKEN_BITS


def foreign(found: Reservation) -> str:
    """Why the reservation in force is none that :class:`Port` makes, or ""."""
    if is_key(found.key) and found.type == WRITE_EXCLUSIVE:
        return ""
    return f"it is reserved under key {found.key:#x} ({kind(found)}), which is none of ours"


class Move(Enum):
    """What a node that was granted a lease does next at the storage."""

    NOTHING = "it is the holder"
    RESERVE = "nobody is: take it"
    PREEMPT = "take it from the holder whose key was read"
    LOOK = "look once more"


def key_for(lease: Lease, there: int | None) -> int:
    """The key to register. ``there``: of the reservation in force, if any."""
    return key_of(lease, kept=there is not None and _outlives(there, lease))


def move(lease: Lease, mine: int, there: int | None, *, ours: bool, in_use: bool) -> Move | str:
    """The next step of who has registered ``mine`` and then read ``there``, or why it must not be the holder.

    ``ours``: what the store said of the lease *after* that read. ``in_use``: something other than who asks has it open.
    """
    if not ours:
        return "the lease was taken over meanwhile"
    if there == mine:
        return Move.NOTHING
    if there is None:
        return Move.RESERVE
    if in_use:
        return "something here has used it since before it was taken over, and must end first"
    return Move.PREEMPT if is_kept(mine) or not _outlives(there, lease) else Move.LOOK


def _outlives(there: int, lease: Lease) -> bool:
    """True if the reservation under a key must be kept once this lease has it: somebody was, or will be preempted."""
    return is_kept(there) or not same_node(there, key_of(lease))


def _iow(number: int, size: int) -> int:
    return 1 << 30 | size << 16 | ord("p") << 8 | number


REGISTER = _iow(200, 24)  # struct pr_registration: old_key, new_key, flags
RESERVE = _iow(201, 16)  # struct pr_reservation: key, type, flags
PREEMPT_ABORT = _iow(204, 24)  # struct pr_preempt: old_key, new_key, type, flags


class DevicePort:
    """A block device, open for reading: CAP_SYS_ADMIN is enough (blkdev_pr_allowed, block/ioctl.c)."""

    def __init__(self, fd: int) -> None:
        self._fd, self._disk = fd, Disk(fd)

    def holder(self) -> Reservation | None:
        answer = self._disk.reserve_in(Action.READ_RESERVATION)
        if answer is None:
            raise OSError(errno.ENOTSUP, "it knows no reservations")
        try:
            return reservation(answer)
        except Damaged as error:
            raise OSError(errno.EPROTO, str(error)) from error

    def registered(self) -> tuple[int, ...]:
        answer = self._disk.reserve_in(Action.READ_KEYS)
        try:
            return keys(answer) if answer is not None else ()
        except Damaged as error:
            raise OSError(errno.EPROTO, str(error)) from error

    def register(self, key: int) -> None:
        if self._do(REGISTER, struct.pack("QQII", 0, key, IGNORE_KEY, 0)) == CONFLICT:
            raise OSError(errno.EBUSY, "the key was not registered")

    def reserve(self, key: int) -> bool:
        return self._do(RESERVE, struct.pack("QII", key, WRITE_EXCLUSIVE, 0)) == 0

    def preempt(self, key: int, victim: int) -> bool:
        return self._do(PREEMPT_ABORT, struct.pack("QQII", key, victim, WRITE_EXCLUSIVE, 0)) == 0

    def unregister(self, key: int) -> None:
        self._do(REGISTER, struct.pack("QQII", key, 0, 0, 0))

    def _do(self, request: int, argument: bytes) -> int:
        """0 or CONFLICT. Raises OSError."""
        for _ in range(TRIES):
            status = int(fcntl.ioctl(self._fd, request, bytearray(argument)))
            if status in (0, CONFLICT):
                return status
        raise OSError(errno.EIO, f"the storage answered with status {status:#x}")


@contextmanager
def opened(dev: DevNum, *, root: Path = Path("/"), scratch: Path | None = None) -> Iterator[DevicePort]:
    """The way to a LUN by this device. Raises OSError."""
    with nodes.opened(dev, os.O_RDONLY, root=root, scratch=scratch) as fd:
        yield DevicePort(fd)
