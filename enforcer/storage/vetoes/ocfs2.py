# SPDX-License-Identifier: GPL-2.0-or-later
"""The slot map of OCFS2: which cluster nodes have the filesystem mounted, and the heartbeat by which they say so.

Format: fs/ocfs2/ocfs2_fs.h (struct ocfs2_dinode, ocfs2_super_block, ocfs2_extent_list, ocfs2_dir_entry,
ocfs2_extended_slot), fs/ocfs2/cluster/ocfs2_heartbeat.h (struct o2hb_disk_heartbeat_block). Little-endian. Both are
files in the system directory: superblock, directory, inode, extent are followed one after the other, about seven reads.

A node stays in the map when it dies. Its heartbeat tells: hb_seq is its clock in seconds, written every 2 s. The stacks
of user space (pcmk) have none; there the map alone counts.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping

from enforcer.model.escape import from_bytes
from enforcer.storage.vetoes.marks import Damaged, Mark, Read

LAYER = "ocfs2-slot"
MAX_SLOTS, MAX_NODES = 255, 255  #: OCFS2_MAX_SLOTS, O2NM_MAX_NODES
SECTORS = (512, 4096)  # a heartbeat block is one sector of the device

_LOCAL_MOUNT, _EXTENDED_SLOTS = 0x8, 0x100  # OCFS2_FEATURE_INCOMPAT_*
_INLINE_DATA = 0x1  # OCFS2_INLINE_DATA_FL
_DIRECTORY_LIMIT = 1 << 16  # the system directory has a dozen names for each slot
_BODY = 0xC0  # id2 of struct ocfs2_dinode


def marks(head: bytes, read: Read, names: Callable[[], Mapping[int, str]]) -> tuple[Mark, ...]:
    """The mark of each node in the slot map; ``names()``: o2cb node number -> name.

    Raises Damaged, and what ``read`` raises.
    """
    found = _Filesystem.find(head, read)
    if found is None:
        return ()
    slots = found.slots()
    if not slots:
        return ()
    beats = found.file(b"heartbeat") if found.stack in ("", "o2cb") else None
    made, called = [], names()
    for slot, number in slots.items():
        owner = called.get(number, f"{found.stack or 'o2cb'} node {number}")
        pulse, beat_s = found.heartbeat(beats, number) if beats is not None else (b"", None)
        made.append(
            Mark(
                LAYER,
                f"slot {slot}",
                owner,
                f"its slot map: mounted on {owner} in slot {slot}",
                pulse,
                beat_s,
                remedy=f"umount it on {owner}; if that node is dead for certain, "
                "fsck.ocfs2 clears the slot, with the rule in mode audit",
            )
        )
    return tuple(made)


class _Filesystem:
    def __init__(self, data: bytes, block_bytes: int, read: Read) -> None:
        self._read, self._block = read, block_bytes
        body = data[_BODY:]
        (self._incompat,) = struct.unpack_from("<I", body, 0x20)
        (self._system,) = struct.unpack_from("<Q", body, 0x30)
        (cluster_bits,) = struct.unpack_from("<I", body, 0x3C)
        (self._slots,) = struct.unpack_from("<H", body, 0x40)
        self.stack = from_bytes(body[0xA0:0xA4]) if self._incompat & (0x80 | 0x4000) else ""
        if not 12 <= cluster_bits <= 20 or not 0 < self._slots <= MAX_SLOTS:
            raise Damaged("the superblock makes no sense", data)
        self._cluster = 1 << cluster_bits

    @classmethod
    def find(cls, head: bytes, read: Read) -> _Filesystem | None:
        """None for what is no OCFS2, and for one that only ever is mounted on one node (mkfs.ocfs2 -M local)."""
        for block in (512, 1024, 2048, 4096):  # OCFS2_SUPER_BLOCK_BLKNO is 2
            data = head[2 * block : 3 * block]
            if len(data) == block and data.startswith(b"OCFSV2") and _bits(data) == block:
                made = cls(data, block, read)
                return None if made._incompat & _LOCAL_MOUNT else made
        return None

    def slots(self) -> dict[int, int]:
        """Slot -> node number, of those that are taken."""
        at, size = self.file(b"slot_map")
        width = 8 if self._incompat & _EXTENDED_SLOTS else 2
        length = self._slots * width
        data = self._read(at, length)
        if size < length or len(data) < length:
            raise Damaged("the slot map is too short", data)
        if width == 2:
            numbers = struct.unpack(f"<{self._slots}h", data)  # OCFS2_INVALID_SLOT is -1
            return {slot: number for slot, number in enumerate(numbers) if number >= 0}
        entries = struct.iter_unpack("<B3xI", data)
        return {slot: number for slot, (valid, number) in enumerate(entries) if valid}

    def heartbeat(self, beats: tuple[int, int], number: int) -> tuple[bytes, float | None]:
        """What the node writes every other second, and when it did so last by its own clock."""
        at, size = beats
        pulse, seen = b"", 0
        for sector in SECTORS:
            if number <= MAX_NODES and (number + 1) * sector <= size:
                data = self._read(at + number * sector, 32)
                if len(data) == 32 and data[8] == number:
                    pulse += data
                    seen = max(seen, struct.unpack_from("<Q", data)[0])
        return pulse, float(seen) if 0 < seen < 1 << 40 else None

    def file(self, name: bytes) -> tuple[int, int]:
        """Offset and size, in bytes, of the first extent of a system file."""
        directory = self._inode(self._system)
        if struct.unpack_from("<H", directory, 0x76)[0] & _INLINE_DATA:
            entries = directory[_BODY + 8 :]
        else:
            at, size = self._extent(directory)
            entries = self._read(at, min(size, _DIRECTORY_LIMIT))
        for start in range(0, len(entries), self._block):
            number = _look_up(entries[start : start + self._block], name)
            if number is not None:
                return self._extent(self._inode(number))
        raise Damaged(f"there is no //{name.decode()}", entries)

    def _inode(self, number: int) -> bytes:
        data = self._read(number * self._block, self._block) if 0 < number < 1 << 44 else b""
        if len(data) < self._block or not data.startswith(b"INODE01"):
            raise Damaged(f"there is no inode {number}", data)
        return data

    def _extent(self, inode: bytes) -> tuple[int, int]:
        depth, _count, used = struct.unpack_from("<HHH", inode, _BODY)
        _cpos, clusters, number = struct.unpack_from("<IHxxQ", inode, _BODY + 16)  # l_recs[0], a leaf
        if depth or not used or not clusters or not 0 < number < 1 << 44:
            raise Damaged("a system file is not where one would look for it", inode)
        return number * self._block, clusters * self._cluster


def _bits(data: bytes) -> int:
    (bits,) = struct.unpack_from("<I", data, _BODY + 0x38)
    return 1 << bits if bits <= 12 else 0


def _look_up(entries: bytes, name: bytes) -> int | None:
    at = 0
    while at + 12 <= len(entries):
        number, length, name_length = struct.unpack_from("<QHB", entries, at)
        if number and entries[at + 12 : at + 12 + name_length] == name:
            found: int = number
            return found
        if length < 12:
            break
        at += length
    return None
