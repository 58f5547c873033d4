# SPDX-License-Identifier: GPL-2.0-or-later
"""The system ID in the metadata of an LVM volume group: the one host that may use it (lvmsystemid(7)).

Format: lib/format_text/layout.h and lib/label/label.h of LVM2. A label in one of the first four sectors leads to the
PV header, that to the metadata areas, each of these to the current text in a ring. Integers are little-endian. The
system ID stands before the first section of the text, so 8 KiB of it are enough. It says whose the group is, not that
it is in use, so it never moves.
"""

from __future__ import annotations

import re
import struct
import zlib

from enforcer.model.escape import from_bytes
from enforcer.storage.vetoes.marks import Damaged, Mark, Read

LAYER = "lvm-system-id"
TEXT_BYTES = 8192
MAX_AREAS = 4

_SECTOR, _LABEL_SECTORS, _MDA_HEADER = 512, 4, 512  # LABEL_SCAN_SECTORS; MDA_HEADER_SIZE
_MAGIC = b" LVM2 x[5A%r0N*>"  # FMTT_MAGIC
_IGNORED = 1  # RAW_LOCN_IGNORED
_INITIAL_CRC = 0xF597A6CF
_VALUE = re.compile(rb'\s*(\w+)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|(\d+))')


def marks(head: bytes, read: Read) -> tuple[Mark, ...]:
    """The mark of a volume group that belongs to one host; none without a system ID.

    Raises Damaged, and what ``read`` raises.
    """
    areas = _areas(head)
    best: dict[bytes, bytes] = {}
    damage: Damaged | None = None
    for offset, size in areas or ():
        try:
            found = _group(offset, size, read)
        except Damaged as error:
            damage = error
            continue
        if found and _seqno(found) >= _seqno(best):
            best = found
    if not best and damage is not None:
        raise damage  # no copy of the metadata could be made out
    owner = from_bytes(best.get(b"system_id", b""))
    if not owner:
        return ()
    group = from_bytes(best.get(b"", b""))
    return (
        Mark(
            LAYER,
            group,
            owner,
            f"the system ID of its volume group {group}: {owner}",
            remedy=f"vgchange --systemid on {owner}, or vgexport there and vgimport here; see lvmsystemid(7)",
        ),
    )


def crc(data: bytes) -> int:
    """calc_crc of lib/misc/crc.c: CRC-32 with its own start and without the final inversion."""
    return zlib.crc32(data, _INITIAL_CRC ^ 0xFFFFFFFF) ^ 0xFFFFFFFF


def _areas(head: bytes) -> list[tuple[int, int]] | None:
    """(offset, size) of each metadata area, in bytes, or None if there is no label."""
    for number in range(_LABEL_SECTORS):
        sector = head[number * _SECTOR : (number + 1) * _SECTOR]
        if len(sector) < _SECTOR or not sector.startswith(b"LABELONE") or sector[24:32] != b"LVM2 001":
            continue
        where, checksum, at = struct.unpack_from("<QII", sector, 8)
        if where != number or crc(sector[20:]) != checksum or not 32 <= at <= _SECTOR - 40:
            continue  # left over from something else; LVM skips it too
        lists = list(struct.iter_unpack("<QQ", sector[at + 40 : at + 40 + (_SECTOR - at - 40) // 16 * 16]))
        ends = [
            index for index, (offset, _) in enumerate(lists) if not offset
        ]  # after the data areas, then after these
        if len(ends) < 2:
            raise Damaged("the PV header has no end", sector)
        return lists[ends[0] + 1 : ends[1]][:MAX_AREAS]
    return None


def _group(start: int, size: int, read: Read) -> dict[bytes, bytes]:
    """Name (under b"") and plain values of the volume group in one metadata area; empty if it holds none."""
    if start >= 1 << 60 or not _MDA_HEADER < size < 1 << 40:
        raise Damaged("a metadata area lies nowhere", struct.pack("<QQ", start, size))
    header = read(start, _MDA_HEADER)
    if len(header) < _MDA_HEADER or header[4:20] != _MAGIC or crc(header[4:]) != struct.unpack_from("<I", header)[0]:
        raise Damaged("a metadata area has no valid header", header)
    offset, length, _checksum, flags = struct.unpack_from("<QQII", header, 40)
    if not offset or not length or flags & _IGNORED:
        return {}
    if not _MDA_HEADER <= offset < size or length > size:
        raise Damaged("the metadata lies outside its area", header)
    wanted = min(length, TEXT_BYTES)
    text = read(start + offset, min(wanted, size - offset))
    if len(text) < wanted:  # the text goes round
        text += read(start + _MDA_HEADER, wanted - len(text))
    return values(text)


def values(text: bytes) -> dict[bytes, bytes]:
    """``system_id``, ``seqno`` and the like of the section that ``text`` begins with; b"" -> its name."""
    lines = text.split(b"\n")
    name, opened, _ = lines[0].partition(b"{")
    if not opened or not name.strip():
        raise Damaged("the metadata begins with no volume group", text[:512])
    found = {b"": name.strip()}
    for line in lines[1:]:
        if line.rstrip().endswith(b"{") or line.startswith(b"}"):
            break
        value = _VALUE.match(line)
        if value is not None:
            found[value[1]] = re.sub(rb"\\(.)", rb"\1", value[2]) if value[2] is not None else value[3][:18]
    return found


def _seqno(found: dict[bytes, bytes]) -> int:
    text = found.get(b"seqno", b"")
    return int(text) if text.isdigit() else -1
