# SPDX-License-Identifier: GPL-2.0-or-later
"""Counts that nobody ends are written off, uses that nobody counted are found, and neither by mistake."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import pytest
from lab_node import ME, PART, SECOND, B, Node, run

from enforcer.kernel.abi import State
from enforcer.model.lease import Denied, Lease
from enforcer.model.resource import DevNum, ResourceId
from enforcer.storage import usage
from enforcer.storage.usage import Usage, Writer


def test_a_leaked_count_is_written_off(node: Node) -> None:
    async def scenario() -> None:
        await node.hold(node.there[SECOND])
        node.count(SECOND, inflight=1)
        await node.leases.release_unused()
        assert node.store.ours() == {} and node.looks == 2  # before CLOSING, and once more after
        await node.hold(node.there[SECOND])
        node.count(SECOND, inflight=2)  # one more than was written off: somebody is on the way
        node.opening(SECOND)
        node.pass_s(10)
        await node.leases.release_unused()
        assert node.store.ours() and node.state(SECOND) is State.LIVE

    run(scenario())


def test_a_count_is_not_written_off_while_somebody_opens(node: Node) -> None:
    async def scenario() -> None:
        await node.hold(node.there[SECOND])
        node.count(SECOND, inflight=1)
        node.opening(PART, SECOND)
        await node.leases.release_unused()
        assert node.store.ours() and node.state(SECOND) is State.LIVE and node.looks == 0
        node.opening(PART)
        await node.leases.release_unused()
        assert node.store.ours() == {}

    run(scenario())


def test_a_count_is_not_written_off_while_somebody_uses_it(node: Node) -> None:
    async def scenario() -> None:
        await node.hold(node.there[SECOND])
        node.count(SECOND, inflight=1)
        node.openers[SECOND] = 1  # an export without a holder: in no mount table and no exclusive open
        await node.leases.release_unused()
        assert node.looks == 1 and node.store.ours() and node.state(SECOND) is State.LIVE
        await node.leases.release_unused()
        assert node.looks == 1  # not at every wake
        node.pass_s(4)
        node.openers.clear()
        await node.leases.release_unused()
        assert node.store.ours() == {}

    run(scenario())


@pytest.mark.parametrize("then", [{"uses": 1, "inflight": 0}, {"inflight": 2}])
def test_a_count_that_moves_during_the_look_is_alive(
    node: Node, monkeypatch: pytest.MonkeyPatch, then: dict[str, int]
) -> None:
    async def scenario() -> None:
        await node.hold(node.there[SECOND])
        node.count(SECOND, inflight=1)

        look = usage.look

        def moves(dev: DevNum, *, scratch: Path) -> None:
            look(dev, scratch=scratch)
            node.count(SECOND, **then)

        monkeypatch.setattr(usage, "look", moves)
        await node.leases.release_unused()
        assert node.store.ours() and node.state(SECOND) is State.LIVE

    run(scenario())


def test_a_count_that_goes_down_during_the_look_is_not_written_off(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        await node.hold(node.there[SECOND])
        node.count(SECOND, inflight=1)
        monkeypatch.setattr(usage, "look", lambda *_, **__: node.count(SECOND))
        await node.leases.release_unused()
        await node.hold(node.there[SECOND])
        node.count(SECOND, inflight=1)  # another open, and this one is real
        node.opening(SECOND)
        node.pass_s(10)
        await node.leases.release_unused()
        assert node.store.ours() and node.state(SECOND) is State.LIVE

    run(scenario())


def test_uses_that_nobody_counted_are_looked_for(node: Node) -> None:
    async def scenario() -> None:
        in_use = replace(node.there[SECOND], in_use="mounted at /srv")
        node.used[SECOND] = Usage(mounted_at=["/srv"])
        assert await node.leases.take_in_use(in_use, budget_s=1) is None
        for _ in range(3):
            await node.leases.release_unused()
            node.pass_s(2)
        assert node.state(SECOND) is State.LIVE and node.scans == 1  # every five seconds
        node.used.clear()
        node.pass_s(2)
        await node.leases.release_unused()
        assert node.store.ours() == {} and node.scans == 2

    run(scenario())


def test_an_uncounted_use_with_a_leaked_count_ends_too(node: Node) -> None:
    async def scenario() -> None:
        node.count(SECOND, inflight=1)
        in_use = replace(node.there[SECOND], in_use="mounted at /srv")
        assert await node.leases.take_in_use(in_use, budget_s=1) is None
        for _ in range(20):
            node.pass_s(1)
            await node.leases.release_unused()
        assert node.store.ours() == {}

    run(scenario())


def test_what_is_in_use_keeps_a_lease_that_was_refused_after_the_grant(node: Node) -> None:
    """Mounted before anybody counted, and its cached blocks do not go: another node must not get it meanwhile."""

    async def scenario() -> None:
        node.claimed[SECOND], node.undroppable[SECOND] = True, TimeoutError()
        in_use = replace(node.there[SECOND], in_use="mounted at /srv")
        for _ in range(3):
            assert await node.leases.take_in_use(in_use, budget_s=1) is not None
            await node.leases.release_unused()
            assert node.store.ours() and node.state(SECOND) is State.FREE

    run(scenario())


async def _kept_until_it_is_over(node: Node) -> None:
    await node.leases.release_unused()
    assert node.store.ours()
    node.used.clear()
    node.pass_s(6)
    await node.leases.release_unused()
    assert node.store.ours() == {}


@pytest.mark.parametrize("restarts", [False, True])
def test_who_writes_uncounted_keeps_a_lease_that_was_refused_or_is_just_taken_up(node: Node, restarts: bool) -> None:
    """Without O_EXCL nothing claims the device: what a look at the machine has found is all that tells of it."""

    async def scenario() -> None:
        node.used[SECOND] = Usage(writers=[Writer(1, "qemu")])
        node.devices.note_use(SECOND, "open in qemu")
        node.undroppable[SECOND] = TimeoutError()
        assert await node.leases.take_in_use(node.devices.known[SECOND].device, budget_s=1) is not None
        node.undroppable.clear()
        await node.leases.release_unused()
        assert node.store.ours()
        if restarts:
            node.build()  # the next daemon
            node.devices.note_use(SECOND, "open in qemu")
            await node.leases.adopt()
        await _kept_until_it_is_over(node)

    run(scenario())


def test_who_writes_uncounted_beside_one_who_is_counted_keeps_the_lease_over_a_restart(node: Node) -> None:
    """The next daemon cannot tell the two apart, so it looks at the whole machine before it gives anything back."""

    async def scenario() -> None:
        await node.hold(node.there[SECOND])
        node.used[SECOND] = Usage(writers=[Writer(1, "qemu")])
        node.count(SECOND, uses=1)
        node.build()
        node.count(SECOND, uses=0)  # perhaps before its lease is taken up again
        await node.leases.adopt()
        await _kept_until_it_is_over(node)

    run(scenario())


def test_one_look_at_the_machine_serves_all_leases_that_go_at_once(node: Node) -> None:
    async def scenario() -> None:
        held = [node.there[PART], node.there[SECOND]]
        for device in held:
            await node.hold(device)
            node.count(device.dev, uses=1)
        node.build()
        await node.leases.adopt()
        for device in held:
            node.count(device.dev, uses=0)
        before = node.scans
        await asyncio.gather(*(node.leases._give_back(r) for device in held for r in device.resources))
        assert node.store.ours() == {} and node.scans == before + 1

    run(scenario())


@pytest.mark.parametrize(("uses", "stale"), [(1, True), (2, False)], ids=["only a caller waits", "used and waited for"])
def test_who_waits_while_old_leases_are_taken_up_uses_nothing_yet(node: Node, uses: int, stale: bool) -> None:
    """Its file is counted, but what is cached may be older than what another node wrote: it is read anew first."""

    async def scenario() -> None:
        node.store.hold(B, replace(ME, session="session-0"))
        node.count(SECOND, uses=uses)
        await node.leases.adopt(lambda dev: int(dev == SECOND))
        assert node.leases._held[B].stale is stale

    run(scenario())


def test_a_grant_whose_ask_was_cancelled_is_not_given_back_while_something_claims_its_device(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario() -> None:
        monkeypatch.setattr(node.leases._reservations, "take", lambda *_, **__: asyncio.sleep(60))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0.05):
                await node.take(node.there[SECOND])
        assert node.store.ours()
        node.claimed[SECOND] = True
        node.pass_s(60)
        await node.leases.release_unused()
        assert node.store.ours()

    run(scenario())


def test_what_is_granted_while_old_leases_are_taken_up_is_not_called_fresh(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Callers are served meanwhile; the blocks of what they get may be another node's."""
    real, asked = node.store.adopt, list[asyncio.Task[object]]()

    async def adopt() -> tuple[Lease, ...]:
        found = await real()
        asked.append(asyncio.create_task(node.take(node.there[SECOND])))
        await asyncio.sleep(0.05)
        return found

    async def scenario() -> None:
        monkeypatch.setattr(node.store, "adopt", adopt)
        monkeypatch.setattr(node.leases._reservations, "take", lambda *_, **__: asyncio.sleep(60))
        node.count(SECOND, inflight=1)
        await node.leases.adopt()
        assert node.store.ours() and node.leases._held[B].stale
        asked[0].cancel()

    run(scenario())


def test_what_was_in_use_before_promises_no_reservation(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[bool] = []

    async def look(_resources: Iterable[ResourceId], *, in_use: bool = False) -> None:
        asked.append(in_use)

    async def scenario() -> None:
        monkeypatch.setattr(node.leases._reservations, "look", look)
        assert await node.leases.take_in_use(node.there[SECOND], budget_s=1) is None
        await node.take(node.there[PART])
        assert asked == [True, False]

    run(scenario())


def test_what_is_in_use_here_and_held_elsewhere_is_refused(node: Node) -> None:
    async def scenario() -> None:
        node.store.hold(B)
        denied = await node.leases.take_in_use(replace(node.there[SECOND], in_use="active swap"), budget_s=1)
        assert isinstance(denied, Denied) and "node-2" in denied.reason and node.held() == {}

    run(scenario())
