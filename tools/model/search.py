# SPDX-License-Identifier: GPL-2.0-or-later
"""Breadth first through everything that can happen: the first violation found has the shortest history."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass, field

from tools.model.events import calm, check, settled, successors
from tools.model.state import Scenario, Violation, World, canonical, phase

PATIENCE = 60  # events within which everybody who waits has his answer, once nothing goes wrong any more


@dataclass(frozen=True, slots=True)
class Found:
    """A history that must not be: what happened, in order, and what is wrong at its end."""

    wrong: str
    history: tuple[str, ...]


@dataclass(slots=True)
class Explored:
    """What one search saw. ``complete``: no state was left that has successors not looked at."""

    depth: int
    states: int = 0
    transitions: int = 0
    seconds: float = 0.0  # of CPU time
    complete: bool = False
    phases: Counter[str] = field(default_factory=Counter)
    found: Found | None = None


def explore(scenario: Scenario, depth: int) -> Explored:
    """Every history of at most ``depth`` events from the scenario's start."""
    began, seen = time.process_time(), Explored(depth)
    came: dict[World, tuple[World, str] | None] = {scenario.start: None}
    calms: set[World] = set()  # from here everybody gets his answer
    layer = [scenario.start]
    for _ in range(depth):
        following = []
        for world in layer:
            label, more = "", list[str]()
            try:
                for label, after in successors(world, scenario):
                    seen.transitions += 1
                    after = canonical(after)
                    if after in came:
                        continue
                    check(after, scenario)
                    came[after] = (world, label)
                    following.append(after)
                label = "(from here on every message arrives, and nothing fails)"
                _ends(world, scenario, calms, more)
            except Violation as wrong:
                seen.found = Found(str(wrong), (*_history(came, world), label, *more))
                break
        layer = following
        if seen.found or not layer:
            break
    seen.complete = not layer and not seen.found
    seen.phases.update(phase(world, n, scenario.guarantee) or "off" for world in came for n in (0, 1))
    seen.states, seen.seconds = len(came), time.process_time() - began
    return seen


def _ends(world: World, scenario: Scenario, calms: set[World], labels: list[str]) -> None:
    """Everybody who waits gets his answer, once nothing goes wrong any more. Raises Violation."""
    way = []
    while world not in calms:
        way.append(world)
        following = calm(world, scenario)
        if following is None:
            if not settled(world):
                raise Violation("somebody waits, and nothing is left that could happen")
            break
        if len(way) > PATIENCE:
            raise Violation("somebody waits for ever")
        labels.append(following[0])
        world = canonical(following[1])
        check(world, scenario)
    calms.update(way)


def _history(came: dict[World, tuple[World, str] | None], world: World) -> tuple[str, ...]:
    lines = []
    while (before := came[world]) is not None:
        world, label = before
        lines.append(label)
    return tuple(reversed(lines))
