# SPDX-License-Identifier: GPL-2.0-or-later
"""Nothing that this node remembers of a LUN may be older than the last writer, who may have been another node.

Before a LUN is used that was out of our hands, every cached block of it goes, and a partition table that changed is
read again. When another node lets go the same is done for those who only read: no gate asks them, and they should not
see yesterday's blocks for ever.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Collection, Mapping
from functools import partial
from pathlib import Path

from enforcer.model.errors import EnforcerError
from enforcer.model.resource import ResourceId
from enforcer.storage import caches
from enforcer.workflow.devices import Devices, most_specific
from enforcer.workflow.partitions import PartitionTables
from enforcer.workflow.patience import Patience
from enforcer.workflow.uses import Uses

DISK_S = 8.0  # a disk that takes longer to write back its cached blocks is denied


class Freshness:
    """Drops what is cached of a LUN; what is in use here already was never out of our hands."""

    def __init__(self, devices: Devices, uses: Uses, partitions: PartitionTables, scratch: Path) -> None:
        self._devices, self._uses, self._partitions, self._scratch = devices, uses, partitions, scratch
        self._caches, self._dropping = Patience(), dict[str, asyncio.Task[None]]()
        self._known: dict[str, int] = {}  # by LUN, the token of the last grant that we know of

    async def renew(self, lun: str, wanted: Collection[ResourceId], ours: Collection[ResourceId]) -> str:
        """Before ``wanted`` on the LUN is used. Why that could not be done, or "".

        ``ours``: what is live here and not stale; devices that it covers never were out of our hands.
        """
        for device in reversed(self._devices.on_lun(lun)):  # the upper ones first
            if all(most_specific(ours, r) is not None for r in device.resources):
                continue
            try:
                drop = partial(caches.drop_caches, device.dev, scratch=self._scratch)
                await self._caches.ask(device.dev, drop, DISK_S)
            except FileNotFoundError:
                continue  # it has gone meanwhile
            except TimeoutError:
                return f"{device.name} did not answer within {DISK_S:g} s"
            except (OSError, EnforcerError) as error:
                if await asyncio.to_thread(self._devices.carries, device.dev):
                    continue  # one path that fails is what there are several for
                return f"cached blocks of {device.name} could not be dropped: {error}"
        return await self._partitions.renew(lun, wanted)

    def had_by_others(self, grants: Mapping[str, tuple[str, int]], me: str) -> set[str]:
        """LUNs on which another node was granted something since this was asked last, held or not any more."""
        found = {lun for lun, (node, token) in grants.items() if node != me and self._known.get(lun) != token}
        self._known = {lun: token for lun, (_, token) in grants.items()}
        return found

    def outdated(self, luns: Collection[str]) -> None:
        """Other nodes have written to these LUNs: soon readers see what."""
        for lun in luns:
            if lun not in self._dropping:
                self._dropping[lun] = asyncio.create_task(self._drop(lun))

    async def _drop(self, lun: str) -> None:
        try:
            for device in reversed(self._devices.on_lun(lun)):
                if not self._uses.busy(device.dev):
                    with contextlib.suppress(OSError, EnforcerError):
                        await asyncio.to_thread(caches.drop_caches, device.dev, scratch=self._scratch)
        finally:
            self._dropping.pop(lun, None)
