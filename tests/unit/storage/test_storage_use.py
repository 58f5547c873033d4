# SPDX-License-Identifier: GPL-2.0-or-later
from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Machine, lv_uuid

from enforcer.model.resource import DevNum
from enforcer.storage import caches, mounts, nodes, sources, system, usage
from enforcer.storage.identity import Identities
from enforcer.storage.system import system_devices

root_only = pytest.mark.skipif(os.geteuid() != 0, reason="needs root for device nodes")
ABSENT = DevNum(240, 4711 % 256)  # a local/experimental major with no driver


def line(number: int, dev: str, target: str, fstype: str, source: str, options: str = "rw") -> str:
    return f"{number} 1 {dev} / {target} rw - {fstype} {source} {options}\n"


def fake(table: dict[bytes, str]) -> Callable[[bytes], DevNum]:
    def device_of(path: bytes) -> DevNum:
        if path not in table:
            raise FileNotFoundError(path)
        return DevNum.parse(table[path])

    return device_of


def nodes_for(machine: Machine, monkeypatch: pytest.MonkeyPatch, **numbers: str) -> None:
    """Pretend that files in dev/ are block nodes."""
    real = nodes.number_of
    inodes = {}
    for name, number in numbers.items():
        machine.write(f"dev/{name}", "")
        inodes[(machine.root / "dev" / name).stat().st_ino] = DevNum.parse(number)

    def pretend(info: os.stat_result) -> DevNum | None:
        return inodes.get(info.st_ino) or real(info)

    monkeypatch.setattr(nodes, "number_of", pretend)
    monkeypatch.setattr(mounts, "number_of", pretend)


def test_what_holds_the_root_is_system_down_to_the_disk_but_its_sibling_partition_is_not(
    san: Machine,
) -> None:
    san.mountinfo(line(20, "8:1", "/", "ext4", "/dev/sda1"))
    found = system_devices(san.ids(), device_of=fake({b"/": "8:1", b"/usr": "8:1"}))
    assert found.reasons == {DevNum(8, 1): "holds /", DevNum(8, 0): "holds /"} and not found.unresolved


def test_an_lv_over_multipath_makes_every_path_a_system_device(san: Machine) -> None:
    san.dm(0, "mpatha", "mpath-3", "sda", "sdb")
    san.dm(1, "vg-usr", lv_uuid("u"), "dm-0")
    san.mountinfo(line(20, "253:1", "/usr", "xfs", "/dev/mapper/vg-usr"))
    found = system_devices(san.ids(), device_of=fake({b"/usr": "253:1"}))
    assert set(found.reasons) == {DevNum(253, 1), DevNum(253, 0), DevNum(8, 0), DevNum(8, 16)}
    assert set(found.reasons.values()) == {"holds /usr"}


def test_swap_on_a_guarded_device_makes_nothing_the_systems(san: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else its whole disk were unguarded, and with it the partitions that others have."""
    nodes_for(san, monkeypatch, sdd1="8:49")
    san.write("proc/swaps", "Filename Type Size Used Priority\n/dev/sdd1 partition 1 0 -2\n/swapfile file 1 0 -3\n")
    for guarded in (8, 49), (8, 2):
        table = {b"/": "8:1", b"/swapfile": "8:2"}
        found = system_devices(san.ids(), device_of=fake(table), guarded=lambda dev, it=guarded: dev == DevNum(*it))
        swaps = {dev for dev, reason in found.reasons.items() if reason == "holds active swap"}
        assert DevNum(*guarded) not in swaps and len(swaps & {DevNum(8, 49), DevNum(8, 2)}) == 1
    assert "holds /" in system_devices(san.ids(), device_of=fake(table), guarded=lambda _: True).reasons.values()


def test_given_paths_and_swap_areas_are_kept_too(san: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    nodes_for(san, monkeypatch, sdd1="8:49")
    san.write("proc/swaps", "Filename Type Size Used Priority\n/dev/sdd1 partition 1 0 -2\n/swapfile file 1 0 -3\n")
    table = {b"/": "8:1", b"/var/lib/store": "8:33", b"/swapfile": "8:2"}
    found = system_devices(san.ids(), [Path("/var/lib/store")], device_of=fake(table)).reasons
    assert found[DevNum(8, 33)] == "holds /var/lib/store" and found[DevNum(8, 32)] == "holds /var/lib/store"
    assert found[DevNum(8, 49)] == "holds active swap" and found[DevNum(8, 2)] == "holds active swap"


def test_all_members_of_a_btrfs_root_are_system(san: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    nodes_for(san, monkeypatch, sda1="8:1")
    devices = san.root / "sys/fs/btrfs/uuid-1/devices"
    devices.mkdir(parents=True)
    for name in ("sda1", "sdc1"):
        san._link(devices / name, san.dirs[name])
    san.mountinfo(line(20, "0:30", "/", "btrfs", "/dev/sda1", "rw,subvol=/@"))
    found = system_devices(san.ids(), device_of=fake({b"/": "0:31"}))  # a subvolume's own number
    assert set(found.reasons) == {DevNum(8, n) for n in (0, 1, 32, 33)} and not found.unresolved


def test_the_layers_of_an_overlay_root_are_followed(san: Machine) -> None:
    san.mountinfo(
        line(20, "0:30", "/", "overlay", "overlay", r"rw,lowerdir=/low\134:er:/b,upperdir=/up,workdir=/up/w")
        + line(21, "8:1", "/up", "ext4", "/dev/sda1")
        + line(22, "8:33", r"/low:er", "squashfs", "/dev/sdc1")
    )
    table = {b"/": "0:30", b"/up": "8:1", b"/low:er": "8:33", b"/b": "8:49"}
    found = system_devices(san.ids(), device_of=fake(table))
    assert {DevNum(8, 1), DevNum(8, 33), DevNum(8, 49)} <= set(found.reasons)


def test_an_external_log_device_is_system_too(san: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    nodes_for(san, monkeypatch, sdd1="8:49")
    san.mountinfo(line(20, "8:1", "/", "xfs", "/dev/sda1", "rw,logdev=/dev/sdd1"))
    assert DevNum(8, 49) in system_devices(san.ids(), device_of=fake({b"/": "8:1"})).reasons


def test_a_hidden_mount_below_another_is_not_taken_for_the_one_that_is_seen(san: Machine) -> None:
    san.mountinfo(line(20, "8:33", "/var", "ext4", "/dev/sdc1") + line(21, "8:1", "/", "ext4", "/dev/sda1"))
    found = system_devices(san.ids(), device_of=fake({b"/": "8:1", b"/var": "8:1"}))
    assert set(found.reasons) == {DevNum(8, 0), DevNum(8, 1)}


def test_a_system_path_without_any_device_is_passed_over_or_told(san: Machine) -> None:
    san.mountinfo(line(20, "0:9", "/", "9p", "host") + line(21, "0:8", "/boot", "autofs", "systemd-1"))
    found = system_devices(san.ids(), device_of=fake({b"/": "0:9", b"/boot": "0:8"}))
    assert found.reasons == {} and found.unresolved == ("holds /boot: no block device found for autofs",)


def test_this_machines_own_root_device_is_found_if_it_has_one() -> None:
    dev = nodes.filesystem_of(Path("/").stat())
    found = system_devices(Identities())
    assert not dev.major or found.reasons[dev] == "holds /"


def process(machine: Machine, pid: int, namespace: str, mountinfo: str = "", comm: str = "dd") -> Path:
    directory = machine.root / "proc" / str(pid)
    (directory / "ns").mkdir(parents=True)
    (directory / "ns/mnt").symlink_to(f"mnt:[{namespace}]")
    machine.write(directory / "mountinfo", mountinfo)
    machine.write(directory / "comm", comm + "\n")
    (directory / "fd").mkdir()
    (directory / "fdinfo").mkdir()
    return directory


def test_mounts_of_every_namespace_are_uses(san: Machine) -> None:
    process(san, 1, "1", line(20, "8:1", "/srv", "ext4", "/dev/sda1"))
    process(san, 2, "2", "")  # just ending
    process(san, 3, "2", line(20, "8:33", "/in/container", "xfs", "/dev/sdc1"))
    found = usage.scan(san.root)
    assert found[DevNum(8, 1)].sentence() == "mounted at /srv"
    assert found[DevNum(8, 33)].sentence() == "mounted at /in/container" and found[DevNum(8, 33)].fstypes == {"xfs"}
    assert DevNum(8, 2) not in found


def test_holders_and_swap_are_uses(san: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    nodes_for(san, monkeypatch, sdd1="8:49")
    san.dm(0, "vg-x", lv_uuid("x"), "sdc1")
    san.write("proc/swaps", "Filename\n/dev/sdd1 partition 1 0 -2\n")
    found = usage.scan(san.root)
    assert found[DevNum(8, 33)].sentence() == "held by dm-0" and found[DevNum(8, 49)].sentence() == "active swap"


def test_an_open_for_writing_is_a_use_and_one_for_reading_is_not(san: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    nodes_for(san, monkeypatch, sda="8:0", sdc="8:32", sdd="8:48")
    table = line(30, "0:5", "/dev", "devtmpfs", "dev") + line(31, "0:50", "/n", "nfs4", "server:/x")
    one = process(san, 7, "1", table, comm="d\x1bd")
    for number, (name, flags, mount) in enumerate((("sda", "0100001", 30), ("sdc", "0100000", 30), ("sdd", "02", 31))):
        (one / "fd" / str(number)).symlink_to(san.root / "dev" / name)
        san.write(one / "fdinfo" / str(number), f"pos:\t0\nflags:\t{flags}\nmnt_id:\t{mount}\n")
    (one / "fd/9").symlink_to("socket:[1]")
    san.write(one / "fdinfo/9", "flags:\t02\n")
    found = usage.scan(san.root)
    assert found[DevNum(8, 0)].sentence() == "open for writing by d\\x1bd (pid 7)"
    assert DevNum(8, 32) not in found, "read-only"
    assert DevNum(8, 48) not in found, "on a filesystem that could make us wait"


def test_this_machines_own_uses_are_found() -> None:
    found = usage.scan()
    dev = nodes.filesystem_of(Path("/").stat())
    assert not dev.major or "mounted at" in found[dev].sentence()


@root_only
def test_the_probe_sees_the_claim_of_a_mounted_root_and_no_claim_on_a_device_that_is_not_there(
    tmp_path: Path,
) -> None:
    dev = nodes.filesystem_of(Path("/").stat())
    if dev.major and nodes.devname(Path("/"), dev):
        assert usage.probe_exclusive(dev, scratch=tmp_path) in (True, None)
    assert usage.probe_exclusive(ABSENT, scratch=tmp_path) in (False, None)
    assert usage.probe_exclusive(ABSENT) is None, "no node and none may be made: unknown, not free"
    assert list(tmp_path.iterdir()) == [], "the private node is gone"


@pytest.mark.parametrize(
    ("error", "claimed"),
    [
        (errno.EBUSY, True),
        (errno.ENXIO, False),
        (errno.ENOMEDIUM, False),
        (errno.EPERM, None),
        (errno.EIO, None),
    ],
)
def test_only_ebusy_means_claimed_and_an_unclear_error_never_means_free(
    monkeypatch: pytest.MonkeyPatch, error: int, claimed: bool | None
) -> None:
    def refuse(dev: DevNum, flags: int, **_: object) -> int:
        assert flags == os.O_RDONLY | os.O_EXCL
        raise OSError(error, os.strerror(error))

    monkeypatch.setattr(nodes, "open_device", refuse)
    assert usage.probe_exclusive(ABSENT) is claimed


@root_only
@pytest.mark.parametrize("make", [True, False])
def test_a_node_with_another_number_is_never_opened(
    machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make: bool
) -> None:
    machine.plain("vda", "240:7")
    try:
        os.mknod(machine.root / "dev/vda", stat.S_IFBLK | 0o600, os.makedev(7, 0))
    except PermissionError:
        pytest.skip("mknod is not allowed here")
    opened = []
    real = os.open
    monkeypatch.setattr(os, "open", lambda path, *rest, **more: opened.append(str(path)) or real(path, *rest, **more))
    with pytest.raises(OSError) as caught:
        nodes.open_device(DevNum(240, 7), os.O_RDONLY, root=machine.root, scratch=tmp_path if make else None)
    assert (caught.value.errno == errno.ENOENT) is not make
    assert str(machine.root / "dev/vda") not in opened
    assert [each.name for each in tmp_path.iterdir()] == ["root"]


def test_the_partition_digest_follows_the_table_and_nothing_else() -> None:
    gpt = bytearray(8192)
    gpt[512:520] = b"EFI PART"
    first = caches.table_digest(bytes(gpt), 512)
    gpt[0:100] = b"b" * 100  # boot code
    gpt[1024:2048] = b"x" * 1024
    assert caches.table_digest(bytes(gpt), 512) == first
    for at in (446, 600):
        changed = bytearray(gpt)
        changed[at] ^= 1
        assert caches.table_digest(bytes(changed), 512) != first
    assert caches.table_digest(bytes(gpt), 4096) != first, "another block size, another header"


def test_cache_calls_on_a_device_that_is_not_there_raise_only_oserror() -> None:
    for call in (caches.drop_caches, caches.reread_partitions, caches.size_bytes, caches.partition_digest):
        with pytest.raises(OSError):
            call(ABSENT)


@root_only
def test_a_loop_devices_size_is_read() -> None:
    dev = DevNum(7, 0)
    if not Path("/dev/loop0").exists():
        pytest.skip("no loop device")
    assert caches.size_bytes(dev) >= 0


class Task:
    """A made-up /proc/<tid> with a root and a working directory."""

    def __init__(self, proc: Path, root: Path, cwd: Path) -> None:
        (proc / "7").mkdir(parents=True)
        (proc / "7/root").symlink_to(root)
        (proc / "7/cwd").symlink_to(cwd)


@pytest.fixture
def caller(tmp_path: Path) -> Path:
    root = tmp_path / "callers root"
    (root / "dev/sub").mkdir(parents=True)
    try:
        os.mknod(root / "dev/disk", stat.S_IFBLK | 0o600, os.makedev(240, 1))
        os.mknod(tmp_path / "outside", stat.S_IFBLK | 0o600, os.makedev(240, 2))
    except PermissionError:
        pytest.skip("mknod is not allowed here")
    (root / "dev/absolute").symlink_to("/dev/disk")
    (root / "dev/out").symlink_to("../../outside")
    (root / "dev/loop").symlink_to("loop")
    Task(tmp_path / "proc", root, root / "dev/sub")
    return tmp_path / "proc"


@pytest.mark.parametrize(
    "source",
    [b"/dev/disk", b"/dev/absolute", b"/../../dev/disk", b"../disk", b"../absolute", b"../../../../dev/disk"],
)
def test_a_source_means_what_it_means_in_the_callers_root(caller: Path, source: bytes) -> None:
    assert sources.resolve(7, source, proc=caller) == DevNum(240, 1)


@pytest.mark.parametrize(
    "source",
    [
        b"/dev/out",
        b"../out",
        b"",
        b"none",
        b"/dev",
        b"/dev/loop",
        b"/nothing",
        b"a\0b",
        b"x" * 5000,
        b"UUID=1",
    ],
)
def test_a_source_that_names_no_device_or_leaves_the_root_is_none(caller: Path, source: bytes) -> None:
    assert sources.resolve(7, source, proc=caller) is None


def test_a_task_that_is_gone_and_our_own_task_are_resolved_without_an_exception() -> None:
    assert sources.resolve(2**22 + 1, b"/dev/null") is None
    assert sources.resolve(os.getpid(), b"/dev/null") is None, "no block device"
    if stat.S_ISBLK(Path("/dev/loop0").stat().st_mode if Path("/dev/loop0").exists() else 0):
        assert sources.resolve(os.getpid(), b"/dev/loop0") == DevNum(7, 0)
        assert sources.resolve(os.getpid(), b"/dev/loop0", may_block=False) in (DevNum(7, 0), None)


def test_all_system_paths_are_looked_at() -> None:
    assert set(system.SYSTEM_PATHS) >= {"/", "/usr", "/etc", "/boot", "/var"}
