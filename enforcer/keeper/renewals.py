# SPDX-License-Identifier: GPL-2.0-or-later
"""Until when this node may write, where sanlock renews: seen on the shared disk, not asked for.

sanlock writes its time into this host's delta lease at every renewal. A read that finds another one than the read
before proves a renewal after that earlier read had begun. So the beginning of the earlier read is t0: too early by one
period of ours at most, and never too late, whatever became of the clocks. The write was ours only if the daemon says,
after that read, that it is in the lock space; a daemon that hangs says nothing, and the deadline passes by itself.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor

from enforcer.cluster.sanlock_area import Area, Delta
from enforcer.cluster.sanlock_socket import SOCKET, SanlockDaemon, Space
from enforcer.model.clock import boot_ns
from enforcer.model.errors import StoreUnavailable
from enforcer.settings import Store

log = logging.getLogger(__name__)
LOOK_S = 1.0


class Renewals:
    """What the reads say, in their order. All times are boot clock, nanoseconds."""

    def __init__(self) -> None:
        self.renewed_ns = 0  # t0; 0: none was seen yet
        self._last: tuple[Delta, int] | None = None

    def saw(self, delta: Delta, began_ns: int, *, ours: bool) -> None:
        """One more read, which began then."""
        if self._last is not None and self._last[0] != delta and delta.timestamp and ours:
            self.renewed_ns = self._last[1]
        self._last = (delta, began_ns)


async def follow(store: Store, tell: Callable[[int | None, float], Awaitable[None]], socket: str = SOCKET) -> None:
    """For ever: ``tell`` the deadline (None: not known yet) and for how many seconds to stay with it."""
    space = Space(store.cluster, store.device, store.host_id, int(store.io_timeout_s))
    area, daemon, renewals = Area(store.device, store.cluster), SanlockDaemon(socket), Renewals()
    thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="renewals")
    loop, trouble = asyncio.get_running_loop(), ""
    try:
        while True:
            began_ns = boot_ns()
            read = loop.run_in_executor(thread, area.deltas)
            while not read.done():  # a disk that hangs stops nothing but the renewals
                await asyncio.wait({read}, timeout=0.1)
                if not read.done():
                    await tell(_deadline(store, renewals), LOOK_S)
            now = ""
            try:
                delta = read.result()[store.host_id]
                renewals.saw(delta, began_ns, ours=await daemon.joined(space, budget_s=LOOK_S))
            except StoreUnavailable as error:
                now = str(error)
            if now != trouble:
                log.warning("%s", now or "sanlock's renewals are seen again")
            trouble = now
            await tell(_deadline(store, renewals), LOOK_S)
    finally:
        thread.shutdown(wait=False)


def _deadline(store: Store, renewals: Renewals) -> int | None:
    return store.deadlines().stop_ns(renewals.renewed_ns) if renewals.renewed_ns else None
