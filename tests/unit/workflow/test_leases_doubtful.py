# SPDX-License-Identifier: GPL-2.0-or-later
"""Answers of the store that never came, came late, or say that a lease is not ours: never LIVE by guessing."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import replace

import pytest
from lab_node import A1, CANNOT_TELL, DISK, ME, PART, PART2, SECOND, B, Node, run

from enforcer.kernel.abi import State
from enforcer.model.errors import StoreUnavailable
from enforcer.model.lease import Denied, Guarantee, Lease, Standing


def test_a_release_without_an_answer_stays_closing(node: Node) -> None:
    async def scenario() -> None:
        await node.hold(node.there[SECOND])
        node.store.loses["release"] = 1
        await node.leases.release_unused()
        assert node.store.ours() == {} and node.state(SECOND) is State.CLOSING
        node.store.hold(B)  # another node's by now
        assert (await node.refused(node.there[SECOND])).standing is Standing.ELSEWHERE
        assert node.store.calls == ["acquire", "release", "acquire"]
        assert node.state(SECOND) in (State.CLOSING, State.ELSEWHERE)

    run(scenario())


def test_a_release_without_an_answer_is_tried_again(node: Node) -> None:
    async def scenario() -> None:
        await node.hold(node.there[SECOND])
        node.store.loses["release"] = 1
        await node.leases.release_unused()
        await node.leases.release_unused()
        assert node.held() == {} and node.state(SECOND) is State.FREE

    run(scenario())


def test_what_could_not_be_reserved_again_is_asked_about_again(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    """Given up half: the store has the same lease for the next mount, and the storage says no to that one."""

    async def give_up(_lease: Lease) -> None:
        raise TimeoutError

    async def take(_leases: Iterable[Lease], *, counted: int) -> Denied | None:
        return answers.pop()

    async def scenario() -> None:
        monkeypatch.setattr(node.leases._reservations, "take", take)
        monkeypatch.setattr(node.leases._reservations, "give_up", give_up)
        node.store.records[B, ME.node] = replace(node.store.hold(B, ME), guarantee=Guarantee.RESERVATION)
        token = (await node.hold(node.there[SECOND])).token
        await node.leases.release_unused()
        assert node.store.ours() == {B: token} and node.state(SECOND) is State.CLOSING
        for _ in range(2):
            assert await node.refused(node.there[SECOND]) is denied
            await node.leases.refresh()
            assert node.state(SECOND) is not State.LIVE
        assert (await node.take(node.there[SECOND])).token == token and node.state(SECOND) is State.LIVE

    denied = Denied(Standing.UNKNOWN, "no answer")
    answers = [None, denied, denied, None]
    run(scenario())


def test_a_release_that_is_cut_short_stays_closing(node: Node) -> None:
    async def scenario() -> None:
        await node.hold(node.there[SECOND])
        arrived = asyncio.Event()

        async def hang(call: str) -> None:
            if call == "release done":
                arrived.set()
                await asyncio.sleep(60)

        node.store.during = hang
        releasing = asyncio.create_task(node.leases.release_unused())
        await arrived.wait()
        releasing.cancel()
        await asyncio.gather(releasing, return_exceptions=True)
        node.store.during = None
        assert node.store.ours() == {} and node.state(SECOND) is State.CLOSING
        granted = await node.take(node.there[SECOND])  # by the store, with another token
        assert node.store.ours() == {B: granted.token} and node.state(SECOND) is State.LIVE

    run(scenario())


@pytest.mark.parametrize("answer", [True, CANNOT_TELL])
def test_doubt_does_not_lead_back_to_live_once_the_store_was_told(node: Node, answer: bool | None) -> None:
    """udev has it open for a moment while the release is tried again: it may be another node's all the same."""

    async def scenario() -> None:
        await node.hold(node.there[SECOND])
        node.store.loses["release"] = 1
        await node.leases.release_unused()
        node.store.hold(B)
        node.claimed[SECOND] = answer
        await node.leases.release_unused()
        assert node.state(SECOND) is not State.LIVE
        assert (await node.refused(node.there[SECOND])).standing is Standing.ELSEWHERE

    run(scenario())


def test_a_lease_that_the_store_does_not_know_is_closing(node: Node) -> None:
    async def scenario() -> None:
        await node.hold(node.there[SECOND])
        node.count(SECOND, uses=1)
        node.store.records.clear()
        await node.leases.refresh()
        assert node.state(SECOND) is State.CLOSING
        granted = await node.take(node.there[SECOND])
        assert node.store.ours() == {B: granted.token} and node.state(SECOND) is State.LIVE

    run(scenario())


def test_a_lease_that_the_store_does_not_know_does_not_come_alive(node: Node) -> None:
    async def scenario() -> None:
        await node.hold(node.there[SECOND])
        node.store.records.clear()
        await node.leases.refresh()
        node.store.hold(B)
        node.claimed[SECOND] = True
        await node.leases.release_unused()
        assert node.state(SECOND) is not State.LIVE

    run(scenario())


def test_a_late_grant_is_picked_up_and_given_back(node: Node) -> None:
    async def scenario() -> None:
        node.store.loses["acquire"] = 1
        assert (await node.refused(node.there[SECOND])).standing is Standing.UNKNOWN
        assert node.held() == {} and node.store.ours()
        await node.leases.refresh()
        assert set(node.held()) == {B}
        await node.leases.release_unused()
        assert node.store.ours() == {} and node.held() == {}

    run(scenario())


def test_the_token_of_the_store_is_the_right_one(node: Node) -> None:
    async def scenario() -> None:
        await node.hold(node.there[SECOND])
        lease = node.store.hold(B, ME)  # written anew by a grant whose answer was lost
        await node.leases.refresh()
        assert node.held() == {B: (lease.token, "live")} and node.entry(SECOND).token == lease.token

    run(scenario())


def test_what_changes_while_the_store_is_read_is_no_loss(node: Node) -> None:
    """The first read is from before the grant; the second, with the LUN's lock held, is what counts."""

    async def scenario() -> None:
        async def grant_meanwhile(call: str) -> None:
            if call == "leases done":
                node.store.during = None
                await node.take(node.there[SECOND])

        node.store.during = grant_meanwhile
        await node.leases.refresh()
        assert node.state(SECOND) is State.LIVE

    run(scenario())


def test_what_others_hold_is_in_the_table(node: Node) -> None:
    async def scenario() -> None:
        node.store.hold(A1)
        everything = await node.leases.refresh()
        assert [held.lease.resource for held in everything] == [A1]
        assert [node.state(dev) for dev in (DISK, PART, PART2)] == [State.ELSEWHERE, State.ELSEWHERE, State.FREE]
        node.store.records.clear()
        await node.leases.refresh()
        assert node.state(PART) is State.FREE

    run(scenario())


def test_a_read_that_fails_changes_nothing(node: Node) -> None:
    async def scenario() -> None:
        await node.hold(node.there[SECOND])
        node.store.out_of_reach = True
        with pytest.raises(StoreUnavailable):
            await node.leases.refresh()
        assert node.state(SECOND) is State.LIVE

    run(scenario())


def test_a_store_that_gives_a_lower_token_than_before_is_not_believed(node: Node) -> None:
    """It was restored from a copy, or made anew: what it granted since then it does not know any more."""

    async def scenario() -> None:
        first = await node.hold(node.there[SECOND])
        await node.leases.release_unused()
        node.store.token = 50
        denied = await node.refused(node.there[SECOND])
        assert denied.standing is Standing.UNKNOWN and "a higher one" in denied.reason and first.token > 51
        assert node.store.ours() and node.state(SECOND) is not State.LIVE
        await node.leases.release_unused()
        assert node.store.ours() == {} and node.state(SECOND) is State.FREE

    run(scenario())
