# SPDX-License-Identifier: GPL-2.0-or-later
"""SCSI-3 persistent reservations: whether the storage itself would take a write from this node.

Format: PERSISTENT RESERVE IN, SPC-4 6.15, big-endian; TransportID, SPC-4 7.6.4. READ RESERVATION tells whether there is
one; READ FULL STATUS, which a target need not know, tells by which initiators it was registered. An initiator of this
node that is entitled is no objection: with fence_scsi or mpathpersist every living node is a registrant.

No fact about a node excuses a reservation: fenced or not, as long as it stands our writes fail with a conflict, in the
middle of a journal's replay. It has to be preempted or released first.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Set
from enum import IntEnum
from typing import NamedTuple

from enforcer.model.escape import from_bytes
from enforcer.storage.vetoes.marks import Damaged, Mark

LAYER = "scsi-pr"


class Action(IntEnum):
    """Service actions of PERSISTENT RESERVE IN."""

    READ_KEYS = 0
    READ_RESERVATION = 1
    READ_FULL_STATUS = 3


#: Parameter data of a service action, or None if the device knows no such command. Raises OSError.
ReserveIn = Callable[[Action], bytes | None]

_HOLDER_ONLY = {1: "Write Exclusive", 3: "Exclusive Access"}
_REGISTRANTS = {
    5: "Write Exclusive, registrants only",
    6: "Exclusive Access, registrants only",
    7: "Write Exclusive, all registrants",
    8: "Exclusive Access, all registrants",
}


class Reservation(NamedTuple):
    """The reservation in force. ``key`` is 0 for the types that all registrants hold."""

    key: int
    type: int


class Registrant(NamedTuple):
    """One I_T nexus that is registered; ``initiator`` as in ``initiators``, escaped."""

    key: int
    holds: bool
    initiator: str


def marks(reserve_in: ReserveIn, initiators: Callable[[], Set[str]]) -> tuple[Mark, ...]:
    """The mark of a reservation under which none of ``initiators()`` (this node's) may write.

    Raises Damaged, and what ``reserve_in`` raises.
    """
    answer = reserve_in(Action.READ_RESERVATION)
    found = reservation(answer) if answer is not None else None
    if found is None:
        return ()
    answer = reserve_in(Action.READ_FULL_STATUS)
    registered = registrants(answer) if answer is not None else ()
    own = initiators()
    ours = [each for each in registered if each.initiator in own]
    if any(each.holds for each in ours) or (ours and found.type in _REGISTRANTS):
        return ()
    holders = ", ".join(dict.fromkeys(each.initiator for each in registered if each.holds))
    return (
        Mark(
            LAYER,
            "",
            holders or f"key {found.key:#x}",
            f"its SCSI reservation ({kind(found)}): held by {holders or f'key {found.key:#x}'}",
            excusable=False,
            remedy="sg_persist --in --read-full-status shows it; the holder releases it, or sg_persist --out --preempt",
        ),
    )


def kind(found: Reservation) -> str:
    """The type of a reservation in the words of SPC-4."""
    return _HOLDER_ONLY.get(found.type) or _REGISTRANTS.get(found.type) or f"type {found.type:x}h"


def reservation(data: bytes) -> Reservation | None:
    """The answer to READ RESERVATION, None if there is none. Raises Damaged."""
    body = _body(data)
    if not body:
        return None
    if len(body) < 16:
        raise Damaged("the answer to READ RESERVATION is cut short", data)
    return Reservation(struct.unpack_from(">Q", body)[0], body[13] & 0xF)


def keys(data: bytes) -> tuple[int, ...]:
    """The answer to READ KEYS: one for each I_T nexus that is registered, in no order. Raises Damaged."""
    return tuple(key for (key,) in struct.iter_unpack(">Q", _body(data)[: len(_body(data)) // 8 * 8]))


def registrants(data: bytes) -> tuple[Registrant, ...]:
    """The answer to READ FULL STATUS. Raises Damaged."""
    body, found, at = _body(data), [], 0
    while at < len(body):
        if at + 24 > len(body):
            raise Damaged("the answer to READ FULL STATUS is cut short", data)
        key, flags, length = struct.unpack_from(">Q4xB7xI", body, at)
        if at + 24 + length > len(body):
            raise Damaged("the answer to READ FULL STATUS is cut short", data)
        found.append(Registrant(key, bool(flags & 1), transport_id(body[at + 24 : at + 24 + length])))
        at += 24 + length
    return tuple(found)


def transport_id(data: bytes) -> str:
    """``fc.5001...``, ``sas.5...``, the name of an iSCSI initiator without its session, or plain hex."""
    protocol = data[0] & 0xF if data else None
    if protocol == 0 and len(data) >= 16:
        return f"fc.{data[8:16].hex()}"
    if protocol == 6 and len(data) >= 12:
        return f"sas.{data[4:12].hex()}"
    if protocol == 5 and len(data) > 4:
        return from_bytes(data[4:]).partition(",i,0x")[0].lower()
    return data.hex()


def _body(data: bytes) -> bytes:
    if len(data) < 8:
        raise Damaged("an answer to PERSISTENT RESERVE IN is cut short", data)
    length = struct.unpack_from(">I", data, 4)[0]
    if len(data) < 8 + length:
        raise Damaged("an answer to PERSISTENT RESERVE IN is cut short", data)
    return data[8 : 8 + length]
