# SPDX-License-Identifier: GPL-2.0-or-later
"""Nodes that are switched off for their leases: what counts, about which boot it counts, and when nobody is to be."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from lab_court import Court, mount, refuses
from lab_node import ME, OTHER, SAN, A, B, Node, Store, run, turn

from enforcer.cluster.conflicts import Witness, check_fence, refusal
from enforcer.cluster.fence_agent import NotOff, WasOff
from enforcer.cluster.view import NoCluster, Quorum
from enforcer.model.errors import EnforcerError, StoreUnavailable
from enforcer.model.intent import Effect
from enforcer.model.lease import Denied, Guarantee, HeldLease, Holder
from enforcer.policy.rules import RuleMode
from enforcer.settings import FenceAgent, Fencing
from enforcer.workflow import fencing as module
from enforcer.workflow.fencing import Fences
from enforcer.workflow.judge import Judge

NEWER = Holder(OTHER.node, "boot-10", "session-10")
THIRD = Holder("node-3", "boot-3", "session-3")
AGENTS = {OTHER.node: FenceAgent("/usr/sbin/fence_x", {"plug": "2"}), ME.node: FenceAgent("/usr/sbin/fence_x")}


class FencedStore(Store):
    """One that keeps fencing facts, and lets them count."""

    def __init__(self) -> None:
        super().__init__()
        self.unable: EnforcerError | None = None
        self.gone: frozenset[tuple[str, str]] = frozenset()  # for so long that time or the storage may help

    def witness(self) -> Witness:
        return Witness(self.present, frozenset(self.fenced), self.gone)

    def _held(self, lun: str | None = None) -> list[HeldLease]:
        leases = [lease for lease in self.records.values() if lun in (None, lease.resource.lun)]
        return [HeldLease(lease, self.witness().liveness(lease.holder, lease.guarantee)) for lease in leases]

    async def fence_confirm(self, node: str, boot_id: str, by: str, *, force: bool = False) -> None:
        assert not force, "a fact is never forced"
        if self.unable:
            raise self.unable
        holders = [lease.holder for lease in self.records.values()]
        check_fence(self.witness(), holders, ME, node, boot_id, force=force)
        self.fenced[node, boot_id] = by


class View(NoCluster):
    def __init__(self, quorum: Quorum) -> None:
        self.has = quorum

    async def quorum(self) -> Quorum:
        return self.has


@dataclass
class Lab:
    """This node, one that is gone and has left a lease, and an agent that does what the test says."""

    store: FencedStore = field(default_factory=FencedStore)
    settings: Fencing = field(default_factory=lambda: Fencing(True, AGENTS))
    quorum: Quorum = Quorum.NONE
    runs: list[str] = field(default_factory=list)
    told: list[tuple[str, str]] = field(default_factory=list)
    during: Callable[[], Coroutine[Any, Any, None]] | None = None
    fails: bool = False
    off_already: bool = False
    now_ns: int = 0

    def __post_init__(self) -> None:
        self.store.hold(B)
        self.gone()

    def gone(self) -> None:
        self.store.present.pop(OTHER.node, None)

    def fences(self) -> Fences:
        view = View(self.quorum)
        return Fences(
            self.settings, self.store, view, ME, self.notice, off=self.off, now_ns=lambda: self.now_ns
        )  # fmt: skip

    def notice(self, kind: str, sentence: str, facts: Mapping[str, object]) -> None:
        self.told.append((kind, sentence))

    async def off(self, agent: FenceAgent, node: str, was_off: bool) -> bool:
        assert agent is AGENTS[OTHER.node]
        self.runs.append(node)
        if self.during:
            await self.during()
        if self.fails:
            raise NotOff("fence_x could not switch node-2 off")
        if self.off_already and not was_off:
            raise WasOff("fence_x says that node-2 was off already")
        went_off, self.off_already = not self.off_already, True
        return went_off

    def facts(self) -> list[tuple[str, str]]:
        return sorted(self.store.fenced)


@pytest.fixture
def lab(monkeypatch: pytest.MonkeyPatch) -> Lab:
    monkeypatch.setattr(module, "AGAIN_S", 0.01)
    monkeypatch.setattr(module, "SLACK_S", 0.0)
    return Lab()


def fence(lab: Lab, node: str = OTHER.node, *, alive: bool = False, was_off: bool = False) -> Any:
    return run(lab.fences().run(node, alive=alive, was_off=was_off, asked_by="root says"))


def not_fenced(lab: Lab, node: str = OTHER.node, **more: Any) -> EnforcerError:
    with pytest.raises(EnforcerError) as caught:
        fence(lab, node, **more)
    assert lab.facts() == []
    return caught.value


def test_who_was_switched_off_is_fenced_and_its_leases_are_told(lab: Lab) -> None:
    fenced = fence(lab)
    assert (fenced.boot_ids, fenced.resources, fenced.agent) == ((OTHER.boot_id,), (str(B),), "fence_x")
    assert lab.store.fenced == {(OTHER.node, OTHER.boot_id): "fence_x on node-1"}
    assert [kind for kind, _ in lab.told] == ["fence-run", "fence-confirm"]


def test_an_agent_that_did_not_prove_it_leaves_no_fact(lab: Lab) -> None:
    lab.fails = True
    assert "could not switch node-2 off" in str(not_fenced(lab))
    assert [kind for kind, _ in lab.told] == ["fence-run", "fence-failed"]


def test_who_was_off_already_is_fenced_only_on_an_administrators_word_and_that_is_told(lab: Lab) -> None:
    lab.off_already = True
    assert isinstance(not_fenced(lab), WasOff)
    lab.told.clear()
    assert fence(lab, was_off=True).was_off
    assert lab.store.fenced == {
        (OTHER.node, OTHER.boot_id): "fence_x on node-1, off already: an administrator answers for it"
    }
    (_, begun), (_, done) = lab.told
    assert "root says, who answers for it if it was off already" in begun
    assert done.startswith("fence_x says that node-2 was off, and root says that it is: boot ")


@pytest.mark.parametrize(
    ("failed", "again"),
    [(StoreUnavailable("no answer"), True), (EnforcerError("node-2 is live: it renews its session"), False)],
)
@pytest.mark.parametrize("alive", [False, True])
def test_what_it_saw_going_off_is_recorded_later_unless_that_was_another_machine(
    lab: Lab, failed: EnforcerError, again: bool, alive: bool
) -> None:
    """Of a node that lived then, a session that ends later may be the end of another one than that of its power."""
    lab.store.unable = failed
    if alive:
        lab.store.present[OTHER.node] = OTHER

    async def scenario() -> None:
        fences = lab.fences()
        with pytest.raises(EnforcerError, match="is not recorded"):
            await fences.run(OTHER.node, alive=alive, asked_by="")
        lab.store.unable = None
        lab.gone()
        with contextlib.nullcontext() if again and not alive else pytest.raises(WasOff):
            assert not (await fences.run(OTHER.node, asked_by="")).was_off

    run(scenario())
    assert lab.runs == [OTHER.node] * 2 and bool(lab.facts()) == (again and not alive)


def test_a_boot_that_appears_while_the_agent_runs_is_not_covered(lab: Lab) -> None:
    """Its power came back by itself, say, before the fact was recorded."""

    async def back() -> None:
        lab.store.hold(A, NEWER)

    lab.during = back
    assert fence(lab).boot_ids == (OTHER.boot_id,)
    assert lab.facts() == [(OTHER.node, OTHER.boot_id)]


def test_what_cannot_be_fenced_starts_no_agent(lab: Lab) -> None:
    assert "does not switch itself off" in str(not_fenced(lab, ME.node))
    lab.store.hold(A, THIRD)
    without = not_fenced(lab, THIRD.node)
    assert "has no fence agent" in str(without) and "[fencing.node-3]" in without.hint
    lab.store.records.clear()
    assert "holds no lease" in str(not_fenced(lab))
    lab.store.out_of_reach = True
    assert isinstance(not_fenced(lab), StoreUnavailable)
    assert lab.runs == [] and lab.told == []


def test_the_living_are_switched_off_only_by_name(lab: Lab) -> None:
    lab.store.present[OTHER.node] = OTHER
    assert "--alive" in not_fenced(lab).hint
    assert lab.runs == []

    async def ends() -> None:
        asyncio.get_running_loop().call_later(0.03, lab.gone)

    lab.during = ends
    assert fence(lab, alive=True).boot_ids == (OTHER.boot_id,)


def test_who_renews_after_its_agent_called_it_off_is_not_fenced(lab: Lab) -> None:
    """Another machine was switched off."""
    lab.store.present[OTHER.node] = OTHER
    error = not_fenced(lab, alive=True)
    assert "is not recorded" in str(error) and "it renews its session" in str(error) and "plug" in error.hint
    assert lab.runs == [OTHER.node]


def test_a_store_that_is_away_for_a_moment_loses_no_fact(lab: Lab) -> None:
    async def away() -> None:
        lab.store.unable = StoreUnavailable("no answer")
        asyncio.get_running_loop().call_later(0.03, setattr, lab.store, "unable", None)

    lab.during = away
    fence(lab)
    assert lab.facts() == [(OTHER.node, OTHER.boot_id)]


def test_a_fact_is_tried_until_the_store_calls_the_node_gone(lab: Lab) -> None:
    lab.store.gone_after_s = 30.0
    lab.store.present[OTHER.node] = OTHER

    async def ends() -> None:
        asyncio.get_running_loop().call_later(0.5, lab.gone)

    lab.during = ends
    with contextlib.suppress(EnforcerError):
        fence(lab, alive=True)
    assert lab.facts() == [(OTHER.node, OTHER.boot_id)]


def test_all_who_ask_at_once_get_the_outcome_of_one_run(lab: Lab) -> None:
    async def scenario() -> None:
        fences, go = lab.fences(), asyncio.Event()
        lab.during = go.wait  # type: ignore[assignment]
        asked = [asyncio.create_task(fences.run(OTHER.node, asked_by="")) for _ in range(3)]
        await turn()
        asked[0].cancel()  # its caller went away
        lab.store.records[A, OTHER.node] = replace(lab.store.hold(A, NEWER), resource=A)
        with pytest.raises(EnforcerError, match="an earlier boot of node-2 is being fenced"):
            await fences.run(OTHER.node, asked_by="")
        go.set()
        assert {fenced.boot_ids for fenced in await asyncio.gather(*asked[1:])} == {(OTHER.boot_id,)}

    run(scenario())
    assert lab.runs == [OTHER.node] and lab.facts() == [(OTHER.node, OTHER.boot_id)]


def test_an_agent_that_is_cut_short_leaves_no_fact_and_that_is_told(lab: Lab) -> None:
    async def scenario() -> None:
        fences = lab.fences()
        lab.during = asyncio.Event().wait  # type: ignore[assignment]
        asked = asyncio.create_task(fences.run(OTHER.node, asked_by=""))
        await turn()
        await fences.close()
        with pytest.raises(asyncio.CancelledError):
            await asked

    run(scenario())
    assert lab.runs == [OTHER.node] and lab.facts() == []
    assert [kind for kind, _ in lab.told] == ["fence-run", "fence-failed"] and "may be off" in lab.told[1][1]


def test_an_end_that_takes_too_long_is_not_waited_for(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CLOSE_S", 0.1)

    async def lasts() -> None:
        with contextlib.suppress(asyncio.CancelledError):
            await go.wait()
        await go.wait()

    async def scenario() -> None:
        fences = lab.fences()
        lab.during = lasts
        fences.on_demand(blocked(lab))
        await turn(20)
        asyncio.get_running_loop().call_later(3, go.set)
        await fences.close()
        assert not go.is_set()
        go.set()

    go = asyncio.Event()
    run(scenario())
    assert lab.runs == [OTHER.node]


# -- on demand -------------------------------------------------------------------------------------------------------


def blocked(lab: Lab) -> Denied:
    return refusal(tuple(lab.store._held()))


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


@pytest.mark.parametrize(
    "why", ["not wanted", "no agent", "alive", "ourselves", "one lives", "by time", "by the storage"]
)
def test_nobody_is_switched_off_on_demand_if_it_is_not_wanted_or_does_not_help(lab: Lab, why: str) -> None:
    if why == "not wanted":
        lab.settings = Fencing(False, AGENTS)
    elif why == "no agent":
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
        lab.store.records[B, OTHER.node] = replace(lab.store.hold(B), guarantee=guarantee)
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


def test_who_is_back_when_the_agent_would_start_is_left_alone(lab: Lab) -> None:
    async def scenario() -> None:
        fences, denied = lab.fences(), blocked(lab)
        lab.store.present[OTHER.node] = OTHER
        fences.on_demand(denied)
        await turn(20)

    run(scenario())
    assert lab.runs == []


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


# -- as a caller sees it ---------------------------------------------------------------------------------------------


def judge(court: Court, lab: Lab) -> Judge:
    node: Node = court.node
    node.store = lab.store
    node.build()
    fences = lab.fences()
    return Judge(
        ME.node, lambda: node.policy, node.devices, node.leases, "fake", node.tables, node.sysfs, fences=fences
    )


def test_a_caller_who_may_not_wait_is_told_what_is_being_done(court: Court, lab: Lab) -> None:
    made = judge(court, lab)
    court.real = lambda: made  # type: ignore[method-assign]
    court.rules(SAN)
    verdict = court.judge(mount())[1]
    assert refuses(verdict) and verdict.reason.endswith("fence_x is switching node-2 off")


def test_a_caller_who_may_wait_gets_the_lease_when_the_node_is_off(court: Court, lab: Lab) -> None:
    made = judge(court, lab)
    court.real = lambda: made  # type: ignore[method-assign]
    court.rules(replace(SAN, wait_s=3.0))
    verdict = court.judge(mount())[1]
    assert verdict.effect is Effect.PERMIT and verdict.token
    assert lab.runs == [OTHER.node] and lab.facts() == [(OTHER.node, OTHER.boot_id)]


def test_for_a_rule_that_only_watches_nobody_is_switched_off(court: Court, lab: Lab) -> None:
    made = judge(court, lab)
    court.real = lambda: made  # type: ignore[method-assign]
    court.rules(replace(SAN, mode=RuleMode.AUDIT, wait_s=0.6))
    assert court.judge(mount())[1].effect is Effect.WOULD_REFUSE
    assert lab.runs == []
