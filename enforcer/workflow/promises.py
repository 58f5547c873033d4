# SPDX-License-Identifier: GPL-2.0-or-later
"""What this node promises with its leases, and what the revoker has to cut to keep it.

The promise goes into the store with the grant. Before the guard's table lets anything be written under it, the revoker
is told which disks lie below: whoever dies in between has promised too much and written nothing. Told are all disks
of the LUN, for they are all ways to it, whatever stands on them: the cut is made at the bottom of the stack.

The keeper, which feeds the watchdog, is told which resources may be in use under the promise of a reset: the guard's
table does not tell, once the daemon is started anew without the store, or the rule is gone that guarded the device.

No cut is promised of a disk that cannot be cut, or that the system itself stands on.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from enforcer.cluster.identity import read_tiers
from enforcer.lost.files import Promise, read_promises, read_resets, revoker_trouble, write_promises
from enforcer.model.guarantee import Offer, Ready, offer
from enforcer.model.lease import Guarantee, Lease
from enforcer.model.resource import Device, ResourceId
from enforcer.storage.system import SWAP
from enforcer.workflow.devices import Devices, Known, covers

log = logging.getLogger(__name__)
EVERY_S = 1.0


class Promises:
    """One node's. Methods read a few small files of sysfs and the run directory, and never wait for a disk."""

    def __init__(
        self,
        devices: Devices,
        run_dir: Path,
        *,
        adopted: Callable[[], bool],
        root: Path = Path("/"),
        reserved: Callable[[frozenset[ResourceId]], bool] = lambda _: False,
    ) -> None:
        """``adopted()``: what this boot holds is known. Until then all that an earlier daemon has told stands.

        ``reserved``: whether the storage itself will be told whose these are before they are used.
        """
        self._devices, self._run_dir, self._adopted, self._root = devices, run_dir, adopted, root
        self._reserved = reserved
        self._leases: Mapping[ResourceId, Lease] = {}
        self._warned = False
        self._closing: frozenset[ResourceId] = frozenset()
        self._told: tuple[object, object] | None = None  # None: unknown what an earlier daemon has told

    def offer(self, resources: frozenset[ResourceId]) -> Offer:
        """What leases of these, granted now, may promise. They are one set, so the weakest device decides."""
        if any(known.guarding.audit for lun in {r.lun for r in resources} for known in self._known(lun)):
            return Offer(Guarantee.NONE, "a rule only watches what lies on it")
        if self._reserved(resources):
            return Offer(Guarantee.RESERVATION)
        ready = Ready(revoker_trouble(self._run_dir), self._uncuttable({r.lun for r in resources}))
        return offer(read_tiers(self._run_dir), ready)

    def guarantee(self, resources: frozenset[ResourceId]) -> Guarantee:
        """The promise of :meth:`offer` alone, as a store wants it."""
        return self.offer(resources).guarantee

    def tell(self, leases: Iterable[Lease], closing: Iterable[ResourceId] = ()) -> None:
        """All that is held now, before anything is permitted under it; ``closing``: of these only what the kernel
        counts may be in use. Raises OSError, ValueError."""
        self._leases, self._closing = {lease.resource: lease for lease in leases}, frozenset(closing)
        told = {promise.dev: promise for promise in self._promises()}
        live = [lease for r, lease in self._leases.items() if r not in self._closing]
        resets = {str(lease.resource) for lease in live if lease.guarantee is Guarantee.WATCHDOG}
        if not self._adopted():
            told = {promise.dev: promise for promise in read_promises(self._run_dir)} | told
            resets.update(read_resets(self._run_dir))
        now = tuple(told.values()), tuple(sorted(resets))
        if now != self._told:
            write_promises(self._run_dir, *now)
            self._told = now

    async def run(self) -> None:
        """For ever: paths and maps come and go under a lease."""
        while True:
            await asyncio.sleep(EVERY_S)
            self._warn()
            try:
                self.tell(self._leases.values(), self._closing)
            except (OSError, ValueError) as error:
                log.critical("the revoker could not be told what it has to cut: %s", error)

    def _warn(self) -> None:
        """A promise stands in the store until its lease goes; who should keep it may be stopped meanwhile."""
        cut = any(lease.guarantee is Guarantee.CUT for lease in self._leases.values())
        trouble = revoker_trouble(self._run_dir) if cut else ""
        if trouble and not self._warned:
            log.critical("leases of this node promise a cut, and nobody would make it: %s", trouble)
        self._warned = bool(trouble)

    def _promises(self) -> Iterable[Promise]:
        promised = [r for r, lease in self._leases.items() if lease.guarantee is Guarantee.CUT]
        for known in sorted(self._devices.known.values(), key=lambda k: k.device.dev):
            device = known.device
            mine = [r for r in device.resources if any(covers(held, r) for held in promised)]
            if mine:
                disks = dict.fromkeys(disk.name for lun in sorted({r.lun for r in mine}) for disk in self._disks(lun))
                yield Promise(str(device.dev), device.name, tuple(map(str, mine)), tuple(disks))

    def _known(self, lun: str) -> list[Known]:
        return [self._devices.known[device.dev] for device in self._devices.on_lun(lun)]

    def _disks(self, lun: str) -> list[Device]:
        """The ways to a LUN: its devices that stand on nothing."""
        return [device for device in self._devices.on_lun(lun) if not device.below]

    def _uncuttable(self, luns: Iterable[str]) -> str:
        """Why these LUNs cannot all be cut, in one clause, or ""."""
        for lun in sorted(luns):
            disks = self._disks(lun)
            if not disks:
                return f"no disk of {lun} is known"
            for disk in disks:
                if not self._is_scsi(disk.name):
                    return f"{disk.name} is no SCSI disk, and cannot be cut"
                if why := self._systems(disk):
                    return f"{disk.name} {why}"
            maps = [d.name for d in self._devices.on_lun(lun) if d.carrier and d.below]
            if maps:
                return f"{maps[0]} is a multipath map, which would keep what its paths refuse"
        return ""

    def _is_scsi(self, name: str) -> bool:
        """True if its state can be set (drivers/scsi/scsi_sysfs.c, store_state_field)."""
        device = self._root / "sys/block" / name / "device"
        return (device / "subsystem").resolve().name == "scsi" and (device / "state").exists()

    def _systems(self, disk: Device) -> str:
        """What of the system would be cut with a disk, or "". Swap under a lease of ours is not the system's."""
        stand = [k.device for k in self._devices.known.values() if k.device.system]
        below = {dev for device in stand for dev in device.below}
        for device in stand:
            if disk.dev not in (device.dev, *device.below) or device.dev in below:
                continue  # elsewhere, or named for the sake of what stands on it
            if device.system != SWAP or not self._leased(device):
                return device.system
        return ""

    def _leased(self, device: Device) -> bool:
        return bool(device.resources) and all(any(covers(mine, r) for mine in self._leases) for r in device.resources)
