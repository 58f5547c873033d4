# SPDX-License-Identifier: GPL-2.0-or-later
"""A mark on the disk refuses what the store granted, names itself, gives the lease back, and permits nothing."""

from __future__ import annotations

import asyncio
import errno
import os
import time
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from lab_node import A1, DISK, ME, OTHER, PART, PART2, SECOND, A, B, Node, disk, run

from enforcer.kernel.abi import State
from enforcer.model.lease import Denied, Holder, Standing
from enforcer.model.resource import DevNum
from enforcer.storage.vetoes.marks import Mark, Silence
from enforcer.workflow import vetoing

THEIRS = Mark("ext4-mmp", "", "node-2", "its MMP block: mounted on node-2 as sda1", b"30", remedy="umount it there")
OURS, HOST = replace(THEIRS, owner=ME.node), replace(THEIRS, owner="host-1")
MAP = DevNum(254, 0)


def on(node: Node, dev: DevNum, *looks: tuple[Mark, ...] | OSError) -> None:
    node.marks[dev] = list(looks)


def still(node: Node, dev: DevNum, mark: Mark) -> None:
    on(node, dev, (mark,))


def moving(node: Node, dev: DevNum, mark: Mark) -> None:
    on(node, dev, (mark,), (replace(mark, pulse=b"31"),))


async def let_go(node: Node, dev: DevNum = SECOND, resource: Any = B, holder: Holder = OTHER) -> None:
    """The daemon sees another node's lease, and then that it is gone."""
    lease = node.store.hold(resource, holder)
    await node.leases.refresh()
    del node.store.records[resource, lease.holder.node]


def test_the_mark_of_a_stranger_refuses_by_name_after_one_look(node: Node) -> None:
    async def story() -> None:
        still(node, SECOND, THEIRS)
        denied = await node.refused(node.there[SECOND])
        assert (denied.standing, denied.veto, denied.remedy) == (Standing.UNKNOWN, "ext4-mmp", "umount it there")
        assert denied.reason.startswith("sdb: its MMP block: mounted on node-2 as sda1, and nothing says")
        assert node.looked == [SECOND] and denied.blocking == ()

    run(story())


def test_what_is_vetoed_is_given_back_and_asked_again(node: Node) -> None:
    async def story() -> None:
        on(node, SECOND, (THEIRS,), (THEIRS,), ())
        await node.refused(node.there[SECOND], 1)
        await node.refused(node.there[SECOND], 2)  # before it was given back: held, and still not usable
        assert node.looked == [SECOND, SECOND] and node.entry(SECOND).state != State.LIVE
        await node.leases.release_unused()
        assert node.store.ours() == {} and node.held() == {}
        await node.take(node.there[SECOND], 3)
        assert node.state(SECOND) is State.LIVE

    run(story())


def test_a_disk_without_marks_is_looked_at_once(node: Node) -> None:
    async def story() -> None:
        await node.hold(node.there[SECOND])
        assert node.looked == [SECOND]
        await node.take(node.there[SECOND], 2)  # it never was out of our hands
        assert node.looked == [SECOND]

    run(story())


@pytest.mark.parametrize("mark", [OURS, HOST])
def test_our_own_mark_of_an_earlier_boot_is_no_objection_unless_it_moves(node: Node, mark: Mark) -> None:
    async def story() -> None:
        still(node, SECOND, mark)
        await node.hold(node.there[SECOND])
        assert node.looked == [SECOND, SECOND]
        await node.leases.release_unused()
        moving(node, SECOND, mark)
        denied = await node.refused(node.there[SECOND])
        assert denied.veto == "ext4-mmp" and denied.reason.endswith("and it is still being written")

    run(story())


def test_a_mark_that_never_moves_costs_no_second_look(node: Node) -> None:
    async def story() -> None:
        still(node, SECOND, replace(OURS, layer="lvm-system-id", pulse=b""))
        await node.take(node.there[SECOND])
        assert node.looked == [SECOND]

    run(story())


@pytest.mark.parametrize("moves", [False, True])
def test_who_gave_its_lease_back_left_an_old_mark_unless_it_moves(node: Node, moves: bool) -> None:
    async def story() -> None:
        (moving if moves else still)(node, SECOND, replace(THEIRS, written_s=time.time()))
        await let_go(node)
        await node.leases.refresh()
        if moves:
            assert (await node.refused(node.there[SECOND])).veto == "ext4-mmp"
        else:
            await node.take(node.there[SECOND])

    run(story())


def test_a_lease_that_was_taken_over_by_our_own_grant_excuses(node: Node) -> None:
    async def story() -> None:
        still(node, SECOND, THEIRS)
        await let_go(node)  # gone, and our grant is the first to show it
        await node.take(node.there[SECOND])

    run(story())


def test_a_release_elsewhere_says_nothing_of_this_disk(node: Node) -> None:
    async def story() -> None:
        still(node, SECOND, THEIRS)
        await let_go(node, PART, A1)
        await node.leases.refresh()
        assert (await node.refused(node.there[SECOND])).veto
        still(node, PART2, THEIRS)  # another partition of that disk
        assert (await node.refused(node.there[PART2])).veto

    run(story())


def test_a_node_that_took_it_again_has_not_let_go(node: Node) -> None:
    async def story() -> None:
        await let_go(node)
        await node.leases.refresh()
        node.store.hold(B)
        await node.leases.refresh()
        assert node.leases._vetoes._released({B}) == []
        assert (await node.refused(node.there[SECOND])).standing is Standing.ELSEWHERE
        assert node.looked == []  # the store said no already

    run(story())


def test_a_mark_made_after_the_release_is_a_new_use(node: Node) -> None:
    async def story() -> None:
        still(node, SECOND, replace(THEIRS, written_s=time.time() + 3600))
        await let_go(node)
        await node.leases.refresh()
        assert (
            "newer than what is known of node-2: it gave its lease back"
            in (await node.refused(node.there[SECOND])).reason
        )

    run(story())


@pytest.mark.parametrize(
    ("who", "ago_s", "excused"),
    [
        ("node-2", 0.0, True),
        ("node-2", 7200.0, False),  # before the mark was made
        ("node-3", 0.0, False),
        ("node-2", None, False),
    ],
)
def test_the_stores_fencing_facts_outlive_the_daemon(node: Node, who: str, ago_s: float | None, excused: bool) -> None:
    async def story() -> None:
        still(node, SECOND, replace(THEIRS, written_s=time.time() - 5))
        at = "yesterday" if ago_s is None else datetime.fromtimestamp(time.time() - ago_s, UTC).isoformat()
        node.store.fenced = {(who, "boot-9"): at}
        outcome = await node.leases.acquire(node.there[SECOND], 1, {}, budget_s=1)
        assert isinstance(outcome, Denied) is not excused

    run(story())


def test_a_fencing_fact_is_newer_than_a_release(node: Node) -> None:
    async def story() -> None:
        await let_go(node)
        await node.leases.refresh()
        node.leases._vetoes._let_go[B]["node-2"] = Silence(time.time() - 7200, "it gave its lease back")
        still(node, SECOND, replace(THEIRS, written_s=time.time() - 5))
        node.store.fenced = {("node-2", "boot-9"): datetime.now(UTC).isoformat()}
        await node.take(node.there[SECOND])

    run(story())


def test_the_store_is_not_asked_for_facts_that_nobody_needs(node: Node) -> None:
    async def story() -> None:
        still(node, SECOND, OURS)
        await node.take(node.there[SECOND])
        assert "fences" not in node.store.calls

    run(story())


def test_a_store_that_does_not_answer_excuses_nobody(node: Node) -> None:
    async def silent(call: str) -> None:
        node.store.out_of_reach = call == "fences"

    async def story() -> None:
        still(node, SECOND, THEIRS)
        node.store.fenced = {("node-2", "boot-9"): datetime.now(UTC).isoformat()}
        node.store.during = silent
        assert (await node.refused(node.there[SECOND])).veto == "ext4-mmp"

    run(story())


def test_a_disk_that_cannot_be_read_is_refused_and_one_that_is_gone_is_not(node: Node) -> None:
    async def story() -> None:
        on(node, SECOND, OSError(errno.EIO, os.strerror(errno.EIO)))
        denied = await node.refused(node.there[SECOND])
        assert (
            denied.veto == "unreadable"
            and "sdb: what stands on it cannot be read (Input/output error)" in denied.reason
        )
        on(node, SECOND, OSError(errno.ENXIO, "gone"))
        await node.take(node.there[SECOND])

    run(story())


def test_a_disk_that_does_not_answer_is_refused_in_time(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    def hang(*_: object) -> Any:
        time.sleep(0.5)

    async def story() -> None:
        monkeypatch.setattr(vetoing, "_look", hang)
        monkeypatch.setattr(vetoing, "LOOK_S", 0.05)
        began = time.monotonic()
        denied = await node.refused(node.there[SECOND])
        assert time.monotonic() - began < 0.4 and denied.veto == "unreadable"

    run(story())


def test_a_whole_disk_is_asked_for_all_its_parts_and_a_part_for_the_disk(node: Node) -> None:
    async def story() -> None:
        await node.hold(node.there[DISK])
        assert set(node.looked) == {DISK, PART, PART2}
        await node.leases.release_unused()
        node.looked.clear()
        still(node, PART2, THEIRS)
        await node.hold(node.there[PART])
        assert set(node.looked) == {DISK, PART}  # what stands on p2 says nothing of p1
        await node.leases.release_unused()
        assert "sda2: " in (await node.refused(node.there[DISK])).reason

    run(story())


def test_what_is_in_use_here_is_not_asked(node: Node) -> None:
    async def story() -> None:
        await node.hold(node.there[PART])
        node.count(PART, uses=2)
        node.looked.clear()
        moving(node, PART, OURS)
        await node.take(node.there[DISK], 2)
        assert PART not in node.looked and DISK in node.looked

    run(story())


def test_two_writers_at_once_are_both_asked_about(node: Node) -> None:
    """The kernel counts an open before its verdict: two that wait are no use."""

    async def story() -> None:
        still(node, SECOND, THEIRS)
        node.count(SECOND, uses=2)
        assert (await node.refused(node.there[SECOND])).veto == "ext4-mmp"

    run(story())


def test_what_was_in_use_before_enforcement_is_taken_whatever_stands_on_it(node: Node) -> None:
    async def story() -> None:
        still(node, SECOND, THEIRS)
        assert await node.leases.take_in_use(node.there[SECOND], budget_s=1) is None
        assert node.looked == []

    run(story())


def test_one_good_path_is_enough(node: Node) -> None:
    async def story() -> None:
        node.add(disk(DevNum(8, 48), "sdd", B))
        node.add(disk(MAP, "dm-0", B, below=(SECOND, DevNum(8, 48)), carrier=True))
        on(node, MAP, OSError(errno.EIO, "no path"))
        on(node, DevNum(8, 48), OSError(errno.EIO, "failed path"))
        await node.take(node.there[MAP])
        assert node.looked == [MAP, DevNum(8, 48), SECOND]

    run(story())


def test_a_volume_on_the_disk_is_another_medium(node: Node) -> None:
    async def story() -> None:
        node.add(disk(MAP, "dm-0", B, below=(SECOND,)))
        still(node, MAP, THEIRS)
        assert "dm-0: " in (await node.refused(node.there[SECOND])).reason
        assert set(node.looked) <= {MAP, SECOND}

    run(story())


def test_two_callers_of_one_disk_take_turns_and_are_both_refused(node: Node) -> None:
    async def story() -> None:
        still(node, SECOND, THEIRS)
        both = await asyncio.gather(*(node.refused(node.there[SECOND], i) for i in (1, 2)))
        assert [denied.veto for denied in both] == ["ext4-mmp", "ext4-mmp"]
        await node.leases.release_unused()
        assert node.store.ours() == {} and A not in node.held()

    run(story())
