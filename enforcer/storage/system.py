# SPDX-License-Identifier: GPL-2.0-or-later
"""Devices that are never guarded, because the node itself stands on them.

What holds /, /usr, /etc, /boot, /var, the daemon's own state and log, and the node's own swap, and everything *below*
those devices: the partition, its disk, every path of a multipath map. Taking such a device away from the node
would not protect the cluster, it would kill the node with the daemon in it.

A whole disk below a system partition is a system device as well: whoever writes to all of it already holds
the node's root filesystem in his hands. Its *other* partitions are not: a data partition beside / is guarded
as usual. Likewise a PV below the root LV is system, the other LVs on it are not.

Swap that was switched on on a guarded device is a use like any other, under a lease: it makes nothing of the system's,
or the whole disk would be unguarded by it, with the partitions that other nodes have mounted.

Computed at start and after each change (uevent, mount, swapon); cheap enough to be computed anew each time.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from enforcer.model.resource import DevNum
from enforcer.storage import mounts
from enforcer.storage.identity import Identities
from enforcer.storage.nodes import below_root, filesystem_of
from enforcer.storage.sysfs import Unreadable

#: Paths that hold the system, most telling first: the first reason found for a device is the one that is
#: shown.
SYSTEM_PATHS = ("/", "/usr", "/etc", "/boot", "/boot/efi", "/var")

SWAP = "holds active swap"
_LAYERS = frozenset({b"lowerdir", b"lowerdir+", b"upperdir", b"workdir", b"datadir+"})
_MAX_NESTING = 8

#: Finding no device below one of these means that one was missed (autofs: not mounted yet), not that there is
#: none.
_SHOULD_HAVE_DEVICES = frozenset({"btrfs", "bcachefs", "zfs", "autofs"})


@dataclass(frozen=True, slots=True)
class SystemDevices:
    """``reasons``: device -> "holds /usr". ``unresolved``: sentences on what could not be found out."""

    reasons: dict[DevNum, str] = field(default_factory=dict)
    unresolved: tuple[str, ...] = ()


def system_devices(
    identities: Identities,
    keep: Iterable[Path | str] = (),
    *,
    device_of: Callable[[bytes], DevNum] | None = None,
    guarded: Callable[[DevNum], bool] = lambda _: False,
) -> SystemDevices:
    """Find them. ``keep`` are state, log and run directories and the paths, or the device, of a local store member.

    ``guarded`` tells of a device that swap was switched on on it under the guard's eyes.
    ``device_of`` tells st_dev of a path (default: os.stat below the root). Paths that do not exist are passed
    over. Never raises: what cannot be told stands in ``unresolved``.
    """
    return _Search(identities, device_of, guarded).run([*SYSTEM_PATHS, *map(str, keep)])


class _Search:
    def __init__(
        self,
        identities: Identities,
        device_of: Callable[[bytes], DevNum] | None,
        guarded: Callable[[DevNum], bool],
    ) -> None:
        self._identities, self._guarded = identities, guarded
        self._root = identities.root
        self._device_of = device_of or self._stat_dev
        self._mounts = mounts.read(self._root / "proc/self/mountinfo")
        self._reasons: dict[DevNum, str] = {}
        self._unresolved: list[str] = []

    def run(self, paths: list[str]) -> SystemDevices:
        for path in paths:
            if found := mounts.node(self._root, os.fsencode(path)):
                self._add(found, f"is {path}")
            else:
                self._hold(os.fsencode(path), f"holds {path}", 0)
        try:
            swaps = mounts.swaps(self._root)
        except Unreadable as error:
            self._unresolved.append(str(error))
            swaps = ()
        for path_ in swaps:
            found = mounts.node(self._root, path_)
            if found:
                self._add(found, SWAP)
            else:
                self._hold(path_, SWAP, 0)  # a swap file
        return SystemDevices(self._reasons, tuple(dict.fromkeys(self._unresolved)))

    def _stat_dev(self, path: bytes) -> DevNum:
        return filesystem_of(below_root(self._root, path).stat())

    def _hold(self, path: bytes, reason: str, nesting: int) -> None:
        try:
            dev = self._device_of(path)
        except (FileNotFoundError, NotADirectoryError):
            return
        except (OSError, ValueError) as error:
            self._unresolved.append(f"{reason}: {error}")
            return
        if str(self._root) == "/":
            path = os.path.realpath(path)
        mount = mounts.covering(self._mounts, path, dev)
        if mount is None and not dev.major:
            # A btrfs subvolume has a number of its own, which mountinfo does not show.
            mount = mounts.covering(self._mounts, path)
        devices = [dev] if dev.major else []
        if mount is not None:
            try:
                devices += mounts.block_devices(self._root, mount)
            except Unreadable as error:
                self._unresolved.append(f"{reason}: {error}")
        if devices:
            self._add(devices, reason)
        elif mount is not None and mount.fstype == "overlay" and nesting < _MAX_NESTING:
            for key, value in mounts.split_options(mount.options):
                if key in _LAYERS:
                    for layer in _split_layers(value) if key == b"lowerdir" else (value,):
                        self._hold(layer, reason, nesting + 1)
        elif mount is None or mount.fstype in _SHOULD_HAVE_DEVICES:
            what = f" for {mount.fstype}" if mount is not None else ""
            self._unresolved.append(f"{reason}: no block device found{what}")

    def _add(self, devices: Iterable[DevNum], reason: str) -> None:
        for dev in devices:
            if reason == SWAP and self._guarded(dev):
                continue
            for each in (dev, *self._identities.below(dev)):
                self._reasons.setdefault(each, reason)


def _split_layers(value: bytes) -> tuple[bytes, ...]:
    """Overlayfs parts lower layers with ":" and data-only ones with "::"; a colon in a path is "\\:"."""
    parts = value.replace(b"\\\\", b"\0").replace(b"\\:", b"\1").split(b":")
    return tuple(part.replace(b"\1", b":").replace(b"\0", b"\\") for part in parts if part)
