# SPDX-License-Identifier: GPL-2.0-or-later
"""Shutting filesystems down, so that what runs on them is told at once and nothing new is begun.

That alone silences nothing: committed blocks are written back by the flusher, and umount(2) writes a superblock
(fs/ext4/super.c). It is the orderly half of the cut, in whatever mount namespace the filesystem can be reached, and it
may hang. One that cannot be reached (an overlay's lower layer, a lazy umount) meets the cut of its disk.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import struct
from collections.abc import Iterable, Iterator
from pathlib import Path

#: EXT4_IOC_SHUTDOWN, XFS_IOC_GOINGDOWN, F2FS_IOC_SHUTDOWN: _IOR('X', 125, __u32)
SHUTDOWN = 0x8004587D
#: EXT4_GOING_FLAGS_NOLOGFLUSH, XFS_FSOP_GOING_FLAGS_NOLOGFLUSH, F2FS_GOING_DOWN_NOSYNC: write nothing for it
NOLOGFLUSH = 2

_OCTAL = re.compile(rb"\\([0-7]{3})")


def reachable(devs: Iterable[str], root: Path = Path("/")) -> Iterator[tuple[str, str]]:
    """Device number ("8:1") and a path to each mount of it in any mount namespace, as /proc/PID/root sees it.

    One process per namespace and root directory. Never raises; /proc changes under our hands.
    """
    wanted, seen = {dev.encode() for dev in devs}, set()
    processes = (entry for entry in (root / "proc").iterdir() if entry.name.isdigit())
    for process in processes:
        with contextlib.suppress(OSError):
            where = (process / "ns/mnt").stat().st_ino, (process / "root").readlink()
            if where in seen:
                continue
            seen.add(where)
            for line in (process / "mountinfo").read_bytes().splitlines():
                fields = line.split(b" ")
                if len(fields) > 4 and fields[2] in wanted:
                    target = _OCTAL.sub(lambda found: bytes([int(found[1], 8) & 0xFF]), fields[4])
                    yield fields[2].decode(), f"{process}/root{os.fsdecode(target)}"


def shut_down(dev: str, path: str) -> bool:
    """Shut the filesystem at ``path`` down if it is the one on ``dev``; False if it is not, or has no such call.

    May hang with the disk. Raises OSError for what the filesystem says.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        found = os.fstat(descriptor).st_dev
        if f"{os.major(found)}:{os.minor(found)}" != dev:
            return False  # another filesystem is mounted over it
        fcntl.ioctl(descriptor, SHUTDOWN, struct.pack("I", NOLOGFLUSH))
    finally:
        os.close(descriptor)
    return True
