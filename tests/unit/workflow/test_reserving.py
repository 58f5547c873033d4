# SPDX-License-Identifier: GPL-2.0-or-later
"""Whoever stops at whatever point, and goes on at whatever point: after the successor's first write the storage takes
none of the predecessor's. Two nodes, one store and one storage are played in every order of steps in which they change
places a few times; that the storage is as it is taken for here is in tests/vm/test_87_reservation.py."""

from __future__ import annotations

import asyncio
import errno
import threading
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from enforcer.model.lease import Denied, Guarantee, HeldLease, Holder, Lease, Liveness
from enforcer.model.resource import Device, DevNum, Mode, ResourceId
from enforcer.storage.reservations import WRITE_EXCLUSIVE, is_kept, key_of
from enforcer.storage.vetoes.reservation import Reservation
from enforcer.workflow import reserving
from enforcer.workflow.commands import Commands
from enforcer.workflow.reserving import Reservations

SWITCHES = 3  # how often one of them stops in the middle and the other goes on
LUN = ResourceId("wwn-a")
DISK = Device(DevNum(8, 0), "sda", (LUN,), ("wwn-a",))
NOWHERE = Path("/dev/null")  # nothing can be written down there


@dataclass
class Storage:
    """One LUN, as SPC-4 has it for Write Exclusive."""

    keys: dict[str, int] = field(default_factory=dict)  # of each initiator that is registered
    holder: str = ""
    type: int = WRITE_EXCLUSIVE
    written: list[int] = field(default_factory=list)  # tokens of the writes that were taken
    fails: bool = False
    hanging: dict[str, threading.Event] = field(default_factory=dict)  # commands, the next one of each kind
    came_back: threading.Event = field(default_factory=threading.Event)
    looks: int = 0  # at the keys

    def hang(self, command: str) -> Callable[[], None]:
        """The next such command waits until the answer is called, which returns when it was carried out."""
        self.hanging[command] = hangs = threading.Event()

        def end() -> None:
            hangs.set()
            assert self.came_back.wait(5)

        return end

    @contextmanager
    def reached(self, command: str) -> Iterator[None]:
        hangs = self.hanging.pop(command, None)
        if hangs is not None:
            hangs.wait(5)
        yield
        if hangs is not None:
            self.came_back.set()

    def write(self, node: str, token: int) -> bool:
        taken = self.holder in ("", node)
        self.written += [token] if taken else []
        return taken


class Port:
    def __init__(self, storage: Storage, me: str) -> None:
        self.storage, self.me = storage, me

    def holder(self) -> Reservation | None:
        at = self.storage
        return Reservation(at.keys[at.holder], at.type) if at.holder else None

    def registered(self) -> tuple[int, ...]:
        if self.storage.fails:
            raise OSError(errno.EIO, "no answer")
        self.storage.looks += 1
        with self.storage.reached("registered"):
            return tuple(self.storage.keys.values())

    def register(self, key: int) -> None:
        with self.storage.reached("register"):
            self.storage.keys[self.me] = key

    def reserve(self, key: int) -> bool:
        with self.storage.reached("reserve"):
            return self._reserve(key)

    def preempt(self, key: int, victim: int) -> bool:
        with self.storage.reached("preempt"):
            return self._preempt(key, victim)

    def unregister(self, key: int) -> None:
        with self.storage.reached("unregister"):
            self._unregister(key)

    def _reserve(self, key: int) -> bool:
        if self.storage.keys.get(self.me) != key or self.storage.holder not in ("", self.me):
            return False
        self.storage.holder = self.me
        return True

    def _preempt(self, key: int, victim: int) -> bool:
        if self.storage.keys.get(self.me) != key or victim not in self.storage.keys.values():
            return False
        gone = [name for name, theirs in self.storage.keys.items() if theirs == victim]
        if self.storage.holder in gone:
            self.storage.holder = self.me
        for name in gone:
            if name != self.me:
                del self.storage.keys[name]
        return True

    def _unregister(self, key: int) -> None:
        if self.storage.keys.get(self.me) == key:
            del self.storage.keys[self.me]
            self.storage.holder = "" if self.storage.holder == self.me else self.storage.holder


class World:
    """Two nodes with one gate: at each step one of those who wait goes on, as ``order`` says."""

    def __init__(self, order: list[int]) -> None:
        self.order, self.taken, self.choices = order, 0, list[int]()
        self.storage, self.record, self.token = Storage(), None, 0
        self.record: Lease | None
        self.waiting: dict[asyncio.Task[Any] | None, asyncio.Future[None]] = {}

    async def step(self) -> None:
        gate = self.waiting[asyncio.current_task()] = asyncio.get_running_loop().create_future()
        await gate

    async def leases(self, _lun: str) -> tuple[HeldLease, ...]:
        await self.step()
        return (HeldLease(self.record, Liveness.LIVE),) if self.record else ()

    def grant(self, node: str) -> Lease:
        self.token += 1
        self.record = Lease(LUN, Mode.EX, Holder(node, "b", "s"), self.token, "", Guarantee.RESERVATION)
        return self.record

    def node(self, name: str, uses: int = 0, boot: str = "b", scratch: Path = NOWHERE) -> Reservations:
        @contextmanager
        def port(_dev: DevNum, *, scratch: Path) -> Any:
            yield Port(self.storage, name)

        return Reservations(
            cast(Any, SimpleNamespace(on_lun=lambda _: [DISK], luns=lambda: frozenset({LUN.lun, "of-others"}))),
            cast(Any, self),
            Holder(name, boot, "s"),
            patterns=("wwn-*",),
            scratch=scratch,
            uses=lambda _: (uses, 0),
            port=port,
        )

    async def play(self, *stories: Coroutine[Any, Any, None]) -> None:
        tasks = [asyncio.ensure_future(story) for story in stories]
        last, switches = None, 0
        while not all(task.done() for task in tasks):
            for _ in range(6):
                await asyncio.sleep(0)
            if not self.waiting:
                await asyncio.sleep(0.001)  # some thread is at work
                continue
            stays = last in self.waiting
            who = [last] if stays and switches == SWITCHES else list(self.waiting)
            at = len(self.choices)
            choice = self.order[at] if at < len(self.order) else 0
            self.choices.append(len(who))
            self.order[at:] = [choice, *self.order[at + 1 :]]
            switches += stays and who[choice] is not last
            last = who[choice]
            self.waiting.pop(last).set_result(None)
        for task in tasks:
            task.result()


def every_order(monkeypatch: pytest.MonkeyPatch, stories: Callable[[World], list[Coroutine[Any, Any, None]]]) -> int:
    """Play them in every order; how many there were."""
    order: list[int] = []
    played = 0
    while True:
        world = World(order)

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


def test_a_node_that_was_paused_anywhere_writes_nothing_after_its_successor(monkeypatch: pytest.MonkeyPatch) -> None:
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

    assert every_order(monkeypatch, stories) > 200


def test_of_a_chain_of_takers_only_the_last_writes(monkeypatch: pytest.MonkeyPatch) -> None:
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

    assert every_order(monkeypatch, stories) > 5


def played(story: Callable[[World], Awaitable[None]]) -> World:
    world = World([])

    async def steps() -> None:
        await story(world)

    asyncio.run(world.play(steps()))
    return world


def test_it_is_given_up_with_the_last_use_unless_somebody_was_preempted() -> None:
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

    played(story)


def test_nothing_stays_behind_of_a_lease_whose_record_promises_it_no_more() -> None:
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

    played(story)


def test_a_lun_where_nothing_was_reserved_is_asked_about_it_once() -> None:
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

    played(story)


def test_a_storage_that_does_not_answer_keeps_the_lease_only_where_the_reservation_was_promised() -> None:
    async def story(world: World) -> None:
        node, lease = world.node("node-1"), world.grant("node-1")
        assert await node.take([lease]) is None
        world.storage.fails = True
        await node.give_up(replace(lease, guarantee=Guarantee.NONE))
        with pytest.raises(OSError, match="no answer"):
            await node.give_up(lease)

    played(story)


def test_a_look_that_comes_back_late_ends_nothing_that_was_registered_since(monkeypatch: pytest.MonkeyPatch) -> None:
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

    played(story)


def test_a_give_up_that_was_given_up_ends_no_reservation_that_is_in_use_again(monkeypatch: pytest.MonkeyPatch) -> None:
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

    played(story)


@pytest.mark.parametrize("command", ["register", "reserve", "preempt"])
def test_nothing_goes_on_before_a_command_that_was_given_up_was_carried_out(
    monkeypatch: pytest.MonkeyPatch, command: str
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

    played(story)


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
        node = world.node("node-1", boot="b2", scratch=tmp_path)
        assert node.left_by_earlier_boots() == {LUN}
        for lun in ("wwn-a", "of-others"):
            await node.end_earlier(lun, nullcontext(), ())
        assert world.storage.holder == ("node-1" if kept else "")
        assert world.storage.keys == {"node-2": theirs} | ({"node-1": key_of(lease, kept=True)} if kept else {})
        for again in (node, world.node("node-1", boot="b2", scratch=tmp_path)):
            assert again.left_by_earlier_boots() == set()
        assert world.node("node-1", boot="b3", scratch=tmp_path).left_by_earlier_boots() == {LUN}

    played(story)


@pytest.mark.parametrize("why", ["held", "in use", "of this boot", "no answer"])
def test_what_may_be_of_this_boot_is_not_ended(tmp_path: Path, why: str) -> None:
    """Its lease may be another node's by now, which still needs to find that it was reserved here."""

    async def story(world: World) -> None:
        lease = world.grant("node-1")
        before = world.node("node-1", boot="b" if why == "of this boot" else "b0", scratch=tmp_path)
        Port(world.storage, "node-1").register(key_of(lease))
        if why == "of this boot":
            assert await before.take([lease]) is None
        world.storage.fails = why == "no answer"
        node = world.node("node-1", uses=int(why == "in use"), scratch=tmp_path)
        await node.end_earlier("wwn-a", nullcontext(), [LUN] if why == "held" else [])
        assert world.storage.keys == {"node-1": key_of(lease)}
        assert node.left_by_earlier_boots() == ({LUN} if why in ("held", "in use") else set())

    played(story)


@pytest.mark.parametrize(("uses", "counted"), [(1, 0), (2, 1)])
def test_what_still_uses_it_here_does_not_get_it_back(uses: int, counted: int) -> None:
    """An old mount alone counts one; who asks is counted only if it has a file open already."""

    async def story(world: World) -> None:
        assert await world.node("node-2").take([world.grant("node-2")]) is None
        denied = await world.node("node-1", uses=uses).take([world.grant("node-1")], counted=counted)
        assert denied is not None and "must end first" in denied.reason
        assert world.storage.holder == "node-2"

    played(story)


def test_a_reservation_of_a_stranger_is_left_alone() -> None:
    async def story(world: World) -> None:
        world.storage.keys["stranger"], world.storage.holder = 0xABC, "stranger"
        denied = await world.node("node-1").take([world.grant("node-1")])
        assert denied is not None and "0xabc" in denied.reason
        assert world.storage.holder == "stranger"

    played(story)


def test_a_lun_with_two_paths_and_a_part_of_one_get_no_such_promise() -> None:
    world = World([])
    node = world.node("node-1")
    asyncio.run(node.look([LUN]))
    assert node.promised([LUN]) and not node.promised([ResourceId("wwn-a", ("p1",))])
    assert not node.promised([LUN, ResourceId("wwn-b")]), "the weakest of a set decides"
    cast(Any, node)._devices.on_lun = lambda _: [DISK, Device(DevNum(8, 16), "sdb", (LUN,), ())]
    asyncio.run(node.look([LUN]))
    assert not node.promised([LUN])
