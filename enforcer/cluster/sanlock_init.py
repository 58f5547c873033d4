# SPDX-License-Identifier: GPL-2.0-or-later
"""How a shared disk becomes the record area of a cluster: once, by hand, and never over anything that is there."""

from __future__ import annotations

import time

from enforcer.cluster import sanlock_records
from enforcer.cluster.sanlock_area import LOCK, LOCK_AT, Area
from enforcer.cluster.sanlock_records import Records
from enforcer.cluster.sanlock_socket import SOCKET, SanlockDaemon, Space
from enforcer.model.errors import EnforcerError

FORMAT_S = 120.0


async def make(device: str, cluster: str, io_timeout_s: int, socket: str = "") -> None:
    """Blocks the loop for as long as the disk takes. Raises EnforcerError, StoreUnavailable.

    An area of ours is made anew only if every host has left it and nobody holds a lease. Its first token is the time in
    milliseconds, so that tokens go on growing.
    """
    area = Area(device, cluster)
    what, ours = area.occupied()
    if not what and ours and (leases := sanlock_records.load(area.read().body).leases):
        what = f"holds {len(leases)} leases, the first of {leases[0].holder.node} on {leases[0].resource}"
    if what:
        raise EnforcerError(f"{device} {what}", hint="wipe a disk that nobody needs; leave one that is in use")
    space = Space(cluster, device, 1, io_timeout_s, area.sector_bytes())
    await SanlockDaemon(socket or SOCKET).format(space, LOCK, LOCK_AT, budget_s=FORMAT_S)
    area.format(Records().dump(), time.time_ns() // 1_000_000)
