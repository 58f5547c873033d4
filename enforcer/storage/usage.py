# SPDX-License-Identifier: GPL-2.0-or-later
"""What is in use on this node already, before or beside enforcement.

The kernel's ledger starts when the programs are attached; a mount from the initramfs is older. So at start,
and whenever tables disagree, the same facts are gathered from /proc and sysfs. Each source is blind
somewhere: a lazily unmounted filesystem is in no mountinfo, a mount namespace kept alive by a bind mount
alone belongs to no process, a claim inside the kernel (LIO, bcache) is in neither. The exclusive open sees
all claims but not who has them, and no plain writers. Together: in use if any of them says so; free only if
the probe says so as well.
"""

from __future__ import annotations

import errno
import fcntl
import os
from dataclasses import dataclass, field
from pathlib import Path

from enforcer.model.escape import from_bytes
from enforcer.model.resource import DevNum
from enforcer.storage import mounts, nodes
from enforcer.storage.caches import BLKSSZGET
from enforcer.storage.sysfs import Unreadable, all_devices, device_dir, linked_devices

#: Filesystems on which even looking at an open file may wait for another machine or process.
_REMOTE = (
    "nfs",
    "cifs",
    "smb",
    "9p",
    "ceph",
    "fuse",
    "afs",
    "lustre",
    "gfs2",
    "ocfs2",
    "autofs",
    "virtiofs",
    "coda",
)


@dataclass(frozen=True, slots=True)
class Writer:
    """A process that has the device's node open for writing."""

    pid: int
    comm: str  # escaped


@dataclass(slots=True)
class Usage:
    """Uses of one device found on this node."""

    mounted_at: list[str] = field(default_factory=list)  # escaped, each place once
    fstypes: set[str] = field(default_factory=set)
    swap: bool = False
    holders: tuple[str, ...] = ()  # kernel names of devices stacked on it
    writers: list[Writer] = field(default_factory=list)

    def sentence(self) -> str:
        """One clause for ``Device.in_use``: the plainest use that there is, or ""."""
        if self.mounted_at:
            return f"mounted at {self.mounted_at[0]}"
        if self.swap:
            return "active swap"
        if self.holders:
            return f"held by {self.holders[0]}"
        if self.writers:
            return f"open for writing by {self.writers[0].comm} (pid {self.writers[0].pid})"
        return ""


def scan(root: Path = Path("/")) -> dict[DevNum, Usage]:
    """Everything in use, by device; devices without a use are left out.

    Mounts of every mount namespace that has a process, swap, holders, writers. Needs root to be complete;
    what a caller may not see is passed over in silence, so an unprivileged scan proves nothing. Never raises.
    """
    found: dict[DevNum, Usage] = {}

    def usage(dev: DevNum) -> Usage:
        return found.setdefault(dev, Usage())

    processes = _processes(root)
    namespaces = _mounts_by_namespace(processes)
    for mount in dict.fromkeys(each for table in namespaces.values() for each in table):
        try:
            devices = mounts.block_devices(root, mount)
        except Unreadable:
            devices = (mount.dev,) if mount.dev.major else ()
        for dev in devices:
            entry = usage(dev)
            entry.fstypes.add(mount.fstype)
            if mount.shown_target not in entry.mounted_at:
                entry.mounted_at.append(mount.shown_target)
    try:
        for path in mounts.swaps(root):
            for dev in mounts.node(root, path):
                usage(dev).swap = True
        for dev in all_devices(root):
            holders = _holders(root, dev)
            if holders:
                usage(dev).holders = holders
    except Unreadable:
        pass
    for process in processes:
        for dev in _written_by(process, namespaces.get(_namespace(process), ())):
            writer = Writer(int(process.name), _comm(process))
            if writer not in usage(dev).writers:
                usage(dev).writers.append(writer)
    return found


def probe_exclusive(dev: DevNum, *, root: Path = Path("/"), scratch: Path | None = None) -> bool | None:
    """True if something on this node claims the device, False if nothing does, None if it cannot be told.

    ``open(O_RDONLY | O_EXCL)`` fails with EBUSY if a filesystem, swap or a stacking driver has claimed the
    device, its disk or one of its partitions (bd_may_claim in block/bdev.c). While the probe is open, for
    microseconds, it is a claim itself: a mount at that moment would get EBUSY. A device without medium or
    driver is not claimed. Never raises.
    """
    try:
        os.close(nodes.open_device(dev, os.O_RDONLY | os.O_EXCL, root=root, scratch=scratch))
    except OSError as error:
        if error.errno == errno.EBUSY:
            return True
        if error.errno in (errno.ENXIO, errno.ENODEV, errno.ENOMEDIUM):
            return False
        return None
    return False


def look(dev: DevNum, *, scratch: Path | None = None) -> None:
    """Open the device for reading and ask its block size (BLKSSZGET): harmless, and seen by the programs in the kernel,
    which then write down how many have it open. Raises OSError.
    """
    with nodes.opened(dev, os.O_RDONLY, scratch=scratch) as fd:
        fcntl.ioctl(fd, BLKSSZGET, bytes(4))


def _processes(root: Path) -> list[Path]:
    try:
        found = [entry for entry in (root / "proc").iterdir() if entry.name.isascii() and entry.name.isdigit()]
    except OSError:
        return []
    return sorted(found, key=lambda entry: int(entry.name))


def _namespace(process: Path) -> str:
    """``mnt:[4026531841]``, or "" if the process is gone or not ours to look at."""
    try:
        return str((process / "ns/mnt").readlink())
    except OSError:
        return ""


def _mounts_by_namespace(processes: list[Path]) -> dict[str, tuple[mounts.Mount, ...]]:
    found: dict[str, tuple[mounts.Mount, ...]] = {}
    for process in processes:
        namespace = _namespace(process)
        # A process that is just ending has an empty table; another one of the same namespace will have it
        # all.
        if namespace and not found.get(namespace):
            found[namespace] = mounts.read(process / "mountinfo")
    return found


def _holders(root: Path, dev: DevNum) -> tuple[str, ...]:
    try:
        directory = device_dir(root, dev)
        return tuple(name for name, _ in linked_devices(directory / "holders")) if directory is not None else ()
    except Unreadable:
        return ()


def _comm(process: Path) -> str:
    try:
        return from_bytes((process / "comm").read_bytes().removesuffix(b"\n"))
    except OSError:
        return "?"


def _written_by(process: Path, table: tuple[mounts.Mount, ...]) -> set[DevNum]:
    """Block devices that a process has open for writing.

    ``fdinfo`` (flags in octal, mnt_id: fs/proc/fd.c) is read first; it touches no filesystem. Only then is
    the file itself looked at, and never on a filesystem that could make us wait.
    """
    found: set[DevNum] = set()
    remote = {mount.id for mount in table if mount.fstype.startswith(_REMOTE)}
    try:
        entries = [entry.name for entry in (process / "fdinfo").iterdir()]
    except OSError:
        return found
    for name in entries:
        try:
            fields = dict(
                line.split(b":", 1) for line in (process / "fdinfo" / name).read_bytes().splitlines() if b":" in line
            )
            flags, mount_id = int(fields[b"flags"], 8), int(fields.get(b"mnt_id", b"-1"))
            if flags & os.O_ACCMODE == os.O_RDONLY or mount_id in remote:
                continue
            if not (process / "fd" / name).readlink().is_absolute():
                continue
            dev = nodes.number_of((process / "fd" / name).stat())
        except (OSError, KeyError, ValueError):
            continue
        if dev is not None:
            found.add(dev)
    return found
