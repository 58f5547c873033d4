# SPDX-License-Identifier: GPL-2.0-or-later
"""The guard table's entry of a device, from what the policy says, what is held, and what others hold."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lab_node import Node, disk

from enforcer.kernel import abi
from enforcer.kernel.abi import GuardFlag, State
from enforcer.model.resource import Device, DevNum, ResourceId
from enforcer.policy.engine import Facts, Guarding
from enforcer.policy.rules import Policy
from enforcer.storage.dmtable import DmTable
from enforcer.storage.system import SWAP, SystemDevices
from enforcer.workflow import devices as workflow_devices
from enforcer.workflow.devices import Devices, Grip, Hold, Known, covers, most_specific
from enforcer.workflow.guarded_swap import FILE

LUNS = ("wwn-a", "wwn-b")
resources = st.builds(
    ResourceId, st.sampled_from(LUNS), st.lists(st.sampled_from(["p1", "p2", "lv"]), max_size=3).map(tuple)
)
grips = st.dictionaries(resources, st.builds(Grip, st.sampled_from(Hold), st.integers(1, 99)), max_size=4)
POLICY = Policy(generation=9)


class Guards:
    """The guard table."""

    def __init__(self) -> None:
        self.entries: dict[int, abi.Guard] = {}
        self.writes = 0

    def get(self, key: int) -> abi.Guard | None:
        return self.entries.get(key)

    def put(self, key: int, value: abi.Guard) -> None:
        self.entries[key] = value
        self.writes += 1

    def delete(self, key: int) -> bool:
        return self.entries.pop(key, None) is not None


class Tables:
    def __init__(self) -> None:
        self.guard = Guards()
        self.ledger: dict[int, abi.Ledger] = {}


def devices(*, deadline: bool = True, run_dir: Path | None = None) -> Devices:
    tables: object = Tables()
    root = Path("/nonexistent")
    return Devices(tables, "node-1", policy=lambda: POLICY, keep=(), deadline=deadline, root=root, run_dir=run_dir)


def known(*names: ResourceId, minor: int = 0, problem: str = "", guarding: Guarding | None = None) -> Known:
    device = Device(DevNum(8, minor), f"sd{minor}", tuple(sorted(names)), (), problem=problem)
    return Known(device, guarding or Guarding(guarded=True, errno=16, rule="san"), Facts())


@given(resources, resources, resources)
def test_covers_is_an_order(a: ResourceId, b: ResourceId, c: ResourceId) -> None:
    assert covers(a, a)
    assert not (covers(a, b) and covers(b, a)) or a == b
    assert not (covers(a, b) and covers(b, c)) or covers(a, c)
    assert (covers(a, b) or covers(b, a)) == a.meets(b)


@given(st.lists(resources, max_size=5), resources)
def test_most_specific_is_the_narrowest_that_covers(held: list[ResourceId], wanted: ResourceId) -> None:
    found = most_specific(held, wanted)
    covering = [h for h in held if covers(h, wanted)]
    if found is None:
        assert not covering
    else:
        assert found in covering and len(found.path) == max(len(h.path) for h in covering)


@given(st.sets(resources, max_size=3), grips, st.frozensets(resources, max_size=2), st.booleans(), st.booleans())
def test_live_only_with_a_live_grip_on_everything(
    wanted: set[ResourceId], held: dict[ResourceId, Grip], others: frozenset[ResourceId], deadline: bool, broken: bool
) -> None:
    table = devices(deadline=deadline)
    table.set_grips(held, others)
    entry = table.entry(known(*wanted, problem="no name" if broken else ""))
    taken = any(mine.meets(other) for mine in wanted for other in others)
    covering = [most_specific(held, r) for r in wanted]
    whole = bool(wanted) and not broken and all(c is not None and held[c].hold is Hold.LIVE for c in covering)
    assert (entry.state == State.LIVE) == (whole and not taken)
    assert (entry.state == State.ELSEWHERE) == taken
    assert entry.state in (State.LIVE, State.ELSEWHERE, State.FREE, State.CLOSING)
    assert entry.error == -16 and entry.generation == 9
    assert bool(entry.flags & GuardFlag.DEADLINE) == deadline and not entry.flags & GuardFlag.AUDIT
    if entry.state == State.LIVE:
        assert entry.token == max(held[c].token for c in covering if c is not None)
    else:
        assert entry.token == 0


@given(st.sets(resources, max_size=3), grips, st.frozensets(resources, max_size=2))
def test_what_no_rule_speaks_of(
    wanted: set[ResourceId], held: dict[ResourceId, Grip], others: frozenset[ResourceId]
) -> None:
    table = devices()
    table.set_grips(held, others)
    entry = table.entry(known(*wanted, guarding=Guarding(guarded=False)))
    assert (entry.state, entry.flags, entry.error) == (State.UNGUARDED, 0, 0)


@pytest.mark.parametrize(("errno", "error"), [(16, -16), (1, -1), (0, -16)])
def test_a_refusal_has_an_errno_always(errno: int, error: int) -> None:
    guarding = Guarding(guarded=True, errno=errno, audit=True)
    entry = devices(deadline=False).entry(known(ResourceId("wwn-a"), guarding=guarding))
    assert (entry.state, entry.error, entry.flags) == (State.FREE, error, GuardFlag.AUDIT)


def test_closing_is_stricter_than_live() -> None:
    a, b = ResourceId("wwn-a"), ResourceId("wwn-b")
    table = devices()
    table.set_grips({a: Grip(Hold.LIVE, 1), b: Grip(Hold.CLOSING, 2)}, frozenset())
    assert table.entry(known(a)).state == State.LIVE
    assert table.entry(known(b)).state == State.CLOSING
    assert table.entry(known(a, b)).state == State.CLOSING


@settings(deadline=None)
@given(st.lists(st.tuples(grips, st.frozensets(resources, max_size=2)), max_size=5))
def test_the_table_never_lags_behind(steps: list[tuple[dict[ResourceId, Grip], frozenset[ResourceId]]]) -> None:
    """Whatever changes are published, and in what order, every entry is what entry() says now."""
    table = devices()
    all_known = [
        known(ResourceId("wwn-a"), minor=0),
        known(ResourceId("wwn-a", ("p1",)), minor=1),
        known(ResourceId("wwn-a", ("p2",)), ResourceId("wwn-b"), minor=2),
        known(ResourceId("wwn-b", ("p1", "lv")), minor=3),
    ]
    for each in all_known:
        table.known[each.device.dev] = each
        table._write(each)
    guard: Guards = table._tables.guard
    for held, others in steps:
        table.set_grips(held, others)
        for each in all_known:
            assert bytes(guard.entries[each.device.dev.to_kernel()]) == bytes(table.entry(each))
        writes = guard.writes
        table.set_grips(dict(held), others)
        assert guard.writes == writes


def test_forgotten_devices_leave_the_table() -> None:
    table = devices()
    one = known(ResourceId("wwn-a"))
    table.known[one.device.dev] = one
    table._write(one)
    table.forget(one.device.dev)
    guard: Guards = table._tables.guard
    assert guard.entries == {} and table.known == {}


@pytest.mark.parametrize("counts", [abi.Ledger(uses=1), abi.Ledger(inflight=1)])
def test_a_device_that_is_gone_but_open_goes_on_to_count(counts: abi.Ledger) -> None:
    table = devices()
    a = ResourceId("wwn-a")
    one = known(a)
    table.known[one.device.dev] = one
    table.set_grips({a: Grip(Hold.LIVE, 1)}, frozenset())
    table._tables.ledger[one.device.dev.to_kernel()] = counts
    table.forget(one.device.dev)
    guard: Guards = table._tables.guard
    assert guard.entries == {} and table.counted_for(a) == [one.device.dev]


@given(grips)
def test_uses_are_counted_for_exactly_one_grip(held: dict[ResourceId, Grip]) -> None:
    table = devices()
    one = known(ResourceId("wwn-a", ("p1",)))
    table.known[one.device.dev] = one
    table.set_grips(held, frozenset())
    counted = [r for r in held if table.counted_for(r)]
    assert counted == ([found] if (found := most_specific(held, ResourceId("wwn-a", ("p1",)))) else [])


def test_a_map_without_a_table_is_nothing_yet(node: Node) -> None:
    """What it will lie on is not known, so it is not free either: whoever opens it first is asked for."""
    number = DevNum(253, 7)
    node.add(disk(number, "dm-7"))
    assert node.entry(number) is None
    node.add(disk(number, "dm-7", size_bytes=4096))
    assert node.state(number) is State.UNGUARDED
    node.map_of_table = number
    node.devices.expect_table(node.devices.map_of(DmTable("late", "", None, ())))
    assert node.entry(number) is None, "a table is about to be loaded"


@pytest.mark.parametrize(
    ("entry", "system"),
    [
        (None, True),  # swap from before the first daemon
        (State.UNGUARDED, True),
        (State.LIVE, False),
        (State.CLOSING, False),
        (State.FREE, False),  # its lease is gone: all the more
    ],
)
def test_swap_is_the_systems_unless_the_table_says_that_it_was_guarded(
    monkeypatch: pytest.MonkeyPatch, entry: State | None, system: bool
) -> None:
    def found(*_: object, guarded: Callable[[DevNum], bool]) -> SystemDevices:
        return SystemDevices({} if guarded(DevNum(8, 1)) else {DevNum(8, 1): SWAP})

    monkeypatch.setattr(workflow_devices, "system_devices", found)
    mine = devices()
    if entry is not None:
        mine._tables.guard.put(DevNum(8, 1).to_kernel(), abi.Guard(state=entry))
    assert mine.find_system() is system


def test_guarded_swap_is_remembered_until_it_is_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without its rule, and by a daemon whose table is new, the swap is none of the node's own all the same."""
    active, told = [DevNum(8, 1)], list[str]()

    def found(*_: object, guarded: Callable[[DevNum], bool]) -> SystemDevices:
        return SystemDevices({dev: SWAP for dev in active if not guarded(dev)}, tuple(told))

    monkeypatch.setattr(workflow_devices, "system_devices", found)
    mine = devices(run_dir=tmp_path)
    mine._tables.guard.put(DevNum(8, 1).to_kernel(), abi.Guard(state=State.LIVE))
    assert not mine.find_system()
    mine._tables.guard.put(DevNum(8, 1).to_kernel(), abi.Guard(state=State.UNGUARDED))
    assert not mine.find_system()
    assert not devices(run_dir=tmp_path).find_system()
    active.clear()
    told.append("/proc/swaps cannot be read")
    assert not mine.find_system()
    told.clear()
    active.append(DevNum(8, 1))
    assert not devices(run_dir=tmp_path).find_system(), "nobody has seen it go off"
    active.clear()
    again = devices(run_dir=tmp_path)
    assert not again.find_system()
    active.append(DevNum(8, 1))
    assert again.find_system() and devices(run_dir=tmp_path).find_system()


def test_no_swap_is_the_nodes_own_if_what_was_remembered_cannot_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def found(*_: object, guarded: Callable[[DevNum], bool]) -> SystemDevices:
        return SystemDevices({} if guarded(DevNum(8, 1)) else {DevNum(8, 1): SWAP})

    monkeypatch.setattr(workflow_devices, "system_devices", found)
    (tmp_path / FILE).write_text("8:1\n8:")
    assert not devices(run_dir=tmp_path).find_system()
