# SPDX-License-Identifier: GPL-2.0-or-later
"""The node's session in etcd: one TTL lease, one record, one keep-alive, however many resources are held.

The keeper runs this in a process of its own, locked in memory, so it imports little. The resources' records
hang on no TTL; the session only tells others whether this node still lives, and tells this node until when it
may write.

**Deadline arithmetic** (``model/deadlines.py``). The server starts to count later than t0, the boot-clock time before
the renewal was sent, so the deadline is over here before the session is over there. A server
that has lost its leadership may acknowledge keep-alives for up to two election time-outs; the new leader
gives every lease its full TTL and one election time-out on top, which covers that. Each renewal also reads
the node's record linearizably: a session whose record is gone is lost, even if its TTL lease still lives.

**One node, one name.** The record is created only if there is none. One of an earlier session, of this boot
or of another, is waited for as long as it was granted for and never pushed aside; if somebody still renews it
then, two nodes use one name. A boot that was confirmed fenced gets no session: others may already write.

**A session that the store ends too early.** A leader that hung for longer than a TTL may revoke, when it goes on, what
was renewed with its successor meanwhile (etcd issue 15247; seen with 3.4.23). The keeper opens another
session then. Until that, this node begins nothing new and is stranded to the others: its leases hang on no session.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from enforcer.cluster.etcd_api import Etcd, get, if_created_at, put
from enforcer.cluster.etcd_http import Caller
from enforcer.cluster.etcd_records import Layout, read_holder, write_node
from enforcer.model.clock import boot_ns
from enforcer.model.deadlines import Deadlines
from enforcer.model.errors import BadConfiguration, LeaseLost, StoreUnavailable
from enforcer.model.guarantee import Tiers
from enforcer.model.lease import Holder

CALL_S = 3.0  # budget of one call that no caller limits
POLL_S = 0.2  # while an old session runs out
SLACK_S = 2.0  # beyond its TTL: etcd looks for expired leases twice a second, a new leader extends them


@dataclass(frozen=True, slots=True)
class SessionFacts:
    """What a lease store needs to hang its compares on the session."""

    lease_id: int
    create_revision: int
    ttl_s: int


class EtcdSession:
    """The session of one holder. Not safe for concurrent use: one task renews."""

    def __init__(self, client: Caller, cluster: str, holder: Holder, *, ttl_s: int, tiers: Tiers | None = None) -> None:
        """``tiers``: what has to be done before the session ends."""
        self.holder = holder
        self.facts: SessionFacts | None = None  # None: there is no session, or it was lost
        self._etcd = Etcd(client)
        self._layout = Layout(cluster)
        self._ttl_s = ttl_s
        self._tiers = tiers or Tiers()
        self._renewed_ns = 0

    @property
    def deadline_ns(self) -> int:
        """CLOCK_BOOTTIME nanoseconds until which this node may begin to write; 0 without a session."""
        return self._deadlines(self.facts.ttl_s).stop_ns(self._renewed_ns) if self.facts is not None else 0

    @property
    def last_pet_ns(self) -> int:
        """CLOCK_BOOTTIME nanoseconds from which on the watchdog is fed no more; 0 without a session."""
        return self._deadlines(self.facts.ttl_s).last_pet_ns(self._renewed_ns) if self.facts is not None else 0

    def _deadlines(self, ttl_s: int) -> Deadlines:
        return Deadlines(ttl_s, watchdog_s=self._tiers.watchdog_s, cut_s=self._tiers.cut_s)

    async def open(self) -> SessionFacts:
        """Create the session, or go on with it if this very session exists already.

        Waits for an older session of the same name to expire. Raises BadConfiguration if somebody else keeps
        it alive, LeaseLost if this boot was confirmed fenced, StoreUnavailable (to be tried again by the
        caller).
        """
        clock = asyncio.get_running_loop().time
        waiting_for, patience_ends = 0, 0.0
        while True:
            found = await self._look()
            if found is None:
                if await self._create() and self.facts:
                    return self.facts
                continue
            other, lease, created = found
            if other == self.holder:
                try:
                    return await self._attach(lease, created)
                except LeaseLost:  # it is over, and its record about to go
                    await asyncio.sleep(POLL_S)
                    continue
            if created != waiting_for:
                granted = await self._etcd.lease_granted_ttl(lease, budget_s=CALL_S)
                waiting_for, patience_ends = created, clock() + granted + SLACK_S
            elif clock() >= patience_ends:
                raise BadConfiguration(
                    f"two nodes use the name {self.holder.node!r}: "
                    f"boot id {other.boot_id}, session {other.session} keeps it alive",
                    hint="give every node a name of its own in [node] name, or stop the other one",
                )
            await asyncio.sleep(POLL_S)

    async def renew(self, *, budget_s: float = CALL_S) -> int:
        """Renew once within ``budget_s`` seconds; returns t0 (CLOCK_BOOTTIME, nanoseconds).

        Raises LeaseLost if the session is over (only ``open`` helps then), StoreUnavailable if it was not
        renewed in time: the deadline stays where it was.
        """
        facts = self.facts
        if facts is None:
            raise LeaseLost("this node has no session in the lease store")
        clock = asyncio.get_running_loop().time
        end = clock() + budget_s
        t0 = boot_ns()
        try:
            async with asyncio.timeout(budget_s):
                ttl_s = await self._etcd.lease_keepalive(facts.lease_id, budget_s=budget_s)
                found = await self._look(budget_s=max(0.0, end - clock()))
        except TimeoutError:
            raise StoreUnavailable(f"the session was not renewed within {budget_s:.1f} s") from None
        except LeaseLost:
            self.facts = None
            raise
        if found is None or found != (self.holder, facts.lease_id, facts.create_revision):
            self.facts = None
            raise LeaseLost("the node's record in the lease store is gone or not ours any more")
        self.facts = SessionFacts(facts.lease_id, facts.create_revision, min(ttl_s, facts.ttl_s))
        self._renewed_ns = Deadlines(self.facts.ttl_s).renewed_ns(self._renewed_ns, t0, boot_ns())
        return t0

    async def end(self, *, budget_s: float = CALL_S) -> None:
        """End the session at once, for a node that holds nothing any more. What it still held is stranded.

        Raises StoreUnavailable; the session then ends by itself after its TTL.
        """
        facts, self.facts = self.facts, None
        if facts is not None:
            await self._etcd.lease_revoke(facts.lease_id, budget_s=budget_s)

    async def _look(self, *, budget_s: float = CALL_S) -> tuple[Holder, int, int] | None:
        """Who has our name now: holder, id of its TTL lease, create revision."""
        node = self.holder.node
        fence = self._layout.fence(node, self.holder.boot_id)
        answer = await self._etcd.read([get(self._layout.node(node)), get(fence)], budget_s=budget_s)
        records, fences = answer.ranges
        if fences:
            self.facts = None
            raise LeaseLost(
                f"this boot of {node} was confirmed fenced, others may have taken over what it held",
                hint="reboot this node",
            )
        if not records:
            return None
        return (
            read_holder(self._layout, self._layout.nodes, records[0]),
            records[0].lease,
            records[0].create_revision,
        )

    async def _create(self) -> bool:
        node, boot_id = self.holder.node, self.holder.boot_id
        t0 = boot_ns()
        lease, ttl_s = await self._etcd.lease_grant(self._ttl_s, budget_s=CALL_S)
        try:
            answer = await self._etcd.write(
                [
                    if_created_at(self._layout.node(node), 0),
                    if_created_at(self._layout.fence(node, boot_id), 0),
                ],
                [put(self._layout.node(node), write_node(self.holder), lease=lease)],
                budget_s=CALL_S,
            )
        except StoreUnavailable:
            return False  # perhaps it was written: the next look tells
        if not answer.succeeded:
            await self._etcd.lease_revoke(lease, budget_s=CALL_S)
            return False
        self._renewed_ns = t0
        self.facts = SessionFacts(lease, answer.revision, ttl_s)
        return True

    async def _attach(self, lease: int, created: int) -> SessionFacts:
        t0 = boot_ns()
        ttl_s = await self._etcd.lease_keepalive(lease, budget_s=CALL_S)
        self._renewed_ns = t0
        self.facts = SessionFacts(lease, created, ttl_s)
        return self.facts
