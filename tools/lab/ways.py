# SPDX-License-Identifier: GPL-2.0-or-later
"""Every way in which a node can come to write to a device, as commands for a guest: to begin the use, and to end it.

The same list serves both sides of each claim: all of them must be refused while another node holds the device, and
all of them must work at the first try when nobody does. A refusal that has no such counterpart proves nothing.
"""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path

from tools.lab.vm import Node

MOUNT_POINT = "/run/m"
EBUSY = "errno 16 "  # attempt.c
_SOURCES = Path(__file__).parent


@dataclass(frozen=True, slots=True)
class Way:
    """``begin`` leaves the device in use if it is let through; ``{dev}`` stands for the device."""

    name: str
    begin: str
    end: str = "true"
    comm: str = ""  # the program that the record should name
    kind: str = "write-open"
    says: str = ""  # what the program makes of EBUSY, in any case of letters

    @property
    def lasts(self) -> bool:
        """True if the use goes on after ``begin`` has returned."""
        return self.end != "true"

    def started(self, dev: str, fstype: str = "ext4") -> str:
        """The command that begins the use."""
        return self.begin.format(dev=dev, dir=MOUNT_POINT, fstype=fstype)

    def ended(self, dev: str) -> str:
        """The command that ends it."""
        return self.end.format(dev=dev, dir=MOUNT_POINT)


_UMOUNT = "umount {dir}"
MOUNTS = (
    Way("mount(8)", "mount -t {fstype} {dev} {dir}", _UMOUNT, "mount", "mount", "busy"),
    Way("mount(2)", "/run/attempt mount {dev} {dir} {fstype}", _UMOUNT, "attempt", "mount", EBUSY),
    Way("fsopen, fsconfig, fsmount", "/run/attempt fsconfig {dev} {dir} {fstype}", _UMOUNT, "attempt", "mount", EBUSY),
    Way("mount -o ro", "mount -t {fstype} -o ro {dev} {dir}", _UMOUNT, "mount", "mount", "busy"),
    Way("mount in a new mount namespace", "unshare -m mount -t {fstype} {dev} {dir}", "true", "mount", "mount", "busy"),
)
RAW = (
    Way("dd", "dd if=/dev/zero of={dev} bs=64k count=256 conv=notrunc,fsync", comm="dd", says="busy"),
    Way("mkfs", "mkfs.ext4 -qF {dev}", comm="mkfs.ext4", says="in use"),
    Way("losetup", "losetup /dev/loop6 {dev}", "losetup -d /dev/loop6", "losetup", says="busy"),
    Way(
        "dmsetup",
        'dmsetup create --noudevsync lab --table "0 $(blockdev --getsz {dev}) linear {dev} 0"',
        "dmsetup remove --noudevsync lab",
        "dmsetup",
        "dm-load",
        "busy",
    ),
)
SWAP = Way("swapon", "/run/attempt swapon {dev}", "swapoff {dev}", "attempt", "swap", EBUSY)
WHOLE_DISK = (
    Way("dd on the whole disk", "dd if=/dev/zero of={dev} bs=4k count=1 conv=notrunc,fsync", comm="dd", says="busy"),
    Way("sfdisk on the whole disk", "echo ',,L' | sfdisk --force {dev}", comm="sfdisk", says="busy"),
)


def build(where: Path, name: str = "attempt") -> Path:
    """Compile one of the lab's programs: the one behind some of the ways by default. Raises CalledProcessError."""
    program = where / name
    source = _SOURCES / f"{name}.c"
    subprocess.run(["gcc", "-Wall", "-Werror", "-O1", "-o", str(program), str(source)], check=True)
    return program


def bring(node: Node, program: Path) -> None:
    """Put a program into a guest, as ``/run/NAME``."""
    node.put(f"/run/{program.name}", program.read_bytes(), 0o755)
