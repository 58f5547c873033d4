# SPDX-License-Identifier: GPL-2.0-or-later
"""One LUN with reservations and the nodes that contend for it, played in an order of steps that a test chooses."""

from __future__ import annotations

import asyncio
import errno
import threading
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from enforcer.model.lease import Guarantee, HeldLease, Holder, Lease, Liveness
from enforcer.model.resource import Device, DevNum, Mode, ResourceId
from enforcer.storage.reservations import WRITE_EXCLUSIVE
from enforcer.storage.vetoes.reservation import Reservation
from enforcer.workflow.reserving import Reservations

SWITCHES = 3  # how often one of them stops in the middle and the other goes on
LUN = ResourceId("wwn-a")
DISK = Device(DevNum(8, 0), "sda", (LUN,), ("wwn-a",))
DISK2 = Device(DevNum(8, 16), "sdb", (LUN,), ("wwn-a",))


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

    def __init__(self, order: list[int], place: Path) -> None:
        self.place = place  # where a node writes down what it has reserved
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

    def node(
        self, name: str, uses: int = 0, boot: str = "b", named: str = "wwn-*", paths: tuple[Device, ...] = (DISK,)
    ) -> Reservations:
        @contextmanager
        def port(_dev: DevNum, *, scratch: Path) -> Any:
            yield Port(self.storage, name)

        (self.place / name).mkdir(exist_ok=True)
        return Reservations(
            cast(Any, SimpleNamespace(on_lun=lambda _: list(paths), luns=lambda: frozenset({LUN.lun, "of-others"}))),
            cast(Any, self),
            Holder(name, boot, "s"),
            patterns=(named,),
            scratch=self.place / name,
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


def played(place: Path, story: Callable[[World], Awaitable[None]]) -> World:
    """A story without choices."""
    world = World([], place)

    async def steps() -> None:
        await story(world)

    asyncio.run(world.play(steps()))
    return world
