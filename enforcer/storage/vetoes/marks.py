# SPDX-License-Identifier: GPL-2.0-or-later
"""Marks of use on a disk, and which of them object: the whole law of vetoes, without I/O.

A mark objects if nothing calls its owner silent, or if it moves. So nearly every disk is looked at once: no mark, a
clean one, and one of somebody of whom nothing is known are settled by the first look. Only a mark that a fact excuses
(this node left it in an earlier boot, its owner was fenced, its owner gave its lease back) gets a second look, 2 s
after the first: whoever writes it even now does not heed the fact. Nobody waits for a mark to go away.

A fact excuses only what is older than itself: who was fenced at ten o'clock may mount again at eleven.

A mark that cannot be made out (a bad checksum, a pointer to nowhere) has no owner, so only movement speaks against
it. To deny it for good would forbid the very fsck or mkfs that mends it, and the filesystem's own driver refuses it
anyway. A disk that cannot be *read* is another matter: what stands there is not known, and UNKNOWN denies.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from enforcer.model.errors import EnforcerError

#: Seconds by which the clocks of two nodes may differ when a mark is held against a fact.
SKEW_S: Final = 60.0

#: ``read(offset, length)``: bytes of the medium past every cache, fewer only at its end. Raises OSError.
Read = Callable[[int, int], bytes]


class Damaged(EnforcerError):
    """The mark is there and is not what its format says."""

    def __init__(self, message: str, data: bytes = b"") -> None:
        """``data``: what was read instead; it may move."""
        super().__init__(message)
        self.data = data


@dataclass(frozen=True, slots=True)
class Mark:
    """One sign of use. Its strings come from the disk: escape before showing them."""

    layer: str  # "ext4-mmp", "ocfs2-slot", "sanlock", "lvm-system-id", "scsi-pr"
    key: str  # which mark of the layer, so that two looks can be compared
    owner: str | None  # the node as the format names it; None if nobody can tell
    says: str  # one clause: "ext4 MMP: mounted on node-2 (as sda1)"
    pulse: bytes = b""  # changes as long as the owner lives; empty: this kind of mark never moves
    written_s: float | None = None  # owner's wall clock (Unix time) when it was last written, if the format tells
    excusable: bool = True  # False: whoever is silent, the storage itself will not let us write
    remedy: str = ""


@dataclass(frozen=True, slots=True)
class Objection:
    """Why a use is refused. ``layer`` is the name in the audit log."""

    layer: str
    sentence: str
    owner: str = ""
    remedy: str = ""


class Silence(NamedTuple):
    """A fact about a node: since ``at_s`` (Unix time) it does not use the LUN, because of ``why``."""

    at_s: float
    why: str


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known of the owners of marks. Names are compared whole: half a name is another node."""

    own: frozenset[str] = frozenset()
    silent: Mapping[str, Silence] = field(default_factory=dict)

    def excuse(self, mark: Mark) -> bool:
        """True if the mark means nothing as long as it stands still."""
        if mark.owner is None:
            return True
        if not mark.excusable:
            return False
        if mark.owner in self.own:
            return True
        fact = self.silent.get(mark.owner)
        return fact is not None and (mark.written_s is None or mark.written_s <= fact.at_s + SKEW_S)


def damaged(layer: str, error: Damaged) -> Mark:
    """The mark that could not be made out."""
    return Mark(layer, "damaged", None, f"{layer}: {error}", hashlib.sha256(error.data).digest())


def objections(marks: Iterable[Mark], facts: Facts) -> tuple[Objection, ...]:
    """What speaks against a use at one look."""
    return tuple(
        Objection(m.layer, f"{m.says}, and {_unknown(m, facts)}", m.owner or "", m.remedy)
        for m in marks
        if not facts.excuse(m)
    )


def moved(before: Iterable[Mark], after: Iterable[Mark]) -> tuple[Objection, ...]:
    """Marks that were written between two looks, or came into being; one that went away has nothing to say."""
    pulses = {(m.layer, m.key): m.pulse for m in before}
    return tuple(
        Objection(m.layer, f"{m.says}, and it is still being written", m.owner or "", m.remedy)
        for m in after
        if pulses.get((m.layer, m.key)) != m.pulse
    )


def _unknown(mark: Mark, facts: Facts) -> str:
    if not mark.excusable:
        return "the storage would refuse our writes"
    fact = facts.silent.get(mark.owner or "")
    if fact is not None:
        return f"that is newer than what is known of {mark.owner}: {fact.why}"
    return f"nothing says that {mark.owner or 'its owner'} was fenced or has let go"
