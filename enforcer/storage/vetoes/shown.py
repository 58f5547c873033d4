# SPDX-License-Identifier: GPL-2.0-or-later
"""A disk as ``enforcer who`` shows it: every mark, also those that object to nothing, and the whole reservation.

Vetoes ask whether a mark speaks against a use of ours; people ask what stands there. The readers are the same.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from enforcer.storage.vetoes import reservation
from enforcer.storage.vetoes.local import Local
from enforcer.storage.vetoes.look import look
from enforcer.storage.vetoes.marks import Damaged, Mark
from enforcer.storage.vetoes.medium import Medium
from enforcer.storage.vetoes.reservation import Action, Registrant


@dataclass(frozen=True, slots=True)
class Reserved:
    """The reservation in force. ``ours``: an initiator of this node may write under it."""

    key: int  # 0 for the types that all registrants hold
    kind: str
    registrants: tuple[Registrant, ...]
    ours: bool


@dataclass(frozen=True, slots=True)
class Shown:
    """What stands on one disk."""

    marks: tuple[Mark, ...]
    reserved: Reserved | None


def read(medium: Medium, local: Callable[[], Local]) -> Shown:
    """All of it. Raises OSError if the disk cannot be read."""
    marks = look(medium, local)
    try:
        found = reserved(medium, local)
    except Damaged:
        found = None  # it is among the marks, as damaged
    return Shown(marks, found)


def reserved(medium: Medium, local: Callable[[], Local]) -> Reserved | None:
    """The reservation, None if there is none. Raises Damaged, OSError."""
    answer = medium.reserve_in(Action.READ_RESERVATION)
    found = reservation.reservation(answer) if answer is not None else None
    if found is None:
        return None
    answer = medium.reserve_in(Action.READ_FULL_STATUS)
    registered = reservation.registrants(answer) if answer is not None else ()
    ours = not reservation.marks(medium.reserve_in, lambda: local().initiators)
    return Reserved(found.key, reservation.kind(found), registered, ours)
