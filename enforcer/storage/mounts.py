# SPDX-License-Identifier: GPL-2.0-or-later
"""/proc/<pid>/mountinfo, and from a mount to the block devices that hold it.

Format: Documentation/filesystems/proc.rst 3.5. Blanks, tabs, newlines, backslashes and "#" in paths come as
three octal digits. The device number there is that of the superblock; it is anonymous (major 0) for btrfs and
everything without one block device, so for those the members come from /sys/fs/btrfs and from the options.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from enforcer.model.escape import from_bytes
from enforcer.model.resource import DevNum
from enforcer.storage.nodes import below_root, number_of
from enforcer.storage.sysfs import Unreadable, children, escape, read_dev

_OCTAL = re.compile(rb"\\([0-7]{3})")

#: Options whose value is another block device of the filesystem (ext4, xfs, btrfs, f2fs, jfs, erofs).
_DEVICE_OPTIONS = frozenset({b"logdev", b"rtdev", b"journal_path", b"device"})

#: Filesystems whose anonymous superblock lies on block devices named in the source.
_MEMBER_TYPES = frozenset({"btrfs", "bcachefs"})


@dataclass(frozen=True, slots=True)
class Mount:
    """One line of mountinfo. Paths are raw bytes."""

    id: int
    dev: DevNum
    target: bytes
    fstype: str
    source: bytes
    options: bytes  # those of the superblock

    @property
    def shown_target(self) -> str:
        """The mount point, for people."""
        return from_bytes(self.target)


def unescape(data: bytes) -> bytes:
    """Undo the kernel's octal escapes (mangle_path in fs/seq_file.c)."""
    return _OCTAL.sub(lambda match: bytes([int(match[1], 8) & 0xFF]), data)


def parse(data: bytes) -> tuple[Mount, ...]:
    """The mounts in order, later ones on top. Lines that are none are skipped."""
    found = []
    for line in data.split(b"\n"):
        front, dash, back = line.partition(b" - ")
        fields, rest = front.split(b" "), back.split(b" ")
        if not dash or len(fields) < 6 or len(rest) < 2:
            continue
        try:
            number, dev = int(fields[0]), DevNum.parse(fields[2].decode("ascii"))
        except ValueError:
            continue
        options = rest[2] if len(rest) > 2 else b""
        found.append(Mount(number, dev, unescape(fields[4]), escape(unescape(rest[0])), unescape(rest[1]), options))
    return tuple(found)


def read(path: Path) -> tuple[Mount, ...]:
    """Read a mountinfo file; empty if the process is gone or not ours to look at."""
    try:
        return parse(path.read_bytes())
    except OSError:
        return ()


def covering(mounts: tuple[Mount, ...], path: bytes, dev: DevNum | None = None) -> Mount | None:
    """The mount that a path lies on: the longest mount point, the last of equals.

    ``dev`` (st_dev of the path) rules out mounts that are hidden below another one, where it is known.
    """
    best: Mount | None = None
    for mount in mounts:
        inside = path == mount.target or path.startswith(mount.target.rstrip(b"/") + b"/")
        if inside and (dev is None or mount.dev == dev) and (best is None or len(mount.target) >= len(best.target)):
            best = mount
    return best


def split_options(options: bytes) -> tuple[tuple[bytes, bytes], ...]:
    """``key=value`` pairs, unescaped. The kernel escapes a comma in a value as octal or with a backslash."""
    pairs = []
    for option in re.split(rb"(?<!\\),", options):
        key, _, value = option.partition(b"=")
        pairs.append((key, unescape(value)))
    return tuple(pairs)


def block_devices(root: Path, mount: Mount) -> tuple[DevNum, ...]:
    """The block devices that hold the filesystem; empty if it has none (tmpfs, nfs, overlay).

    Raises Unreadable if sysfs does not tell. Journals that are named only in the superblock on disk are not
    seen.
    """
    found = [mount.dev] if mount.dev.major else []
    if not mount.dev.major and mount.fstype in _MEMBER_TYPES:
        for part in mount.source.split(b":"):
            found += node(root, part)
        found += btrfs_siblings(root, found)
    if found:
        for key, value in split_options(mount.options):
            if key in _DEVICE_OPTIONS:
                found += node(root, value)
    return tuple(dict.fromkeys(found))


def btrfs_siblings(root: Path, members: list[DevNum]) -> list[DevNum]:
    """All members of the btrfs filesystems which these belong to (/sys/fs/btrfs/<uuid>/devices)."""
    found: list[DevNum] = []
    for uuid in children(root / "sys/fs/btrfs"):
        devices = root / "sys/fs/btrfs" / uuid / "devices"
        numbers = [read_dev(devices / name) for name in children(devices)]
        group = [number for number in numbers if number is not None]
        if set(group) & set(members):
            found += group
    return found


def node(root: Path, path: bytes) -> list[DevNum]:
    """The device behind a path, as a list of one or none."""
    if not path.startswith(b"/"):
        return []
    try:
        number = number_of(below_root(root, path).stat())
    except (OSError, ValueError):
        return []
    return [number] if number else []


def swaps(root: Path) -> tuple[bytes, ...]:
    """Paths of active swap areas (/proc/swaps, mm/swapfile.c); none without that file. Raises Unreadable."""
    try:
        lines = (root / "proc/swaps").read_bytes().split(b"\n")[1:]
    except FileNotFoundError:
        return ()
    except OSError as error:
        raise Unreadable(f"cannot read /proc/swaps: {error.strerror}") from error
    return tuple(unescape(line.split()[0]) for line in lines if line.split())
