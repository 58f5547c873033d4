# SPDX-License-Identifier: GPL-2.0-or-later
"""The cut: in time, proven, or the machine is reset; on a made-up /sys."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from enforcer.lost import files
from enforcer.lost.files import Promise
from enforcer.model.clock import boot_ns
from enforcer.model.errors import BadConfiguration
from enforcer.revoker import cut, filesystems, main
from enforcer.revoker.cut import Revoker
from enforcer.revoker.disks import Disk


@dataclass
class Machine:
    """A run directory, disks, and whether the machine was reset."""

    root: Path
    resets: list[str] = field(default_factory=list)
    said: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        (self.root / "run").mkdir()
        (self.root / "proc").mkdir()
        self.revoker = Revoker(self.root / "run", self.resets.append, say=self.said.append, root=self.root)

    def disk(self, name: str, *, busy: str = "0", inflight: str = "0 0") -> None:
        device = self.root / "sys/block" / name / "device"
        device.mkdir(parents=True)
        (device / "state").write_text("running\n")
        (device / "device_busy").write_text(f"{busy}\n")
        (device.parent / "inflight").write_text(f"       {inflight.replace(' ', '        ')}\n")

    def state(self, name: str) -> str:
        return (self.root / "sys/block" / name / "device/state").read_text().strip()

    def promise(self, *names: str) -> None:
        told = tuple(Promise(f"8:{index}", name, (f"lun-{name}",), (name,)) for index, name in enumerate(names))
        files.write_promises(self.root / "run", told)

    def deadline(self, in_s: float, budget_s: float = 0.3) -> None:
        files.write_deadline(self.root / "run", boot_ns() + int(in_s * 1e9), cut_s=budget_s, watchdog_s=0)

    def turns(self, seconds: float = 0.0) -> None:
        end = time.monotonic() + seconds
        self.revoker.turn()
        while time.monotonic() < end:
            time.sleep(self.revoker.pause_s())
            self.revoker.turn()

    def beat(self) -> files.Beat:
        self.revoker._beat(now=True)
        found = files.read_beat(self.root / "run")
        assert found is not None
        return found


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    monkeypatch.setattr(cut, "LATE_NS", 500_000_000)
    monkeypatch.setattr(cut, "AGAIN_NS", 100_000_000)
    return Machine(tmp_path)


def test_what_is_promised_is_cut_at_the_deadline_and_not_before(machine: Machine) -> None:
    machine.disk("sda")
    machine.disk("sdb")
    machine.disk("sdz")
    machine.promise("sda", "sdb")
    machine.deadline(0.5)
    machine.turns(0.2)
    assert (machine.state("sda"), machine.beat().cut) == ("running", ())
    machine.turns(0.6)
    assert (machine.state("sda"), machine.state("sdb"), machine.state("sdz")) == ("offline", "offline", "running")
    beat = machine.beat()
    assert (beat.cut, beat.failed, machine.resets) == (("sda", "sdb"), "", [])
    assert beat.cut_ns and any("nothing is written any more" in said for said in machine.said)


def test_a_deadline_that_moves_on_cuts_nothing(machine: Machine) -> None:
    machine.disk("sda")
    machine.promise("sda")
    for _ in range(5):
        machine.deadline(0.3)
        machine.turns(0.1)
    assert machine.state("sda") == "running"


@pytest.mark.parametrize("lost", ["never told", "lost"])
def test_a_promise_without_a_session_is_kept_at_once(machine: Machine, lost: str) -> None:
    machine.disk("sda")
    machine.promise("sda")
    if lost == "lost":
        files.write_deadline(machine.root / "run", 0, cut_s=0.3, watchdog_s=0)
    machine.turns()
    assert machine.state("sda") == "offline" and not machine.resets


@pytest.mark.parametrize(("busy", "inflight"), [("1", "0 0"), ("0", "0 1"), ("0", "2 0")])
def test_what_is_still_on_its_way_at_the_end_of_the_budget_resets_the_machine(
    machine: Machine, busy: str, inflight: str
) -> None:
    machine.disk("sda", busy=busy, inflight=inflight)
    machine.promise("sda")
    machine.deadline(0)
    began = time.monotonic()
    machine.turns()
    assert 0.2 < time.monotonic() - began < 5
    assert machine.state("sda") == "offline"
    assert len(machine.resets) == 1 and "sda" in machine.resets[0]
    assert machine.beat().failed and not machine.beat().cut
    assert "could not cut" in files.revoker_trouble(machine.root / "run"), "and nothing more is promised"


def test_a_disk_that_hangs_does_not_keep_the_time_keeper(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    machine.disk("sda")
    machine.disk("sdb")
    let_go = threading.Event()

    def hang(disk: Disk) -> None:
        if disk.name == "sda":
            let_go.wait(10)

    monkeypatch.setattr(Disk, "cut", hang)
    machine.promise("sda")
    machine.deadline(0)
    began = time.monotonic()
    machine.turns()
    let_go.set()
    assert time.monotonic() - began < 5 and machine.resets


def test_filesystems_that_hang_do_not_keep_the_disks(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    machine.disk("sda")
    machine.promise("sda")
    machine.deadline(0)
    let_go = threading.Event()
    monkeypatch.setattr(filesystems, "reachable", lambda devs, root: let_go.wait(10))
    machine.turns()
    let_go.set()
    assert machine.state("sda") == "offline" and not machine.resets


@pytest.mark.parametrize("where", ["reachable", "shut_down"])
def test_it_gives_signs_of_life_while_filesystems_hang(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    """The keeper ends a revoker that gives none: it would be ended in the middle of the cut."""
    machine.disk("sda")
    machine.promise("sda")
    machine.deadline(0, budget_s=4.0)
    beats: set[int] = set()

    def hang(*_: object) -> list[tuple[str, str]]:
        for _turn in range(5):
            time.sleep(0.1)
            beat = files.read_beat(machine.root / "run")
            beats.update((beat.beat_ns,) if beat else ())
        return []

    monkeypatch.setattr(cut, "BEAT_NS", 10_000_000)
    monkeypatch.setattr(filesystems, "reachable", lambda devs, root: [("8:0", "/mnt")])
    monkeypatch.setattr(filesystems, where, hang)
    machine.turns()
    assert len(beats) > 2 and machine.state("sda") == "offline" and not machine.resets


def test_no_number_of_filesystems_that_hang_keeps_a_disk(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each keeps a thread for good: not one of those that cut and prove."""
    machine.disk("sda")
    machine.promise("sda")
    machine.deadline(0)
    let_go = threading.Event()
    monkeypatch.setattr(filesystems, "reachable", lambda devs, root: [("8:0", f"/{n}") for n in range(4 * cut.WORKERS)])
    monkeypatch.setattr(filesystems, "shut_down", lambda dev, path: let_go.wait(10))
    machine.turns()
    let_go.set()
    assert machine.state("sda") == "offline" and not machine.resets


@pytest.mark.parametrize("missing", ["device/device_busy", "inflight"])
def test_a_disk_that_cannot_be_opened_whole_leaves_nothing_open(machine: Machine, missing: str) -> None:
    """It is tried in every turn."""
    machine.disk("sda")
    (machine.root / "sys/block/sda" / missing).unlink()
    machine.promise("sda")
    machine.deadline(5)
    before = set(Path("/proc/self/fd").iterdir())
    for _ in range(5):
        machine.turns()
    assert machine.beat().unable and set(Path("/proc/self/fd").iterdir()) == before


def test_a_disk_that_cannot_be_opened_is_not_one_that_is_cut(machine: Machine) -> None:
    machine.disk("sda")
    machine.disk("sdb")
    (machine.root / "sys/block/sdb/device/state").unlink()
    machine.promise("sda", "sdb")
    machine.deadline(5)
    machine.turns()
    assert "sdb" in machine.beat().unable and not machine.beat().failed and not machine.resets
    machine.deadline(0)
    machine.turns()
    assert any("sdb" in why for why in machine.resets)


def test_it_ends_only_when_nobody_relies_on_it(machine: Machine) -> None:
    """At shutdown the keeper ends first, and what is still mounted may be written to when the session is over."""
    machine.disk("sda")
    machine.deadline(5)
    machine.turns()
    assert machine.revoker.may_end(keeper_runs=False), "nothing is promised"
    machine.promise("sda")
    machine.turns()
    assert machine.revoker.may_end(keeper_runs=True), "the next one comes in time"
    assert not machine.revoker.may_end(keeper_runs=False)
    machine.deadline(0)
    machine.turns()
    assert machine.revoker.may_end(keeper_runs=False), "it is cut"


def test_a_disk_that_is_gone_writes_nothing(machine: Machine) -> None:
    machine.promise("sda")
    machine.deadline(0)
    machine.turns()
    assert not machine.resets


def test_a_disk_that_was_gone_and_is_back_is_cut_too(machine: Machine) -> None:
    machine.promise("sda")
    machine.deadline(0)
    machine.turns()
    machine.disk("sda")
    machine.turns(0.5)
    assert (machine.state("sda"), machine.resets) == ("offline", [])


def test_what_comes_back_by_itself_or_is_promised_late_is_cut_too(machine: Machine) -> None:
    machine.disk("sda")
    machine.promise("sda")
    machine.deadline(0)
    machine.turns()
    (machine.root / "sys/block/sda/device/state").write_text("running\n")
    machine.disk("sdb")
    machine.promise("sda", "sdb")
    machine.turns(0.5)
    assert (machine.state("sda"), machine.state("sdb"), machine.resets) == ("offline", "offline", [])


def test_nothing_is_put_back_here_and_what_was_put_back_is_seen(machine: Machine) -> None:
    machine.disk("sda")
    machine.promise("sda")
    machine.deadline(0)
    machine.turns()
    machine.promise()
    machine.deadline(5)
    machine.turns(0.3)
    assert machine.state("sda") == "offline" and machine.beat().cut == ("sda",)
    (machine.root / "sys/block/sda/device/state").write_text("running\n")
    machine.turns()
    assert machine.beat().cut == ()


def test_who_goes_on_to_fail_after_the_cut_is_no_writer(machine: Machine) -> None:
    """Swap tries for ever: what is counted after the proof is refused by the disk's state."""
    machine.disk("sda")
    machine.promise("sda")
    machine.deadline(0)
    machine.turns()
    (machine.root / "sys/block/sda/device/device_busy").write_text("3\n")
    machine.turns(1.0)
    assert machine.beat().cut == ("sda",) and not machine.resets


def test_a_damaged_plan_ends_the_signs_of_life_and_not_the_promise(machine: Machine) -> None:
    machine.disk("sda")
    machine.promise("sda")
    machine.deadline(5)
    machine.turns()
    (machine.root / "run" / files.PROMISED).write_text("{")
    before = machine.beat().beat_ns
    for _ in range(3):
        with pytest.raises(ValueError):
            machine.turns()
        time.sleep(0.1)
    found = files.read_beat(machine.root / "run")
    assert found is not None and found.beat_ns == before
    assert machine.revoker.due_ns is not None, "what was told last holds"


def test_mounts_are_found_in_every_namespace(tmp_path: Path) -> None:
    for pid, line in (
        (7, "36 35 8:1 / /mnt\\040a rw - ext4 /dev/sda1 rw"),
        (9, "40 35 8:2 / /b rw - xfs /dev/sda2 rw"),
    ):
        process = tmp_path / "proc" / str(pid)
        (process / "ns").mkdir(parents=True)
        (process / "ns/mnt").write_text("")
        (process / "root").symlink_to("/")
        (process / "mountinfo").write_text(line + "\n")
    (tmp_path / "proc/self").mkdir()
    found = sorted(filesystems.reachable(["8:1", "8:2"], tmp_path))
    assert found == [("8:1", f"{tmp_path}/proc/7/root/mnt a"), ("8:2", f"{tmp_path}/proc/9/root/b")]
    assert list(filesystems.reachable(["8:3"], tmp_path)) == []
    assert not filesystems.shut_down("8:1", str(tmp_path)), "what is mounted over it is left alone"


def test_without_sysrq_it_says_so_and_is_not_started_again(tmp_path: Path) -> None:
    """RestartPreventExitStatus=6 in its unit."""
    with pytest.raises(BadConfiguration, match="no cut can be promised: No such file") as refused:
        main._opened(str(tmp_path / "sysrq-trigger"))
    assert refused.value.exit_code == 6


def test_what_may_pass_lets_it_be_started_again(tmp_path: Path) -> None:
    """What the run before has promised must be kept by the next one."""
    with pytest.raises(IsADirectoryError):
        main._opened(str(tmp_path))
