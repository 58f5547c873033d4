# SPDX-License-Identifier: GPL-2.0-or-later
"""A lease is taken whole or not at all, and only what is live in the store and for this session permits."""

from __future__ import annotations

import asyncio

import pytest
from lab_node import A1, BOTH, DISK, OTHER, PART, PART2, SECOND, A, B, Node, run

from enforcer.kernel.abi import State
from enforcer.model.lease import Denied, Granted, Standing


def test_a_grant_is_in_the_guard_table(node: Node) -> None:
    async def scenario() -> None:
        assert node.state(SECOND) is State.FREE
        granted = await node.take(node.there[SECOND])
        assert node.state(SECOND) is State.LIVE and node.entry(SECOND).token == granted.token == node.store.ours()[B]
        assert node.state(DISK) is node.state(PART) is State.FREE

    run(scenario())


def test_the_table_is_not_open_before_the_caches_are_gone(node: Node) -> None:
    async def scenario() -> None:
        await node.take(node.there[SECOND])
        assert node.dropped == [(SECOND, State.FREE)]

    run(scenario())


def test_all_or_nothing(node: Node) -> None:
    async def scenario() -> None:
        node.add(BOTH)
        node.store.hold(B)
        denied = await node.refused(BOTH)
        assert denied.standing is Standing.ELSEWHERE and denied.blocking[0].lease.holder == OTHER
        assert node.held() == {} and node.store.ours() == {}
        assert node.state(PART) is State.FREE and node.state(BOTH.dev) is State.ELSEWHERE
        assert node.state(SECOND) is State.ELSEWHERE  # what the refusal told is in the table at once

    run(scenario())


def test_a_set_is_one_question_and_one_token(node: Node) -> None:
    async def scenario() -> None:
        node.add(BOTH)
        granted = await node.take(BOTH)
        assert node.store.calls == ["acquire"]
        assert node.held() == {A1: (granted.token, "live"), B: (granted.token, "live")}
        assert [node.state(dev) for dev in (PART, SECOND, BOTH.dev)] == [State.LIVE] * 3
        assert node.state(DISK) is node.state(PART2) is State.FREE

    run(scenario())


def test_what_is_held_is_not_asked_for_again(node: Node) -> None:
    async def scenario() -> None:
        first = await node.take(node.there[DISK])
        node.store.out_of_reach = True
        assert (await node.take(node.there[DISK], 2)).token == first.token
        assert (await node.take(node.there[PART], 3)).leases[0].resource == A  # the whole covers its part
        assert node.store.calls == ["acquire"]

    run(scenario())


def test_the_whole_is_more_than_its_part(node: Node) -> None:
    async def scenario() -> None:
        await node.take(node.there[PART])
        await node.take(node.there[DISK])
        assert node.store.calls == ["acquire"] * 2 and set(node.held()) == {A, A1}

    run(scenario())


def test_tokens_follow_the_grant(node: Node) -> None:
    async def scenario() -> None:
        node.add(BOTH)
        first = await node.hold(node.there[SECOND])
        second = await node.hold(BOTH)  # the kept one is written anew under the token of the set
        assert second.token > first.token and node.held()[B] == (second.token, "live")
        assert node.entry(SECOND).token == second.token
        await node.leases.release_unused()
        assert node.store.ours() == {} and node.held() == {}

    run(scenario())


def test_a_store_that_is_silent_denies(node: Node) -> None:
    async def scenario() -> None:
        node.store.out_of_reach = True
        denied = await node.refused(node.there[SECOND])
        assert denied.standing is Standing.UNKNOWN and node.state(SECOND) is State.FREE

    run(scenario())


@pytest.mark.parametrize("ago_s", [0, 5])
def test_without_a_live_session_nothing_is_permitted(node: Node, ago_s: int) -> None:
    async def scenario() -> None:
        node.session_until_ns = node.now() - ago_s * 10**9
        denied = await node.refused(node.there[SECOND])
        assert denied.standing is Standing.UNKNOWN and "keeper" in denied.reason
        assert node.state(SECOND) is State.FREE
        await node.leases.release_unused()  # it was granted, and nobody uses it
        assert node.store.ours() == {} and node.held() == {}

    run(scenario())


def test_what_is_held_is_not_permitted_without_a_session(node: Node) -> None:
    async def scenario() -> None:
        node.session_until_ns = node.now() + 10**12
        await node.hold(node.there[SECOND])
        node.session_until_ns = 0
        assert (await node.refused(node.there[SECOND])).standing is Standing.UNKNOWN
        assert node.store.calls == ["acquire"] * 2

    run(scenario())


def test_a_session_that_begins_in_time_is_waited_for(node: Node) -> None:
    async def scenario() -> None:
        node.session_until_ns = 0
        asked = asyncio.create_task(node.leases.acquire(node.there[SECOND], 1, {}, budget_s=5))
        await asyncio.sleep(0.02)
        assert node.state(SECOND) is State.FREE
        node.session_until_ns = node.now() + 10**12
        assert isinstance(await asked, Granted) and node.state(SECOND) is State.LIVE

    run(scenario())


def test_covered_means_all_of_it(node: Node) -> None:
    async def scenario() -> None:
        node.add(BOTH)
        await node.take(node.there[SECOND])
        assert node.leases.covered(node.there[SECOND]) and not node.leases.covered(BOTH)
        await node.take(node.there[DISK])
        assert node.leases.covered(BOTH)

    run(scenario())


def test_who_waited_for_its_turn_while_the_store_was_silent_is_denied_in_time_for_the_same_reason(node: Node) -> None:
    async def patience(call: str) -> None:
        if call == "acquire":
            await asyncio.sleep(0.01)  # the other one comes
            node.pass_s(9.5)

    async def scenario() -> None:
        node.store.out_of_reach, node.store.during = True, patience
        both = [node.leases.acquire(node.there[SECOND], intent, {}, budget_s=10.0) for intent in (1, 2)]
        first, second = await asyncio.gather(*both)
        assert first == second == Denied(Standing.UNKNOWN, "the lease store did not answer")
        assert node.store.calls == ["acquire"]
        node.store.out_of_reach, node.store.during = False, None
        await node.take(node.there[SECOND])

    run(scenario())
