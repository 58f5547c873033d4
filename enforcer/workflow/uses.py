# SPDX-License-Identifier: GPL-2.0-or-later
"""What the kernel's counts say of the use of a device, and what may be believed of them.

Files are counted in hooks that cannot be skipped, so ``uses`` is exact. An open inside the kernel is counted in flight
by the guard, and a tracing program turns that into a file; if it was skipped, the count stays up. Then the kernel's
own count of openers decides, which knows even an export without a holder: our look must be the only one.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from pathlib import Path

from enforcer.kernel.tables import Tables
from enforcer.model.resource import DevNum
from enforcer.storage import usage

log = logging.getLogger(__name__)


class Uses:
    """Reads the ledger; remembers which counts were found to be left over."""

    def __init__(self, tables: Tables, scratch: Path) -> None:
        self._tables, self._scratch = tables, scratch
        self._written_off: dict[DevNum, int] = {}  # opens in flight whose end was skipped

    def of(self, dev: DevNum) -> tuple[int, int]:
        """(counted files, opens in flight) of one device."""
        counts = self._tables.ledger.get(dev.to_kernel())
        return (counts.uses, counts.inflight) if counts is not None else (0, 0)

    def busy(self, dev: DevNum) -> bool:
        """True unless nothing uses the device."""
        uses, inflight = self.of(dev)
        return uses > 0 or inflight > self._written_off.get(dev, 0)

    def beyond(self, dev: DevNum, waiting: int) -> bool:
        """True if more use the device than those ``waiting`` for a verdict, whose files are counted already."""
        return self.of(dev)[0] > waiting or (not waiting and self.busy(dev))

    def in_flight(self, devices: Iterable[DevNum]) -> list[DevNum]:
        """Devices of which no file is open and which nobody is opening, but an open seems to be under way."""
        counts = [(dev, *self.of(dev)) for dev in devices]
        if any(uses for _, uses, _ in counts) or any(self._tables.opening(dev) for dev, _, _ in counts):
            return []
        return [dev for dev, _, inflight in counts if inflight > self._written_off.get(dev, 0)]

    async def unopened(self, devices: Iterable[DevNum]) -> bool:
        """True if the kernel itself counts no opener of any of these devices. A doubt is none."""
        for dev in devices:
            if await asyncio.to_thread(self._openers, dev) != 0:
                return False
        return True

    def write_off(self, devices: Iterable[DevNum]) -> None:
        """The counts in flight of these devices are left over: the table said CLOSING, and nobody has them open."""
        for dev in devices:
            _, inflight = self.of(dev)
            log.info("%s: %d opens were counted whose end was not seen; nobody has it open", dev, inflight)
            self._written_off[dev] = inflight

    def _openers(self, dev: DevNum) -> int | None:
        """How many have the device open (bd_openers, block/bdev.c), or None if that cannot be told."""
        number = dev.to_kernel()
        before = self._tables.ledger.get(number)
        try:
            usage.look(dev, scratch=self._scratch)
        except OSError:
            return None
        after = self._tables.ledger.get(number)
        if before is None or after is None or after.looks == before.looks:
            return None
        return int(after.openers) - 1
