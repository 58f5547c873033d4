# SPDX-License-Identifier: GPL-2.0-or-later
"""The device-mapper table that a caller is about to load, read from its memory.

DM_TABLE_LOAD is the one moment at which a dm device takes its lower devices; nobody opens them in user space
before that. The table is a ``struct dm_ioctl`` and a chain of ``struct dm_target_spec``
(include/uapi/linux/dm-ioctl.h), walked here as populate_table() in drivers/md/dm-ioctl.c walks it. The caller
can change its memory after we looked: what is found here says which leases to take, and the guard judges each
device number that the kernel then opens.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import secrets
import stat
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from enforcer.model.errors import EnforcerError
from enforcer.model.resource import DevNum
from enforcer.storage.sysfs import escape

#: The ioctl: _IOWR(0xfd, 9, struct dm_ioctl). Only the low 16 bits are looked at by the kernel.
DM_TABLE_LOAD = 0xC138FD09

#: _IOWR(0xfd, 7, struct dm_ioctl): name and uuid of a device, nothing is changed.
DM_DEV_STATUS = 0xC138FD07
#: _IOWR(0xfd, 12, struct dm_ioctl): the live table, with DM_STATUS_TABLE_FLAG as text of its parameters.
DM_TABLE_STATUS, _STATUS_TABLE = 0xC138FD0C, 1 << 4
CONTROL = os.makedev(10, 236)  # MISC_MAJOR, MAPPER_CTRL_MINOR: include/linux/miscdevice.h

#: Longest table and most targets that are looked at. A longer table is an error, so it is refused, not passed
#: over.
MAX_BYTES = 16 << 20
MAX_TARGETS = 4096

_HEADER = struct.Struct("=3I3Ii3IQ128s129s")  # 305 bytes, up to ``data``: minimum_data_size in dm-ioctl.c
_DM_IOCTL_BYTES = 312  # sizeof(struct dm_ioctl)
_SPEC = struct.Struct("=QQiI16s")  # 40 bytes, then the parameter string

_NUMBER = re.compile(rb"([0-9]{1,10}):([0-9]{1,10})")


class DmTableError(EnforcerError):
    """The memory does not hold a table that the kernel would take, or cannot be read."""


@dataclass(frozen=True, slots=True)
class DmTarget:
    """One stretch of the mapped device. ``start`` and ``length`` are 512-byte sectors."""

    start: int
    length: int
    type: str
    params: bytes


@dataclass(frozen=True, slots=True)
class DmTable:
    """A table and the device it is for: the kernel finds that by name, uuid or number, whichever is given."""

    name: str  # escaped
    uuid: str  # escaped
    dev: DevNum | None
    targets: tuple[DmTarget, ...]


@dataclass(frozen=True, slots=True)
class LowerDevice:
    """A device that a target would open: by number, or by a path that means what it means to the caller."""

    dev: DevNum | None
    path: bytes
    carrier: bool  # opened by a multipath target: not a use


def read_table(pid: int, address: int, *, proc: Path = Path("/proc")) -> DmTable:
    """Read the table at ``address`` in the memory of a task. Raises DmTableError.

    Needs PTRACE_MODE_ATTACH on the task (CAP_SYS_PTRACE).
    """
    try:
        fd = os.open(proc / str(pid) / "mem", os.O_RDONLY | os.O_CLOEXEC)
        try:
            header = _read(fd, _HEADER.size, address)
            size = struct.unpack_from("=I", header, 12)[0]
            if not _HEADER.size <= size <= MAX_BYTES:
                raise DmTableError(f"the table says that it is {size} bytes long")
            return parse(_read(fd, size, address))
        finally:
            os.close(fd)
    except (OSError, OverflowError) as error:
        raise DmTableError(f"the memory of task {pid} cannot be read: {error}") from error


def _read(fd: int, size: int, address: int) -> bytes:
    data = b""
    while len(data) < size:
        chunk = os.pread(fd, size - len(data), address + len(data))
        if not chunk:
            raise DmTableError("the table ends in memory that is not there")
        data += chunk
    return data


def parse(data: bytes) -> DmTable:
    """Read the bytes of one DM_TABLE_LOAD request. Whatever they are, raises nothing but DmTableError."""
    if len(data) < _HEADER.size:
        raise DmTableError("the table is shorter than its header")
    fields = _HEADER.unpack_from(data)
    size, data_start, count, dev, name, uuid = fields[3], fields[4], fields[5], *fields[10:]
    if not _HEADER.size <= size <= len(data):
        raise DmTableError(f"the table says that it is {size} bytes long")
    if not 0 < count <= MAX_TARGETS:
        raise DmTableError(f"the table has {count} targets")
    targets: list[DmTarget] = []
    at, step = 0, data_start
    for _ in range(count):
        at += step
        # The first step is ``data_start``, each later one ``next`` of the spec before it.
        if step < _SPEC.size or at + _SPEC.size > size:
            raise DmTableError(f"target {len(targets)} lies outside of the table")
        start, length, _status, step, type_ = _SPEC.unpack_from(data, at)
        end = data.find(b"\0", at + _SPEC.size, size)
        if end < 0:
            raise DmTableError(f"the parameters of target {len(targets)} do not end")
        params = data[at + _SPEC.size : end]
        targets.append(DmTarget(start, length, escape(type_.partition(b"\0")[0]), params))
    return DmTable(
        escape(name.partition(b"\0")[0]),
        escape(uuid.partition(b"\0")[0]),
        # new_encode_dev, include/linux/kdev_t.h
        DevNum(dev >> 8 & 0xFFF, dev & 0xFF | dev >> 12 & 0xFFF00) if dev else None,
        tuple(targets),
    )


def uuid_of(table: DmTable, *, scratch: Path) -> str:
    """The uuid (escaped) of the map that a table is for, "" if it has none.

    The ioctl is asked and not sysfs: a map is not there before its first table (dm_setup_md_queue in drivers/md/dm.c),
    and a load names it by number or by name as often as by uuid. Raises OSError if there is no such map.
    """
    if table.uuid:
        return table.uuid
    number = 0 if table.dev is None else table.dev.minor & 0xFF | table.dev.major << 8 | (table.dev.minor & ~0xFF) << 12
    name = b"" if number else table.name.encode()
    request = bytearray(_HEADER.pack(4, 0, 0, _DM_IOCTL_BYTES, _DM_IOCTL_BYTES, 0, 0, 0, 0, 0, number, name, b""))
    request += bytes(_DM_IOCTL_BYTES - len(request))
    with _control(scratch) as fd:
        fcntl.ioctl(fd, DM_DEV_STATUS, request)
    uuid: bytes = _HEADER.unpack_from(request)[12]
    return escape(uuid.partition(b"\0")[0])


def linear(dev: DevNum, *, scratch: Path) -> tuple[int, int] | None:
    """(offset on the device below, length) of a map of one linear target, in sectors of 512 bytes; None for any other.

    Raises OSError if there is no such map.
    """
    number = dev.minor & 0xFF | dev.major << 8 | (dev.minor & ~0xFF) << 12
    size = _DM_IOCTL_BYTES + 4096
    request = bytearray(
        _HEADER.pack(4, 0, 0, size, _DM_IOCTL_BYTES, 0, 0, _STATUS_TABLE, 0, 0, number, b"", b"").ljust(size, b"\0")
    )
    with _control(scratch) as fd:
        fcntl.ioctl(fd, DM_TABLE_STATUS, request)
    if _HEADER.unpack_from(request)[5] != 1:
        return None
    _start, length, _status, _next, kind = _SPEC.unpack_from(request, _DM_IOCTL_BYTES)
    words = split_args(bytes(request[_DM_IOCTL_BYTES + _SPEC.size :]).partition(b"\0")[0])
    if kind.partition(b"\0")[0] != b"linear" or len(words) != 2 or not words[1].isdigit():
        return None
    return int(words[1]), int(length)


@contextlib.contextmanager
def _control(scratch: Path) -> Iterator[int]:
    """Device-mapper's control node, whether /dev has it or not. A device is what its number says, not its path."""
    fd = -1
    with contextlib.suppress(OSError):
        fd = os.open("/dev/mapper/control", os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    if fd < 0 or not _is_control(fd):
        if fd >= 0:
            os.close(fd)
        node = scratch / f"dm-control-{secrets.token_hex(8)}"
        os.mknod(node, stat.S_IFCHR | 0o600, CONTROL)
        try:
            fd = os.open(node, os.O_RDWR | os.O_CLOEXEC)
        finally:
            node.unlink()
    try:
        yield fd
    finally:
        os.close(fd)


def _is_control(fd: int) -> bool:
    found = os.fstat(fd)
    return stat.S_ISCHR(found.st_mode) and found.st_rdev == CONTROL


def split_args(params: bytes) -> list[bytes]:
    """Words of a parameter string as dm_split_args() in drivers/md/dm-table.c has them: backslash quotes."""
    words: list[bytes] = []
    word: bytearray | None = None
    quoted = False
    for byte in params:
        if not quoted and byte in b" \t\n\v\f\r\xa0":  # isspace() of the kernel knows Latin-1
            if word is not None:
                words.append(bytes(word))
                word = None
            continue
        if word is None:
            word = bytearray()
        if byte == 0x5C and not quoted:
            quoted = True
            continue
        quoted = False
        word.append(byte)
    if word is not None and quoted:
        word.append(0x5C)  # a backslash at the very end quotes nothing
    if word is not None:
        words.append(bytes(word))
    return words


#: Places of devices among the words, Documentation/admin-guide/device-mapper/. A step means "and every nth
#: after".
_PLACES: dict[str, slice] = {
    "linear": slice(0, 1),
    "striped": slice(2, None, 2),
    "crypt": slice(3, 4),
    "snapshot": slice(0, 2),
    "snapshot-merge": slice(0, 2),
    "snapshot-origin": slice(0, 1),
    "thin-pool": slice(0, 2),
    "thin": slice(0, 1),
    "cache": slice(0, 3),
    "writecache": slice(1, 3),
    "clone": slice(0, 3),
    "era": slice(0, 2),
    "verity": slice(1, 3),
    "integrity": slice(0, 1),
    "log-writes": slice(0, 2),
    "delay": slice(0, None, 3),
    "flakey": slice(0, 1),
    "dust": slice(0, 1),
    "unstriped": slice(4, 5),
    "ebs": slice(0, 1),
    "zoned": slice(0, None),
}

_NO_DEVICES = frozenset({"error", "zero"})


def lower_devices(table: DmTable) -> tuple[LowerDevice, ...]:
    """Every device that the targets would open, each once.

    Of each known target the words at its device places count, whatever they look like; of every target, known
    or not, each word that looks like ``8:16`` or a path counts as well (mirror logs, raid members, multipath
    paths, metadata devices). Too many is the safe side: the kernel opens what it opens, and an unforeseen
    open is refused.
    """
    found: dict[LowerDevice, None] = {}
    for target in table.targets:
        if target.type in _NO_DEVICES:
            continue
        words = split_args(target.params)
        places = words[_PLACES[target.type]] if target.type in _PLACES else []
        looking = [word.removeprefix(b"meta_device:") for word in words]
        for word in [
            *places,
            *(word for word in looking if _NUMBER.fullmatch(word) or word.startswith(b"/")),
        ]:
            if word not in (b"", b"-"):
                found[_device(word, target.type == "multipath")] = None
    return tuple(found)


def _device(word: bytes, carrier: bool) -> LowerDevice:
    """dm_get_device() takes ``major:minor`` or a path (drivers/md/dm-table.c)."""
    match = _NUMBER.fullmatch(word)
    if match and int(match[1]) < 1 << 12 and int(match[2]) < 1 << 20:
        return LowerDevice(DevNum(int(match[1]), int(match[2])), b"", carrier)
    return LowerDevice(None, word, carrier)
