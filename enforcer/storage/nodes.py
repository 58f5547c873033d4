# SPDX-License-Identifier: GPL-2.0-or-later
"""Opening a block device by its number, whatever /dev holds.

A path in /dev is what somebody put there. The number is what the kernel uses. So the node that the kernel
itself named (``DEVNAME`` in ``uevent``, created by devtmpfs) is opened only to see whether it is the device
that was meant, and if it is not, or is missing, a node with the right number is made in a private directory
and unlinked at once.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
from collections.abc import Iterator
from pathlib import Path

from enforcer.model.resource import DevNum
from enforcer.storage.sysfs import Unreadable, device_dir, read_uevent


def number_of(info: os.stat_result) -> DevNum | None:
    """The device that a block node stands for, or None if the file is no block node."""
    if not stat.S_ISBLK(info.st_mode):
        return None
    return DevNum(os.major(info.st_rdev), os.minor(info.st_rdev))


def filesystem_of(info: os.stat_result) -> DevNum:
    """``st_dev``: the device of the filesystem that a file lies on; major 0 if it has none of its own."""
    return DevNum(os.major(info.st_dev), os.minor(info.st_dev))


def below_root(root: Path, path: bytes) -> Path:
    """An absolute path of any bytes, looked up below ``root``."""
    return root / os.fsdecode(path).lstrip("/")


def devname(root: Path, dev: DevNum) -> str | None:
    """Path of the devtmpfs node below ``root``, or None if the device has none. Raises Unreadable."""
    directory = device_dir(root, dev)
    name = read_uevent(directory).get("DEVNAME") if directory is not None else None
    if not name or ".." in name.split("/"):
        return None
    return str(root / "dev" / name.removeprefix("/dev/").lstrip("/"))


def open_device(dev: DevNum, flags: int, *, root: Path = Path("/"), scratch: Path | None = None) -> int:
    """Open the device with ``flags`` (O_CLOEXEC and O_NONBLOCK are added) and return the descriptor.

    ``scratch`` is a directory of ours, mode 0700, on a filesystem without ``nodev``; without it no node is
    made. Raises OSError: what open(2) says, or ENOENT if there is no right node and none may be made.
    """
    flags |= os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
    path: str | None = None
    with contextlib.suppress(Unreadable):
        path = devname(root, dev)
    if path is not None:
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            if number_of(Path(path).stat()) == dev:
                return _open_checked(path, flags, dev)
    if scratch is None:
        raise FileNotFoundError(2, "no device node", str(dev))
    private = scratch / f"blk-{dev.major}-{dev.minor}-{secrets.token_hex(8)}"
    os.mknod(private, stat.S_IFBLK | 0o600, os.makedev(dev.major, dev.minor))
    try:
        return _open_checked(str(private), flags, dev)
    finally:
        private.unlink()


@contextlib.contextmanager
def opened(dev: DevNum, flags: int, *, root: Path = Path("/"), scratch: Path | None = None) -> Iterator[int]:
    """``open_device`` as a context manager."""
    fd = open_device(dev, flags, root=root, scratch=scratch)
    try:
        yield fd
    finally:
        os.close(fd)


def _open_checked(path: str, flags: int, dev: DevNum) -> int:
    fd = os.open(path, flags)
    if number_of(os.fstat(fd)) != dev:
        os.close(fd)
        raise FileNotFoundError(2, "the node changed while it was opened", path)
    return fd
