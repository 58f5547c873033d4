# SPDX-License-Identifier: GPL-2.0-or-later
"""Making a node forget what it read from a LUN while another node may have written it.

Before a device is handed to a caller under a token that is not the last one which this node held, the cached
blocks of every device number of the stack go (``Identities.lying_on``), upper ones first. A read-only
descriptor is enough for all of it. The partition table is re-read only if it differs from what was seen last:
re-reading takes every partition device away and makes new ones, under the feet of a caller who has just
looked one up.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import mmap
import os
import struct
from pathlib import Path

from enforcer.model.resource import DevNum
from enforcer.storage import nodes

#: include/uapi/linux/fs.h
BLKRRPART = 0x125F
BLKFLSBUF = 0x1261
BLKSSZGET = 0x1268
BLKGETSIZE64 = 0x80081272

_GPT = b"EFI PART"


def drop_caches(dev: DevNum, *, root: Path = Path("/"), scratch: Path | None = None) -> None:
    """Write back and drop the cached blocks of one device (BLKFLSBUF, block/ioctl.c). Needs CAP_SYS_ADMIN.

    Dirty blocks of it are written first: call it only under a live lease, and before anything is mounted.
    Raises OSError.
    """
    with nodes.opened(dev, os.O_RDONLY, root=root, scratch=scratch) as fd:
        fcntl.ioctl(fd, BLKFLSBUF, 0)


def reread_partitions(dev: DevNum, *, root: Path = Path("/"), scratch: Path | None = None) -> bool:
    """Have the kernel read the partition table of a whole disk again (BLKRRPART). Needs CAP_SYS_ADMIN.

    False if it refused because a partition is in use (EBUSY), or because the device has no partitions
    (EINVAL): then nothing has changed. Raises OSError for anything else.
    """
    with nodes.opened(dev, os.O_RDONLY, root=root, scratch=scratch) as fd:
        try:
            fcntl.ioctl(fd, BLKRRPART, 0)
        except OSError as error:
            if error.errno in (errno.EBUSY, errno.EINVAL):
                return False
            raise
    return True


def size_bytes(dev: DevNum, *, root: Path = Path("/"), scratch: Path | None = None) -> int:
    """Size of the device in bytes (BLKGETSIZE64). Raises OSError."""
    with nodes.opened(dev, os.O_RDONLY, root=root, scratch=scratch) as fd:
        size: int = struct.unpack("=Q", fcntl.ioctl(fd, BLKGETSIZE64, bytes(8)))[0]
        return size


def partition_digest(dev: DevNum, *, root: Path = Path("/"), scratch: Path | None = None) -> str:
    """A digest of the partition table on the disk itself, read past every cache. Raises OSError.

    It covers the MBR's table and, through its checksum of the entries, a GPT. Logical partitions in an
    extended DOS partition are not covered: their tables are scattered over the disk.
    """
    with nodes.opened(dev, os.O_RDONLY | os.O_DIRECT, root=root, scratch=scratch) as fd:
        block: int = struct.unpack("=i", fcntl.ioctl(fd, BLKSSZGET, bytes(4)))[0]
        return table_digest(_read_direct(fd, max(2 * block, 4096)), block)


def table_digest(head: bytes, block: int) -> str:
    """Digest of the table in the first two blocks of a disk; ``block`` is the logical block size in bytes."""
    digest = hashlib.sha256(head[440:512])  # disk signature and the four MBR entries
    header = head[block : block + 92]  # UEFI 5.3.2: 92 bytes, with the CRC of the entries at 88
    if header.startswith(_GPT):
        digest.update(header)
    return digest.hexdigest()


def _read_direct(fd: int, length: int) -> bytes:
    """The first ``length`` bytes. O_DIRECT wants an aligned buffer; a page of anonymous memory is aligned."""
    with mmap.mmap(-1, length) as buffer:
        count = os.preadv(fd, [buffer], 0)
        return bytes(buffer[:count])
