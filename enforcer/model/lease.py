# SPDX-License-Identifier: GPL-2.0-or-later
"""Leases as every store tells them: who holds what, since when, under which token."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from enforcer.model.resource import Mode, ResourceId


class Guarantee(StrEnum):
    """What silences a holder that lost its liveness, without anybody's help."""

    NONE = "none"
    CUT = "cut"
    WATCHDOG = "watchdog"
    RESERVATION = "reservation"


# The holder silences itself by its deadline. (A reservation silences it too, but not before somebody preempts it.)
SELF_FENCING = frozenset({Guarantee.CUT, Guarantee.WATCHDOG})


class Standing(StrEnum):
    """A store's answer about one resource. UNKNOWN denies; no time-out ever becomes FREE."""

    HERE = "here"
    FREE = "free"
    ELSEWHERE = "elsewhere"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Holder:
    """A node in one boot and one run of its keeper's session: all three must match to be the same holder."""

    node: str
    boot_id: str
    session: str


@dataclass(frozen=True, slots=True)
class Claim:
    """One resource wanted in one mode."""

    resource: ResourceId
    mode: Mode = Mode.EX


@dataclass(frozen=True, slots=True)
class Lease:
    """One held resource. The token only grows; a lower one than ever seen is refused by whoever checks it."""

    resource: ResourceId
    mode: Mode
    holder: Holder
    token: int
    since: str  # RFC 3339, UTC, for people only
    guarantee: Guarantee = Guarantee.NONE
    facts: Mapping[str, str] = field(default_factory=dict)  # for people: fstype, target, comm


class Liveness(StrEnum):
    """What is known of a lease's holder."""

    LIVE = "live"
    STRANDED = "stranded"  # liveness gone, silence not proven
    SILENT = "silent"  # liveness gone for longer than the self-fencing guarantee of this lease takes
    PREEMPTIBLE = "preemptible"  # liveness gone, and the storage can be told to take no more writes of it
    FENCED = "fenced"  # a fencing fact about this very boot id exists
    REBOOTED = "rebooted"  # the same machine is back under another boot id


@dataclass(frozen=True, slots=True)
class HeldLease:
    """A lease with what the store knows of its holder, for ``who`` and for refusals."""

    lease: Lease
    liveness: Liveness


@dataclass(frozen=True, slots=True)
class Granted:
    """The whole set is ours. ``fresh`` is true if this node did not hold it a moment ago: caches must go."""

    token: int
    leases: tuple[Lease, ...]
    fresh: bool


@dataclass(frozen=True, slots=True)
class Denied:
    """The store said no, and why. ``blocking`` names every lease in the way."""

    standing: Standing
    reason: str  # one clause, e.g. "held by node-1"; no trailing full stop
    blocking: tuple[HeldLease, ...] = ()
    remedy: str = ""  # the command to type, where there is one
    veto: str = ""  # the store granted it, and this kind of mark on the disk objects


@dataclass(frozen=True, slots=True)
class NodeRecord:
    """What one node publishes of itself: liveness, the digest of its policy, the LUNs that it sees."""

    holder: Holder
    policy_digest: str
    luns: tuple[str, ...]
    live: bool
