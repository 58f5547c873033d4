# SPDX-License-Identifier: GPL-2.0-or-later
"""What a superblock says about the other devices of its filesystem.

Only the fields that name other devices are read. The bytes are whatever somebody wrote to a disk, so each reader
gives ``None`` for everything that is not such a superblock, also for one that is cut short, and never raises. No
checksum is compared: a reader which is less strict than the kernel finds a device too many, never one too few.

All offsets are those of the kernel's own structures, named beside each reader. Disk numbers are little-endian,
those of XFS big-endian.
"""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import struct
from dataclasses import dataclass
from pathlib import Path

from enforcer.model.resource import DevNum
from enforcer.storage import nodes

#: Most that is read at once, in bytes.
LIMIT = 1 << 16

#: O_DIRECT wants offset, length and memory aligned to the logical block; no disk driver has more than a page.
_ALIGN = 4096


def read_device(dev: DevNum, offset: int, length: int, *, root: Path = Path("/"), scratch: Path | None = None) -> bytes:
    """Bytes of the medium, past the page cache, which may be older than what another node wrote.

    Fewer than ``length`` only at the end of the device. A driver that refuses O_DIRECT (EINVAL) is read through
    the cache, after the clean pages of it were dropped. It can take as long as the device takes, so it is no
    business of an event loop. Raises OSError.
    """
    if not 0 < length <= LIMIT or offset < 0:
        raise OSError(errno.EINVAL, "no sensible range", str(dev))
    with nodes.opened(dev, os.O_RDONLY | os.O_DIRECT, root=root, scratch=scratch) as fd:
        try:
            return read_fd(fd, offset, length)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
        fcntl.fcntl(fd, fcntl.F_SETFL, fcntl.fcntl(fd, fcntl.F_GETFL) & ~os.O_DIRECT)
        os.posix_fadvise(fd, offset, length, os.POSIX_FADV_DONTNEED)
        return read_fd(fd, offset, length)


def read_fd(fd: int, offset: int, length: int) -> bytes:
    """``length`` bytes at ``offset``, by aligned reads into anonymous, so aligned, memory. Raises OSError."""
    start = offset // _ALIGN * _ALIGN
    size = -(-(offset + length - start) // _ALIGN) * _ALIGN
    done = 0
    with mmap.mmap(-1, size) as buffer, memoryview(buffer) as view:
        while done < size:
            with view[done:] as rest:
                count = os.preadv(fd, [rest], start + done)
            if count == 0:
                break
            done += count
        return bytes(view[: min(done, offset + length - start)])[offset - start :]


def decode_dev(number: int) -> DevNum:
    """A device number as filesystems store it (new_decode_dev, include/linux/kdev_t.h)."""
    return DevNum(number >> 8 & 0xFFF, number & 0xFF | number >> 12 & 0xFFF00)


def encode_dev(dev: DevNum) -> int:
    """The reverse (new_encode_dev): the number that ``journal_dev=`` takes."""
    return dev.minor & 0xFF | dev.major << 8 | (dev.minor & ~0xFF) << 12


# ---- ext2, ext3, ext4

EXT4_UNIT = 1024  #: EXT4_MIN_BLOCK_SIZE: the option ``sb=`` counts in it, and 1 is the default
EXT4_SIZE = 1024


@dataclass(frozen=True, slots=True)
class Ext4:
    """struct ext4_super_block, fs/ext4/ext4.h."""

    uuid: bytes
    has_journal: bool  # feature_compat 0x4
    is_journal: bool  # feature_incompat 0x8: it is no filesystem but an external journal
    journal_uuid: bytes
    journal_inode: int  # 0: the journal is on another device
    journal_number: int  # of that device, encoded
    options: bytes  # s_mount_opts: what tune2fs -E mount_opts= put there


def ext4(data: bytes) -> Ext4 | None:
    """The superblock in these EXT4_SIZE bytes, or None."""
    if len(data) < EXT4_SIZE or data[0x38:0x3A] != b"\x53\xef":
        return None
    compat, incompat = struct.unpack_from("<II", data, 0x5C)
    inode, number = struct.unpack_from("<II", data, 0xE0)
    return Ext4(
        data[0x68:0x78],
        bool(compat & 0x4),
        bool(incompat & 0x8),
        data[0xD0:0xE0],
        inode,
        number,
        data[0x200:0x240].partition(b"\0")[0],
    )


# ---- XFS

XFS_AT, XFS_SIZE = 0, 512


def xfs_external_log(data: bytes) -> bool:
    """True for an XFS whose log is elsewhere: sb_logstart is 0 (struct xfs_dsb, fs/xfs/libxfs/xfs_format.h)."""
    return len(data) >= XFS_SIZE and data.startswith(b"XFSB") and data[48:56] == bytes(8)


# ---- btrfs

BTRFS_AT, BTRFS_SIZE = 65536, 4096  #: BTRFS_SUPER_INFO_OFFSET, BTRFS_SUPER_INFO_SIZE

_BTRFS_METADATA_UUID = 1 << 10  # BTRFS_FEATURE_INCOMPAT_METADATA_UUID, include/uapi/linux/btrfs.h
_BTRFS_CHANGING = 1 << 35 | 1 << 36  # BTRFS_SUPER_FLAG_CHANGING_FSID, _V2


@dataclass(frozen=True, slots=True)
class Btrfs:
    """struct btrfs_super_block with its btrfs_dev_item, fs/btrfs/ctree.h or include/uapi/linux/btrfs_tree.h."""

    fsid: bytes
    metadata_uuid: bytes  # the fsid, if the filesystem never got another one
    generation: int
    num_devices: int  # with the seeds
    devid: int  # 0 while it is the target of a replacement
    uuid: bytes  # of the device
    changing: bool  # btrfstune died in the middle of giving it another fsid


def btrfs(data: bytes) -> Btrfs | None:
    """The primary superblock in these BTRFS_SIZE bytes, or None.

    ``bytenr`` must be the place where it was read (btrfs_read_disk_super): a partition can begin right before one
    of the later copies of a filesystem on the whole disk.
    """
    if len(data) < BTRFS_SIZE or data[64:72] != b"_BHRfS_M":
        return None
    bytenr, flags = struct.unpack_from("<QQ", data, 48)
    if bytenr != BTRFS_AT:
        return None
    (generation,) = struct.unpack_from("<Q", data, 72)
    (num_devices,) = struct.unpack_from("<Q", data, 136)
    (incompat,) = struct.unpack_from("<Q", data, 188)
    (devid,) = struct.unpack_from("<Q", data, 201)
    fsid = data[32:48]
    return Btrfs(
        fsid,
        data[571:587] if incompat & _BTRFS_METADATA_UUID else fsid,
        generation,
        num_devices,
        devid,
        data[267:283],  # 66 bytes into the dev_item
        bool(flags & _BTRFS_CHANGING),
    )


# ---- F2FS

F2FS_AT = (1024, 4096 + 1024)  #: F2FS_SUPER_OFFSET in each of the first two blocks; the second is the copy
F2FS_SIZE = 3072
F2FS_PATH = 64  #: MAX_PATH_LEN

# struct f2fs_super_block (packed), include/linux/f2fs_fs.h: 108 bytes up to uuid[16]; volume_name[512] of two bytes
# each from 124; extension_count 1148; extension_list[64][8] 1152; cp_payload 1664; version[256] 1668;
# init_version[256] 1924; feature 2180; encryption_level 2184; encrypt_pw_salt[16] 2185; devs[8] 2201; after these
# 544 bytes qf_ino[3] and the rest, up to the crc at 3068.
_F2FS_DEVS = 2201
_F2FS_ENTRY = F2FS_PATH + 4


def f2fs_paths(data: bytes) -> tuple[bytes, ...] | None:
    """The device table, without the NULs; None if this is no superblock, empty if there is one device only.

    The first is the device itself, by the path that it had in mkfs. A path of F2FS_PATH bytes has no end.
    """
    if len(data) < F2FS_SIZE or data[:4] != b"\x10\x20\xf5\xf2":
        return None
    paths: list[bytes] = []
    for number in range(8):
        at = _F2FS_DEVS + number * _F2FS_ENTRY
        path = data[at : at + F2FS_PATH].partition(b"\0")[0]
        if not path:
            break  # f2fs_scan_devices, fs/f2fs/super.c
        paths.append(path)
    return tuple(paths)


# ---- JFS

JFS_AT, JFS_SIZE = 0x8000, 184  #: SUPER1_OFF, fs/jfs/jfs_filsys.h
JFS_LOG_AT, JFS_LOG_SIZE = 4096, 52  #: LOGSUPER_B of LOGPSIZE bytes, fs/jfs/jfs_logmgr.h

_JFS_INLINELOG = 0x800


@dataclass(frozen=True, slots=True)
class Jfs:
    """struct jfs_superblock, fs/jfs/jfs_superblock.h; chkSuper in jfs_mount.c says what is made of it."""

    inline_log: bool
    log_number: int  # encoded
    log_uuid: bytes


def jfs(data: bytes) -> Jfs | None:
    """The superblock in these JFS_SIZE bytes, or None."""
    if len(data) < JFS_SIZE or not data.startswith(b"JFS1"):
        return None
    (flag,) = struct.unpack_from("<I", data, 36)
    (number,) = struct.unpack_from("<I", data, 64)
    return Jfs(bool(flag & _JFS_INLINELOG), number, data[168:184])


def jfs_log_uuid(data: bytes) -> bytes | None:
    """The uuid of an external log (struct logsuper), or None if there is none in these JFS_LOG_SIZE bytes."""
    if len(data) < JFS_LOG_SIZE or data[:4] != b"\x21\x43\x65\x87":
        return None
    return data[36:52]


# ---- reiserfs

REISERFS_AT = (8192, 65536)  #: REISERFS_OLD_DISK_OFFSET_IN_BYTES, REISERFS_DISK_OFFSET_IN_BYTES
REISERFS_SIZE = 64


def reiserfs_journal(data: bytes) -> int | None:
    """The encoded number of the journal's device, 0 for an internal one, or None if this is no superblock.

    jp_journal_dev in struct reiserfs_super_block_v1, fs/reiserfs/reiserfs.h (until Linux 6.12).
    """
    if len(data) < REISERFS_SIZE or not data[52:62].startswith((b"ReIsErFs", b"ReIsEr2Fs", b"ReIsEr3Fs")):
        return None
    number: int = struct.unpack_from("<I", data, 16)[0]
    return number
