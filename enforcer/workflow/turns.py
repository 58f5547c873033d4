# SPDX-License-Identifier: GPL-2.0-or-later
"""What is done about one LUN is done one after the other, and a wait for one's turn is part of one's budget.

While the store is silent the first in the queue uses up its budget, and all behind it would run into their deadline
with no reason to give. So who comes to its turn with little left is denied for the reason that came while it waited.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Collection, Mapping

from enforcer.cluster.store import LeaseStore
from enforcer.model.lease import Claim, Denied, Granted, Standing
from enforcer.model.resource import Mode, ResourceId

LAST_TRY_S = 3.0  # with less left there is no point in asking a store that has just been silent


class Turns:
    """Locks by LUN, taken in the order of the names. ``now_ns``: boot clock."""

    def __init__(self, now_ns: Callable[[], int]) -> None:
        self._now_ns = now_ns
        self._locks: dict[str, asyncio.Lock] = {}
        self._silences: dict[str, tuple[int, Denied]] = {}  # LUN -> when the store last knew nothing of it, and why

    @contextlib.asynccontextmanager
    async def of(self, resources: Collection[ResourceId]) -> AsyncIterator[None]:
        """Wait for the turn on every LUN of ``resources``, and have it."""
        async with contextlib.AsyncExitStack() as stack:
            for lun in sorted({r.lun for r in resources}):
                await stack.enter_async_context(self._locks.setdefault(lun, asyncio.Lock()))
            yield

    async def ask(
        self,
        store: LeaseStore,
        wanted: frozenset[ResourceId],
        facts: Mapping[str, str],
        *,
        asked_ns: int,
        left_s: float,
        mode: Mode = Mode.EX,
    ) -> Granted | Denied:
        """Whose turn it is asks the store. ``asked_ns``: when the caller came; ``left_s`` of its budget, in seconds."""
        luns = {r.lun for r in wanted}
        for when_ns, denied in (self._silences[lun] for lun in sorted(luns & self._silences.keys())):
            if left_s < LAST_TRY_S and when_ns > asked_ns:
                return denied
        outcome = await store.acquire(frozenset(Claim(r, mode) for r in wanted), facts, budget_s=max(0.0, left_s))
        if isinstance(outcome, Denied) and outcome.standing is Standing.UNKNOWN:
            self._silences.update((lun, (self._now_ns(), outcome)) for lun in luns)
        return outcome
