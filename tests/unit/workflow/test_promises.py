# SPDX-License-Identifier: GPL-2.0-or-later
"""What is promised with a lease, and what the revoker is told of it before anything is written."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import pytest
from lab_node import A1, A2, BOTH, DISK, ME, PART, PART2, SECOND, A, B, Node, disk, make_node, multipath, run

from enforcer.cluster.etcd_session import SessionFacts
from enforcer.cluster.identity import write_session
from enforcer.kernel.abi import State
from enforcer.lost import files
from enforcer.lost.files import Beat, read_promises, read_resets
from enforcer.model.clock import boot_ns
from enforcer.model.guarantee import Tiers
from enforcer.model.lease import Guarantee, Lease
from enforcer.model.resource import DevNum, Mode, ResourceId
from enforcer.workflow.promises import Promises


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Node:
    made = make_node(tmp_path, monkeypatch)
    for name in ("sda", "sdb", "sdc"):
        scsi(made.sysfs, name)
    return made


@pytest.fixture
def promises(node: Node, tmp_path: Path) -> Promises:
    """Of a node whose keeper leaves time for a cut, and whose revoker is at work."""
    write_session(tmp_path, SessionFacts(1, 1, 20), tiers=Tiers(cut_s=3.0))
    files.write_beat(tmp_path, Beat(boot_ns(), 1))
    return Promises(node.devices, tmp_path, adopted=lambda: True, root=node.sysfs)


def scsi(root: Path, name: str, subsystem: str = "scsi") -> None:
    device = root / "sys/block" / name / "device"
    device.mkdir(parents=True)
    (device / "state").write_text("running\n")
    (root / "sys/bus" / subsystem).mkdir(parents=True, exist_ok=True)
    (device / "subsystem").symlink_to(root / "sys/bus" / subsystem)


def leased(resource: ResourceId, guarantee: Guarantee = Guarantee.CUT) -> Lease:
    return Lease(resource, Mode.EX, ME, 7, "", guarantee)


def told(run_dir: Path) -> dict[str, tuple[str, ...]]:
    return {promise.name: promise.lowest for promise in read_promises(run_dir)}


def test_the_disks_below_are_told_whatever_lies_on_them(node: Node, promises: Promises, tmp_path: Path) -> None:
    node.add(BOTH)
    promises.tell([leased(A1)])
    assert told(tmp_path) == {"sda1": ("sda",), "dm-0": ("sda",)}, "not its neighbour, and not the volume's other disk"
    promises.tell([leased(A1), leased(B)])
    assert told(tmp_path) == {"sda1": ("sda",), "sdb": ("sdb",), "dm-0": ("sda", "sdb")}
    promises.tell([leased(A1, Guarantee.NONE), leased(B, Guarantee.WATCHDOG)])
    assert told(tmp_path) == {}


def test_what_may_be_in_use_under_the_promise_of_a_reset_is_told_too(
    node: Node, promises: Promises, tmp_path: Path
) -> None:
    both = [leased(A1, Guarantee.WATCHDOG), leased(B, Guarantee.WATCHDOG), leased(A2)]
    promises.tell(both)
    assert read_resets(tmp_path) == (str(A1), str(B))
    adopted = False
    again = Promises(node.devices, tmp_path, adopted=lambda: adopted, root=node.sysfs)
    again.tell([])
    assert read_resets(tmp_path) == (str(A1), str(B)), "what an earlier daemon has told stands until the store has said"
    adopted = True
    again.tell(both, closing=[A1])
    assert read_resets(tmp_path) == (str(B),), "nothing uncounted is left of what is being given back"
    files.write(tmp_path / files.PROMISED, [])
    with pytest.raises(ValueError, match="is damaged"):
        read_resets(tmp_path)


def test_who_should_make_the_cut_and_stays_away_is_told_of(
    promises: Promises, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    promises.tell([leased(A1)])
    for _ in range(2):
        promises._warn()
    assert not caplog.records
    files.write_beat(tmp_path, Beat(boot_ns() - 2 * files.DEAD_NS, 1))
    for _ in range(2):
        promises._warn()
    (record,) = caplog.records
    assert record.levelname == "CRITICAL" and "no sign of life" in record.getMessage()


def test_a_lease_tells_what_is_closing(node: Node) -> None:
    told: list[tuple[set[ResourceId], set[ResourceId]]] = []

    async def scenario() -> None:
        node.leases._tell = lambda leases, closing: told.append(({le.resource for le in leases}, set(closing)))
        await node.hold(node.there[SECOND])
        await node.leases.release_unused()

    run(scenario())
    assert told[0] == ({B}, set()) and ({B}, {B}) in told and told[-1] == (set(), set())


def test_a_daemon_that_starts_forgets_no_promise(node: Node, promises: Promises, tmp_path: Path) -> None:
    """Its first word, before it has read the store, must not be that nothing is promised."""
    promises.tell([leased(A1)])
    adopted = False
    again = Promises(node.devices, tmp_path, adopted=lambda: adopted, root=node.sysfs)
    again.tell([])
    assert told(tmp_path) == {"sda1": ("sda",)}
    again.tell([leased(B)])
    assert told(tmp_path) == {"sda1": ("sda",), "sdb": ("sdb",)}
    adopted = True
    again.tell([leased(B)])
    assert told(tmp_path) == {"sdb": ("sdb",)}


def test_a_path_that_comes_later_is_told_too(node: Node, promises: Promises, tmp_path: Path) -> None:
    promises.tell([leased(B)])
    node.add(disk(DevNum(8, 32), "sdc", B))
    promises.tell([leased(B)])
    assert told(tmp_path) == {"sdb": ("sdb", "sdc"), "sdc": ("sdb", "sdc")}


def test_the_revoker_hears_before_the_guard_does(node: Node, promises: Promises, tmp_path: Path) -> None:
    async def acquire(*_: object, **__: object) -> object:
        outcome = await take({}, budget_s=1)
        leases = tuple(replace(lease, guarantee=Guarantee.CUT) for lease in outcome.leases)
        return replace(outcome, leases=leases)

    async def take(facts: dict[str, str], *, budget_s: float) -> object:
        from enforcer.model.lease import Claim

        return await type(node.store).acquire(node.store, frozenset({Claim(B)}), facts, budget_s=budget_s)

    states: list[State] = []

    def tell(leases: Iterable[Lease], closing: Iterable[ResourceId]) -> None:
        states.append(node.state(SECOND))
        promises.tell(leases, closing)

    node.store.acquire = acquire
    node.leases._tell = tell
    run(node.take(node.there[SECOND]))
    assert states[:1] == [State.FREE] and node.state(SECOND) is State.LIVE
    assert told(tmp_path) == {"sdb": ("sdb",)}

    def cannot(leases: Iterable[Lease], _closing: Iterable[ResourceId]) -> None:
        list(leases)
        raise OSError(28, "No space left on device")

    node.leases._tell = cannot
    with pytest.raises(OSError):
        run(node.take(node.there[DISK]))
    assert node.state(DISK) is not State.LIVE, "who cannot be told keeps the guard closed"


def test_nothing_is_promised_where_a_rule_only_watches(node: Node, promises: Promises) -> None:
    known = node.devices.known[SECOND]
    assert promises.offer(frozenset({B})).guarantee is Guarantee.CUT
    node.devices.known[SECOND] = replace(known, guarding=replace(known.guarding, audit=True))
    made = promises.offer(frozenset({B}))
    assert (made.guarantee, made.reason) == (Guarantee.NONE, "a rule only watches what lies on it")


@pytest.mark.parametrize(
    ("what", "word"),
    [
        ("nothing", ""),
        ("no revoker", "not running"),
        ("virtio", "no SCSI disk"),
        ("multipath", "multipath map"),
        ("system", "holds /var"),
        ("unknown", "no disk of"),
    ],
)
def test_no_cut_is_promised_of_what_cannot_be_cut(
    node: Node, promises: Promises, tmp_path: Path, what: str, word: str
) -> None:
    wanted = B
    match what:
        case "no revoker":
            (tmp_path / files.REVOKER).unlink()
        case "virtio":
            scsi(node.sysfs, "vda", "virtio")
            node.add(disk(DevNum(254, 0), "vda", B))
        case "multipath":
            multipath(node)
        case "system":
            node.add(disk(DevNum(253, 3), "dm-3", B, below=(SECOND,), system="holds /var"))
            node.add(disk(SECOND, "sdb", B, system="holds /var"))
        case "unknown":
            wanted = ResourceId("wwn-none")
    made = promises.offer(frozenset({wanted, A}))
    assert made.guarantee is (Guarantee.NONE if word else Guarantee.CUT)
    assert word in made.reason


def test_swap_under_a_lease_is_cut_and_the_systems_own_is_not(node: Node, promises: Promises) -> None:
    promises.tell([leased(A1)])
    node.add(disk(PART, "sda1", A1, below=(DISK,), system="holds active swap"))
    node.add(disk(DISK, "sda", A, system="holds active swap"))
    assert promises.guarantee(frozenset({ResourceId("wwn-a", ("p2",))})) is Guarantee.CUT
    node.add(disk(PART2, "sda2", ResourceId("wwn-a", ("p2",)), below=(DISK,), system="holds active swap"))
    assert "swap" in promises.offer(frozenset({A1})).reason, "the neighbour's swap is nobody's lease"
