# SPDX-License-Identifier: GPL-2.0-or-later
"""What the kernel's counts say of the use of a device, and what may be believed of them.

Files are counted in hooks that cannot be skipped, so ``uses`` is exact. An open inside the kernel is counted in flight
by the guard, and a tracing program turns that into a file; if it was skipped, the count stays up. Then nothing but a
look at the whole machine tells whether somebody is there.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable

from enforcer.kernel.tables import Tables
from enforcer.model.resource import DevNum
from enforcer.storage import usage

log = logging.getLogger(__name__)


class Uses:
    """Reads the ledger; remembers which counts were found to be left over."""

    def __init__(self, tables: Tables) -> None:
        self._tables = tables
        self._written_off: dict[DevNum, int] = {}  # opens in flight whose end was skipped

    def of(self, dev: DevNum) -> tuple[int, int]:
        """(counted files, opens in flight) of one device."""
        counts = self._tables.ledger.get(dev.to_kernel())
        return (counts.uses, counts.inflight) if counts is not None else (0, 0)

    def busy(self, dev: DevNum) -> bool:
        """True unless nothing uses the device."""
        uses, inflight = self.of(dev)
        return uses > 0 or inflight > self._written_off.get(dev, 0)

    def only_in_flight(self, devices: Iterable[DevNum]) -> bool:
        """True if no file is open and nobody is opening, but an open seems to be under way."""
        counts = [(dev, *self.of(dev)) for dev in devices]
        if any(uses for _, uses, _ in counts) or any(self._tables.opening(dev) for dev, _, _ in counts):
            return False
        return any(inflight > self._written_off.get(dev, 0) for dev, _, inflight in counts)

    async def write_off(self, devices: Iterable[DevNum]) -> None:
        """Find out whether counts in flight are left over.

        Only while the table says CLOSING: then nothing new passes the guard, so what is left over is left over.
        """
        for dev in devices:
            uses, inflight = self.of(dev)
            if uses > 0 or inflight <= self._written_off.get(dev, 0) or self._tables.opening(dev):
                continue
            found = await asyncio.to_thread(usage.scan)
            if dev not in found and not self._tables.opening(dev) and self.of(dev) == (0, inflight):
                log.warning("%s: %d opens were counted whose end was never seen; nothing uses it", dev, inflight)
                self._written_off[dev] = inflight
