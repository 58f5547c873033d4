# SPDX-License-Identifier: GPL-2.0-or-later
"""Block devices that come, change and go while the daemon runs, as the kernel tells of them (uevents)."""

from __future__ import annotations

import asyncio
import logging

from enforcer.storage.uevents import UeventSocket
from enforcer.workflow.devices import Devices
from enforcer.workflow.partitions import PartitionTables

log = logging.getLogger(__name__)


class Hotplug:
    """Listens on the running loop."""

    def __init__(self, devices: Devices, partitions: PartitionTables) -> None:
        """Raises OSError."""
        self._devices, self._partitions = devices, partitions
        self._uevents = UeventSocket()
        asyncio.get_running_loop().add_reader(self._uevents.fileno(), self._hear)

    def _hear(self) -> None:
        try:
            events = self._uevents.drain()
        except OSError as error:
            log.error("uevents: %s", error)
            return
        if self._uevents.take_rescan():
            self._devices.reclassify()
            return
        for event in events:
            if event.dev is None:
                continue
            if event.action == "remove":
                self._devices.forget(event.dev)
            elif event.media_or_table_changed:
                known = self._devices.classify(event.dev)
                if event.action == "add":  # the kernel has just read the table: of a new disk, or to make this part
                    for dev in (event.dev, *known.device.below[:1]):
                        self._partitions.forget(dev)
