# SPDX-License-Identifier: GPL-2.0-or-later
"""When somebody waits for what a node that is gone holds: whom that switches off, and when nobody is to be."""

from __future__ import annotations

from dataclasses import replace

import pytest
from lab_court import Court, mount, refuses
from lab_fencing import AGENTS, NEWER, THIRD, Lab, blocked, make_lab
from lab_node import ME, OTHER, SAN, A, B, Node, run, turn

from enforcer.cluster.view import Quorum
from enforcer.model.intent import Effect
from enforcer.model.lease import Denied, Guarantee
from enforcer.policy.rules import RuleMode
from enforcer.settings import Fencing
from enforcer.workflow.fencing import Fences
from enforcer.workflow.judge import Judge


@pytest.fixture
def lab(monkeypatch: pytest.MonkeyPatch) -> Lab:
    return make_lab(monkeypatch)


async def demanded(lab: Lab, fences: Fences, times: int = 1) -> Denied:
    """What the last of some refusals says, each after what the one before has started is over."""
    for _ in range(times):
        told = fences.on_demand(blocked(lab))
        await turn(20)
    return told


def test_on_demand_it_is_done_behind_the_refusal_and_then_the_lease_is_free(lab: Lab) -> None:
    async def scenario() -> None:
        fences = lab.fences()
        told = fences.on_demand(blocked(lab))
        assert told.reason.startswith("stranded: node-2") and told.reason.endswith("fence_x is switching node-2 off")
        assert "fence confirm" not in told.remedy
        assert fences.on_demand(blocked(lab)).reason == told.reason
        await turn(20)
        assert lab.runs == [OTHER.node] and lab.facts() == [(OTHER.node, OTHER.boot_id)]

    run(scenario())
    assert "because its lease is wanted here" in lab.told[0][1]


def test_if_it_is_not_wanted_the_refusal_names_the_command_that_does_it(lab: Lab) -> None:
    lab.settings, denied = Fencing(False, AGENTS), blocked(lab)

    async def scenario() -> None:
        told = lab.fences().on_demand(denied)
        assert told.reason == denied.reason
        assert told.remedy == f"enforcer fence run node-2; or, if it is off for certain, {denied.remedy}"
        await turn(20)

    run(scenario())
    assert lab.runs == [] and lab.facts() == []


@pytest.mark.parametrize("wanted", [True, False])
@pytest.mark.parametrize("why", ["no agent", "alive", "ourselves", "one lives", "by time", "by the storage"])
def test_nobody_is_switched_off_on_demand_if_it_does_not_help(lab: Lab, why: str, wanted: bool) -> None:
    if why == "no agent":
        lab.settings = Fencing(True, {ME.node: AGENTS[ME.node]})
    elif why == "alive":
        lab.store.present[OTHER.node] = OTHER
    elif why == "ourselves":
        lab.store.records.clear()
        lab.store.hold(A, replace(ME, boot_id="boot-0"))
        lab.store.present.clear()
    elif why == "one lives":
        lab.store.present[THIRD.node] = THIRD
        lab.store.hold(A, THIRD)
        lab.settings = Fencing(True, {**AGENTS, THIRD.node: AGENTS[OTHER.node]})
    else:
        guarantee = Guarantee.CUT if why == "by time" else Guarantee.RESERVATION
        lab.store.ttl_s = 10.0
        lab.store.records[B, OTHER.node] = replace(lab.store.hold(B), guarantee=guarantee)
    lab.settings = replace(lab.settings, on_demand=wanted)
    denied = blocked(lab)

    async def scenario() -> None:
        fences = lab.fences()
        assert fences.on_demand(denied) == denied
        await turn(20)

    run(scenario())
    assert lab.runs == [] and lab.facts() == []


def test_whom_the_storage_could_preempt_and_who_is_in_the_way_still_is_switched_off(lab: Lab) -> None:
    lab.store.records[B, OTHER.node] = replace(lab.store.hold(B), guarantee=Guarantee.RESERVATION)
    lab.store.gone = frozenset({(OTHER.node, OTHER.boot_id)})

    async def scenario() -> None:
        told = await demanded(lab, lab.fences())
        assert told.reason.endswith("fence_x is switching node-2 off")

    run(scenario())
    assert lab.facts() == [(OTHER.node, OTHER.boot_id)]


@pytest.mark.parametrize("quorum", [Quorum.LOST, Quorum.UNKNOWN])
def test_who_has_no_quorum_switches_nobody_off(lab: Lab, quorum: Quorum) -> None:
    lab.quorum = quorum

    async def scenario() -> None:
        told = await demanded(lab, lab.fences(), 2)
        assert f"quorum is {quorum}" in told.reason

    run(scenario())
    assert lab.runs == []


@pytest.mark.parametrize("when", ["before it starts", "while it asks"])
@pytest.mark.parametrize("what", ["live", "released", "rebooted", "without quorum"])
def test_what_has_changed_before_the_power_goes_keeps_it_on(lab: Lab, what: str, when: str) -> None:
    def changes() -> None:
        if what == "live":
            lab.store.present[OTHER.node] = OTHER
        elif what == "released":
            lab.store.records.clear()
        elif what == "rebooted":
            lab.store.present[OTHER.node] = NEWER
        else:
            lab.quorum = Quorum.LOST

    async def scenario() -> None:
        denied = blocked(lab)
        if when == "while it asks":
            lab.meanwhile = changes
        else:
            changes()
        lab.fences().on_demand(denied)
        await turn(20)

    run(scenario())
    assert lab.runs == [] and lab.facts() == []


def test_a_promise_to_fall_silent_is_not_waited_for_where_the_store_takes_over_by_no_time(lab: Lab) -> None:
    lab.store.ttl_s, lab.store.records[B, OTHER.node] = None, replace(lab.store.hold(B), guarantee=Guarantee.CUT)
    run(demanded(lab, lab.fences()))
    assert lab.facts() == [(OTHER.node, OTHER.boot_id)]


def test_after_a_failure_it_is_tried_again_later_and_later(lab: Lab) -> None:
    lab.fails = True

    async def scenario() -> None:
        fences = lab.fences()
        told = await demanded(lab, fences, 5)
        assert told.reason.endswith("it was to be switched off, but fence_x could not switch node-2 off")
        assert told.remedy.startswith("enforcer fence run node-2; or") and "fence confirm node-2" in told.remedy
        for after_s, runs in ((29, 1), (2, 2), (59, 2), (2, 3), (119, 3), (2, 4)):
            lab.now_ns += after_s * 1_000_000_000
            await demanded(lab, fences, 3)
            assert len(lab.runs) == runs

    run(scenario())
    assert lab.facts() == []


def test_on_demand_nobody_is_taken_for_off_who_was_so_before(lab: Lab) -> None:
    lab.off_already = True

    async def scenario() -> None:
        told = await demanded(lab, lab.fences(), 3)
        assert told.reason.endswith("it was to be switched off, but fence_x says that node-2 was off already")
        assert told.remedy.startswith("enforcer fence run node-2 --was-off; or") and "fence confirm" in told.remedy

    run(scenario())
    assert lab.runs == [OTHER.node] and lab.facts() == []


def ask(court: Court, lab: Lab) -> None:
    """Let the court's judge have this fencing."""
    node: Node = court.node
    node.store = lab.store
    node.build()
    fences = lab.fences()
    made = Judge(
        ME.node, lambda: node.policy, node.devices, node.leases, "fake", node.tables, node.sysfs, fences=fences
    )
    court.real = lambda: made


def test_a_caller_who_may_not_wait_is_told_what_is_being_done(court: Court, lab: Lab) -> None:
    ask(court, lab)
    court.rules(SAN)
    verdict = court.judge(mount())[1]
    assert refuses(verdict) and verdict.reason.endswith("fence_x is switching node-2 off")


def test_a_caller_who_may_wait_gets_the_lease_when_the_node_is_off(court: Court, lab: Lab) -> None:
    ask(court, lab)
    court.rules(replace(SAN, wait_s=3.0))
    verdict = court.judge(mount())[1]
    assert verdict.effect is Effect.PERMIT and verdict.token
    assert lab.runs == [OTHER.node] and lab.facts() == [(OTHER.node, OTHER.boot_id)]


def test_for_a_rule_that_only_watches_nobody_is_switched_off(court: Court, lab: Lab) -> None:
    ask(court, lab)
    court.rules(replace(SAN, mode=RuleMode.AUDIT, wait_s=0.6))
    assert court.judge(mount())[1].effect is Effect.WOULD_REFUSE
    assert lab.runs == []
