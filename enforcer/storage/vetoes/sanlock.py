# SPDX-License-Identifier: GPL-2.0-or-later
"""sanlock's leader records: a device that is a lock space of other hosts, or a lease that one of them holds.

Format: struct leader_record in src/leader.h of sanlock 3.8 (``sanlock direct dump`` shows it), little-endian, one for
each sector. A lock space is one area of 1 to 8 MiB with a delta lease for each host id; a live host writes its time
every 2 io_timeouts, 20 s by default, and 0 when it leaves. A resource is an area whose first sector says who holds it.
To write over either, unknown to sanlock, takes the locks of a whole cluster away.

The timestamp is the owner's monotonic clock: no fact can be older or newer than it.
"""

from __future__ import annotations

import re
import struct
from typing import Final

from enforcer.model.escape import from_bytes
from enforcer.storage.vetoes.marks import Damaged, Mark, Read

LAYER = "sanlock"
DELTA, PAXOS = 0x12212010, 0x06152010  #: DELTA_DISK_MAGIC, PAXOS_DISK_MAGIC
RECORD: Final = struct.Struct("<4I5Q48s48sQ")  # up to the timestamp: 168 bytes
PIECE = 1 << 20

_ALIGN = {0x10: 1 << 20, 0x20: 2 << 20, 0x40: 4 << 20, 0x80: 8 << 20}  # LFL_ALIGN_*
_GENERATED = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\.(.+)")  # what a daemon without -e calls itself
_REMEDY = "sanlock client status on the host; a lock space that nobody needs is cleared there"


def marks(head: bytes, read: Read) -> tuple[Mark, ...]:
    """One mark for each host in the lock space, or one for the holder of the lease, at the start of a device.

    Raises Damaged, and what ``read`` raises.
    """
    if len(head) < RECORD.size:
        return ()
    magic, _version, flags, sector = struct.unpack_from("<4I", head)
    if magic not in (DELTA, PAXOS):
        return ()
    if sector not in (512, 4096):
        raise Damaged(f"a leader record has sectors of {sector} bytes", head[:512])
    if magic == PAXOS:
        return _resource(head)
    size = _ALIGN.get(flags & 0xF0, PIECE if sector == 512 else 8 * PIECE)
    made: list[Mark] = []
    for start in range(0, size, PIECE):
        data = read(start, PIECE)
        for at in range(0, len(data) - RECORD.size + 1, sector):
            made += _host(data, at)
    return tuple(made)


def _host(data: bytes, at: int) -> list[Mark]:
    (magic,) = struct.unpack_from("<I", data, at)
    if magic != DELTA:
        return []
    _, _, _, _, _, _, number, generation, _, space, name, stamp = RECORD.unpack_from(data, at)
    if not stamp or not number:
        return []
    host, shown = from_bytes(name), from_bytes(space)
    generated = _GENERATED.fullmatch(host)
    owner = generated.group(1) if generated else host
    says = f"sanlock's lock space {shown}: joined by {owner or 'a host without a name'} (host id {number})"
    return [Mark(LAYER, f"host {number}", owner, says, struct.pack("<QQ", generation, stamp), remedy=_REMEDY)]


def _resource(head: bytes) -> tuple[Mark, ...]:
    _, _, _, _, _, _, number, generation, version, space, name, stamp = RECORD.unpack_from(head)
    if not stamp:
        return ()
    owner = f"sanlock host {number}"
    says = f"sanlock's lease {from_bytes(space)}/{from_bytes(name)}: held by host id {number}"
    return (Mark(LAYER, "lease", owner, says, struct.pack("<4Q", number, generation, version, stamp), remedy=_REMEDY),)
