# SPDX-License-Identifier: GPL-2.0-or-later
"""A node without a kernel: tables that are dicts, disks that are made up, a store that loses answers on demand."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeVar

import pytest

from enforcer.cluster.conflicts import Witness, judge, refusal
from enforcer.kernel import abi
from enforcer.kernel.abi import State
from enforcer.kernel.tables import Tables
from enforcer.model import clock
from enforcer.model.errors import LeaseLost, StoreUnavailable
from enforcer.model.lease import Claim, Denied, Granted, HeldLease, Holder, Lease, NodeRecord, Standing
from enforcer.model.resource import Device, DevNum, Mode, ResourceId, UseKind
from enforcer.policy.rules import Defaults, Match, Policy, Rule
from enforcer.storage import caches, sysfs, usage
from enforcer.storage.usage import Usage
from enforcer.storage.vetoes import local
from enforcer.storage.vetoes.local import Local
from enforcer.storage.vetoes.marks import Mark
from enforcer.workflow import devices as devices_module
from enforcer.workflow import leases as leases_module
from enforcer.workflow import liveness, vacancy, vetoing
from enforcer.workflow.devices import Devices
from enforcer.workflow.leases import Leases
from enforcer.workflow.reserving import Reservations

T = TypeVar("T")
ME = Holder("node-1", "boot-1", "session-1")
OTHER = Holder("node-2", "boot-9", "session-9")
DISK, PART, PART2, SECOND = DevNum(8, 0), DevNum(8, 1), DevNum(8, 2), DevNum(8, 16)
A, A1, A2, B = ResourceId("wwn-a"), ResourceId("wwn-a", ("p1",)), ResourceId("wwn-a", ("p2",)), ResourceId("wwn-b")
SAN = Rule("san", frozenset(UseKind) - {UseKind.UMOUNT}, match=Match(device=("wwn-*",)))
SECONDS = 1_000_000_000
CANNOT_TELL = None  # what an exclusive open says of a device that it cannot open at all


def run(work: Coroutine[Any, Any, T]) -> T:
    return asyncio.run(asyncio.wait_for(work, 20))


async def turn(times: int = 5) -> None:
    for _ in range(times):
        await asyncio.sleep(0)


def disk(dev: DevNum, name: str, *resources: ResourceId, **more: Any) -> Device:
    aliases = tuple(map(str, sorted(resources)))
    return Device(dev, name, tuple(sorted(resources)), aliases, **more)


BOTH = disk(DevNum(253, 0), "dm-0", A1, B, below=(PART, DISK, SECOND))  # a volume over two LUNs


@contextmanager
def no_port() -> Iterator[Any]:
    """A disk that knows no reservations."""
    yield SimpleNamespace(registered=tuple)


class Table(dict[int, Any]):
    """One table of the kernel; the key is the number, as bytes or not."""

    def get(self, key: int | bytes, default: Any = None) -> Any:
        return super().get(int.from_bytes(key, "little") if isinstance(key, bytes) else key, default)

    def put(self, key: int, value: Any) -> None:
        self[key] = value

    def delete(self, key: int) -> bool:
        return self.pop(key, None) is not None

    def each_key(self) -> Iterator[bytes]:
        for key in list(self):
            yield key.to_bytes(8, "little")


class FakeTables(Tables):
    def __init__(self) -> None:
        for name in ("guard", "ledger", "tasks", "params", "asks"):
            setattr(self, name, Table())


class Store:
    """Keeps the store's promises, and its answers to itself for as often as ``loses`` says."""

    name = "fake"
    ttl_s = None
    gone_after_s = 0.1

    def __init__(self) -> None:
        self.records: dict[tuple[ResourceId, str], Lease] = {}
        self.told: dict[ResourceId, int] = {}
        self.present = {each.node: each for each in (ME, OTHER)}
        self.token = 100
        self.calls: list[str] = []
        self.loses: dict[str, int] = {}  # does it, and does not answer
        self.out_of_reach = False
        self.during: Callable[[str], Coroutine[Any, Any, None]] | None = None
        self.seen: tuple[NodeRecord, ...] = ()
        self.published: list[tuple[frozenset[str], str]] = []
        self.facts: list[Mapping[str, str]] = []
        self.fenced: dict[tuple[str, str], str] = {}
        self.turns: dict[str, tuple[str, int]] = {}

    async def open(self) -> None: ...

    async def close(self) -> None: ...

    async def _reach(self, call: str) -> None:
        self.calls.append(call)
        if self.during:
            await self.during(call)
        if self.out_of_reach:
            raise StoreUnavailable("the lease store did not answer")

    async def _answer(self, call: str) -> None:
        if self.loses.get(call, 0) > 0:
            self.loses[call] -= 1
            raise StoreUnavailable("the answer was lost")
        if self.during:
            await self.during(call + " done")

    def hold(self, resource: ResourceId, holder: Holder = OTHER, mode: Mode = Mode.EX) -> Lease:
        """A record that comes from elsewhere, or of which our process was never told."""
        self.token += 1
        lease = Lease(resource, mode, holder, self.token, "2026-01-01T00:00:00Z")
        self.records[resource, holder.node] = lease
        return lease

    def ours(self) -> dict[ResourceId, int]:
        return {r: lease.token for (r, node), lease in self.records.items() if node == ME.node}

    def _held(self, lun: str | None = None) -> list[HeldLease]:
        witness = Witness(self.present)
        leases = [lease for lease in self.records.values() if lun in (None, lease.resource.lun)]
        return [HeldLease(lease, witness.liveness(lease.holder)) for lease in leases]

    async def acquire(self, claims: frozenset[Claim], facts: Mapping[str, str], *, budget_s: float) -> Granted | Denied:
        self.facts.append(facts)
        try:
            await self._reach("acquire")
        except StoreUnavailable as error:
            return Denied(Standing.UNKNOWN, str(error))
        ruling = judge(claims, ME, self._held())
        if ruling.blocking:
            return refusal(ruling.blocking)
        fresh = ruling.fresh(self.told)
        if ruling.held_token is None:
            self.token += 1
            for resource, mode in ruling.wanted.items():
                self.records[resource, ME.node] = Lease(resource, mode, ME, self.token, "", facts=dict(facts))
        leases = tuple(self.records[resource, ME.node] for resource in ruling.wanted)
        try:
            await self._answer("acquire")
        except StoreUnavailable as error:
            return Denied(Standing.UNKNOWN, str(error))
        self.told.update((lease.resource, lease.token) for lease in leases)
        return Granted(leases[0].token, leases, fresh)

    async def release(self, resources: frozenset[ResourceId], token: int) -> None:
        await self._reach("release")
        mine = {r for r in resources if self.ours().get(r) == token}
        for resource in mine:
            del self.records[resource, ME.node]
        await self._answer("release")
        if mine != resources:
            raise LeaseLost("not held under that token any more")

    async def leases(self, lun: str | None = None) -> tuple[HeldLease, ...]:
        await self._reach("leases")
        found = tuple(self._held(lun))
        await self._answer("leases")
        return found

    async def last_grants(self) -> Mapping[str, tuple[str, int]]:
        return dict(self.turns)

    async def fences(self) -> Mapping[tuple[str, str], str]:
        await self._reach("fences")
        return dict(self.fenced)

    async def nodes(self) -> tuple[NodeRecord, ...]:
        await self._reach("nodes")
        return self.seen

    async def publish(self, luns: frozenset[str], policy_digest: str) -> None:
        await self._reach("publish")
        self.published.append((luns, policy_digest))

    async def fence_confirm(self, node: str, boot_id: str, by: str, *, force: bool = False) -> None: ...

    async def adopt(self) -> tuple[Lease, ...]:
        await self._reach("adopt")
        mine = [
            lease
            for lease in self.records.values()
            if (lease.holder.node, lease.holder.boot_id) == (ME.node, ME.boot_id)
        ]
        return tuple(replace(lease, holder=ME) for lease in mine)

    async def forget_old_boots(self) -> tuple[Lease, ...]:
        await self._reach("forget_old_boots")
        old = [key for key, le in self.records.items() if le.holder.node == ME.node and le.holder.boot_id != ME.boot_id]
        return tuple(self.records.pop(key) for key in old)


@dataclass
class Node:
    """Two LUNs, one of them with two partitions, all guarded; and what the test makes of them."""

    sysfs: Path
    store: Store = field(default_factory=Store)
    tables: FakeTables = field(default_factory=FakeTables)
    there: dict[DevNum, Device] = field(default_factory=dict)
    policy: Policy = field(default_factory=lambda: Policy(rules=(SAN,), defaults=Defaults(), generation=7))
    used: dict[DevNum, Usage] = field(default_factory=dict)  # what a scan of /proc finds
    scans: int = 0
    openers: dict[DevNum, int] = field(default_factory=dict)  # who has it open, whatever our own counts say
    looks: int = 0
    carriers: set[DevNum] = field(default_factory=set)  # held by multipath maps or their pieces alone
    map_of_table: DevNum | None = None  # which map a table is loaded for
    claimed: dict[DevNum, bool | None] = field(default_factory=dict)  # what an exclusive open says
    probed: list[tuple[DevNum, State]] = field(default_factory=list)
    dropped: list[tuple[DevNum, State]] = field(default_factory=list)
    undroppable: dict[DevNum, Exception] = field(default_factory=dict)
    on_disk: dict[DevNum, str] = field(default_factory=dict)  # digests of partition tables
    marks: dict[DevNum, list[tuple[Mark, ...] | OSError]] = field(default_factory=dict)  # what each look at a disk sees
    looked: list[DevNum] = field(default_factory=list)
    rereads: list[DevNum] = field(default_factory=list)
    rereadable: bool = True
    later_ns: int = 0  # how far the clock was put on
    session_until_ns: int | None = None
    sessions: bool = False
    system: dict[DevNum, str] = field(default_factory=dict)

    def build(self) -> None:
        """The daemon's parts; once more for a daemon that starts again."""
        self.devices = Devices(
            self.tables, ME.node, policy=lambda: self.policy, keep=(), deadline=self.sessions, root=self.sysfs
        )
        identities: Any = SimpleNamespace(
            resolve=self.resolve,
            system=self.system,
            dm_device=lambda **_: self.map_of_table,
            carries=lambda dev: dev in self.carriers,
            is_multipath=lambda dev: dev == MAP,
        )
        self.devices._identities = identities
        self.leases = Leases(
            self.store,
            self.devices,
            self.tables,
            me=ME,
            deadline_ns=lambda: self.session_until_ns,
            scratch=self.sysfs,
            reservations=Reservations(
                self.devices, self.store, ME, patterns=(), scratch=self.sysfs, port=lambda *_, **__: no_port()
            ),
        )
        for dev in self.there:
            self.devices.classify(dev)

    def resolve(self, dev: DevNum) -> Device:
        known = self.there.get(dev)
        return known if known is not None else Device(dev, str(dev), (), (), problem=f"{dev} is not there")

    def now(self) -> int:
        return clock.boot_ns() + self.later_ns

    def pass_s(self, seconds: float) -> None:
        self.later_ns += int(seconds * SECONDS)

    def add(self, device: Device) -> Device:
        self.there[device.dev] = device
        (self.sysfs / "sys/dev/block" / str(device.dev)).mkdir(parents=True, exist_ok=True)
        if hasattr(self, "devices"):
            self.devices.classify(device.dev)
        return device

    def entry(self, dev: DevNum) -> Any:
        return self.tables.guard.get(dev.to_kernel())

    def state(self, dev: DevNum) -> State:
        return State(self.entry(dev).state)

    def count(self, dev: DevNum, uses: int = 0, inflight: int = 0) -> None:
        self.tables.ledger[dev.to_kernel()] = abi.Ledger(uses=uses, inflight=inflight)

    def opening(self, *devs: DevNum) -> None:
        """Some task is in an open of these, or of none."""
        task = abi.Task(open_depth=len(devs))
        for slot, dev in zip(task.opens, devs, strict=False):
            slot.dev = dev.to_kernel()
        self.tables.tasks[77] = task

    async def take(self, device: Device, intent: int = 1) -> Granted:
        outcome = await self.leases.acquire(device, intent, {}, budget_s=1.0)
        assert isinstance(outcome, Granted), outcome
        return outcome

    async def refused(self, device: Device, intent: int = 1) -> Denied:
        outcome = await self.leases.acquire(device, intent, {}, budget_s=0.01)
        assert isinstance(outcome, Denied), outcome
        return outcome

    async def hold(self, device: Device) -> Granted:
        """Take it for a use that has begun and is over."""
        granted = await self.take(device)
        self.leases.permit_over(1)
        return granted

    def held(self) -> dict[ResourceId, tuple[int, str]]:
        return {lease.resource: (lease.token, str(hold)) for lease, hold in self.leases.held()}


def make_node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Node:
    node = Node(tmp_path / "root")
    node.add(disk(DISK, "sda", A))
    node.add(disk(PART, "sda1", A1, below=(DISK,)))
    node.add(disk(PART2, "sda2", A2, below=(DISK,)))
    node.add(disk(SECOND, "sdb", B))
    node.build()

    def path(text: object) -> Path:
        return node.sysfs / str(text).lstrip("/") if str(text).startswith("/sys/") else Path(str(text))

    def scan(_root: Path = Path("/")) -> dict[DevNum, Usage]:
        node.scans += 1
        return dict(node.used)

    def look(dev: DevNum, *, scratch: Path) -> None:
        node.looks += 1
        counts = node.tables.ledger.get(dev.to_kernel())
        node.tables.ledger.put(
            dev.to_kernel(),
            abi.Ledger(counts.uses, counts.inflight, openers=1 + node.openers.get(dev, 0), looks=counts.looks + 1),
        )

    def probe(dev: DevNum, *, scratch: Path) -> bool | None:
        node.probed.append((dev, node.state(dev)))
        return node.claimed.get(dev, False)

    def drop(dev: DevNum, *, scratch: Path) -> None:
        node.dropped.append((dev, node.state(dev)))
        if dev in node.undroppable:
            raise node.undroppable[dev]

    def reread(dev: DevNum, *, scratch: Path) -> bool:
        node.rereads.append(dev)
        return node.rereadable

    monkeypatch.setattr(vacancy, "Path", path)

    def see(device: Device, _here: Callable[[], Local], _scratch: Path) -> tuple[Mark, ...]:
        node.looked.append(device.dev)
        looks = node.marks.get(device.dev, [()])
        seen = looks.pop(0) if len(looks) > 1 else looks[0]
        if isinstance(seen, OSError):
            raise seen
        return seen

    monkeypatch.setattr(vetoing, "_look", see)
    monkeypatch.setattr(vetoing, "WATCH_S", 0.01)
    monkeypatch.setattr(local, "learn", lambda name: Local(frozenset({name, "host-1"})))
    monkeypatch.setattr(leases_module, "boot_ns", node.now)
    monkeypatch.setattr(liveness, "boot_ns", node.now)
    monkeypatch.setattr(usage, "scan", scan)
    monkeypatch.setattr(usage, "probe_exclusive", probe)
    monkeypatch.setattr(usage, "look", look)
    monkeypatch.setattr(caches, "drop_caches", drop)
    monkeypatch.setattr(caches, "partition_digest", lambda dev, *, scratch: node.on_disk.get(dev, "as read"))
    monkeypatch.setattr(caches, "reread_partitions", reread)
    monkeypatch.setattr(sysfs, "all_devices", lambda _root: tuple(node.there))
    monkeypatch.setattr(
        devices_module, "system_devices", lambda *_, **__: SimpleNamespace(reasons=node.system, unresolved=())
    )
    return node


MAP, PATH2 = DevNum(253, 9), DevNum(8, 32)


def multipath(node: Node, **more: Any) -> None:
    """The second LUN by two paths, with a map over both."""
    node.add(disk(SECOND, "sdb", B, carrier=True))
    node.add(disk(PATH2, "sdc", B, carrier=True))
    node.add(disk(MAP, "dm-9", B, below=(SECOND, PATH2), carrier=True, size_bytes=1 << 20, **more))
