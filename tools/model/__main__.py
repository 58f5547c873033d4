# SPDX-License-Identifier: GPL-2.0-or-later
"""``python -m tools.model``: explore the lease of one LUN between two nodes, and print what was seen.

Each line of :data:`PLANS` is one search. A violation is printed as a time line and makes the exit code 1. Then each
assumption is taken away, and it is the other way round: a search must find what goes wrong without it. What the model
leaves out stands in docs/model.md.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import Executor, ProcessPoolExecutor

from tools.model.events import BREAKS
from tools.model.plans import PLANS, broken
from tools.model.search import Explored, explore

HEAD = f"{'two nodes, one LUN; it begins when':<52}{'depth':>6}{'states':>10}{'transitions':>13}{'CPU s':>9}  result"


def timeline(seen: Explored) -> str:
    """One line an event, and what is wrong at the end."""
    if seen.found is None:
        return ""
    lines = [f"  {number:>3}  {label}" for number, label in enumerate(seen.found.history, 1)]
    return "\n".join([*lines, f"  !!!  {seen.found.wrong}"])


def _row(name: str, seen: Explored) -> str:
    result = "VIOLATION" if seen.found else "complete" if seen.complete else "ok"
    return f"{name:<52}{seen.depth:>6}{seen.states:>10}{seen.transitions:>13}{seen.seconds:>9.1f}  {result}"


def explored(pool: Executor, *, more: int, quick: bool) -> list[Explored]:
    """Every plan; prints what came of each, and all of it."""
    print(HEAD)
    total, phases, violated = Counter[str](), Counter[str](), []
    depths = [(plan.quick if quick else plan.depth) + more for plan in PLANS]
    for plan, seen in zip(PLANS, pool.map(explore, [p.scenario for p in PLANS], depths), strict=True):
        print(_row(plan.scenario.name, seen), flush=True)
        total.update(states=seen.states, transitions=seen.transitions)
        phases.update(seen.phases)
        violated += [seen] if seen.found else []
    print(f"\n{total['states']} states, {total['transitions']} transitions, {len(violated)} violations")
    print("leases seen: " + ", ".join(f"{name} {count}" for name, count in phases.most_common()))
    return violated


def assumptions(pool: Executor) -> list[str]:
    """Each taken away; prints after how many events that showed. Those without which nothing goes wrong."""
    print(f"\n{'without':<52}{'depth':>6}{'states':>10}  what goes wrong")
    idle = []
    plans = [broken(name) for name in BREAKS]
    found = pool.map(explore, [plan.scenario for plan in plans], [plan.depth for plan in plans])
    for name, seen in zip(BREAKS, found, strict=True):
        idle += [] if seen.found else [name]
        wrong = seen.found.wrong if seen.found else "NOTHING"
        print(f"{name:<52}{len(seen.found.history) if seen.found else seen.depth:>6}{seen.states:>10}  {wrong}")
    return idle


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit code: 0 if nothing was found but without an assumption, and there something each time."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.model",
        description="Explore every order of events for two nodes, one store and one disk.",
        epilog="example: python -m tools.model --break stale-token",
    )
    parser.add_argument("--more", type=int, default=0, metavar="N", help="so many events deeper than usual")
    parser.add_argument("--quick", action="store_true", help="as deep as the unit tests go")
    parser.add_argument("--break", dest="breaks", choices=BREAKS, help="take one assumption away, and tell the history")
    parser.add_argument("--jobs", type=int, default=2, metavar="N", help="searches side by side (default: 2)")
    options = parser.parse_args(arguments)
    if options.breaks:
        plan = broken(options.breaks)
        seen = explore(plan.scenario, plan.depth)
        print(f"{HEAD}\n{_row(plan.scenario.name, seen)}\n\n{timeline(seen)}")
        return 0 if seen.found else 1
    with ProcessPoolExecutor(options.jobs) as pool:
        violated = explored(pool, more=options.more, quick=options.quick)
        for seen in violated:
            print(f"\n{timeline(seen)}")
        idle = assumptions(pool)
    return 1 if violated or idle else 0


if __name__ == "__main__":
    sys.exit(main())
