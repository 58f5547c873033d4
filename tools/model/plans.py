# SPDX-License-Identifier: GPL-2.0-or-later
"""The searches of ``make model``: where each begins, what the nodes want, and how deep it goes."""

from __future__ import annotations

from dataclasses import dataclass, replace

from enforcer.model.lease import Claim, Guarantee
from enforcer.model.resource import Mode, ResourceId
from tools.model.state import (
    Scenario,
    World,
    forgotten,
    free,
    held,
    outrun,
    parting,
    reserved,
    shared,
    stalled,
    unmounted,
)

WHOLE, PART = ResourceId("wwn-a"), ResourceId("wwn-a", ("p1",))
EX, CW, PR = (Claim(WHOLE, mode) for mode in (Mode.EX, Mode.CW, Mode.PR))
STEADY = frozenset({1})


@dataclass(frozen=True, slots=True)
class Plan:
    """One search: to ``depth`` for ``make model``, to ``quick`` in the unit tests."""

    scenario: Scenario
    depth: int
    quick: int


def _plan(
    name: str,
    start: World,
    depth: int,
    quick: int,
    *,
    guarantee: Guarantee = Guarantee.NONE,
    wants: tuple[tuple[Claim, ...], tuple[Claim, ...]] = ((EX,), (Claim(PART),)),
    steady: frozenset[int] = frozenset(),
) -> Plan:
    return Plan(Scenario(name, start, guarantee, wants, steady), depth, quick)


PLANS = (
    _plan("nothing held, both nodes ask", free(1), 10, 6),
    _plan("node-1 has it mounted", held(1), 11, 7),
    _plan("node-1 has it mounted and promises a cut", held(1), 11, 7, guarantee=Guarantee.CUT),
    _plan("both want the same part", held(1), 9, 6, wants=((Claim(PART),), (Claim(PART),))),
    _plan("node-1 fails, node-2 does not", held(1), 15, 9, steady=STEADY),
    _plan("node-1 promises a cut and fails, node-2 does not", held(1), 14, 9, guarantee=Guarantee.CUT, steady=STEADY),
    _plan("node-1 promises a cut, late messages only", held(0), 18, 12, guarantee=Guarantee.CUT, steady=STEADY),
    _plan("the store was restored from a copy", forgotten(0), 13, 9, wants=((EX,), ())),
    _plan("both want it shared", free(1), 9, 6, wants=((CW,), (CW,))),
    _plan("both have it shared, each may want it alone", shared(1), 9, 6, wants=((CW, EX), (CW, EX))),
    _plan("node-1 has had it shared, each may want it alone", unmounted(0), 12, 7, wants=((CW, EX), (CW, EX))),
    _plan("node-1 wants it shared, node-2 alone", held(1, Mode.CW), 10, 6, wants=((CW,), (EX,))),
    _plan("both only read", free(1), 9, 5, wants=((PR,), (PR,))),
    _plan("node-1 only reads, node-2 writes", free(1), 9, 5, wants=((PR,), (EX,))),
    _plan(
        "node-1 has it reserved and was paused",
        stalled(0),
        18,
        10,
        guarantee=Guarantee.RESERVATION,
        wants=((EX,), (EX,)),
        steady=STEADY,
    ),
    _plan(
        "node-1 was paused before it reserved it",
        outrun(0),
        18,
        12,
        guarantee=Guarantee.RESERVATION,
        wants=((EX,), (EX,)),
        steady=STEADY,
    ),
    _plan("node-1 has it reserved", reserved(1), 11, 7, guarantee=Guarantee.RESERVATION, wants=((EX,), (EX,))),
    _plan("node-1 gives its reservation up", parting(1), 9, 7, guarantee=Guarantee.RESERVATION, wants=((EX,), (EX,))),
    _plan(
        "node-1 has it reserved and fails, node-2 does not",
        reserved(1),
        16,
        9,
        guarantee=Guarantee.RESERVATION,
        wants=((EX,), (EX,)),
        steady=STEADY,
    ),
)
# Where each assumption is needed, and by how many events that shows at the latest.
BROKEN = {
    "guard-not-attached": ("node-1 has it mounted", 2),
    "release-at-fentry": ("node-1 has it mounted", 7),
    "stale-token": ("node-1 fails, node-2 does not", 12),
    "hypervisor-pauses": ("node-1 promises a cut and fails, node-2 does not", 10),
    "session-ended-early": ("node-1 promises a cut and fails, node-2 does not", 7),
    "cut-fails": ("node-1 promises a cut and fails, node-2 does not", 9),
    "reservation-unchecked": ("node-1 has it reserved and fails, node-2 does not", 20),
}


def broken(name: str) -> Plan:
    """The search that shows what goes wrong if this assumption does not hold."""
    where, depth = BROKEN[name]
    scenario = next(plan.scenario for plan in PLANS if plan.scenario.name == where)
    return Plan(replace(scenario, breaks=frozenset({name})), depth, depth)
