# SPDX-License-Identifier: GPL-2.0-or-later
"""What the store and the storage server wrote down, and what time a revision of the store can have been.

The storage server's log and the watcher of the store run on one host and read one clock, so their times can be
compared. But a revision is *heard of* after it was made, and how long after nobody says. So the watcher also writes:
a beat, whose value is the time before it was sent. Revisions are ordered, so for every revision R::

    sent(last beat with a lower revision)  <=  made(R)  <=  heard(first event of R or of a higher revision)

A write is only called wrong if it is wrong for every moment between the two, so the check accuses nobody falsely,
and misses at most what happens within such an interval. How long the longest was is printed with every result.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any
from urllib.parse import unquote


@dataclass(frozen=True, slots=True)
class Change:
    """One key at one revision, as the watcher heard of it first. ``value``: JSON, None if it was deleted."""

    revision: int
    heard_s: float  # host's clock
    key: str
    value: Mapping[str, Any] | None


@dataclass(frozen=True, slots=True)
class Write:
    """One request that changes a LUN, from the storage server's log. A boot has one connection to each LUN."""

    at_s: float  # host's clock
    lun: str
    node: str  # as the store names it
    connected_s: float
    offset: int
    count: int


class Clock:
    """Between which times a revision was made."""

    def __init__(self, changes: Iterable[Change], beats: Iterable[tuple[int, float]]) -> None:
        """``beats``: (revision, when it was sent)."""
        first: dict[int, float] = {}
        for change in changes:
            first[change.revision] = min(change.heard_s, first.get(change.revision, change.heard_s))
        self._revisions = sorted(first)
        self._heard = [first[r] for r in self._revisions]
        for index in range(len(self._heard) - 2, -1, -1):
            self._heard[index] = min(self._heard[index], self._heard[index + 1])
        self._beats, self._sent = [], list[float]()
        latest = float("-inf")
        for revision, sent_s in sorted(beats):
            latest = max(latest, sent_s)
            self._beats.append(revision)
            self._sent.append(latest)

    def earliest(self, revision: int) -> float:
        """It was not made before that."""
        index = bisect.bisect_left(self._beats, revision)
        return self._sent[index - 1] if index else float("-inf")

    def latest(self, revision: int) -> float:
        """It was made by then."""
        index = bisect.bisect_left(self._revisions, revision)
        return self._heard[index] if index < len(self._heard) else float("inf")

    def width(self, revision: int) -> float:
        """How much is not known about when it was made, seconds."""
        return self.latest(revision) - self.earliest(revision)


class Won(StrEnum):
    """How a holder came by its lease."""

    FREE = "free"
    HANDED_OVER = "handed over"  # another node had it before, and gave it back
    TAKEN_OVER = "taken over"  # the record of a silent holder was deleted by the very revision that granted it


@dataclass(frozen=True, slots=True)
class Tenure:
    """One boot of a node holds one resource, from revision ``first`` until before ``last`` (None: until the end)."""

    lun: str
    path: str
    node: str
    boot_id: str
    token: int
    first: int
    last: int | None = None
    won: Won = Won.FREE


@dataclass
class _Reading:
    open: dict[str, Tenure] = field(default_factory=dict)  # by key
    closed: list[Tenure] = field(default_factory=list)
    last_node: dict[str, str] = field(default_factory=dict)  # of each LUN

    def end(self, key: str, revision: int) -> Tenure | None:
        ended = self.open.pop(key, None)
        if ended is not None:
            self.closed.append(replace(ended, last=revision))
            self.last_node[ended.lun] = ended.node
        return ended


def tenures(changes: Iterable[Change], prefix: str) -> list[Tenure]:
    """Who held what, by revision. ``prefix``: of the records of leases, ``/enforcer/CLUSTER/res/``."""
    reading = _Reading()
    by_revision: dict[int, dict[str, Change]] = {}
    for change in changes:
        if change.key.startswith(prefix):
            by_revision.setdefault(change.revision, {})[change.key] = change
    for revision in sorted(by_revision):
        together = by_revision[revision].values()
        gone = [reading.end(c.key, revision) for c in together if c.value is None]
        for change in together:
            if change.value is not None:
                _put(reading, change, prefix, [ended for ended in gone if ended is not None])
    return sorted((*reading.closed, *reading.open.values()), key=lambda t: (t.first, t.lun, t.path, t.node))


def _put(reading: _Reading, change: Change, prefix: str, gone: Sequence[Tenure]) -> None:
    value = change.value or {}
    lun, path, node = (unquote(part) for part in change.key.removeprefix(prefix).split("/"))
    boot_id, token = str(value["boot_id"]), int(value.get("token", change.revision))
    known = reading.open.get(change.key)
    if known is not None and known.boot_id == boot_id:  # adopted, or granted anew to who has it
        reading.open[change.key] = replace(known, token=token)
        return
    earlier = reading.end(change.key, change.revision)
    before = reading.last_node.get(lun, node)
    won = Won.FREE if before == node else Won.HANDED_OVER
    if earlier is not None or any(ended.lun == lun for ended in gone):
        won = Won.TAKEN_OVER
    reading.open[change.key] = Tenure(lun, path, node, boot_id, token, change.revision, None, won)
