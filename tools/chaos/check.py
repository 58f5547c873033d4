# SPDX-License-Identifier: GPL-2.0-or-later
"""Whether every write was one of the holder: pure, and blind to everything but two records that others kept.

It reads the storage server's log and the store's revisions (``history``), neither what enforcerd says nor what the
runner meant to do. Three things must hold:

1. A node that changes a LUN holds it at that moment, under a lease that was not granted before this boot of the node
   connected to the storage. So no write comes after another node's token, and none comes without one.
2. No two nodes hold one LUN at one revision. (Every use in these runs is exclusive.)
3. Tokens of a LUN only grow.

A run in which nobody wrote proves nothing, so ``Verdict.writes`` is part of the result.
"""

from __future__ import annotations

import bisect
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from tools.chaos.history import Clock, Tenure, Won, Write


@dataclass(frozen=True, slots=True)
class Violation:
    """What must not be."""

    lun: str
    at_s: float
    what: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """What came out. ``in_doubt``: writes so near to a grant or a release that they may have been on either side."""

    violations: tuple[Violation, ...]
    writes: Counter[str] = field(default_factory=Counter)  # by node
    in_doubt: int = 0
    bound_s: float = 0.0  # what can be missed is not longer than that
    takeovers: int = 0
    hand_overs: int = 0


def check(tenures: Sequence[Tenure], writes: Iterable[Write], clock: Clock) -> Verdict:
    """Hold every write against who held the LUN."""
    found = [*_together(tenures, clock), *_tokens(tenures, clock)]
    of: dict[tuple[str, str], list[Tenure]] = {}
    for tenure in tenures:
        of.setdefault((tenure.lun, tenure.node), []).append(tenure)
    begins = {key: [clock.earliest(t.first) for t in held] for key, held in of.items()}
    counted: Counter[str] = Counter()
    in_doubt = 0
    for write in writes:
        counted[write.node] += 1
        key = write.lun, write.node
        until = bisect.bisect_right(begins.get(key, []), write.at_s)
        begun = of.get(key, [])[:until]
        covering = [t for t in begun[-2:] if _covers(t, write, clock)]  # times of revisions are in their order
        if not covering:
            found.append(Violation(write.lun, write.at_s, _accused(write, tenures, clock)))
        elif not any(_surely(t, write, clock) for t in covering):
            in_doubt += 1
    edges = {r for t in tenures for r in (t.first, t.last) if r is not None}
    widths = [w for w in (clock.width(r) for r in edges) if w < float("inf")]
    won = Counter(t.won for t in tenures)
    return Verdict(
        tuple(sorted(found, key=lambda v: v.at_s)),
        counted,
        in_doubt,
        max(widths, default=0.0),
        won[Won.TAKEN_OVER],
        won[Won.HANDED_OVER],
    )


def _covers(tenure: Tenure, write: Write, clock: Clock) -> bool:
    """Whether a lease that can have begun before the write can have lasted until then, and is of this boot."""
    if write.connected_s > clock.latest(tenure.first):
        return False  # granted to an earlier boot
    ended = clock.latest(tenure.last) if tenure.last is not None else float("inf")
    return write.at_s <= ended


def _surely(tenure: Tenure, write: Write, clock: Clock) -> bool:
    ended = clock.earliest(tenure.last) if tenure.last is not None else float("inf")
    return clock.latest(tenure.first) <= write.at_s <= ended


def _accused(write: Write, tenures: Sequence[Tenure], clock: Clock) -> str:
    where = f"{write.count} bytes at {write.offset:#x}"
    since = [t for t in tenures if t.lun == write.lun and clock.latest(t.first) < write.at_s]
    if since and since[-1].node != write.node:
        return f"{write.node} writes {where} after token {since[-1].token} was granted to {since[-1].node}"
    return f"{write.node} writes {where} without a lease"


def _together(tenures: Sequence[Tenure], clock: Clock) -> Iterable[Violation]:
    """Two holders of one LUN at one revision."""
    holding: dict[str, list[Tenure]] = {}
    for tenure in tenures:
        others = [t for t in holding.get(tenure.lun, []) if t.last is None or t.last > tenure.first]
        for other in others:
            same = (other.node, other.boot_id) == (tenure.node, tenure.boot_id)
            if not same and _meet(other.path, tenure.path):
                what = f"{tenure.node} is granted token {tenure.token} while {other.node} holds token {other.token}"
                yield Violation(tenure.lun, clock.latest(tenure.first), what)
        holding[tenure.lun] = [*others, tenure]


def _tokens(tenures: Sequence[Tenure], clock: Clock) -> Iterable[Violation]:
    highest: dict[tuple[str, str], int] = {}
    for tenure in tenures:
        key = tenure.lun, tenure.path
        if tenure.token < highest.get(key, 0):
            what = f"{tenure.node} is granted token {tenure.token} after token {highest[key]}"
            yield Violation(tenure.lun, clock.latest(tenure.first), what)
        highest[key] = max(tenure.token, highest.get(key, 0))


def _meet(one: str, other: str) -> bool:
    """As ResourceId.meets: one is the other, or a part of it."""
    a, b = ([part for part in path.split("/") if part] for path in (one, other))
    return a[: len(b)] == b[: len(a)]


def time_line(
    violation: Violation,
    tenures: Iterable[Tenure],
    writes: Iterable[Write],
    clock: Clock,
    notes: Iterable[tuple[float, str]] = (),
    *,
    around_s: float = 4.0,
) -> list[str]:
    """What is known of that LUN before and after, one event a line; ``notes``: (when, what) of the runner."""
    lines = [(violation.at_s, f"*** {violation.what}"), *notes]
    for t in tenures:
        if t.lun == violation.lun:
            lines.append((clock.latest(t.first), f"the store: token {t.token} for {t.node}, {t.won}"))
            if t.last is not None:
                lines.append((clock.latest(t.last), f"the store: token {t.token} of {t.node} is gone"))
    row: list[Write] = []
    for write in sorted((w for w in writes if w.lun == violation.lun), key=lambda w: w.at_s):
        if row and (row[-1].node != write.node or write.at_s - row[-1].at_s > 1.0):
            lines.append(_row(row))
            row = []
        row.append(write)
    if row:
        lines.append(_row(row))
    near = sorted((at, what) for at, what in lines if abs(at - violation.at_s) <= around_s)
    return [f"{datetime.fromtimestamp(at, UTC):%H:%M:%S.%f}  {what}"[:200] for at, what in near]


def _row(row: Sequence[Write]) -> tuple[float, str]:
    more = f"{len(row)} writes in {row[-1].at_s - row[0].at_s:.1f} s" if len(row) > 1 else "a write"
    return row[0].at_s, f"the storage: {more} of {row[0].node}"
