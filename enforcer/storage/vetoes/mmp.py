# SPDX-License-Identifier: GPL-2.0-or-later
"""ext4's multiple mount protection: a block that the kernel of the mounting node rewrites every few seconds.

Format: struct mmp_struct and s_mmp_* of struct ext4_super_block in fs/ext4/ext4.h; what is made of it:
ext4_multi_mount_protect in fs/ext4/mmp.c. Little-endian. The block is written every s_mmp_update_interval seconds, 5 by
default, so that it stands still for 2 s proves nothing alone; that it moves does.
"""

from __future__ import annotations

import struct

from enforcer.model.escape import from_bytes
from enforcer.storage.vetoes.marks import Damaged, Mark, Read

LAYER = "ext4-mmp"
SUPER_AT, SUPER_SIZE = 1024, 1024
MMP_SIZE = 1024  #: sizeof(struct mmp_struct)
MAGIC, CLEAN, FSCK = 0x004D4D50, 0xFF4D4D50, 0xE24D4D50  #: EXT4_MMP_MAGIC, EXT4_MMP_SEQ_CLEAN, EXT4_MMP_SEQ_FSCK

_FEATURE_MMP, _CSUM_SEED, _METADATA_CSUM, _64BIT = 0x100, 0x2000, 0x400, 0x80


def marks(head: bytes, read: Read) -> tuple[Mark, ...]:
    """The mark of the ext4 whose first bytes are ``head``; none if it has no MMP or is clean.

    Raises Damaged, and what ``read`` raises.
    """
    found = _place(head[SUPER_AT : SUPER_AT + SUPER_SIZE])
    if found is None:
        return ()
    offset, seed = found
    data = read(offset, MMP_SIZE)
    if len(data) < MMP_SIZE or struct.unpack_from("<I", data)[0] != MAGIC:
        raise Damaged("there is no MMP block where the superblock has it", data)
    if seed is not None and crc32c(data[:1020], seed) != struct.unpack_from("<I", data, 1020)[0]:
        raise Damaged("the checksum of the MMP block is wrong", data)
    seq, time_s = struct.unpack_from("<IQ", data, 4)
    if seq == CLEAN:
        return ()
    node, device = from_bytes(data[16:80]), from_bytes(data[80:112])
    says = f"its MMP block: {'checked by fsck' if seq == FSCK else 'mounted'} on {node or 'a node without a name'}"
    return (
        Mark(
            LAYER,
            "",
            node,
            f"{says} as {device}" if device else says,
            data[4:16],
            _wall(time_s),
            remedy=f"end its use on {node or 'that node'}; if that node is dead for certain, "
            "tune2fs -f -E clear_mmp, with the rule in mode audit",
        ),
    )


def _wall(time_s: int) -> float | None:
    return float(time_s) if 0 < time_s < 1 << 40 else None


def _place(data: bytes) -> tuple[int, int | None] | None:
    """Where the MMP block is, in bytes, and the seed of its checksum; None without the feature."""
    if len(data) < SUPER_SIZE or data[0x38:0x3A] != b"\x53\xef":
        return None
    incompat, ro_compat = struct.unpack_from("<II", data, 0x60)
    if not incompat & _FEATURE_MMP:
        return None
    blocks, first = struct.unpack_from("<I", data, 4)[0], struct.unpack_from("<I", data, 0x14)[0]
    if incompat & _64BIT:
        blocks |= struct.unpack_from("<I", data, 0x150)[0] << 32
    (log_size,) = struct.unpack_from("<I", data, 0x18)
    (block,) = struct.unpack_from("<Q", data, 0x168)
    if log_size > 6 or not first < block < blocks or block >= 1 << 48:  # read_mmp_block; EXT4_MAX_BLOCK_SIZE 64 KiB
        raise Damaged("the superblock puts the MMP block outside the filesystem", data)
    seed = None
    if ro_compat & _METADATA_CSUM:  # ext4_mmp_csum
        (given,) = struct.unpack_from("<I", data, 0x270)
        seed = given if incompat & _CSUM_SEED else crc32c(data[0x68:0x78], 0xFFFFFFFF)
    return block * (1024 << log_size), seed


def _table() -> tuple[int, ...]:
    made = []
    for value in range(256):
        for _ in range(8):
            value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
        made.append(value)
    return tuple(made)


_CRC32C = _table()


def crc32c(data: bytes, crc: int) -> int:
    """The kernel's crc32c(): Castagnoli, reflected, without the final inversion."""
    for byte in data:
        crc = crc >> 8 ^ _CRC32C[(crc ^ byte) & 0xFF]
    return crc
