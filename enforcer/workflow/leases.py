# SPDX-License-Identifier: GPL-2.0-or-later
"""Leases of this node: taken before the first use, kept as long as anything uses them, given back after the last.

Giving back is the delicate half. First the guard table says CLOSING, so nothing new can start; then the kernel's
counts are read again, because an open may have slipped in before; then every device of the resource must let itself
be opened exclusively; only then is the store told. Any doubt on the way leads back to LIVE, never forward.

What follows from what happened is decided in ``model/lifecycle.py``, a pure function that tools/model explores. Here it
is done: the store asked, devices looked at, the table written.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from enforcer.cluster.store import LeaseStore
from enforcer.kernel.tables import Tables
from enforcer.model import lifecycle
from enforcer.model.clock import boot_ns
from enforcer.model.errors import EnforcerError, LeaseLost
from enforcer.model.lease import Denied, Granted, Guarantee, HeldLease, Holder, Lease, Standing
from enforcer.model.lifecycle import Action, step
from enforcer.model.resource import Device, DevNum, Mode, ResourceId
from enforcer.workflow.devices import Devices, Grip, Hold, most_specific
from enforcer.workflow.freshness import Freshness
from enforcer.workflow.holdings import Held, Holdings, forgetful
from enforcer.workflow.liveness import SessionLife
from enforcer.workflow.partitions import PartitionTables
from enforcer.workflow.reserving import Reservations
from enforcer.workflow.sharing import EXCLUSIVE, Sharing, Want, covers, want_in_use
from enforcer.workflow.turns import Turns
from enforcer.workflow.uses import Uses
from enforcer.workflow.vacancy import Vacancy
from enforcer.workflow.vetoing import Vetoes

log = logging.getLogger(__name__)
PERMIT_NS = 10_000_000_000  # how long a permitted caller may take to reach its device before the permit is forgotten
LEFT_OVER_NS = 3_000_000_000  # how often counts without a use are looked into
RESCAN_USES_NS = 5_000_000_000  # how often uses that the kernel did not count are looked for


class Leases:
    """What this node holds. All methods run on the daemon's loop; those of one LUN wait for each other."""

    def __init__(
        self,
        store: LeaseStore,
        devices: Devices,
        tables: Tables,
        *,
        me: Holder,
        deadline_ns: Callable[[], int | None],
        scratch: Path,
        tell: Callable[[Iterable[Lease], Iterable[ResourceId]], None] = lambda *_: None,
        reservations: Reservations | None = None,
    ) -> None:
        """``deadline_ns()``: boot clock until which the node's session is live, None for a store without sessions.

        ``tell`` hears of all that is held, and what of it is closing, before the guard's table does.
        """
        self._store, self._devices, self._tables, self._me = store, devices, tables, me
        self._session, self._scratch, self._tell = SessionLife(deadline_ns), scratch, tell
        self.facts_of_node: Mapping[str, str] = {}  # for people, in every lease
        self._reservations = reservations or Reservations(devices, store, me, patterns=(), scratch=scratch)
        self._held = Holdings()
        self._elsewhere: dict[ResourceId, HeldLease] = {}
        self._turns = Turns(lambda: boot_ns())
        self._partitions = PartitionTables(devices, scratch)
        self._uses = Uses(tables, scratch)
        self._vacancy = Vacancy(devices, self._uses, scratch)
        self._wake, self._giving = asyncio.Event(), dict[ResourceId, asyncio.Task[None]]()
        self._freshness = Freshness(devices, self._uses, self._partitions, scratch)
        self._sharing = Sharing(self._held, devices, self._uses)
        self._vetoes = Vetoes(store, devices, self._uses, me.node, scratch)

    @property
    def partitions(self) -> PartitionTables:
        """What this node knows of the partition tables on its guarded disks."""
        return self._partitions

    @property
    def uses(self) -> Uses:
        """What the kernel's counts say of the use of a device."""
        return self._uses

    def held(self) -> list[tuple[Lease, Hold]]:
        """Everything held now."""
        return [(held.lease, held.hold) for held in self._held.values()]

    def wake(self) -> None:
        """Something may have ended: look soon whether a lease can go."""
        self._wake.set()

    async def acquire(
        self, device: Device, intent: int, facts: Mapping[str, str], *, budget_s: float, want: Want = EXCLUSIVE
    ) -> Granted | Denied:
        """Take all that a use of ``device`` touches, or nothing, within ``budget_s`` seconds.

        A grant also is a permit for ``intent``: the lease stays until its use has begun and ended, or until
        the permit is forgotten. Never raises for the store's sake. Asks for one LUN queue up; with the store
        silent, who has waited its budget away is denied for the reason of the one before.
        """
        wanted, asked_ns = frozenset(device.resources), boot_ns()
        for resource in self._sharing.left_over(wanted, want):
            with contextlib.suppress(EnforcerError, OSError, TimeoutError):
                await self._try_release(resource)
        ours = self._ours(wanted, intent, want.mode)
        if ours is not None:
            return ours
        async with self._turns.of(wanted):
            settled = self._ours(wanted, intent, want.mode) or self._sharing.in_the_way(device, want)
            if settled is not None:
                return settled
            await self._reservations.look(wanted, in_use=not intent)
            left_s = budget_s - (boot_ns() - asked_ns) / 1e9
            facts = {**self.facts_of_node, **facts}
            outcome = await self._turns.ask(
                self._store, wanted, facts, asked_ns=asked_ns, left_s=left_s, mode=want.mode
            )
            if isinstance(outcome, Denied):
                self._learn(outcome)
                return outcome
            actions, new = set[Action](), set[ResourceId]()
            late = self._sharing.in_the_way(device, want)
            for lease in outcome.leases:  # first of all: whatever happens next, what is ours is known to be ours
                before = self._held.get(lease.resource)
                new.update((lease.resource,) if before is None else ())
                alone = not late and self._sharing.converts(lease.resource, want)  # others wrote, and who asks waits
                idle = before is None or alone or self._idle(lease.resource, before)
                reserves = lease.guarantee is Guarantee.RESERVATION
                event = lifecycle.Granted(lease.token, outcome.fresh or alone, idle, reserves)
                actions.update(self._held.happened(lease.resource, event, lease))
            denied = forgetful(outcome) if Action.REFUSE in actions else late
            if denied:
                self._publish()
                return denied
            self._permit(outcome.leases, intent)
            granted = {lease.resource for lease in outcome.leases}
            denied = await self._session.until_live(budget_s) or await self._reservations.take(
                outcome.leases, counted=want.counted
            )
            denied = denied or await self._freshen(granted, want, in_use=not intent)
            self._publish()  # what was granted is ours, refused or not: its uses are counted for it, and it is promised
            if denied:
                self._held.refused(new if intent else ())
                self.permit_over(intent)
                return denied
            self._permit(outcome.leases, intent)
            return outcome

    def _ours(self, wanted: frozenset[ResourceId], intent: int, mode: Mode) -> Granted | None:
        """What is live here already needs neither the store nor the LUN's turn: whoever gives it back looks for the
        permit in the same step of the loop in which the table says CLOSING."""
        held = [self._held[h] for h in (most_specific(self._held, r) for r in wanted) if h is not None]
        if not held or len(held) < len(wanted) or not all(covers(h.lease.mode, mode) for h in held):
            return None
        asked = lifecycle.Asked(self._session.live())
        if any(Action.PERMIT not in step(h.life, asked)[1] for h in held):
            return None
        leases = tuple(h.lease for h in held)
        self._permit(leases, intent)
        return Granted(max(lease.token for lease in leases), leases, False)

    def _permit(self, leases: tuple[Lease, ...], intent: int) -> None:
        for lease in leases:
            held = self._held[lease.resource]
            held.permits[intent], held.refused = boot_ns() + PERMIT_NS, False

    def permit_over(self, intent: int) -> None:
        """The permitted use has begun (and is counted now) or has failed."""
        for held in self._held.values():
            held.permits.pop(intent, None)
        self.wake()

    async def adopt(self, waiting: Callable[[DevNum], int] = lambda _: 0) -> list[str]:
        """At start: take up what this node held before (same boot), drop what an earlier boot held.

        ``waiting``: how many of a device's uses only wait for a verdict. Returns sentences for the audit log. Raises
        StoreUnavailable, LeaseLost.
        """
        old, ours = await self._store.forget_old_boots(), await self._store.adopt()
        told = [f"{lease.resource} was held by an earlier boot of this node and is released" for lease in old]
        new = {lease.resource for lease in ours} - self._held.keys()  # somebody may have asked meanwhile
        told += [f"{each.resource} is re-adopted with token {each.token}" for each in ours if each.resource in new]
        for lease in ours:
            self._held.happened(lease.resource, lifecycle.Adopted(lease.token, idle=True), lease)
        self._publish()  # all at once: a use counts for the narrowest of them
        for held in (self._held[lease.resource] for lease in ours):
            held.uncounted = held.readopted = True  # perhaps: what an earlier daemon knew of that is gone with it
        for resource in new:
            if any(self._uses.beyond(dev, waiting(dev)) for dev in self._devices.counted_for(resource)):
                self._held.happened(resource, lifecycle.Freshened())  # it never was out of our hands
        self._publish()
        return told

    def covered(self, device: Device) -> bool:
        """True if everything that the device lies on is held here, and the store has not said otherwise."""
        held = [most_specific(self._held, r) for r in device.resources]
        return all(h is not None and self._held[h].hold is Hold.LIVE for h in held)

    def held_by_others(self, device: Device) -> tuple[HeldLease, ...]:
        """What other nodes hold of what the device lies on, as the store was last read."""
        mine = device.resources
        return tuple(h for r, h in sorted(self._elsewhere.items()) if any(r.meets(own) for own in mine))

    def mark_uncounted(self, device: Device) -> None:
        """The device is in use by something that the kernel's counts do not know."""
        for resource in device.resources:
            held = most_specific(self._held, resource)
            if held is not None:
                self._held[held].uncounted, self._held[held].refused = True, False
            if held == resource:  # in use all the time, so never out of our hands
                self._held.happened(resource, lifecycle.Freshened())
        self._publish()

    async def take_in_use(self, device: Device, *, budget_s: float) -> Denied | None:
        """A device that was in use before enforcement began: its lease is taken now. The refusal, if any."""
        want = await want_in_use(device)
        outcome = await self.acquire(device, 0, {"use": device.in_use or "open"}, budget_s=budget_s, want=want)
        if isinstance(outcome, Denied):
            return outcome
        self.permit_over(0)
        if device.in_use:
            self.mark_uncounted(device)
        return None

    async def refresh(self) -> tuple[HeldLease, ...]:
        """Learn what others hold, for the guard table and for ``who``. Raises StoreUnavailable."""
        everything = await self._store.leases()
        stored = {known.lease.resource: known.lease.token for known in everything if self._is_mine(known)}
        for resource in stored.keys() ^ self._held.keys() | {
            r for r, held in self._held.items() if stored.get(r) != held.lease.token
        }:
            await self._reconcile(resource)
        mine = {held.lease.token for held in self._held.values()}
        turns = await self._store.last_grants()
        known, before = self._elsewhere, {(r.lun, h.lease.token) for r, h in self._elsewhere.items()}
        self._elsewhere = {
            h.lease.resource: h for h in everything if h.lease.token not in mine and h.lease.resource not in self._held
        }
        self._vetoes.heard(known, self._elsewhere)
        ended = {lun for lun, _ in before - {(r.lun, h.lease.token) for r, h in self._elsewhere.items()}}
        self._freshness.outdated(ended | self._freshness.had_by_others(turns, self._me.node))
        self._publish()
        return everything

    def _is_mine(self, known: HeldLease) -> bool:
        holder = known.lease.holder
        return (holder.node, holder.boot_id) == (self._me.node, self._me.boot_id)

    async def _reconcile(self, resource: ResourceId) -> None:
        """The store and we disagree about one resource of ours; the store is right, and the stricter side wins."""
        async with self._turns.of(frozenset({resource})):
            found = [
                k.lease
                for k in await self._store.leases(resource.lun)
                if self._is_mine(k) and k.lease.resource == resource
            ]
            held, lease = self._held.get(resource), found[0] if found else None
            if lease is not None and held is None:
                log.info("%s: a late grant is picked up, to be given back", resource)
            elif lease is None and held is not None and held.life.live:
                log.critical("%s: the store does not know our lease (token %d)", resource, held.lease.token)
            self._held.happened(resource, lifecycle.Stored(lease.token if lease else None), lease)
            self._publish()

    async def run(self) -> None:
        """Give back what is no longer used; runs until it is cancelled."""
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(1.0):
                    await self._wake.wait()
            self._wake.clear()
            for resource in (self._held.keys() | self._reservations.left_by_earlier_boots()) - self._giving.keys():
                self._giving[resource] = asyncio.create_task(self._give_back(resource))

    async def _give_back(self, resource: ResourceId) -> None:
        """A task for each: a disk that hangs delays no other."""
        try:
            await self._try_release(resource)
        except EnforcerError as error:
            log.warning("%s cannot be given back yet: %s", resource, error)
        except Exception:
            log.exception("giving back %s failed; it is kept", resource)
        finally:
            self._giving.pop(resource, None)

    async def release_unused(self) -> None:
        """One pass over everything, now. Raises nothing."""
        for resource in list(self._held):
            with contextlib.suppress(EnforcerError, OSError, TimeoutError):
                await self._try_release(resource)

    async def _try_release(self, resource: ResourceId) -> None:
        held = self._held.get(resource)
        if held is None:
            await self._reservations.end_earlier(resource.lun, self._turns.of({resource}), self._held)
        if held is None or not (self._idle(resource, held) or self._only_in_flight(resource, held)):
            return
        async with self._turns.of(frozenset({resource})):
            if self._held.get(resource) is not held:
                return
            devices = self._devices.counted_for(resource)
            held.uncounted |= self._devices.used_uncounted(devices)
            if held.uncounted and not await self._counted_again(held, devices):
                return
            left_over = self._uses.in_flight(devices)
            if left_over and not await self._uses.unopened(left_over):
                return
            if held.permits:
                return
            if Action.LOOK not in self._held.happened(resource, lifecycle.Unused()):
                return
            self._publish()
            devices = self._devices.counted_for(resource)  # a grant whose ask was cancelled was not published before
            looked = released = False
            try:
                if left_over and await self._uses.unopened(left_over):  # once more: nothing new passes now
                    self._uses.write_off(left_over)
                sure = self._idle(resource, held) and not self._devices.used_uncounted(devices)
                sure = sure and await self._vacancy.sure(resource, devices, self._held, wrote=not held.refused)
                unused = sure and self._idle(resource, held)
                looked = True
                if Action.RELEASE not in self._held.happened(resource, lifecycle.Looked(unused)):
                    return
                try:
                    await self._reservations.give_up(held.lease)
                    await self._store.release(frozenset({resource}), held.lease.token)
                except LeaseLost as lost:
                    log.info("%s: given back already: %s", resource, lost)
                released = True
            finally:
                if released:
                    self._held.happened(resource, lifecycle.Released())
                elif not looked:
                    self._held.happened(resource, lifecycle.Looked(unused=False))
                # sent without an answer: perhaps it is another node's by now. CLOSING until the store has said
                self._publish()

    def _only_in_flight(self, resource: ResourceId, held: Held) -> bool:
        """True every few seconds at most: nothing is open, but an open seems to be under way that never ends."""
        if held.permits or boot_ns() - held.left_over_ns < LEFT_OVER_NS:
            return False
        if not self._uses.in_flight(self._devices.counted_for(resource)):
            return False
        held.left_over_ns = boot_ns()
        return True

    def _idle(self, resource: ResourceId, held: Held) -> bool:
        now = boot_ns()
        for intent, until in list(held.permits.items()):
            if until < now:
                del held.permits[intent]
        if held.permits or (held.readopted and self._vacancy.lost_in_use()):  # perhaps for that
            return False
        return not any(self._uses.busy(dev) for dev in self._devices.counted_for(resource))

    async def _counted_again(self, held: Held, devices: list[DevNum]) -> bool:
        """True once a use that the kernel did not count has ended; looked for every few seconds."""
        if boot_ns() - held.looked_ns < RESCAN_USES_NS:
            return False
        held.looked_ns = boot_ns()
        held.uncounted = await self._vacancy.used_uncounted(devices)
        return not held.uncounted

    async def _freshen(self, granted: set[ResourceId], want: Want, *, in_use: bool) -> Denied | None:
        """The last writer of what was out of our hands may have been another node. Why it cannot be used yet."""
        self._vetoes.granted(granted, self._elsewhere)
        stale = {r for r in granted if self._held[r].stale}
        ours = {r for r, held in self._held.items() if held.hold is Hold.LIVE and not held.stale}
        for lun in {r.lun for r in stale}:
            trouble = await self._freshness.renew(lun, granted, ours)
            if trouble:
                return Denied(Standing.UNKNOWN, trouble, remedy="end what has the device open, then try again")
        # what is in use here already has marks of our own, and a refusal would prevent nothing
        denied = await self._vetoes.against(stale, shared=want.mode is Mode.CW) if stale and not in_use else None
        for resource in () if denied else stale:
            self._held.happened(resource, lifecycle.Freshened())
        return denied

    def _learn(self, denied: Denied) -> None:
        if denied.standing is Standing.ELSEWHERE:
            for blocking in denied.blocking:
                self._elsewhere[blocking.lease.resource] = blocking
            self._publish()

    def _publish(self) -> None:
        closing = [resource for resource, held in self._held.items() if held.hold is Hold.CLOSING]
        self._tell([held.lease for held in self._held.values()], closing)
        grips = {
            resource: Grip(held.hold, held.lease.token, held.stale, held.lease.mode is Mode.CW)
            for resource, held in self._held.items()
        }
        # what we were granted is newer than what we had read of others
        others = frozenset(r for r in self._elsewhere if not any(r.meets(mine) for mine in self._held))
        self._devices.set_grips(grips, others)
