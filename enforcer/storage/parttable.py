# SPDX-License-Identifier: GPL-2.0-or-later
"""Does a partition lie where the table on the disk says?

The kernel's partitions are what somebody told it: from the table when the disk appeared, or by hand (BLKPG: partx,
addpart). A partition of any number can be laid over another one, and a lease on its name would then say nothing of the
blocks. So what the kernel has is compared with what util-linux reads from the disk; its partx knows every kind of table
that Linux does.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from enforcer.model.resource import DevNum
from enforcer.storage import dmtable, names, nodes, sysfs

TIME_OUT_S = 6.0
#: What block/partitions/msdos.c lets an extended partition be, in sectors of 512 bytes: room for a boot loader.
EXTENDED_SECTORS = 2


def on_disk(dev: DevNum, *, scratch: Path | None = None) -> dict[int, tuple[int, int]]:
    """Partitions in the table of a whole disk: number -> (start, size) in sectors of 512 bytes.

    Empty if there is no table. Raises OSError, TimeoutExpired.
    """
    with nodes.opened(dev, os.O_RDONLY, scratch=scratch) as fd:
        command = ["partx", "--raw", "--noheadings", "--output", "NR,START,SECTORS", f"/proc/self/fd/{fd}"]
        done = subprocess.run(command, pass_fds=(fd,), capture_output=True, text=True, timeout=TIME_OUT_S, check=False)
    return parse(done.stdout) if done.returncode == 0 else {}


def parse(listing: str) -> dict[int, tuple[int, int]]:
    """Read lines of ``NR START SECTORS``; what is no such line is left out."""
    found: dict[int, tuple[int, int]] = {}
    for line in listing.splitlines():
        words = line.split()
        if len(words) == 3 and all(word.isascii() and word.isdigit() for word in words):
            found[int(words[0])] = (int(words[1]), int(words[2]))
    return found


def in_kernel(dev: DevNum, *, scratch: Path, root: Path = Path("/")) -> tuple[int, int, int] | None:
    """(number, start, size) of a partition, or of a piece that kpartx made, as the kernel has it, in sectors.

    None for what is neither. A piece that lies in several places lies nowhere that a table could say. Raises
    Unreadable, OSError.
    """
    directory = sysfs.device_dir(root, dev)
    if directory is None:
        return None
    piece = names.kpartx_part(sysfs.read_text(directory / "dm/uuid") or "")
    if piece is not None:
        return piece[0], *(dmtable.linear(dev, scratch=scratch) or (-1, -1))
    number = sysfs.read_int(directory / "partition")
    if number is None:
        return None
    return number, sysfs.read_int(directory / "start") or 0, sysfs.read_int(directory / "size") or 0


def agrees(kernel: tuple[int, int, int], disk: dict[int, tuple[int, int]]) -> bool:
    """True if the partition is where the table has it."""
    number, start, size = kernel
    listed = disk.get(number)
    return listed is not None and listed[0] == start and (listed[1] == size or size <= EXTENDED_SECTORS)
