# SPDX-License-Identifier: GPL-2.0-or-later
"""Small, careful readers of sysfs attributes.

An attribute can be missing, vanish while it is read, answer EIO, hold bytes that are no text, or hold a
newline in the middle of a serial number that a device reported about itself. The difference that matters to
identity is *missing* (the device has none; ``None``) against *unreadable* (it may have one that we failed to
learn; ``Unreadable``): falling from the second to a weaker name would give one LUN two names on two nodes,
and that is a double mount. So only the errors which mean "not there" are taken for missing.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping
from pathlib import Path

from enforcer.model.errors import EnforcerError
from enforcer.model.resource import DevNum

#: Largest attribute that is read, in bytes. Text attributes end at one page, binary ones (VPD) at 64 KiB.
LIMIT = 1 << 16

_MISSING = frozenset(
    {errno.ENOENT, errno.ENOTDIR, errno.ENODEV, errno.ENXIO, errno.ELOOP, errno.EOPNOTSUPP, errno.ENODATA}
)


class Unreadable(EnforcerError):
    """An attribute is there and could not be learnt; what hangs on it stays unresolved."""


def read_bytes(path: Path, limit: int = LIMIT) -> bytes | None:
    """The whole attribute, or None if it does not exist.

    Raises Unreadable on any other error and if it is longer than ``limit`` bytes.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
        try:
            data = b""
            while chunk := os.read(fd, limit + 1 - len(data)):
                data += chunk
        finally:
            os.close(fd)
    except OSError as error:
        if error.errno in _MISSING:
            return None
        raise Unreadable(f"cannot read {escape(os.fsencode(path))}: {os.strerror(error.errno or 0)}") from error
    if len(data) > limit:
        raise Unreadable(f"{escape(os.fsencode(path))} is longer than {limit} bytes")
    return data


def escape(data: bytes) -> str:
    """Printable ASCII of any bytes: others, and the percent sign itself, become ``%XX``. Spaces stay."""
    return "".join(chr(byte) if 0x20 <= byte < 0x7F and byte != 0x25 else f"%{byte:02X}" for byte in data)


def clean(data: bytes) -> str:
    """Text of an attribute: padding at both ends (blanks, newlines, NULs) dropped, the rest escaped."""
    return escape(data.strip(b" \t\r\n\v\f\0"))


def read_text(path: Path) -> str | None:
    """The attribute as printable ASCII without padding, or None if it does not exist. Raises Unreadable."""
    data = read_bytes(path)
    return None if data is None else clean(data)


def read_int(path: Path) -> int | None:
    """A decimal attribute, or None if it does not exist. Raises Unreadable if it is no number."""
    text = read_text(path)
    if text is None:
        return None
    try:
        return int(text)
    except ValueError as error:
        raise Unreadable(f"{escape(os.fsencode(path))} is no number: {text[:40]!r}") from error


def read_dev(directory: Path) -> DevNum | None:
    """The ``dev`` file of a device's directory, or None if the device is gone. Raises Unreadable."""
    text = read_text(directory / "dev")
    if text is None:
        return None
    try:
        return DevNum.parse(text)
    except ValueError as error:
        raise Unreadable(f"{escape(os.fsencode(directory))}/dev is no device number: {text[:40]!r}") from error


def read_uevent(directory: Path) -> Mapping[str, str]:
    """The ``uevent`` file as KEY -> escaped value; empty if there is none. Raises Unreadable.

    Lines without "=" are skipped. A key that comes twice keeps its first value, so that no value with a
    newline in it can replace DEVNAME.
    """
    found: dict[str, str] = {}
    for line in (read_bytes(directory / "uevent") or b"").split(b"\n"):
        key, equals, value = line.partition(b"=")
        if equals:
            found.setdefault(escape(key), escape(value))
    return found


def children(directory: Path) -> tuple[str, ...]:
    """Sorted names in a directory (``slaves``, ``holders``); empty if there is none. Raises Unreadable."""
    try:
        return tuple(sorted(entry.name for entry in directory.iterdir()))
    except OSError as error:
        if error.errno in _MISSING:
            return ()
        raise Unreadable(f"cannot list {escape(os.fsencode(directory))}: {os.strerror(error.errno or 0)}") from error


def device_dir(root: Path, dev: DevNum) -> Path | None:
    """The real directory of a device below ``root``/sys/devices, or None if the kernel has no such device."""
    link = root / "sys/dev/block" / str(dev)
    try:
        target = Path(os.path.realpath(link, strict=True))
    except OSError as error:
        if error.errno in _MISSING:
            return None
        raise Unreadable(f"cannot follow {escape(os.fsencode(link))}: {os.strerror(error.errno or 0)}") from error
    return target


def all_devices(root: Path) -> tuple[DevNum, ...]:
    """Every block device that the kernel has now, partitions too, in order of number. Raises Unreadable."""
    found = []
    for name in children(root / "sys/dev/block"):
        try:
            found.append(DevNum.parse(name))
        except ValueError:
            continue
    return tuple(sorted(found))


def linked_devices(directory: Path, *, some: bool = False) -> tuple[tuple[str, DevNum], ...]:
    """Name and number of each device linked in ``slaves`` or ``holders``.

    Raises Unreadable if one of them has no number any more: it went away while we looked. With ``some`` one that is
    still there is enough: a multipath map keeps the link of a path that is gone until its table is loaded anew.
    """
    found: list[tuple[str, DevNum]] = []
    gone = ""
    for name in children(directory):
        dev = read_dev(directory / name)
        if dev is None:
            gone = name
        else:
            found.append((name, dev))
    if gone and not (some and found):
        raise Unreadable(f"{escape(os.fsencode(gone))} in {directory.parent.name}/{directory.name} went away")
    return tuple(found)


def generation(root: Path, dev: DevNum) -> tuple[str, str] | None:
    """Something that changes when a device number is given to another device, or None if it is free.

    The sysfs path, and the disk's sequence number (``diskseq``, block/genhd.c, since Linux 5.15), which is
    never used twice in a boot. Without ``diskseq`` the path alone must do. Raises Unreadable.
    """
    directory = device_dir(root, dev)
    if directory is None:
        return None
    disk = directory.parent if (directory / "partition").exists() else directory
    return str(directory), read_text(disk / "diskseq") or ""
