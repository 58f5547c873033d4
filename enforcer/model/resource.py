# SPDX-License-Identifier: GPL-2.0-or-later
"""Names of what is protected.

The unit of exclusion is the LUN, named by its hardware identity. What lies inside it (a partition, a logical
volume) is a path below that name. Two uses meet if one path leads to, or through, the other: a writer of the
whole disk meets every partition, two partitions do not meet. That is all the intent locking there is: a store
reads the whole subtree of a LUN and writes only if nothing in it has changed since.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple


class DevNum(NamedTuple):
    """A block device number. It has no identity of its own: minors are reused at once."""

    major: int
    minor: int

    def __str__(self) -> str:
        return f"{self.major}:{self.minor}"

    @classmethod
    def parse(cls, text: str) -> DevNum:
        """Read ``8:0``, the form of /sys/dev/block and of every ``dev`` file in sysfs. Raises ValueError."""
        major, _, minor = text.strip().partition(":")
        return cls(int(major), int(minor))

    @classmethod
    def from_kernel(cls, dev: int) -> DevNum:
        """Split the kernel's own dev_t (include/linux/kdev_t.h: 12 bits of major, 20 of minor)."""
        return cls(dev >> 20, dev & 0xFFFFF)

    def to_kernel(self) -> int:
        """The kernel's own dev_t, as BPF programs see it."""
        return self.major << 20 | self.minor


@dataclass(frozen=True, slots=True, order=True)
class ResourceId:
    """``wwn-0x5000c500/p1``: the canonical LUN name, then the path of the part inside it."""

    lun: str
    path: tuple[str, ...] = ()

    def __str__(self) -> str:
        return "/".join((self.lun, *self.path))

    @classmethod
    def parse(cls, text: str) -> ResourceId:
        """Read what ``str()`` wrote. LUN names never hold a slash."""
        lun, *path = text.split("/")
        return cls(lun, tuple(path))

    def meets(self, other: ResourceId) -> bool:
        """True if one of the two lies in the other (or they are the same)."""
        if self.lun != other.lun:
            return False
        shorter = min(len(self.path), len(other.path))
        return self.path[:shorter] == other.path[:shorter]


class Mode(StrEnum):
    """How a resource is used, in the words of the DLM (Documentation/filesystems/gfs2-glocks.rst)."""

    EX = "EX"  # ordinary filesystem, swap, raw write, mkfs
    CW = "CW"  # cluster filesystem with its own lock manager up
    PR = "PR"  # read-only, device write-protected

    def compatible(self, other: Mode) -> bool:
        """EX conflicts with everything, CW and PR with each other."""
        return self is other and self is not Mode.EX


class UseKind(StrEnum):
    """What a caller wants of a resource; the words of ``on`` in a policy rule."""

    MOUNT = "mount"
    SWAP = "swap"
    WRITE_OPEN = "write-open"
    DM_LOAD = "dm-load"
    LOOP = "loop"
    UMOUNT = "umount"


@dataclass(frozen=True, slots=True)
class Device:
    """One block device as sysfs describes it at this moment, resolved down to the LUNs it lies on."""

    dev: DevNum
    name: str  # kernel name: sda1, dm-0, loop3
    resources: tuple[ResourceId, ...]  # what a use of it takes, sorted; empty for a device without storage below
    aliases: tuple[str, ...]  # what a rule's ``device`` masks are held against, canonical name first
    below: tuple[DevNum, ...] = ()  # the devices it stands on, nearest first
    size_bytes: int = 0
    system: str = ""  # why it can never be guarded ("holds /usr"), or empty
    attached_by: str = "local"  # transport that the hardware reports: local, iscsi, fc, sas, nvme-fabrics
    carrier: bool = False  # a multipath map or path: opens are not uses
    problem: str = ""  # why it could not be resolved; such a device is denied, by name
    in_use: str = ""  # used on this node before enforcement began ("mounted at /srv"), or empty
