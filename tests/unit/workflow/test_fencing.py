# SPDX-License-Identifier: GPL-2.0-or-later
"""Nodes that are switched off for their leases: what counts, and about which boot it counts."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import replace
from typing import Any

import pytest
from lab_fencing import NEWER, THIRD, Lab, blocked, make_lab
from lab_node import ME, OTHER, A, B, run, turn

from enforcer.cluster.fence_agent import WasOff
from enforcer.model.errors import EnforcerError, StoreUnavailable
from enforcer.workflow import fencing as module


@pytest.fixture
def lab(monkeypatch: pytest.MonkeyPatch) -> Lab:
    return make_lab(monkeypatch)


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
    assert bool(lab.facts()) == (again and not alive)
    assert len(lab.runs) == (1 if lab.facts() else 2), "the agent would find what was switched on since"


@pytest.mark.parametrize("why", ["it renewed meanwhile", "long ago"])
def test_what_it_saw_going_off_counts_no_more(lab: Lab, why: str) -> None:
    """It had another machine's plug, perhaps."""

    async def scenario() -> None:
        fences, lab.store.unable = lab.fences(), StoreUnavailable("no answer")
        with pytest.raises(EnforcerError, match="is not recorded"):
            await fences.run(OTHER.node, asked_by="")
        lab.store.unable = None
        if why == "long ago":
            lab.now_ns += module.SEEN_NS + 1
        else:
            lab.store.present[OTHER.node] = OTHER
            with pytest.raises(EnforcerError, match="is live"):
                await fences.run(OTHER.node, asked_by="")
            lab.gone()
        with pytest.raises(WasOff):
            await fences.run(OTHER.node, asked_by="")

    run(scenario())
    assert lab.facts() == []


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
        lab.during = go.wait
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
        lab.during = asyncio.Event().wait
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
