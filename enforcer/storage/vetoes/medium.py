# SPDX-License-Identifier: GPL-2.0-or-later
"""One disk as vetoes look at it: blocks past the page cache, and what the target says about reservations.

SG_IO and not IOC_PR_READ_RESERVATION, which newer kernels have: that one does not say who is registered, and 6.12 has
not got it. CAP_SYS_RAWIO lets the command through on a descriptor that is open for reading
(scsi_cmd_allowed, drivers/scsi/scsi_ioctl.c).
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, Protocol

from enforcer.model.resource import DevNum
from enforcer.storage import nodes, superblocks
from enforcer.storage.vetoes.reservation import Action

COMMAND_MS: Final = 2000  # a target that takes longer over one command is not answering
ANSWER_BYTES: Final = 8192
TRIES: Final = 3  # a unit attention is told once to each initiator, whatever it asks

_SG_IO = 0x2285  # include/scsi/sg.h
_FROM_DEVICE = -3  # SG_DXFER_FROM_DEV
_ILLEGAL_REQUEST, _UNIT_ATTENTION = 5, 6
_NO_SCSI = frozenset({errno.ENOTTY, errno.EINVAL, errno.EOPNOTSUPP})


class Medium(Protocol):
    """What the readers of marks need of a disk."""

    def read(self, offset: int, length: int) -> bytes:
        """Fewer bytes than ``length`` only at the end. Raises OSError."""

    def reserve_in(self, action: Action) -> bytes | None:
        """None if the device takes no such command. Raises OSError."""


class Disk:
    """A block device, open for reading."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def read(self, offset: int, length: int) -> bytes:
        """As ``superblocks.read_fd``; a driver that knows no O_DIRECT is read after its clean pages were dropped."""
        try:
            return superblocks.read_fd(self._fd, offset, length)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
        fcntl.fcntl(self._fd, fcntl.F_SETFL, fcntl.fcntl(self._fd, fcntl.F_GETFL) & ~os.O_DIRECT)
        os.posix_fadvise(self._fd, offset, length, os.POSIX_FADV_DONTNEED)
        return superblocks.read_fd(self._fd, offset, length)

    def reserve_in(self, action: Action) -> bytes | None:
        """PERSISTENT RESERVE IN through SG_IO, at most TRIES times COMMAND_MS."""
        for _ in range(TRIES):
            try:
                status, sense, data = self._command(bytes((0x5E, action, 0, 0, 0, 0, 0)))
            except OSError as error:
                if error.errno in _NO_SCSI:
                    return None
                raise
            if not status:
                return data
            if sense == _ILLEGAL_REQUEST:
                return None
            if sense != _UNIT_ATTENTION:
                break
        raise OSError(errno.EIO, f"PERSISTENT RESERVE IN failed with status {status:#x}")

    def _command(self, cdb: bytes) -> tuple[int, int, bytes]:
        command = (ctypes.c_ubyte * 10).from_buffer_copy(cdb + ANSWER_BYTES.to_bytes(2, "big") + b"\0")
        answer, sense = (ctypes.c_ubyte * ANSWER_BYTES)(), (ctypes.c_ubyte * 64)()
        header = _SgIo(ord("S"), _FROM_DEVICE, 10, 64, 0, ANSWER_BYTES)
        header.dxferp, header.cmdp, header.sbp = map(ctypes.addressof, (answer, command, sense))
        header.timeout = COMMAND_MS
        fcntl.ioctl(self._fd, _SG_IO, header)
        status = header.status or header.host_status or header.driver_status & 0x7
        return status, sense_key(bytes(sense[: header.sb_len_wr])), bytes(answer)[: ANSWER_BYTES - header.resid]


@contextmanager
def opened(dev: DevNum, *, root: Path = Path("/"), scratch: Path | None = None) -> Iterator[Disk]:
    """The disk with this number. Raises OSError."""
    with nodes.opened(dev, os.O_RDONLY | os.O_DIRECT, root=root, scratch=scratch) as fd:
        yield Disk(fd)


def sense_key(sense: bytes) -> int:
    """The sense key in fixed (70h, 71h) or descriptor format (72h, 73h), SPC-4 4.5; 0 if there is none."""
    if len(sense) < 3:
        return 0
    return (sense[1] if sense[0] & 0x7F in (0x72, 0x73) else sense[2]) & 0xF


class _SgIo(ctypes.Structure):
    """struct sg_io_hdr, include/scsi/sg.h."""

    _fields_ = [
        ("interface_id", ctypes.c_int),
        ("dxfer_direction", ctypes.c_int),
        ("cmd_len", ctypes.c_ubyte),
        ("mx_sb_len", ctypes.c_ubyte),
        ("iovec_count", ctypes.c_ushort),
        ("dxfer_len", ctypes.c_uint),
        ("dxferp", ctypes.c_void_p),
        ("cmdp", ctypes.c_void_p),
        ("sbp", ctypes.c_void_p),
        ("timeout", ctypes.c_uint),
        ("flags", ctypes.c_uint),
        ("pack_id", ctypes.c_int),
        ("usr_ptr", ctypes.c_void_p),
        ("status", ctypes.c_ubyte),
        ("masked_status", ctypes.c_ubyte),
        ("msg_status", ctypes.c_ubyte),
        ("sb_len_wr", ctypes.c_ubyte),
        ("host_status", ctypes.c_ushort),
        ("driver_status", ctypes.c_ushort),
        ("resid", ctypes.c_int),
        ("duration", ctypes.c_uint),
        ("info", ctypes.c_uint),
    ]
