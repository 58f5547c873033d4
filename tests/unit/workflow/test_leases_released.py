# SPDX-License-Identifier: GPL-2.0-or-later
"""A lease outlives the use: it goes by way of CLOSING, and any doubt keeps it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from lab_node import A1, CANNOT_TELL, DISK, PART, PART2, SECOND, A, B, Node, run, turn

from enforcer.kernel.abi import State
from enforcer.model.lease import Granted
from enforcer.workflow.leases import PERMIT_NS


def test_what_is_unused_goes_by_way_of_closing(node: Node) -> None:
    async def scenario() -> None:
        await node.hold(node.there[SECOND])
        at_release: list[State] = []

        async def look(call: str) -> None:
            if call == "release":
                at_release.append(node.state(SECOND))

        node.store.during = look
        await node.leases.release_unused()
        assert node.probed == [(SECOND, State.CLOSING)] and at_release == [State.CLOSING]
        assert node.store.ours() == {} and node.held() == {} and node.state(SECOND) is State.FREE

    run(scenario())


@pytest.mark.parametrize("counts", [{"uses": 1}, {"inflight": 1}, {"uses": 1, "inflight": 1}])
def test_nothing_in_use_is_given_back(node: Node, counts: dict[str, int]) -> None:
    async def scenario() -> None:
        await node.hold(node.there[SECOND])
        node.count(SECOND, **counts)
        node.openers[SECOND] = 1
        for _ in range(3):
            await node.leases.release_unused()
            node.pass_s(100)
        assert node.store.calls == ["acquire"] and node.state(SECOND) is State.LIVE
        node.count(SECOND)
        await node.leases.release_unused()
        assert node.store.ours() == {}

    run(scenario())


def test_a_use_of_a_part_keeps_the_lease_of_the_whole(node: Node) -> None:
    async def scenario() -> None:
        await node.hold(node.there[DISK])
        node.count(PART2, uses=1)
        await node.leases.release_unused()
        assert node.store.ours() and node.state(PART2) is State.LIVE

    run(scenario())


def test_a_permit_keeps_the_lease_until_it_is_over_or_forgotten(node: Node) -> None:
    async def scenario() -> None:
        await node.take(node.there[SECOND], 1)
        await node.take(node.there[SECOND], 2)
        node.leases.permit_over(1)
        await node.leases.release_unused()
        assert node.state(SECOND) is State.LIVE and node.store.ours()
        node.pass_s(PERMIT_NS / 1e9 - 1)
        await node.leases.release_unused()
        assert node.state(SECOND) is State.LIVE and node.store.ours()
        node.pass_s(2)
        await node.leases.release_unused()
        assert node.store.ours() == {}

    run(scenario())


@pytest.mark.parametrize("answer", [True, CANNOT_TELL])
def test_what_does_not_let_itself_be_opened_is_kept(node: Node, answer: bool | None) -> None:
    async def scenario() -> None:
        await node.hold(node.there[SECOND])
        node.claimed[SECOND] = answer
        await node.leases.release_unused()
        assert node.store.calls == ["acquire"] and node.state(SECOND) is State.LIVE
        (node.sysfs / f"sys/dev/block/{SECOND}").rmdir()  # unless it is gone
        await node.leases.release_unused()
        assert node.store.ours() == {}

    run(scenario())


def test_an_open_that_slipped_in_before_closing_is_seen(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        await node.hold(node.there[SECOND])
        publish = node.leases._publish

        def slip_in() -> None:
            publish()
            if node.state(SECOND) is State.CLOSING:
                node.count(SECOND, uses=1)

        monkeypatch.setattr(node.leases, "_publish", slip_in)
        await node.leases.release_unused()
        assert node.store.calls == ["acquire"] and node.state(SECOND) is State.LIVE

    run(scenario())


def test_who_asks_while_it_is_given_back_goes_to_the_store(node: Node) -> None:
    async def scenario() -> None:
        first = await node.hold(node.there[SECOND])
        arrived, go_on = asyncio.Event(), asyncio.Event()

        async def wait(call: str) -> None:
            if call == "release":
                arrived.set()
                await go_on.wait()

        node.store.during = wait
        releasing = asyncio.create_task(node.leases.release_unused())
        await arrived.wait()
        asked = asyncio.create_task(node.leases.acquire(node.there[SECOND], 2, {}, budget_s=5))
        await turn()
        assert not asked.done() and node.state(SECOND) is State.CLOSING
        go_on.set()
        await releasing
        granted = await asked
        assert isinstance(granted, Granted) and granted.token > first.token
        assert node.state(SECOND) is State.LIVE and node.store.ours() == {B: granted.token}

    run(scenario())


def test_a_permit_that_comes_while_the_release_waits_is_not_disturbed(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The permitted caller is on its way to the device: CLOSING, even for a moment, would refuse it."""

    async def scenario() -> None:
        await node.hold(node.there[SECOND])
        closing: list[State] = []
        publish = node.leases._publish

        def note() -> None:
            publish()
            closing.append(node.state(SECOND))

        async with node.leases._turns.of(frozenset({B})):
            releasing = asyncio.create_task(node.leases.release_unused())
            await turn()
            asked = asyncio.create_task(node.leases.acquire(node.there[SECOND], 2, {}, budget_s=5))
            await turn()
            monkeypatch.setattr(node.leases, "_publish", note)
        await asyncio.gather(asked, releasing)
        assert State.CLOSING not in closing and node.state(SECOND) is State.LIVE and node.store.calls == ["acquire"]

    run(scenario())


def test_a_whole_disk_goes_although_a_part_is_claimed(node: Node) -> None:
    """What mkpart leaves behind: a lease of the disk, and a mounted partition with a lease of its own."""

    async def scenario() -> None:
        await node.take(node.there[PART])
        await node.take(node.there[DISK])
        node.leases.permit_over(1)
        node.count(PART, uses=1)
        node.claimed.update({DISK: True, PART: True})
        await node.leases.release_unused()
        assert set(node.store.ours()) == {A1} and node.state(PART) is State.LIVE
        assert node.state(DISK) is State.FREE

    run(scenario())


def test_a_whole_disk_stays_if_the_part_hangs_on_its_lease(node: Node) -> None:
    async def scenario() -> None:
        await node.hold(node.there[DISK])
        node.claimed.update({DISK: True, PART: True})
        await node.leases.release_unused()
        assert set(node.store.ours()) == {A}

    run(scenario())


def test_the_loop_gives_back_and_survives(node: Node) -> None:
    async def scenario() -> None:
        await node.take(node.there[SECOND])
        await node.take(node.there[PART], 2)
        node.store.during = _fail_once()
        loop = asyncio.create_task(node.leases.run())
        node.leases.permit_over(1)
        node.leases.permit_over(2)
        for _ in range(100):
            await asyncio.sleep(0.01)
            node.leases.wake()
            if not node.store.ours():
                break
        assert not loop.done() and node.store.ours() == {}
        loop.cancel()

    run(scenario())


def _fail_once() -> Callable[[str], Awaitable[None]]:
    failed: list[str] = []

    async def fail(call: str) -> None:
        if call == "release" and not failed:
            failed.append(call)
            raise RuntimeError("a mistake")

    return fail


def test_what_was_written_has_arrived_before_the_lease_goes(node: Node) -> None:
    """The kernel writes back at the close only if nobody else has the device open, not even for reading."""

    async def scenario() -> None:
        await node.hold(node.there[SECOND])
        node.dropped.clear()
        at_release: list[int] = []

        async def look(call: str) -> None:
            if call == "release":
                at_release.append(len(node.dropped))

        node.store.during = look
        await node.leases.release_unused()
        assert at_release == [1] and node.dropped == [(SECOND, State.CLOSING)]

    run(scenario())


@pytest.mark.parametrize("trouble", [OSError(5, "Input/output error"), FileNotFoundError(2, "the node changed")])
def test_what_cannot_be_written_back_keeps_its_lease(node: Node, trouble: Exception) -> None:
    async def scenario() -> None:
        await node.hold(node.there[SECOND])
        node.undroppable[SECOND] = trouble
        await node.leases.release_unused()
        assert node.store.ours() and node.state(SECOND) is State.LIVE

    run(scenario())
