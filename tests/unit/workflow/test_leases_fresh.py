# SPDX-License-Identifier: GPL-2.0-or-later
"""What a LUN that was out of our hands has in its caches is gone before it may be used, or it may not be used."""

from __future__ import annotations

import asyncio
import errno
import time

import pytest
from lab_node import DISK, MAP, ME, OTHER, PART, PART2, PATH2, SECOND, A, B, Node, disk, multipath, run

from enforcer.kernel.abi import State
from enforcer.model.lease import Denied, Standing
from enforcer.model.resource import DevNum, ResourceId
from enforcer.storage import caches, parttable
from enforcer.workflow import partitions

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


def test_caches_stay_only_where_a_lease_of_ours_has_kept_the_others_out(node: Node) -> None:
    """How many have it open says nothing: those who wait for this very lease are counted too."""

    async def scenario() -> None:
        await node.take(node.there[PART2])
        node.dropped.clear()
        node.count(PART, uses=2)
        node.count(PART2, uses=1)
        await node.take(node.there[PART])
        assert [dev for dev, _ in node.dropped] == [PART, DISK]

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


@pytest.mark.parametrize(("on_disk", "granted"), [((2048, 64), True), ((4096, 64), False)])
def test_a_changed_table_that_the_kernel_does_not_read_again_is_compared_part_by_part(
    node: Node, monkeypatch: pytest.MonkeyPatch, on_disk: tuple[int, int], granted: bool
) -> None:
    """A part of the disk is mounted, or a map has claimed it: what somebody did to the other parts is no harm."""
    monkeypatch.setattr(parttable, "in_kernel", lambda _dev, *, scratch: (1, 2048, 64))
    monkeypatch.setattr(parttable, "on_disk", lambda _dev, *, scratch: {1: on_disk})

    async def scenario() -> None:
        await node.leases.partitions.learn()
        node.on_disk[DISK], node.rereadable = "rewritten", False
        outcome = await node.leases.acquire(node.there[PART], 1, {}, budget_s=1)
        assert node.rereads == [DISK]
        if granted:
            assert node.state(PART) is State.LIVE
        else:
            assert isinstance(outcome, Denied) and "partition table on sda" in outcome.reason
            assert node.state(PART) is State.FREE

    run(scenario())


def test_the_table_of_a_multipath_lun_is_read_through_its_map(node: Node) -> None:
    """A path may be a standby or dead, and says nothing of the LUN."""

    async def scenario() -> None:
        multipath(node)
        node.undroppable[PATH2] = OSError(errno.EIO, "a failed path")
        node.carriers = {SECOND, PATH2}
        await node.leases.partitions.learn()
        node.on_disk[SECOND] = node.on_disk[PATH2] = "rewritten"
        await node.take(node.there[MAP])
        assert node.rereads == []

    run(scenario())


def test_a_piece_of_a_map_is_compared_as_a_partition_is(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    piece = DevNum(253, 11)
    monkeypatch.setattr(parttable, "in_kernel", lambda dev, *, scratch: (1, 2048, 64) if dev == piece else None)
    monkeypatch.setattr(parttable, "on_disk", lambda dev, *, scratch: {1: (9999, 1)} if dev == MAP else {})

    async def scenario() -> None:
        multipath(node)
        node.add(disk(piece, "dm-11", ResourceId(B.lun, ("p1",)), below=(MAP, SECOND, PATH2), size_bytes=1))
        denied = await node.refused(node.there[piece])
        assert "dm-11 is not where the partition table on dm-9 has it" in denied.reason

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


def test_a_disk_that_answers_too_late_is_told_as_such(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        monkeypatch.setattr(partitions, "LOOK_S", 0.05)
        monkeypatch.setattr(caches, "partition_digest", lambda _dev, *, scratch: time.sleep(0.3))
        denied = await node.refused(node.there[SECOND])
        assert denied.reason == "the partition table of sdb cannot be read: sdb has not answered within 0.05 s"

    run(scenario())
