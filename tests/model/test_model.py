# SPDX-License-Identifier: GPL-2.0-or-later
"""The lease of one LUN between two nodes, in every order of events to a small depth; ``make model`` goes deeper.

The searches are short, so that each mutant of the product's rules is killed here too (tools/mutants/model.py).
"""

from __future__ import annotations

from functools import cache

import pytest

from tools.model import __main__ as model
from tools.model.events import BREAKS
from tools.model.plans import PLANS, Plan, broken
from tools.model.search import explore as explored
from tools.model.state import canonical, free, held

explore = cache(explored)
NAMES = [plan.scenario.name for plan in PLANS]


@pytest.mark.parametrize("plan", PLANS, ids=NAMES)
def test_nobody_writes_after_another_was_granted_and_everybody_is_answered(plan: Plan) -> None:
    seen = explore(plan.scenario, plan.quick)
    assert seen.found is None, f"\n{model.timeline(seen)}"
    assert seen.states > 1000, "a search that sees little proves little"


@pytest.mark.parametrize("name", BREAKS)
def test_every_assumption_is_needed(name: str) -> None:
    """What the model takes for granted of kernel, store and machine: without it there is a history that goes wrong."""
    plan = broken(name)
    assert explore(plan.scenario, plan.depth).found is not None


def test_the_searches_meet_every_phase_of_a_lease() -> None:
    seen = {name for plan in PLANS[1:] for name in explore(plan.scenario, plan.quick).phases}
    wanted = {"acquiring", "live", "closing", "expiring", "lost", "stranded", "taken over"}
    assert seen >= wanted


def test_a_state_is_the_same_whatever_its_revisions_are_called() -> None:
    world = held(1)
    moved = world._replace(store=world.store._replace(revision=world.store.revision + 7))
    assert canonical(moved) == canonical(canonical(moved)) != world
    assert canonical(free(0)) == free(0)


def test_a_violation_is_told_as_a_time_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert model.main(["--break", "guard-not-attached"]) == 0
    told = capsys.readouterr().out
    assert "    1  node-2: an open that nobody asked about passes the guard\n" in told
    assert "  !!!  node-2 writes after a higher token went to node-1\n" in told
