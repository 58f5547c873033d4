# SPDX-License-Identifier: GPL-2.0-or-later
"""What is true of the store, of the kernel's counts and of what we think we hold, brought together again and again.

Leases are lost in three ways: an answer that never came, a use that began before anybody counted, a device that came
to be guarded while it was in use. Each is a difference between two of these truths, so one loop looks for differences
and settles them on the stricter side. What cannot be settled (a device in use here and leased elsewhere) is said
loudly, on every node that sees it.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable
from pathlib import Path

from enforcer.cluster.board import Board, NoBoard
from enforcer.cluster.etcd_session import SessionFacts
from enforcer.cluster.store import HearsOfUses, LeaseStore
from enforcer.model.errors import EnforcerError, LeaseLost, StoreUnavailable
from enforcer.model.lease import Holder, NodeRecord, Standing
from enforcer.model.resource import DevNum, ResourceId
from enforcer.policy.rules import Policy
from enforcer.storage import usage
from enforcer.workflow.asks import Asks
from enforcer.workflow.conflicting import Conflicts
from enforcer.workflow.consent import Consent
from enforcer.workflow.devices import Devices, Known
from enforcer.workflow.leases import Leases

log = logging.getLogger(__name__)
EVERY_S = 3.0


class Reconciler:
    """Runs beside the asks; a slow store delays it and nothing else."""

    def __init__(
        self,
        *,
        store: LeaseStore,
        devices: Devices,
        leases: Leases,
        asks: Asks,
        me: Holder,
        policy: Callable[[], Policy],
        notice: Callable[[str, str], None],
        session: Callable[[], SessionFacts | None] | None,
        cache: Path,
        board: Board | None = None,
        consent: Consent | None = None,
    ) -> None:
        """``cache`` keeps what other nodes see over a restart; ``session`` is None for a store without sessions."""
        self._store, self._devices, self._leases, self._asks, self._me = store, devices, leases, asks, me
        self._policy, self._notice, self._session, self._cache = policy, notice, session, cache
        self._consent = consent
        self._published: tuple[object, ...] | None = None
        self._adopted = False
        self._scan, self._to_remember = True, False
        self._suspects: set[DevNum] = set()
        self._trouble = ""
        self.warnings: list[str] = []
        self.conflicts = Conflicts(board or NoBoard(), devices, me, notice, self.warnings)

    def state(self) -> tuple[str, bool]:
        """What is wrong with the store, or "", and whether our leases were taken up."""
        return self._trouble, self._adopted

    def look_for_uses(self) -> None:
        """More devices may be guarded than before: what is in use already is to be found."""
        self._scan = True

    async def run(self) -> None:
        """For ever."""
        while True:
            await asyncio.sleep(EVERY_S)
            await self.once()

    async def once(self) -> None:
        """One round. Raises nothing."""
        try:
            if await asyncio.to_thread(self._devices.find_system):
                self._devices.reclassify()
            if self._scan:
                await self.find_uses()
            await self._leases.partitions.learn()
            if self._devices.seen_unknown():
                self._recall()
            await self._meet_the_store()
            if self._trouble:
                log.info("the lease store answers again")
            self._trouble = ""
        except (StoreUnavailable, LeaseLost) as error:
            if not self._trouble:
                log.warning("the lease store: %s; guarded devices are denied meanwhile", error)
            self._trouble, self._published = str(error), None
        except EnforcerError as error:
            log.error("reconciling: %s", error)
        except Exception:
            log.exception("reconciling failed; it is tried again")

    async def _meet_the_store(self) -> None:
        if not self._adopted:
            for sentence in await self._leases.adopt(self._asks.pending_on):
                self._notice("adopt", sentence)
            self._adopted = True
            self._scan = True
        await self._leases.refresh()  # first: a node without a session cannot publish, and may have been taken over
        luns, digest = self._devices.luns(), self._policy().digest
        wanted = (luns, digest, self._session() if self._session else None)
        if wanted != self._published:
            await self._store.publish(luns, digest)
            self._published = wanted
        if self._devices.set_seen_by(_others(await self._store.nodes(), self._me.node)):
            self._scan = self._to_remember = True
        self.conflicts.begin()
        await self._cover_uses()
        await self.conflicts.settle({lease.resource for lease, _ in self._leases.held()})
        if self._to_remember:
            self._remember()
            self._to_remember = False
        if isinstance(self._store, HearsOfUses):
            await self._store.in_use(self._used())

    async def find_uses(self) -> None:
        """Uses that the kernel's counts do not know, because they began before it counted."""
        self._scan = False
        found = await asyncio.to_thread(usage.scan)
        for known in list(self._devices.known.values()):
            if known.device.in_use and known.device.dev not in found:
                self._devices.note_use(known.device.dev, "")
        sentences = {dev: await asyncio.to_thread(self._devices.use_of, dev, used) for dev, used in found.items()}
        for dev, sentence in sentences.items():
            if self._leases.uses.of(dev)[0] <= 0:
                self._devices.note_use(dev, sentence)

    async def _cover_uses(self) -> None:
        """Every guarded device that is in use needs its lease, whenever it came to be guarded."""
        suspects: set[DevNum] = set()
        for dev, known in list(self._devices.known.items()):
            if not known.guarding.guarded or not known.device.resources:
                continue
            uses, _ = self._leases.uses.of(dev)
            counted = self._leases.uses.beyond(dev, self._asks.pending_on(dev))
            if self._leases.covered(known.device):
                if known.device.in_use and uses <= 0:
                    self._leases.mark_uncounted(known.device)
            elif known.device.in_use or (counted and dev in self._suspects):
                if not await self._take(known):
                    suspects.add(dev)
                    self._scan = True  # what the kernel did not count ends unseen
            elif counted:
                suspects.add(dev)  # perhaps only on its way: looked at again in the next round
        self._suspects = suspects

    def _used(self) -> frozenset[ResourceId]:
        devices = {lease.resource: self._devices.counted_for(lease.resource) for lease, _ in self._leases.held()}
        return frozenset(r for r, below in devices.items() if any(self._leases.uses.busy(dev) for dev in below))

    async def _take(self, known: Known) -> bool:
        """True if it is leased now."""
        device = known.device
        if self._consent is not None:
            denied = await self._consent.take_in_use(self._leases, device)
        else:
            denied = await self._leases.take_in_use(device, budget_s=3.0)
        if denied is None:
            self._notice("adopt", f"{device.name}, in use here, is leased now")
            return True
        if denied.standing is Standing.ELSEWHERE and denied.blocking:
            self.conflicts.found(device, denied)
            return False
        self.conflicts.still(device)
        sentence = f"{device.name} is {device.in_use or 'in use'} here, and {denied.reason}"
        if sentence not in self.warnings:
            log.critical("IN USE WITHOUT A LEASE: %s", sentence)
            self.warnings.append(sentence)
            del self.warnings[:-20]
            self._notice("conflict", sentence)
        return False

    def _remember(self) -> None:
        draft = self._cache.with_suffix(".new")
        draft.write_text(json.dumps({lun: sorted(nodes) for lun, nodes in self._devices.seen().items()}) + "\n")
        draft.rename(self._cache)

    def _recall(self) -> None:
        """What other nodes saw when the store was last read. Without it every LUN may be somebody else's."""
        try:
            body = json.loads(self._cache.read_text())
            self._devices.set_seen_by({str(lun): frozenset(map(str, nodes)) for lun, nodes in body.items()})
        except FileNotFoundError:
            return
        except (OSError, ValueError, AttributeError, TypeError) as error:
            log.error(
                "%s cannot be read (%s); LUNs without a rule are guarded until the store answers", self._cache, error
            )


def _others(nodes: tuple[NodeRecord, ...], me: str) -> dict[str, frozenset[str]]:
    seen: dict[str, set[str]] = {}
    for record in nodes:
        if record.holder.node != me:
            for lun in record.luns:
                seen.setdefault(lun, set()).add(record.holder.node)
    return {lun: frozenset(names) for lun, names in seen.items()}
