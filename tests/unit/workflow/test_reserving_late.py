# SPDX-License-Identifier: GPL-2.0-or-later
"""What the storage does later than anybody waits for it, and what it has from before: no use ends by it."""

from __future__ import annotations

import asyncio
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import pytest
from lab_reserving import DISK, DISK2, LUN, Port, World, played

from enforcer.model.lease import Guarantee
from enforcer.storage.reservations import key_of
from enforcer.workflow import reserving
from enforcer.workflow.commands import Commands
from enforcer.workflow.earlier import FILE


def test_a_look_that_comes_back_late_ends_nothing_that_was_registered_since(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The thread hangs in the storage; the lease goes without it, and comes back."""
    monkeypatch.setattr(reserving, "MOVE_S", 0.1)

    async def story(world: World) -> None:
        node, lease = world.node("node-1"), world.grant("node-1")
        assert await node.take([lease]) is None
        come_back = world.storage.hang("registered")
        await node.give_up(replace(lease, guarantee=Guarantee.NONE))
        again = world.grant("node-1")
        Port(world.storage, "node-1").register(key_of(again))
        await asyncio.to_thread(come_back)
        await asyncio.sleep(0.05)
        assert world.storage.keys == {"node-1": key_of(again)} and world.storage.holder == "node-1"

    played(tmp_path, story)


def test_a_path_that_hangs_is_waited_for_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reserving, "MOVE_S", 0.5)

    async def story(world: World) -> None:
        node, lease = world.node("node-1", paths=(DISK, DISK2)), world.grant("node-1")
        come_back, began = world.storage.hang("registered"), time.monotonic()
        await node.give_up(replace(lease, guarantee=Guarantee.NONE))
        assert time.monotonic() - began < 0.9
        await asyncio.to_thread(come_back)

    played(tmp_path, story)


def test_a_give_up_that_was_given_up_ends_no_reservation_that_is_in_use_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The store was not told, and has the same lease for the next mount: with the key that is just being ended."""
    monkeypatch.setattr(reserving, "MOVE_S", 0.3)

    async def story(world: World) -> None:
        node, lease = world.node("node-1"), world.grant("node-1")
        assert await node.take([lease]) is None
        come_back = world.storage.hang("unregister")
        with pytest.raises(TimeoutError):
            await node.give_up(lease)
        denied = await node.take([lease])
        await asyncio.to_thread(come_back)
        assert denied is not None and "an earlier command" in denied.reason
        await asyncio.sleep(0.05)
        assert await node.take([lease]) is None
        assert world.storage.keys == {"node-1": key_of(lease)} and world.storage.holder == "node-1"

    played(tmp_path, story)


@pytest.mark.parametrize("command", ["register", "reserve", "preempt"])
def test_nothing_goes_on_before_a_command_that_was_given_up_was_carried_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    """A key that is registered late would take the place of the one that says that it is kept."""
    monkeypatch.setattr(reserving, "MOVE_S", 0.3)

    async def story(world: World) -> None:
        node, other = world.node("node-1"), world.grant("node-2")
        if command == "preempt":
            assert await world.node("node-2").take([other]) is None
        lease = world.grant("node-1")
        come_back = world.storage.hang(command)
        assert await node.take([lease]) is not None
        with pytest.raises(TimeoutError):
            await node.give_up(lease)
        again = world.grant("node-1")
        denied = await node.take([again])
        await asyncio.to_thread(come_back)
        assert denied is not None and "an earlier command" in denied.reason
        await asyncio.sleep(0.05)
        assert await node.take([again]) is None
        assert world.storage.keys == {"node-1": key_of(again, kept=command == "preempt")}

    played(tmp_path, story)


def test_a_command_that_never_began_is_waited_for_by_nobody() -> None:
    """All threads hang in other disks, and who asked gives up before one is free."""

    async def story() -> None:
        commands, free, did = Commands(), threading.Event(), list[str]()
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(1))
        full = asyncio.create_task(asyncio.to_thread(free.wait, 5))
        await asyncio.sleep(0)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await commands.run("wwn-a", lambda: did.append("late"))
        assert not commands.unanswered("wwn-a")
        free.set()
        await full
        await commands.run("wwn-a", lambda: did.append("now"))
        assert did == ["now"] and not commands.unanswered("wwn-a")

    asyncio.run(story())


@pytest.mark.parametrize("kept", [False, True])
def test_what_an_earlier_boot_reserved_is_ended_once_unless_it_is_kept(tmp_path: Path, kept: bool) -> None:
    async def story(world: World) -> None:
        lease, mine = world.grant("node-1"), Port(world.storage, "node-1")
        mine.register(key_of(lease, kept=kept))
        assert mine.reserve(key_of(lease, kept=kept))
        theirs = world.storage.keys["node-2"] = key_of(world.grant("node-2"))
        node = world.node("node-1", boot="b2")
        assert node.left_by_earlier_boots() == {LUN}
        for lun in ("wwn-a", "of-others"):
            await node.end_earlier(lun, nullcontext(), ())
        assert world.storage.holder == ("node-1" if kept else "")
        assert world.storage.keys == {"node-2": theirs} | ({"node-1": key_of(lease, kept=True)} if kept else {})
        for again in (node, world.node("node-1", boot="b2")):
            assert again.left_by_earlier_boots() == set()
        assert world.node("node-1", boot="b3").left_by_earlier_boots() == {LUN}

    played(tmp_path, story)


@pytest.mark.parametrize("why", ["held", "in use", "of this boot", "no answer"])
def test_what_may_be_of_this_boot_is_not_ended(tmp_path: Path, why: str) -> None:
    """Its lease may be another node's by now, which still needs to find that it was reserved here."""

    async def story(world: World) -> None:
        lease = world.grant("node-1")
        before = world.node("node-1", boot="b" if why == "of this boot" else "b0")
        Port(world.storage, "node-1").register(key_of(lease))
        if why == "of this boot":
            assert await before.take([lease]) is None
        world.storage.fails = why == "no answer"
        node = world.node("node-1", uses=int(why == "in use"))
        await node.end_earlier("wwn-a", nullcontext(), [LUN] if why == "held" else [])
        assert world.storage.keys == {"node-1": key_of(lease)}
        assert node.left_by_earlier_boots() == ({LUN} if why in ("held", "in use") else set())

    played(tmp_path, story)


def test_what_cannot_be_written_down_is_not_reserved(tmp_path: Path) -> None:
    """The next daemon of this boot would take it for an earlier boot's, and end it."""

    async def story(world: World) -> None:
        node, lease = world.node("node-1"), world.grant("node-1")
        (tmp_path / "node-1" / FILE).mkdir()  # a full disk, say
        denied = await node.take([lease])
        assert denied is not None and "cannot be written to" in denied.reason and world.storage.keys == {}

    played(tmp_path, story)
