# SPDX-License-Identifier: GPL-2.0-or-later
"""The last thing that a daemon does: give back what nobody uses any more, and wait for that, but not for ever.

At a shutdown the filesystems were unmounted a moment ago, and whoever comes next to the LUN is another node: a lease
that stays behind would be stranded, and a planned poweroff would need a person. What is in use is not waited for: a
daemon that is restarted under live mounts must be gone at once.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from enforcer.model.resource import ResourceId
from enforcer.workflow.devices import Devices
from enforcer.workflow.leases import Leases

log = logging.getLogger(__name__)
END_S = 9.0  # a use that nobody counted is looked for every 5 s; the unit grants 30 s
POLL_S = 0.1


async def give_back(leases: Leases, devices: Devices, find_uses: Callable[[], Awaitable[None]]) -> list[ResourceId]:
    """What is still held in the end, for one reason or another. ``find_uses`` looks at /proc anew. Raises nothing."""
    try:
        async with asyncio.timeout(END_S):
            await leases.release_unused()
            if _unused(leases, devices, counted=True):
                await find_uses()
            while _unused(leases, devices):
                await asyncio.sleep(POLL_S)
                await leases.release_unused()
    except TimeoutError:
        names = ", ".join(str(resource) for resource in _unused(leases, devices))
        log.error("not given back within %g s, and so stranded once this node is off: %s", END_S, names)
    except Exception:
        log.exception("giving back at the end failed; what is held is kept")
    return [lease.resource for lease, _ in leases.held()]


def _unused(leases: Leases, devices: Devices, *, counted: bool = False) -> list[ResourceId]:
    """Held, and not in use; ``counted``: as the kernel counts, whatever was found in /proc before."""
    found = []
    for lease, _ in leases.held():
        below = devices.counted_for(lease.resource)
        known = [devices.known[dev].device for dev in below if dev in devices.known]
        if not any(leases.uses.busy(dev) for dev in below) and (counted or not any(d.in_use for d in known)):
            found.append(lease.resource)
    return found
