# SPDX-License-Identifier: GPL-2.0-or-later
"""What a run prints at its end, and whether it was a good one: pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from tools.chaos.check import Verdict
from tools.chaos.plan import FAULTS, Fault, LeaseState, cells

LEAST_TAKEOVERS = 10
CLOCK_STEP_S = 0.05  # if the host's clock was set by more, times of two records cannot be compared


@dataclass(frozen=True, slots=True)
class Result:
    """One run. ``reached``: how often each cell was; ``failed``: what kept it from going on, or ""."""

    seed: int
    planned: int
    steps: int
    seconds: float
    reached: Counter[tuple[str, LeaseState]]
    rivals: Counter[str]
    missed: Sequence[str]
    verdict: Verdict
    failed: str = ""
    faults: Sequence[Fault] = FAULTS

    def problems(self) -> list[str]:
        """Why it is no good run; empty if it is. A plan too short for every cell need not reach them, nor one that was
        ended by what it found."""
        found = [f"{v.lun}: {v.what}" for v in self.verdict.violations[:5]]
        if not all(self.verdict.writes.get(node, 0) for node in ("node-1", "node-2")):
            found.append("a node wrote nothing, so nothing is proven")
        if self.failed:
            found.append(self.failed)
        if not self.verdict.violations and self.planned >= len(cells(self.faults)):
            empty = [cell for cell in cells(self.faults) if not self.reached[cell]]
            found += [f"never reached: {fault}, {state}" for fault, state in empty]
            if self.verdict.takeovers < LEAST_TAKEOVERS:
                found.append(f"{self.verdict.takeovers} takeovers, wanted are {LEAST_TAKEOVERS}")
        return found


def histogram(reached: Counter[tuple[str, LeaseState]], faults: Sequence[Fault] = FAULTS) -> str:
    """Fault by state of the lease at that moment."""
    lines = [f"{'':<16}" + "".join(f"{state:>12}" for state in LeaseState)]
    for fault in faults:
        lines.append(f"{fault.name:<16}" + "".join(f"{reached[fault.name, state]:>12}" for state in LeaseState))
    return "\n".join(lines)


def summary(result: Result) -> str:
    """All figures."""
    v = result.verdict
    wrote = ", ".join(f"{count} of {node}" for node, count in sorted(v.writes.items()))
    rivals = ", ".join(f"{count} {what}" for what, count in sorted(result.rivals.items()))
    lines = [
        histogram(result.reached, result.faults),
        "",
        f"seed {result.seed}, {result.steps} of {result.planned} steps in {result.seconds:.0f} s;"
        f" again: make chaos SEED={result.seed} STEPS={result.planned}",
        f"takeovers {v.takeovers}, hand-overs {v.hand_overs}; rivals: {rivals or 'none'};"
        f" steps tried again: {len(result.missed)}",
        f"writes on the storage: {wrote or 'none'}; each held against the store's revisions, {v.in_doubt} within the"
        f" {v.bound_s:.2f} s in which a revision's time is not known",
    ]
    return "\n".join(lines)
