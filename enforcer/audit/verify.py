# SPDX-License-Identifier: GPL-2.0-or-later
"""Verify the hash chain of a log, and name the first place where it does not hold.

What the chain cannot show: that lines were cut off at the end, or that a whole file was rewritten. For
these there are the journal's copies of the hashes, and the next file of a rotation, which begins with the
hash of this one's end.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from enforcer.audit.chain import digest
from enforcer.audit.record import GAP
from enforcer.audit.view import Record


@dataclass(frozen=True, slots=True)
class Break:
    """The first line that does not follow from the ones before it."""

    line: int
    what: str


@dataclass(frozen=True, slots=True)
class Verification:
    """What the chain says about a log."""

    lines: int
    gaps: int  # gap records: losses that the log itself admits
    lost: int  # records that they count
    first_prev: str  # what the first line is chained to; empty if the chain begins here
    last_digest: str  # what the next line will be chained to
    first_break: Break | None

    @property
    def ok(self) -> bool:
        """Whether the chain holds from the first line to the last."""
        return self.first_break is None


def verify(lines: Iterable[bytes], prev: str | None = None) -> Verification:
    """Check lines as a binary file yields them. ``prev``: the ``last_digest`` of the file before, if any."""
    number = gaps = lost = 0
    first_prev = ""
    last = prev  # digest of the line before, None if unknown
    good = prev or ""  # digest of the last line that is a record
    damaged = 0  # number of the first of the damaged lines just before, 0 if there is none
    found: Break | None = None
    torn = False
    for number, text in enumerate(lines, 1):
        torn = not text.endswith(b"\n")
        line = text.removesuffix(b"\n")
        record = Record.parse(line)
        here = digest(line)
        if record is None:
            damaged = damaged or number
            last = here
            continue
        if number == 1:
            first_prev = record.prev
        if record.kind == GAP:
            gaps += 1
            lost += record.lost
        if found is None:
            found = _check(record, number, last, damaged, good)
        last = good = here
        damaged = 0
    if found is None and (damaged or torn):
        found = Break(damaged or number, "the last line is damaged and no record after it says so")
    return Verification(number, gaps, lost, first_prev, last or "", found)


def _check(record: Record, number: int, last: str | None, damaged: int, good: str) -> Break | None:
    if damaged and (record.kind != GAP or record.raw.get("after") != good):
        return Break(damaged, "the line is damaged, and the record after it does not account for it")
    if last is not None and record.prev != last:
        return Break(number, "the line does not follow from the one before: one of them was changed, or one removed")
    return None
