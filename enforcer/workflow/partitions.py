# SPDX-License-Identifier: GPL-2.0-or-later
"""Partition tables that another node may have changed.

The kernel reads a table once. If another node has written a new one since, a partition here may end in the middle of
another's, and both nodes would hold different leases on the same blocks. So the table is looked at again before a LUN
that was out of our hands is used, and if it changed the kernel must read it again first, or nothing is permitted.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection
from functools import partial
from pathlib import Path
from subprocess import SubprocessError

from enforcer.model.errors import EnforcerError
from enforcer.model.resource import Device, DevNum, ResourceId
from enforcer.storage import caches, parttable
from enforcer.workflow.devices import Devices
from enforcer.workflow.patience import Patience

log = logging.getLogger(__name__)
LOOK_S = 4.0  # a disk that does not answer within this is looked at another time, or denied


class PartitionTables:
    """Digests of the tables as the kernel has read them, by disk."""

    def __init__(self, devices: Devices, scratch: Path) -> None:
        self._devices, self._scratch = devices, scratch
        self._digests: dict[DevNum, str] = {}
        self._looks: dict[DevNum, asyncio.Task[None]] = {}
        self._tables, self._lists = Patience(), Patience()

    def forget(self, dev: DevNum) -> None:
        """The kernel has read the table anew, or the disk is another one."""
        self._digests.pop(dev, None)

    async def learn(self) -> None:
        """Look at the tables of guarded disks that are not known yet. Raises nothing, and waits for no dead disk."""
        guarded = {r.lun for k in self._devices.known.values() if k.guarding.guarded for r in k.device.resources}
        for device in (device for lun in sorted(guarded) for device in self._wholes(lun)):
            if device.dev not in self._digests.keys() | self._looks.keys():
                self._looks[device.dev] = asyncio.create_task(self._learn(device))
        if self._looks:
            await asyncio.wait(self._looks.values(), timeout=LOOK_S)

    async def _learn(self, device: Device) -> None:
        """One look at a time for a disk."""
        try:
            self._digests[device.dev] = await self._digest(device)
        except (OSError, EnforcerError) as error:
            log.debug("the partition table of %s cannot be read: %s", device.name, error)
        finally:
            self._looks.pop(device.dev, None)

    async def renew(self, lun: str, wanted: Collection[ResourceId]) -> str:
        """Before ``wanted`` on a LUN is used that was out of our hands: why its table is not what the kernel thinks."""
        for device in self._wholes(lun):
            try:
                digest = await self._digest(device)
                if self._digests.get(device.dev, digest) != digest:
                    log.info("%s: the partition table has changed", device.name)
                    # refused while a partition is in use, and by a map: then each part that is wanted is compared
                    await asyncio.to_thread(caches.reread_partitions, device.dev, scratch=self._scratch)
                    self._devices.reclassify()
            except (OSError, TimeoutError, EnforcerError) as error:
                return _unread(device, error)
            self._digests[device.dev] = digest
            trouble = await self._misplaced(device, wanted)
            if trouble:
                return trouble
        return ""

    async def _misplaced(self, disk: Device, wanted: Collection[ResourceId]) -> str:
        """Why a wanted partition of a disk is not the one that the disk's table means, or ""."""
        parts = [
            known.device
            for known in self._devices.known.values()
            if known.device.below[:1] == (disk.dev,) and not set(known.device.resources).isdisjoint(wanted)
        ]
        for part in parts:
            try:
                there = await asyncio.to_thread(parttable.in_kernel, part.dev, scratch=self._scratch)
                if there is None:
                    continue
                read = partial(parttable.on_disk, disk.dev, scratch=self._scratch)
                listed = await self._lists.ask(disk.dev, read, LOOK_S)
            except (OSError, TimeoutError, SubprocessError, EnforcerError) as error:
                return _unread(disk, error)
            if not parttable.agrees(there, listed):
                return (
                    f"{part.name} is not where the partition table on {disk.name} has it (partx --update {disk.name})"
                )
        return ""

    def _wholes(self, lun: str) -> list[Device]:
        """What the LUN is read through: its multipath map if it has one, for a path may be a standby or dead."""
        whole = [d for d in self._devices.on_lun(lun) if ResourceId(lun) in d.resources]
        maps = [d for d in whole if d.carrier and d.below]
        return maps or [d for d in whole if not d.below]

    async def _digest(self, device: Device) -> str:
        read = partial(caches.partition_digest, device.dev, scratch=self._scratch)
        return await self._tables.ask(device.dev, read, LOOK_S)


def _unread(disk: Device, error: Exception) -> str:
    why = str(error) or f"{disk.name} has not answered within {LOOK_S:g} s"  # a time-out says nothing
    return f"the partition table of {disk.name} cannot be read: {why}"
