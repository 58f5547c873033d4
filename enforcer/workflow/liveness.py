# SPDX-License-Identifier: GPL-2.0-or-later
"""Whether this node's session lives, by the deadline that the keeper writes for the kernel."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from enforcer.model.clock import boot_ns
from enforcer.model.lease import Denied, Standing

WAIT_S = 3.0  # for a keeper that has just started


class SessionLife:
    """``deadline_ns()``: boot clock until which the session is live, None for a store without sessions."""

    def __init__(self, deadline_ns: Callable[[], int | None]) -> None:
        self._deadline_ns = deadline_ns

    def live(self) -> bool:
        """True while the guard lets anything pass under a lease."""
        deadline = self._deadline_ns()
        return deadline is None or boot_ns() < deadline

    async def until_live(self, budget_s: float) -> Denied | None:
        """The guard would refuse what we permit before it knows a deadline: give the keeper a moment."""
        end_ns = boot_ns() + int(min(budget_s, WAIT_S) * 1e9)
        while not self.live():
            if boot_ns() > end_ns:
                why = "the keeper has not told the kernel until when this node's session lives"
                return Denied(Standing.UNKNOWN, why, remedy="systemctl status enforcer-keeper")
            await asyncio.sleep(0.05)
        return None
