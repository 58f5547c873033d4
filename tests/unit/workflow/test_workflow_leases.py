# SPDX-License-Identifier: GPL-2.0-or-later
"""Leases outlive uses, and nothing is ever used without: what is taken, kept, lost, found again and given back."""

from __future__ import annotations

import asyncio
import errno
from dataclasses import replace
from pathlib import Path

import pytest
from lab_node import A1, A2, DISK, ME, OTHER, PART, PART2, SECOND, A, B, Node, disk, run, turn

from enforcer.kernel.abi import State
from enforcer.model.errors import StoreUnavailable
from enforcer.model.lease import Denied, Granted, Standing
from enforcer.model.resource import DevNum
from enforcer.storage import usage
from enforcer.storage.usage import Usage
from enforcer.workflow.leases import PERMIT_NS

CANNOT_TELL = None
BUSY = OSError(errno.EBUSY, "busy")
BOTH = disk(DevNum(253, 0), "dm-0", A1, B, below=(PART, DISK, SECOND))


# -- taken -------------------------------------------------------------------------------------------------------


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


# -- caches ------------------------------------------------------------------------------------------------------


def test_caches_of_the_whole_stack_go_upper_ones_first(node: Node) -> None:
    async def scenario() -> None:
        await node.take(node.there[PART])
        assert [dev for dev, _ in node.dropped] == [PART2, PART, DISK]
        await node.take(node.there[PART], 2)
        assert len(node.dropped) == 3  # nobody else could write meanwhile

    run(scenario())


def test_caches_that_stay_deny_again_and_again(node: Node) -> None:
    async def scenario() -> None:
        node.undroppable[SECOND] = BUSY
        for attempt in (1, 2, 3):
            denied = await node.refused(node.there[SECOND], attempt)
            assert denied.standing is Standing.UNKNOWN and "sdb" in denied.reason
            assert len(node.dropped) == attempt and node.state(SECOND) is State.FREE
        node.undroppable.clear()
        await node.take(node.there[SECOND], 4)
        assert len(node.dropped) == 4 and node.state(SECOND) is State.LIVE

    run(scenario())


def test_a_refusal_for_its_caches_is_no_permit(node: Node) -> None:
    async def scenario() -> None:
        node.undroppable[SECOND] = BUSY
        await node.refused(node.there[SECOND])
        await node.leases.release_unused()
        assert node.store.ours() == {}

    run(scenario())


def test_a_device_that_is_gone_has_no_caches(node: Node) -> None:
    async def scenario() -> None:
        node.undroppable[SECOND] = FileNotFoundError(errno.ENOENT, "gone")
        await node.take(node.there[SECOND])
        assert node.state(SECOND) is State.LIVE

    run(scenario())


def test_caches_of_what_is_in_use_here_stay(node: Node) -> None:
    async def scenario() -> None:
        node.count(SECOND, uses=2)
        await node.take(node.there[SECOND])
        assert node.dropped == []
        node.count(PART, uses=1)  # the only counted file is the one that is being asked for
        await node.take(node.there[PART])
        assert [dev for dev, _ in node.dropped] == [PART2, PART, DISK]

    run(scenario())


def test_a_partition_table_that_another_node_changed_is_read_again(node: Node) -> None:
    async def scenario() -> None:
        await node.leases.partitions.learn()
        node.on_disk[DISK] = "rewritten"
        await node.take(node.there[PART])
        assert node.rereads == [DISK] and node.state(PART) is State.LIVE
        await node.take(node.there[SECOND], 2)
        assert node.rereads == [DISK]

    run(scenario())


def test_a_partition_table_that_cannot_be_read_again_denies(node: Node) -> None:
    async def scenario() -> None:
        await node.leases.partitions.learn()
        node.on_disk[DISK], node.rereadable = "rewritten", False
        for attempt in (1, 2):
            denied = await node.refused(node.there[PART], attempt)
            assert denied.standing is Standing.UNKNOWN and "sda" in denied.reason
            assert node.rereads == [DISK] * attempt and node.state(PART) is State.FREE
        node.rereadable = True
        await node.take(node.there[PART], 3)
        assert node.state(PART) is State.LIVE

    run(scenario())


def test_a_late_grant_is_stale(node: Node) -> None:
    async def scenario() -> None:
        node.store.hold(B, ME)
        await node.leases.refresh()
        node.store.calls.clear()
        await node.take(node.there[SECOND])
        assert [dev for dev, _ in node.dropped] == [SECOND]

    run(scenario())


def test_a_grant_of_the_one_before_us_is_stale(node: Node) -> None:
    """It may have died between its grant and the dropping of its caches (cluster/store.py on fresh grants)."""

    async def scenario() -> None:
        node.store.hold(B, ME)
        await node.leases.adopt()
        await node.take(node.there[SECOND])
        assert [dev for dev, _ in node.dropped] == [SECOND]

    run(scenario())


def test_a_stale_lease_is_not_live_for_the_guard_by_somebody_elses_grant(node: Node) -> None:
    """With the daemon dead the guard decides alone: LIVE must not stand over caches that are still there."""

    async def scenario() -> None:
        node.undroppable[SECOND] = BUSY
        await node.refused(node.there[SECOND])
        await node.take(node.there[PART], 2)
        assert node.state(SECOND) is not State.LIVE

    run(scenario())


# -- given back --------------------------------------------------------------------------------------------------


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


def test_a_permit_that_comes_while_the_release_waits_is_not_disturbed(node: Node) -> None:
    """The permitted caller is on its way to the device: CLOSING, even for a moment, would refuse it."""

    async def scenario() -> None:
        await node.hold(node.there[SECOND])
        closing: list[State] = []
        publish = node.leases._publish
        async with node.leases._locked(frozenset({B})):
            releasing = asyncio.create_task(node.leases.release_unused())
            await turn()
            asked = asyncio.create_task(node.leases.acquire(node.there[SECOND], 2, {}, budget_s=5))
            await turn()
            node.leases._publish = lambda: (publish(), closing.append(node.state(SECOND)))  # type: ignore[assignment]
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


def _fail_once():  # type: ignore[no-untyped-def]
    failed: list[str] = []

    async def fail(call: str) -> None:
        if call == "release" and not failed:
            failed.append(call)
            raise RuntimeError("a mistake")

    return fail


# -- answers that never came -------------------------------------------------------------------------------------


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


# -- counts that nobody ends -------------------------------------------------------------------------------------


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


def test_what_is_in_use_here_and_held_elsewhere_is_refused(node: Node) -> None:
    async def scenario() -> None:
        node.store.hold(B)
        denied = await node.leases.take_in_use(replace(node.there[SECOND], in_use="active swap"), budget_s=1)
        assert isinstance(denied, Denied) and "node-2" in denied.reason and node.held() == {}

    run(scenario())


# -- another daemon ----------------------------------------------------------------------------------------------


def test_the_next_daemon_goes_on(node: Node) -> None:
    async def scenario() -> None:
        old = node.store.hold(A2, replace(ME, boot_id="boot-0"))
        mine = node.store.hold(B, replace(ME, session="session-0"))
        node.count(SECOND, uses=1)  # mounted all the time
        node.count(SECOND, uses=1)
        told = await node.leases.adopt()
        assert len(told) == 2 and str(A2) in told[0] and f"token {mine.token}" in told[1]
        assert old not in node.store.records.values()
        assert node.held() == {B: (mine.token, "live")} and node.entry(SECOND).token == mine.token
        assert node.state(SECOND) is State.LIVE and node.state(PART2) is State.FREE
        assert await node.leases.adopt() == [] and node.held()[B][0] == mine.token

    run(scenario())


def test_adoption_without_a_store_is_told(node: Node) -> None:
    node.store.out_of_reach = True
    with pytest.raises(StoreUnavailable):
        run(node.leases.adopt())
    assert node.held() == {}


def test_covered_means_all_of_it(node: Node) -> None:
    async def scenario() -> None:
        node.add(BOTH)
        await node.take(node.there[SECOND])
        assert node.leases.covered(node.there[SECOND]) and not node.leases.covered(BOTH)
        await node.take(node.there[DISK])
        assert node.leases.covered(BOTH)

    run(scenario())


# -- who only reads ----------------------------------------------------------------------------------------------


def test_what_another_node_had_is_forgotten_even_if_nobody_saw_it_there(node: Node) -> None:
    """A reader has no lease and asks nobody: it must not see yesterday's blocks for ever."""

    async def scenario() -> None:
        node.store.turns = {B.lun: (OTHER.node, 7), A.lun: (ME.node, 8)}
        await node.leases.refresh()
        await asyncio.sleep(0.05)
        assert [dev for dev, _ in node.dropped] == [SECOND]
        await node.leases.refresh()
        await asyncio.sleep(0.05)
        assert len(node.dropped) == 1, "once for each grant"
        node.store.turns[B.lun] = (OTHER.node, 9)
        await node.leases.refresh()
        await asyncio.sleep(0.05)
        assert len(node.dropped) == 2

    run(scenario())


def test_what_another_node_lets_go_is_forgotten(node: Node) -> None:
    async def scenario() -> None:
        node.store.hold(B)
        await node.leases.refresh()
        assert node.dropped == []
        node.store.records.clear()
        await node.leases.refresh()
        await asyncio.sleep(0.05)
        assert [dev for dev, _ in node.dropped] == [SECOND]

    run(scenario())
