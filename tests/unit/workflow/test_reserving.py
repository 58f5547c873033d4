# SPDX-License-Identifier: GPL-2.0-or-later
"""Whoever stops at whatever point, and goes on at whatever point: after the successor's first write the storage takes
none of the predecessor's. Two nodes, one store and one storage are played in every order of steps in which they change
places a few times; that the storage is as it is taken for here is in tests/vm/test_87_reservation.py."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
from lab_reserving import DISK, LUN, Port, World, played

from enforcer.model.lease import Denied, Guarantee, Holder, Lease
from enforcer.model.resource import Device, DevNum, ResourceId
from enforcer.storage.reservations import WRITE_EXCLUSIVE, is_kept, key_of
from enforcer.workflow import reserving
from enforcer.workflow.reserving import Reservations


def every_order(
    place: Path, monkeypatch: pytest.MonkeyPatch, stories: Callable[[World], list[Coroutine[Any, Any, None]]]
) -> int:
    """Play them in every order; how many there were."""
    order: list[int] = []
    played = 0
    while True:
        world = World(order, place)

        async def to_thread(work: Callable[..., Any], *arguments: Any, world: World = world) -> Any:
            await world.step()
            return work(*arguments)

        monkeypatch.setattr(reserving.asyncio, "to_thread", to_thread)
        asyncio.run(world.play(*stories(world)))
        played += 1
        assert world.storage.written == sorted(world.storage.written), (order, world.storage)
        order = order[: len(world.choices)]
        while order and order[-1] + 1 >= world.choices[len(order) - 1]:
            order.pop()
        if not order:
            return played
        order[-1] += 1


async def used(world: World, node: Reservations, lease: Lease, name: str, times: int) -> Denied | None:
    denied = await node.take([lease])
    for _ in range(times if denied is None else 0):
        await world.step()
        world.storage.write(name, lease.token)
    return denied


def test_a_node_that_was_paused_anywhere_writes_nothing_after_its_successor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stories(world: World) -> list[Coroutine[Any, Any, None]]:
        first = world.grant("node-1")

        async def holder() -> None:
            await used(world, world.node("node-1"), first, "node-1", 1)

        async def taker() -> None:
            await world.step()  # the transaction of the store
            lease = world.grant("node-2")
            assert await used(world, world.node("node-2"), lease, "node-2", 1) is None
            await world.node("node-2").give_up(lease)
            world.record = None

        return [holder(), taker()]

    assert every_order(tmp_path, monkeypatch, stories) > 200


def test_of_a_chain_of_takers_only_the_last_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stories(world: World) -> list[Coroutine[Any, Any, None]]:
        first = world.grant("node-1")
        assert Port(world.storage, "node-1").reserve(0) is False
        Port(world.storage, "node-1").register(key_of(first))
        assert Port(world.storage, "node-1").reserve(key_of(first)), "it has used it, and is paused now"

        async def late() -> None:
            await world.step()
            world.storage.write("node-1", first.token)

        async def taker(name: str) -> None:
            await world.step()
            await used(world, world.node(name), world.grant(name), name, 1)

        return [late(), taker("node-2")]

    assert every_order(tmp_path, monkeypatch, stories) > 5


def test_it_is_given_up_with_the_last_use_unless_somebody_was_preempted(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        lease = world.grant("node-1")
        assert await world.node("node-1").take([lease]) is None
        assert world.storage.holder == "node-1"
        again = world.grant("node-1")
        assert await world.node("node-1").take([again]) is None
        await world.node("node-1").give_up(again)
        assert world.storage.holder == "" and not world.storage.keys

        left = world.grant("node-1")
        assert await world.node("node-1").take([left]) is None
        for name in ("node-2", "node-3"):
            successor = world.grant(name)
            assert await world.node(name).take([successor]) is None
            await world.node(name).give_up(successor)
            assert world.storage.holder == name and is_kept(world.storage.keys[name])
        assert not world.storage.write("node-1", left.token)

    played(tmp_path, story)


def test_nothing_stays_behind_of_a_lease_whose_record_promises_it_no_more(tmp_path: Path) -> None:
    """The record was written anew, with another token and without the promise, while the storage was told before."""

    async def story(world: World) -> None:
        node, theirs = world.node("node-1"), Port(world.storage, "node-2")
        lease = world.grant("node-1")
        assert await node.take([lease]) is None
        theirs.register(key_of(replace(lease, holder=Holder("node-2", "b", "s"))))
        rewritten = replace(lease, token=lease.token + 1, guarantee=Guarantee.NONE)
        await node.give_up(replace(rewritten, resource=ResourceId("wwn-a", ("p1",))))
        assert world.storage.holder == "node-1", "a part does not give up what the whole has"
        await node.give_up(rewritten)
        assert world.storage.holder == "" and set(world.storage.keys) == {"node-2"}

    played(tmp_path, story)


def test_a_lun_where_nothing_was_reserved_is_asked_about_it_once(tmp_path: Path) -> None:
    """By each daemon: the settings may have changed before it began."""

    async def story(world: World) -> None:
        node, none = world.node("node-1"), Guarantee.NONE
        world.storage.fails = True
        await node.give_up(replace(world.grant("node-1"), guarantee=none))
        world.storage.fails = False
        for _ in range(3):
            await node.give_up(replace(world.grant("node-1"), guarantee=none))
        assert world.storage.looks == 1
        for _ in range(2):
            lease = world.grant("node-1")
            assert await node.take([lease]) is None
            await node.give_up(replace(lease, guarantee=none))
            assert world.storage.holder == "" and not world.storage.keys
        Port(world.storage, "node-1").register(key_of(lease))
        await world.node("node-1").give_up(replace(lease, guarantee=none))
        assert not world.storage.keys

    played(tmp_path, story)


def test_where_nothing_is_to_be_reserved_the_storage_is_asked_only_for_what_this_boot_has(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        none = replace(world.grant("node-1"), guarantee=Guarantee.NONE)
        await world.node("node-1", named="other").give_up(none)
        assert world.storage.looks == 0
        assert await world.node("node-1").take([world.grant("node-1")]) is None
        await world.node("node-1", named="other").give_up(none)  # a daemon with other settings
        assert not world.storage.keys

    played(tmp_path, story)


def test_a_storage_that_does_not_answer_keeps_the_lease_only_where_the_reservation_was_promised(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        node, lease = world.node("node-1"), world.grant("node-1")
        assert await node.take([lease]) is None
        world.storage.fails = True
        await node.give_up(replace(lease, guarantee=Guarantee.NONE))
        with pytest.raises(OSError, match="no answer"):
            await node.give_up(lease)

    played(tmp_path, story)


@pytest.mark.parametrize(("uses", "counted"), [(1, 0), (2, 1)])
def test_what_still_uses_it_here_does_not_get_it_back(tmp_path: Path, uses: int, counted: int) -> None:
    """An old mount alone counts one; who asks is counted only if it has a file open already."""

    async def story(world: World) -> None:
        assert await world.node("node-2").take([world.grant("node-2")]) is None
        denied = await world.node("node-1", uses=uses).take([world.grant("node-1")], counted=counted)
        assert denied is not None and "must end first" in denied.reason
        assert world.storage.holder == "node-2"

    played(tmp_path, story)


REGISTRANTS_ONLY = 5  # Write Exclusive, of fence_scsi and mpathpersist


@pytest.mark.parametrize(("key", "kind"), [(0xABC, WRITE_EXCLUSIVE), (0xABC, REGISTRANTS_ONLY), (0, REGISTRANTS_ONLY)])
@pytest.mark.parametrize("holder", ["stranger", "node-1"])
def test_a_reservation_of_a_stranger_is_left_alone_with_its_keys(
    tmp_path: Path, holder: str, key: int, kind: int
) -> None:
    """Also where this node is one of its registrants, or was until it was fenced by it."""

    async def story(world: World) -> None:
        lease = world.grant("node-1")
        world.storage.keys[holder], world.storage.holder = key or key_of(lease), holder
        world.storage.type, before = kind, dict(world.storage.keys)
        denied = await world.node("node-1").take([lease])
        assert denied is not None and f"{key or key_of(lease):#x}" in denied.reason
        assert (world.storage.holder, world.storage.keys) == (holder, before)

    played(tmp_path, story)


def test_what_was_in_use_before_it_was_leased_is_promised_nothing(tmp_path: Path) -> None:
    """It may have written before the storage was told whose it is."""

    async def story(world: World) -> None:
        node = world.node("node-1")
        for in_use in (True, False, True):
            await node.look([LUN], in_use=in_use)
            assert node.promised([LUN]) is not in_use

    played(tmp_path, story)


def test_a_lun_with_two_paths_and_a_part_of_one_get_no_such_promise(tmp_path: Path) -> None:
    world = World([], tmp_path)
    node = world.node("node-1")
    asyncio.run(node.look([LUN]))
    assert node.promised([LUN]) and not node.promised([ResourceId("wwn-a", ("p1",))])
    assert not node.promised([LUN, ResourceId("wwn-b")]), "the weakest of a set decides"
    cast(Any, node)._devices.on_lun = lambda _: [DISK, Device(DevNum(8, 16), "sdb", (LUN,), ())]
    asyncio.run(node.look([LUN]))
    assert not node.promised([LUN])
