# SPDX-License-Identifier: GPL-2.0-or-later
"""Disks that the revoker has cut off are told of, and set running again once that can harm nobody.

Not before this node has a session again: a boot that was taken over gets none, and then only a reboot helps. And not
before the last use here is over: what an old use still has in memory must never be written. Once nobody has a device
open, the kernel has dropped its cached blocks (blkdev_flush_mapping(), block/bdev.c). Its leases are given back then.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from enforcer.cluster.identity import read_session
from enforcer.lost.files import read_beat, read_deadline
from enforcer.model.clock import boot_ns
from enforcer.model.resource import Device, DevNum
from enforcer.storage import usage
from enforcer.workflow.devices import Devices
from enforcer.workflow.patience import Patience
from enforcer.workflow.vacancy import claimed

log = logging.getLogger(__name__)
EVERY_S = 1.0
CLAIM_S = 5.0
LEFT_NS = 1_000_000_000  # of the session, or the revoker would cut again what is just set running


class WayBack:
    """``busy``: the kernel's counts of uses; ``notice``: a line in the audit log."""

    def __init__(
        self,
        devices: Devices,
        run_dir: Path,
        *,
        busy: Callable[[DevNum], bool],
        notice: Callable[[str, str, Mapping[str, object]], None],
        root: Path = Path("/"),
    ) -> None:
        self._devices, self._run_dir, self._busy, self._notice, self._root = devices, run_dir, busy, notice, root
        self._cut: frozenset[str] = frozenset()
        self._claims = Patience()

    async def run(self) -> None:
        """For ever."""
        while True:
            await asyncio.sleep(EVERY_S)
            try:
                await self.once()
            except Exception:
                log.exception("looking after what is cut off failed; it is tried again")

    async def once(self) -> None:
        """One look."""
        beat = read_beat(self._run_dir)
        cut = frozenset(beat.cut) if beat is not None else frozenset()
        if new := sorted(cut - self._cut):
            self._notice("cut", f"{', '.join(new)} cut off: this node's session was not renewed", {"disks": new})
        self._cut = cut
        await asyncio.gather(*(self._bring_back(name) for name in sorted(cut) if self._session_lives()))

    async def _bring_back(self, name: str) -> None:
        if await self._unused(name) and self._session_lives():  # a disk may take its time to be looked at
            await asyncio.to_thread(self._set_running, name)
            self._notice("cut-over", f"{name} is set running again: nothing uses it here", {"disks": [name]})

    def _session_lives(self) -> bool:
        try:
            deadline = read_deadline(self._run_dir)
        except (OSError, ValueError):
            return False
        lives = deadline is not None and deadline.stop_ns > boot_ns() + LEFT_NS
        return lives and read_session(self._run_dir)[0] is not None

    async def _unused(self, name: str) -> bool:
        """True if nobody on this node has anything open of the LUN that the disk leads to. A doubt is a use."""
        over = self._over(name)
        if not over or any(self._busy(device.dev) for device in over):
            return False
        found = await asyncio.to_thread(usage.scan)
        used = [(device.dev, found[device.dev]) for device in over if device.dev in found]
        if any([await asyncio.to_thread(self._devices.use_of, dev, use) for dev, use in used]):
            return False
        try:
            for device in over:  # by what /proc does not show
                look = partial(claimed, self._devices, device.dev, self._run_dir)
                if await self._claims.ask(device.dev, look, CLAIM_S):
                    return False
        except TimeoutError:
            return False
        return not any(self._busy(device.dev) for device in over)

    def _over(self, name: str) -> list[Device]:
        disk = next((k.device for k in self._devices.known.values() if k.device.name == name), None)
        return [each for r in disk.resources for each in self._devices.on_lun(r.lun)] if disk is not None else []

    def _set_running(self, name: str) -> None:
        """drivers/scsi/scsi_sysfs.c, store_state_field; it looks at the disk anew, which may take its time."""
        (self._root / "sys/block" / name / "device/state").write_text("running\n")
