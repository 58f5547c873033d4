# SPDX-License-Identifier: GPL-2.0-or-later
"""Is nobody there any more, and has everything arrived? What must be sure before a lease goes.

Counts alone are not enough: a claim inside the kernel may be older than they are, so every device must let itself be
opened exclusively. And a writer that has closed its file may have left dirty pages: the kernel writes them back at the
close only if nobody else has the device open, not even for reading (bdev_release, block/bdev.c). What is written back
after the lease has gone is written into somebody else's filesystem.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path

from enforcer.model.resource import DevNum, ResourceId
from enforcer.storage import caches, usage
from enforcer.workflow.devices import Devices, most_specific
from enforcer.workflow.patience import Patience
from enforcer.workflow.uses import Uses

log = logging.getLogger(__name__)
Seen = Mapping[DevNum, usage.Usage]
LOOK_S = 30.0  # a process may be hard to look at: a dead NFS keeps who asks for its files
DISK_S = 8.0  # a disk that does not answer within this keeps its lease


def claimed(devices: Devices, dev: DevNum, scratch: Path) -> bool:
    """True if something on this node has claimed the device, or if that cannot be told. Maps that carry it are no use:
    what uses them is counted by their own numbers. Waits for the disk: not for the loop."""
    return usage.probe_exclusive(dev, scratch=scratch) is not False and not devices.carries(dev)


class Vacancy:
    """Looks at devices whose counts say that nothing uses them. Any doubt is a no."""

    def __init__(self, devices: Devices, uses: Uses, scratch: Path) -> None:
        self._devices, self._uses, self._scratch = devices, uses, scratch
        self._claims, self._caches = Patience(), Patience()
        self._looks = Patience(at_once=4)
        self._next: asyncio.Task[Seen] | None = None

    def lost_in_use(self) -> bool:
        """True if a map is in use whose LUN nobody can tell."""
        return any(self._uses.busy(dev) or self._devices.used_uncounted([dev]) for dev in self._devices.lost())

    async def used_uncounted(self, devices: Iterable[DevNum]) -> bool:
        """True if the whole machine, looked at once more, still shows a use of one of them."""
        try:
            found = await self._seen()
        except TimeoutError:
            log.warning("a look at all processes has not ended within %g s; what it should find is kept", LOOK_S)
            return True
        for dev in devices:
            sentence = await asyncio.to_thread(self._devices.use_of, dev, found[dev]) if dev in found else ""
            if sentence:
                return True
            self._devices.note_use(dev, "")
        return False

    async def _seen(self) -> Seen:
        """A look at the whole machine that begins after this call. It serves all who ask before it begins: when a node
        lets go of everything, many do."""
        if self._next is None:
            self._next = asyncio.create_task(self._look())
        return await asyncio.shield(self._next)

    async def _look(self) -> Seen:
        try:
            return await self._looks.ask("/proc", self._scan, LOOK_S)
        finally:
            if self._next is asyncio.current_task():
                self._next = None

    def _scan(self) -> Seen:
        self._next = None  # who asks from now on needs a later look
        return usage.scan()

    async def sure(
        self, resource: ResourceId, devices: Iterable[DevNum], held: Iterable[ResourceId], wrote: bool
    ) -> bool:
        """True if nothing claims these devices of ``resource`` and nothing waits to be written to them.

        ``held``: everything that this node holds; ``wrote``: something may wait. If not, a disk that takes no writes
        here keeps no lease that another node could use.
        """
        held = list(held)
        for dev in devices:
            if not Path(f"/sys/dev/block/{dev}").exists():
                continue
            try:
                if await self._claimed(resource, dev, held):
                    log.info("%s is kept: %s is still claimed", resource, dev)
                    return False
                if wrote:
                    drop = partial(caches.drop_caches, dev, scratch=self._scratch)
                    await self._caches.ask(dev, drop, DISK_S)
            except FileNotFoundError:
                if Path(f"/sys/dev/block/{dev}").exists():
                    return False  # its node changed under our hands; it is still there
            except (OSError, TimeoutError) as error:
                log.warning("%s is kept: %s could not be written back: %s", resource, dev, error or "no answer")
                return False
        return True

    async def _claimed(self, resource: ResourceId, dev: DevNum, held: list[ResourceId]) -> bool:
        look = partial(claimed, self._devices, dev, self._scratch)
        return await self._claims.ask(dev, look, DISK_S) and not self._claimed_by_part(dev, resource, held)

    def _claimed_by_part(self, dev: DevNum, resource: ResourceId, held: list[ResourceId]) -> bool:
        """A whole cannot be opened exclusively while a part of it is claimed; that part has a lease of its own."""
        for known in self._devices.known.values():
            below = dev in known.device.below and self._uses.busy(known.device.dev)
            if below and all(most_specific(held, r) not in (None, resource) for r in known.device.resources):
                return True
        return False
