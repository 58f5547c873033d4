# SPDX-License-Identifier: GPL-2.0-or-later
"""What a LUN that was out of our hands has in its caches is gone before it may be used, or it may not be used."""

from __future__ import annotations

import asyncio
import errno

from lab_node import DISK, ME, OTHER, PART, PART2, SECOND, A, B, Node, run

from enforcer.kernel.abi import State
from enforcer.model.lease import Standing

BUSY = OSError(errno.EBUSY, "busy")


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
