# SPDX-License-Identifier: GPL-2.0-or-later
"""A made-up machine: /sys, /proc and /dev as the kernel would show them; and real filesystems in files."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from companion_disks import UUID, Disks, sparse, tool

from enforcer.model.resource import DevNum
from enforcer.storage.identity import Identities

VG = "V" * 32


def lv_uuid(char: str, layer: str = "") -> str:
    return f"LVM-{VG}{char * 32}" + (f"-{layer}" if layer else "")


def designator(type_: int, value: bytes, *, association: int = 0, code_set: int = 1) -> bytes:
    return bytes([code_set, association << 4 | type_, 0, len(value)]) + value


def page(code: int, payload: bytes) -> bytes:
    return bytes([0, code]) + len(payload).to_bytes(2, "big") + payload


def page83(*designators: bytes) -> bytes:
    return page(0x83, b"".join(designators))


def naa(text: str) -> bytes:
    return designator(3, bytes.fromhex(text))


class Machine:
    def __init__(self, root: Path) -> None:
        self.root = root
        self.dirs: dict[str, Path] = {}
        for each in ("sys/dev/block", "sys/block", "sys/fs/btrfs", "proc/self", "proc/sys/kernel", "dev"):
            (root / each).mkdir(parents=True)
        (root / "proc/sys/kernel/hostname").write_text("node1\n")
        self.mountinfo("")

    def ids(self) -> Identities:
        return Identities(self.root)

    def write(self, path: Path | str, data: str | bytes) -> None:
        path = self.root / path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data if isinstance(data, bytes) else data.encode())

    def mountinfo(self, text: str) -> None:
        self.write("proc/self/mountinfo", text)

    def block(self, name: str, number: str, where: str, *, size: int = 2048, uevent: str = "") -> Path:
        directory = self.root / "sys/devices" / where / name
        (directory / "slaves").mkdir(parents=True)
        (directory / "holders").mkdir()
        self.write(directory / "dev", number + "\n")
        self.write(directory / "size", f"{size}\n")
        self.write(directory / "diskseq", f"{len(self.dirs) + 1}\n")
        major, minor = number.split(":")
        self.write(directory / "uevent", f"MAJOR={major}\nMINOR={minor}\nDEVNAME={name}\n{uevent}")
        self._link(self.root / "sys/dev/block" / number, directory)
        self._link(self.root / "sys/block" / name, directory)
        self.dirs[name] = directory
        return directory

    def _link(self, link: Path, target: Path) -> None:
        link.symlink_to(os.path.relpath(target, link.parent))

    def scsi(
        self,
        name: str,
        number: str,
        *,
        wire: str = "host0",
        vpd83: bytes | None = None,
        serial: str = "",
        model: str = "DISK",
        wwid: str = "",
    ) -> Path:
        where = f"pci0/{wire}/target0:0:0/0:0:0:{number.split(':')[1]}"
        device = self.root / "sys/devices" / where
        self.write(device / "vendor", "ACME    \n")
        self.write(device / "model", f"{model:16}\n")
        if vpd83 is not None:
            self.write(device / "vpd_pg83", vpd83)
        if serial:
            self.write(device / "vpd_pg80", page(0x80, serial.encode()))
        if wwid:
            self.write(device / "wwid", wwid + "\n")
        directory = self.block(name, number, where + "/block")
        (directory / "device").symlink_to("../../../" + device.name)
        return directory

    def plain(self, name: str, number: str, where: str = "pci0/virtio1", **attributes: str | bytes) -> Path:
        """A disk with a device behind it; attributes are its files, ``device__x`` the device's."""
        directory = self.block(name, number, where + "/block")
        (directory / "device").symlink_to("../../../" + where.rsplit("/", 1)[-1])
        for key, value in attributes.items():
            self.write(directory / key.replace("__", "/"), value)
        return directory

    def part(self, disk: str, number: int, dev: str, *, uevent: str = "", name: str = "") -> Path:
        name = name or f"{disk}{number}"
        directory = self.dirs[disk] / name
        (directory / "holders").mkdir(parents=True)
        self.write(directory / "partition", f"{number}\n")
        self.write(directory / "dev", dev + "\n")
        self.write(directory / "size", "1024\n")
        self.write(directory / "uevent", f"DEVNAME={name}\nDEVTYPE=partition\n{uevent}")
        self._link(self.root / "sys/dev/block" / dev, directory)
        self.dirs[name] = directory
        return directory

    def virtual(self, name: str, number: str, **attributes: str | bytes) -> Path:
        directory = self.block(name, number, "virtual/block")
        for key, value in attributes.items():
            self.write(directory / key.replace("__", "/"), value)
        return directory

    def stack(self, upper: str, *lower: str) -> None:
        for each in lower:
            self._link(self.dirs[upper] / "slaves" / each, self.dirs[each])
            self._link(self.dirs[each] / "holders" / upper, self.dirs[upper])

    def dm(self, number: int, name: str, uuid: str, *lower: str) -> DevNum:
        self.virtual(f"dm-{number}", f"253:{number}", dm__name=name + "\n", dm__uuid=uuid + "\n")
        self.stack(f"dm-{number}", *lower)
        return DevNum(253, number)


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path / "root")


@pytest.fixture
def san(machine: Machine) -> Machine:
    """Three LUNs by FC: sda (two partitions, also seen as sdb by the other port), sdc, sdd with one each."""
    for name, number, port, wwn in (
        ("sda", "8:0", "rport-3:0-1", "a"),
        ("sdb", "8:16", "rport-4:0-1", "a"),
        ("sdc", "8:32", "rport-3:0-1", "c"),
        ("sdd", "8:48", "rport-3:0-1", "d"),
    ):
        machine.scsi(name, number, wire=port, vpd83=page83(naa("6" + wwn * 31)), serial=f"SER-{wwn}")
    machine.part("sda", 1, "8:1", uevent="PARTUUID=1234-01\nPARTNAME=data one\n")
    machine.part("sda", 2, "8:2")
    machine.part("sdc", 1, "8:33")
    machine.part("sdd", 1, "8:49")
    return machine


A, C, D = (f"wwn-0x6{char * 31}" for char in "acd")


# ---- real filesystems, made once


@pytest.fixture(scope="session")
def btrfs_pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    where = tmp_path_factory.mktemp("btrfs")
    one, two = sparse(where / "one", 130), sparse(where / "two", 130)
    tool("mkfs.btrfs", "-q", "-U", UUID, "-d", "raid1", "-m", "raid1", one, two)
    return one, two


@pytest.fixture(scope="session")
def xfs_pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    where = tmp_path_factory.mktemp("xfs")
    data, log = sparse(where / "data", 320), sparse(where / "log", 80)
    tool("mkfs.xfs", "-q", "-l", f"logdev={log},size=64m", data)
    return data, log


@pytest.fixture(scope="session")
def xfs_single(tmp_path_factory: pytest.TempPathFactory) -> Path:
    data = sparse(tmp_path_factory.mktemp("xfs") / "data", 320)
    tool("mkfs.xfs", "-q", data)
    return data


@pytest.fixture(scope="session")
def ext4_pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A filesystem whose journal is on 8:16, as debugfs writes it, and that journal."""
    where = tmp_path_factory.mktemp("ext4")
    data, journal = sparse(where / "data", 16), sparse(where / "journal", 8)
    tool("mkfs.ext4", "-q", "-F", "-b", "4096", data)
    tool("mkfs.ext4", "-q", "-F", "-O", "journal_dev", "-b", "4096", "-U", UUID, journal)
    commands = f"ssv journal_inum 0\nssv journal_dev 0x810\nssv journal_uuid {UUID}\nssv mount_opts \n"
    tool("debugfs", "-w", "-f", "-", data, input=commands.encode())
    return data, journal


@pytest.fixture
def ext4(ext4_pair: tuple[Path, Path]) -> Disks:
    return Disks().image(DevNum(8, 0), ext4_pair[0]).image(DevNum(8, 16), ext4_pair[1])


@pytest.fixture
def btrfs(btrfs_pair: tuple[Path, Path]) -> Disks:
    return Disks().image(DevNum(8, 0), btrfs_pair[0]).image(DevNum(8, 16), btrfs_pair[1])
