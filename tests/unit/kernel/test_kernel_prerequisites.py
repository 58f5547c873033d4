# SPDX-License-Identifier: GPL-2.0-or-later
"""Each thing that is missing is one sentence and one remedy, and one that is about the caller is told apart."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from enforcer.kernel import prerequisites, program
from enforcer.kernel.prerequisites import Prerequisite, check, require
from enforcer.model.errors import Exit, PermissionRefused, PrerequisiteMissing

LOADING = "LSM programs can be loaded"


class Machine:
    """Files below a directory, and what the kernel's BTF and bpf(2) would say."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.missing: tuple[list[str], list[str]] = ([], [])
        self.loads = True
        self.asked = 0
        self.write("/proc/self/status", "Name:\tx\nCapEff:\t000001ffffffffff\n")
        self.write("/proc/self/mounts", "bpf /sys/fs/bpf bpf rw 0 0\n")
        self.write("/sys/kernel/security/lsm", "lockdown,capability,bpf")
        self.write("/sys/kernel/security/lockdown", "[none] integrity confidentiality")
        self.write("/sys/kernel/btf/vmlinux", "")
        self.write("/sys/fs/cgroup/cgroup.controllers", "")
        self.write("/dev/fuse", "")
        self.write("/enforcer.bpf.o", "")

    def path(self, path: str) -> Path:
        return self.root / path.lstrip("/")

    def write(self, path: str, text: str) -> None:
        self.path(path).parent.mkdir(parents=True, exist_ok=True)
        self.path(path).write_text(text)

    def can_load(self) -> Prerequisite:
        self.asked += 1
        return Prerequisite(LOADING, self.loads, "the kernel's word", "another kernel")


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    made = Machine(tmp_path)
    monkeypatch.setattr(prerequisites, "Path", lambda path: made.path(str(path)))
    monkeypatch.setattr(prerequisites, "_BTF", made.path("/sys/kernel/btf/vmlinux"))
    monkeypatch.setattr(prerequisites, "_btf_functions", lambda: made.missing)
    monkeypatch.setattr(prerequisites, "_can_load", made.can_load)
    monkeypatch.setattr(program, "CGROUP_ROOT", made.path("/sys/fs/cgroup"))
    monkeypatch.setattr(program, "object_path", lambda: made.path("/enforcer.bpf.o"))
    return made


def test_all_is_there(machine: Machine) -> None:
    found = check()
    assert [item.name for item in found if not item.ok] == []
    assert len(found) == 11 and len({item.name for item in found}) == 11
    require()


BREAKS: list[tuple[str, Callable[[Machine], object], str, str]] = [
    ("privileges", lambda m: m.write("/proc/self/status", "CapEff:\t0\n"), "lacks CAP_SYS_ADMIN", "root"),
    ("BTF", lambda m: m.path("/sys/kernel/btf/vmlinux").unlink(), "is not there", "CONFIG_DEBUG_INFO_BTF"),
    ("kfuncs", lambda m: m.missing[0].append("bpf_put_file"), "lacks bpf_put_file", "6.12"),
    ("traced functions", lambda m: m.missing[1].append("bdev_add"), "lacks bdev_add", "6.12"),
    (LOADING, lambda m: setattr(m, "loads", False), "the kernel's word", "another kernel"),
    (
        "bpf in the LSM list",
        lambda m: m.write("/sys/kernel/security/lsm", "capability"),
        "capability",
        "capability,bpf",
    ),
    (
        "bpf in the LSM list",
        lambda m: m.path("/sys/kernel/security/lsm").unlink(),
        "not mounted",
        "mount -t securityfs",
    ),
    ("lockdown", lambda m: m.write("/sys/kernel/security/lockdown", "none [confidentiality]"), "confid", "lockdown"),
    ("cgroup2", lambda m: m.path("/sys/fs/cgroup/cgroup.controllers").unlink(), "not a cgroup2", "mount -t cgroup2"),
    (
        "cgroup2",
        lambda m: m.path("/sys/fs/cgroup/cgroup.controllers").rename(m.path("/sys/fs/cgroup/unified")),
        "not a cgroup2",
        "systemd.unified_cgroup_hierarchy=1",
    ),
    ("fuse", lambda m: m.path("/dev/fuse").unlink(), "/dev/fuse is not there", "modprobe fuse"),
    ("bpffs", lambda m: m.write("/proc/self/mounts", ""), "not a bpf file system", "mount -t bpf"),
    ("compiled programs", lambda m: m.path("/enforcer.bpf.o").unlink(), "is missing", "make build"),
]


@pytest.mark.parametrize(("name", "spoil", "sentence", "remedy"), BREAKS)
def test_what_is_missing(
    machine: Machine, name: str, spoil: Callable[[Machine], object], sentence: str, remedy: str
) -> None:
    spoil(machine)
    (bad,) = [item for item in check() if not item.ok]
    assert bad.name == name
    assert sentence in bad.sentence and remedy in bad.remedy and "\n" not in bad.sentence + bad.remedy
    expected = PermissionRefused if name == "privileges" else PrerequisiteMissing
    with pytest.raises(expected) as caught:
        require()
    assert caught.value.exit_code == (Exit.NO_PERMISSION if name == "privileges" else Exit.NOT_INSTALLED)
    assert str(caught.value) == f"cannot enforce: {bad.sentence}" and caught.value.hint == bad.remedy


@pytest.mark.parametrize("spoil", [spoil for name, spoil, *_ in BREAKS if name in ("kfuncs", "BTF", "privileges")])
def test_the_kernel_is_not_asked_to_load_what_it_cannot(machine: Machine, spoil: Callable[[Machine], object]) -> None:
    spoil(machine)
    assert LOADING not in [item.name for item in check()] and machine.asked == 0


def test_the_kernel_is_asked_although_something_can_be_mended(machine: Machine) -> None:
    machine.loads = False
    machine.path("/dev/fuse").unlink()
    machine.write("/proc/self/mounts", "")
    names = [item.name for item in check()]
    assert names.index("traced functions") + 1 == names.index(LOADING)
    assert [item.name for item in check() if not item.ok] == [LOADING, "fuse", "bpffs"]


def test_this_machine_gets_an_answer() -> None:
    """Whatever it is: every item of it can be said to a person."""
    for item in check():
        assert item.sentence and (item.ok or item.remedy)
