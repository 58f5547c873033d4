# SPDX-License-Identifier: GPL-2.0-or-later
"""Uses that /proc does not show: a filesystem that was unmounted lazily and goes on, a journal that only its superblock
names, a target that exports a disk. Whatever has claimed a device keeps it from being opened with O_EXCL.

Looked for once, when the daemon has started: later the kernel counts such claims as they begin. To look is to claim the
device for a moment, so nobody is asked twice, and nothing that is known to be used.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection
from pathlib import Path

from enforcer.model.resource import DevNum
from enforcer.storage import usage
from enforcer.workflow.devices import Devices

log = logging.getLogger(__name__)
DISK_S = 4.0  # a disk that hangs is passed over: it keeps its lease, if it has one, and is looked at when it is used
CLAIMED = "claimed inside the kernel"


async def unseen(
    devices: Devices, seen: Collection[DevNum], busy: Callable[[DevNum], bool], scratch: Path
) -> list[DevNum]:
    """Guarded devices that something has claimed, and that are neither in ``seen`` nor busy, nor is what stands on them
    or what they stand on. Multipath maps are no use of their paths. Raises nothing."""
    guarded = [known.device for known in devices.known.values() if known.guarding.guarded and known.device.resources]
    used = {device.dev for device in guarded if device.dev in seen or busy(device.dev)} | set(seen)
    found: list[DevNum] = []
    for device in sorted(guarded, key=lambda each: -len(each.below)):  # what stands on others claims them
        above = {each.dev for each in guarded if device.dev in each.below}
        if device.dev in used or used & (above | set(device.below)):
            continue
        try:
            async with asyncio.timeout(DISK_S):
                claimed = await asyncio.to_thread(usage.probe_exclusive, device.dev, scratch=scratch)
                carries = claimed and await asyncio.to_thread(devices.carries, device.dev)
        except TimeoutError:
            log.warning("%s does not answer: whether something uses it is not known", device.name)
            continue
        if claimed and not carries:
            used.add(device.dev)
            found.append(device.dev)
    return found
