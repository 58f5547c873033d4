# SPDX-License-Identifier: GPL-2.0-or-later
"""A lease that is shared with other nodes covers a cluster filesystem and nothing else, also on the node that has it.

So an exclusive use of what is held shared here needs the lease anew, in the other mode: the store says whether other
nodes have it, and here is said whether this one uses it. The other way round an exclusive lease covers a cluster
filesystem too, but would keep the other nodes out for as long as it is mounted; what was only left over from a mkfs is
given back first.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from dataclasses import dataclass

from enforcer.cluster.conflicts import join
from enforcer.model.lease import Denied, Standing
from enforcer.model.resource import Device, Mode, ResourceId
from enforcer.storage import clusterfs
from enforcer.workflow.devices import Devices, most_specific
from enforcer.workflow.holdings import Holdings
from enforcer.workflow.uses import Uses


@dataclass(frozen=True, slots=True)
class Want:
    """How a lease is wanted. ``counted``: files of the asker's own that the kernel counts as open already."""

    mode: Mode = Mode.EX
    counted: int = 0


EXCLUSIVE = Want()


def covers(have: Mode, wanted: Mode) -> bool:
    """True if nothing has to be asked for."""
    return join(have, wanted) is have


class Sharing:
    """Looks at what is held; changes nothing."""

    def __init__(self, held: Holdings, devices: Devices, uses: Uses) -> None:
        self._held, self._devices, self._uses = held, devices, uses

    def left_over(self, wanted: Collection[ResourceId], want: Want) -> set[ResourceId]:
        """What is held exclusively and would cover a shared use: to be given back before, if nothing uses it."""
        found = {most_specific(self._held, r) for r in wanted} if want.mode is Mode.CW else set()
        return {r for r in found if r is not None and self._held[r].lease.mode is Mode.EX}

    def in_the_way(self, device: Device, want: Want) -> Denied | None:
        """Why an exclusive use cannot be, if what it touches is in use here under a shared lease."""
        if want.mode is not Mode.EX:
            return None
        for resource, held in self._held.items():
            if held.lease.mode is not Mode.CW or not any(resource.meets(r) for r in device.resources):
                continue
            below = self._devices.counted_for(resource)
            own = want.counted if device.dev in below else 0
            if held.permits or held.uncounted or sum(sum(self._uses.of(dev)) for dev in below) > own:
                why = "it is in use here as a cluster filesystem, under a lease that other nodes may have too"
                return Denied(Standing.UNKNOWN, why, remedy="umount it here, then try again")
        return None

    def converts(self, resource: ResourceId, want: Want) -> bool:
        """True if ``resource`` is held shared and is wanted exclusively."""
        held = self._held.get(resource)
        return held is not None and held.lease.mode is Mode.CW and want.mode is Mode.EX


async def want_in_use(device: Device) -> Want:
    """For what was in use before it was leased: what holds the device is seen, and not to be asked for."""
    shared = await asyncio.to_thread(clusterfs.mounted_shared, device.dev, device.name)
    return Want(Mode.CW) if shared else EXCLUSIVE
