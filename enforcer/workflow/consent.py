# SPDX-License-Identifier: GPL-2.0-or-later
"""What the cluster manager says, beside the lease store: its objections, its word for its own agent, its fencings.

Both must agree to a use, and the manager is asked first: its objection costs no lease. Where the store serves one node
only, a use that the manager vouches for may take a lease of a multi-attached LUN all the same. That word holds for the
very resources and for the very task that asked, not for the LUN and not for a while.

A fencing that the manager confirms becomes a fencing fact of the store, if it certainly struck the boot that holds the
leases: that boot was known of *before* a look at the manager's fencings that did not show it, neither done nor under
way. Then it began after that boot did, and its success ended that boot or a later one. To a manager that has just
started the history of fencings comes late, so what is new in its first ``SETTLE_S`` is taken for old.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Iterable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path

from enforcer.cluster.store import LeaseStore
from enforcer.cluster.view import ClusterView, Fencing, NoCluster, Opinion, Site, Stance, Use
from enforcer.model.errors import EnforcerError, StoreUnavailable
from enforcer.model.intent import Intent
from enforcer.model.lease import Denied, HeldLease, Standing
from enforcer.model.resource import Device, DevNum, ResourceId, UseKind
from enforcer.storage.nodes import number_of
from enforcer.workflow.leases import Leases

log = logging.getLogger(__name__)
EVERY_S = 5.0
TAKE_S = 3.0
SLACK_S = 10.0
SETTLE_S = 30.0

_vouched: ContextVar[frozenset[ResourceId]] = ContextVar("vouched", default=frozenset())


def vouched(lun: str) -> bool:
    """True if what the calling task wants on this LUN is what the manager vouched for."""
    return any(resource.lun == lun for resource in _vouched.get())


@contextlib.contextmanager
def vouching(opinion: Opinion, device: Device) -> Iterator[None]:
    """Within it, the manager's word stands for the lease of ``device``, if it gave it."""
    token = _vouched.set(frozenset(device.resources if opinion.stance is Stance.VOUCHES else ()))
    try:
        yield
    finally:
        _vouched.reset(token)


def locate(path: str, resolve: Callable[[DevNum], Device]) -> Site | None:
    """What a device path of the manager's configuration is here now, None for no block device. Not for the loop."""
    try:
        dev = number_of(Path(path).stat())
        return Site(dev, resolve(dev).resources) if dev is not None else None
    except OSError:
        return None


@dataclass
class _Boots:
    """Boots of other nodes, each with the fencings of its node that were known when it was."""

    before: dict[tuple[str, str], frozenset[str]] = field(default_factory=dict)
    settled: set[tuple[str, str]] = field(default_factory=set)
    alive_since_s: dict[tuple[str, str], float] = field(default_factory=dict)  # of those who live although fenced


class Consent:
    """Asks the view. ``notice(kind, sentence)`` writes to the log."""

    def __init__(
        self, view: ClusterView, store: LeaseStore, node: str, notice: Callable[[str, str], None] = lambda *_: None
    ) -> None:
        self.view, self._store, self._node, self._notice = view, store, node, notice
        self._boots = _Boots()
        self._heard_since_s: float | None = None  # the manager has answered each time since then
        self._looking = asyncio.Lock()

    async def of(self, intent: Intent, *, covered: bool) -> Opinion:
        """The view's opinion about an intent whose device is known. ``covered``: its lease is live here."""
        device = intent.device
        if device is None or (covered and intent.caller.syscall == "swapoff"):  # an end is never refused
            return Opinion(Stance.NO_OBJECTION, "")
        return await self.view.opinion(Use(intent.dev, device.resources, device.aliases, intent.kind))

    async def take_in_use(self, leases: Leases, device: Device) -> Denied | None:
        """The lease of what was in use before anybody asked; what speaks against it, if anything does.

        What the manager knows to be active elsewhere is leased all the same: it keeps others out, and it is told.
        """
        use = Use(device.dev, device.resources, device.aliases, UseKind.MOUNT, running=True)
        opinion = await self.view.opinion(use)
        with vouching(opinion, device):
            denied = await leases.take_in_use(device, budget_s=TAKE_S)
        if denied is None and opinion.objects and opinion.holder:
            return Denied(Standing.ELSEWHERE, opinion.reason, remedy=opinion.remedy)
        return denied

    async def run(self) -> None:
        """For ever: learn of boots while they live, so that their fencing can be told later."""
        while not isinstance(self.view, NoCluster):
            await self.look()
            await asyncio.sleep(EVERY_S)

    async def freed(self, blocking: Iterable[HeldLease]) -> bool:
        """True if somebody in the way turns out to have been fenced by the manager: it is worth to ask again."""
        others = {h.lease.holder.node for h in blocking} - {self._node}
        return bool(others) and not isinstance(self.view, NoCluster) and bool(await self.look() & others)

    async def look(self) -> frozenset[str]:
        """One look at nodes and fencings; the nodes about which a fencing fact was recorded. Raises nothing."""
        try:
            async with self._looking:
                return await self._look()
        except EnforcerError as error:
            log.info("fencings: %s", error)
        except Exception:
            log.exception("looking for fencings failed; it is tried again")
        return frozenset()

    async def _look(self) -> frozenset[str]:
        boots = {(h.lease.holder.node, h.lease.holder.boot_id) for h in await self._store.leases()}
        boots = {boot for boot in boots if boot[0] != self._node}
        known = self._boots.before
        if not boots:
            known.clear()
            self._boots.settled.clear()
            return frozenset()
        told = await self._fencings()  # after the boots were read, and all of them together
        settled = self._heard_since_s is not None and time.monotonic() - self._heard_since_s >= SETTLE_S
        under_way = {fencing.node for fencing in told if not fencing.done}
        recorded = set()
        for boot in boots - self._boots.settled:
            node, boot_id = boot
            done = frozenset(fencing.key for fencing in told if fencing.node == node and fencing.done)
            if boot not in known:
                if node not in under_way:
                    known[boot] = done
            elif not settled:
                known[boot] |= done
            elif done - known[boot]:
                try:
                    await self._store.fence_confirm(node, boot_id, f"{self.view.name} on {self._node}")
                except StoreUnavailable:
                    raise
                except EnforcerError as error:
                    self._alive(boot, done, str(error))
                    continue
                self._boots.settled.add(boot)
                recorded.add(node)
                self._notice("fence-confirm", f"boot {boot_id} of {node} was fenced, {self.view.name} says")
        for boot in known.keys() - boots:
            del known[boot]
        self._boots.settled &= boots
        return frozenset(recorded)

    async def _fencings(self) -> tuple[Fencing, ...]:
        try:
            told = await self.view.fencings()
        except EnforcerError:
            self._heard_since_s = None
            raise
        if self._heard_since_s is None:
            self._heard_since_s = time.monotonic()
        return told

    def _alive(self, boot: tuple[str, str], done: frozenset[str], why: str) -> None:
        """The store sees a session of who was fenced. Of one that is gone it will say so soon; else the fencing is an
        old one, which this node had not heard of before (the history of fencings comes late to a node that joins)."""
        now_s = time.monotonic()
        if boot not in self._boots.alive_since_s:
            log.warning(
                "%s was fenced, %s says, and lives: if its session ends now, that counts", boot[0], self.view.name
            )
        since_s = self._boots.alive_since_s.setdefault(boot, now_s)
        if now_s - since_s > self._store.gone_after_s + SLACK_S:
            log.warning("fencings of %s are of an earlier boot: %s", boot[0], why)
            self._boots.before[boot] |= done
            del self._boots.alive_since_s[boot]
