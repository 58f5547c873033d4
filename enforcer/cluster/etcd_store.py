# SPDX-License-Identifier: GPL-2.0-or-later
"""Leases in etcd (3.4 or later): read a snapshot, judge it, write only if nothing has changed since.

**Acquire.** One read-only transaction gives, at one revision R, the subtree of every LUN of the set, the live
nodes and the fencing facts. ``conflicts.judge`` says what is in the way. Then one transaction writes all
records of the set and deletes what is taken over, if (a) nothing was put into any of the subtrees after R,
(b) our session's node record is still the one that we know, (c) nobody confirmed this boot fenced. Deletions
after R go unnoticed by (a), which is well: they only free, and what was ours and got deleted by a taker goes
along with the taker's put. Whoever loses the race reads again. A permit for what we hold already is the
linearizable snapshot itself.

**The token** of a set is the revision of the transaction that wrote it, the ``mod_revision`` of all its
records; revisions only grow, over the whole cluster. A set that mixes kept and new records is put anew as a
whole and so comes under one, higher, token. (A record cannot be deleted and put in one transaction, so
``create_revision`` will not do.) Adoption rewrites a record without granting it anew; see ``etcd_records``
how the token survives that.

**Lost answers.** A transaction that writes is sent once. Without an answer we read again: records of ours
that were not there before are ours by that very transaction, and the grant is told as fresh, because this
process was never told their token. This holds as well if the budget ended first and the next acquire finds
them.

**Late writes.** A request without an answer may still be carried out long after. So what was released without
an answer, or found without having been granted to or adopted by this process, is never simply kept: it is put
anew, which changes the revision that a late deletion compares. A late put cannot take from anybody, but it
can leave a record that nobody here uses; ``leases`` shows it.

Nothing here waits for a node to expire: etcd does that, and a node that expired is stranded until it is
proven silent.
"""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from enforcer.cluster.conflicts import (
    Absences,
    Ruling,
    Witness,
    check_fence,
    exclusive_only,
    judge,
    refusal,
    under_token,
)
from enforcer.cluster.etcd_api import (
    GRPC_NOT_FOUND,
    Etcd,
    KeyValue,
    delete,
    get_prefix,
    if_created_at,
    if_modified_at,
    if_unwritten_since,
    put,
)
from enforcer.cluster.etcd_grants import grant_ops
from enforcer.cluster.etcd_http import Caller, EtcdRefused, Json
from enforcer.cluster.etcd_records import (
    Layout,
    StoredLease,
    read_fence,
    read_holder,
    read_lease,
    read_seen,
    read_turn,
    trim_facts,
    utc_now,
    write_fence,
    write_lease,
    write_seen,
)
from enforcer.cluster.etcd_session import SessionFacts
from enforcer.model.clock import boot_ns
from enforcer.model.deadlines import Deadlines
from enforcer.model.errors import EnforcerError, LeaseLost, StoreUnavailable
from enforcer.model.lease import (
    Claim,
    Denied,
    Granted,
    Guarantee,
    HeldLease,
    Holder,
    Lease,
    NodeRecord,
    Standing,
)
from enforcer.model.resource import ResourceId

BATCH = 50  # records per transaction; etcd's default limit is 128 operations and 128 compares
CALL_S = 3.0  # budget of calls that bring none of their own
NO_SESSION = "this node has no live session in the lease store"


@dataclass(frozen=True, slots=True)
class _Snapshot:
    """All that was read at one revision."""

    revision: int
    stored: tuple[StoredLease, ...]
    nodes: Mapping[str, KeyValue]
    witness: Witness

    def held(self) -> tuple[HeldLease, ...]:
        found = (HeldLease(s.lease, self.witness.liveness(s.lease.holder, s.lease.guarantee)) for s in self.stored)
        return tuple(sorted(found, key=lambda h: (h.lease.resource, h.lease.holder.node)))


class EtcdStore:
    """The LeaseStore on etcd. ``session`` tells the keeper's session, or None while there is none."""

    name = "etcd"

    def __init__(
        self,
        client: Caller,
        cluster: str,
        holder: Holder,
        *,
        session: Callable[[], SessionFacts | None],
        ttl_s: float,
        guarantee: Callable[[frozenset[ResourceId]], Guarantee] = lambda _: Guarantee.NONE,
    ) -> None:
        """``guarantee``: what a lease of these resources, granted now, may promise to whoever waits for its end."""
        self.ttl_s: float | None = ttl_s
        self.gone_after_s = ttl_s
        self.holder, self._client = holder, client
        self._etcd = Etcd(client)
        self._layout = Layout(cluster)
        self._session, self._guarantee = session, guarantee
        self._absences = Absences()
        self._told: dict[ResourceId, int] = {}  # tokens that this process handed out
        self._sure: dict[ResourceId, int] = {}  # tokens of records that no late write of ours can touch

    async def open(self) -> None:
        """Nothing to prepare: a store that cannot be reached yet must not keep the daemon from starting."""

    async def close(self) -> None:
        await self._client.close()

    async def acquire(self, claims: frozenset[Claim], facts: Mapping[str, str], *, budget_s: float) -> Granted | Denied:
        try:
            async with asyncio.timeout(budget_s):
                return await self._acquire(claims, facts, budget_s)
        except TimeoutError:
            reason = f"the lease store did not answer: no decision within {budget_s:.1f} s"
            return Denied(Standing.UNKNOWN, reason, remedy="enforcer doctor")
        except EnforcerError as error:
            return Denied(Standing.UNKNOWN, str(error), remedy=error.hint)

    async def _acquire(self, claims: frozenset[Claim], facts: Mapping[str, str], budget_s: float) -> Granted | Denied:
        if not claims:
            return Denied(Standing.UNKNOWN, "nothing was asked for")
        luns = sorted({claim.resource.lun for claim in claims})
        subtrees = [self._layout.subtree(lun) for lun in luns]
        clock = asyncio.get_running_loop().time
        end = clock() + budget_s
        for attempt in itertools.count():
            now = await self._snapshot(subtrees, max(0.0, end - clock()))
            me = self._require_session(now)
            promised = exclusive_only(claims, self._guarantee(frozenset(claim.resource for claim in claims)))
            ruling = judge(claims, self.holder, now.held(), preempts=promised is Guarantee.RESERVATION)
            if any(lease.guarantee is not promised for lease in ruling.mine.values()):
                promised = Guarantee.NONE  # what is in use already never comes to promise more
                ruling = judge(claims, self.holder, now.held())
            if ruling.blocking:
                return refusal(ruling.blocking)
            if token := ruling.permit(self._sure):
                return self._granted(ruling, token, tuple(ruling.mine[r] for r in ruling.wanted))
            unchanged = [if_unwritten_since(subtree, now.revision) for subtree in subtrees]
            since = utc_now()
            try:
                answer = await self._etcd.write(
                    [*unchanged, *me, *self._still_gone(ruling)],
                    grant_ops(self._layout, ruling, promised, facts, since),
                    budget_s=end - clock(),
                )
            except StoreUnavailable:
                continue  # perhaps it was written: the next snapshot tells
            if answer.succeeded:
                leases = tuple(
                    Lease(r, mode, self.holder, answer.revision, since, promised, trim_facts(facts))
                    for r, mode in ruling.wanted.items()
                )
                return self._granted(ruling, answer.revision, leases)
            await asyncio.sleep(random.uniform(0, min(0.004 * (attempt + 1), 0.05)))
        raise AssertionError("count() does not end")

    def _still_gone(self, ruling: Ruling) -> list[Json]:
        return [if_created_at(self._layout.node(node), 0) for node in sorted(ruling.absent)]

    def _granted(self, ruling: Ruling, token: int, leases: tuple[Lease, ...]) -> Granted:
        fresh = ruling.fresh(self._told)
        self._told.update((lease.resource, token) for lease in leases)
        self._sure.update((lease.resource, token) for lease in leases)
        return Granted(token, leases, fresh)

    async def release(self, resources: frozenset[ResourceId], token: int) -> None:
        for resource in resources:
            if self._told.get(resource) == token:
                del self._told[resource]
            self._sure.pop(resource, None)
        subtrees = [self._layout.subtree(lun) for lun in sorted({r.lun for r in resources})]
        asked: set[str] = set()  # keys whose deletion was sent: if they are gone now, that was us
        clock = asyncio.get_running_loop().time
        end = clock() + CALL_S
        while True:
            now = await self._snapshot(subtrees, max(0.0, end - clock()))
            ours = {s.lease.resource: s for s in now.stored if self._same_boot(s.lease.holder)}
            mine = [ours[r] for r in under_token({r: s.lease for r, s in ours.items()}, resources, token)]
            if not mine:
                break
            asked.update(stored.key for stored in mine[:BATCH])
            try:
                await self._etcd.write(
                    [if_modified_at(stored.key, stored.mod_revision) for stored in mine[:BATCH]],
                    [delete(stored.key) for stored in mine[:BATCH]],
                    budget_s=max(0.0, end - clock()),
                )
            except StoreUnavailable:
                if clock() >= end:
                    raise
        lost = [
            str(r) for r in sorted(resources) if r in ours or self._layout.resource(r, self.holder.node) not in asked
        ]
        if lost:
            raise LeaseLost(f"not held under token {token} any more: {', '.join(lost)}")

    async def leases(self, lun: str | None = None) -> tuple[HeldLease, ...]:
        return (await self._snapshot([self._below(lun)], CALL_S)).held()

    async def last_grants(self) -> Mapping[str, tuple[str, int]]:
        answer = await self._etcd.read([get_prefix(self._layout.turns)], budget_s=CALL_S)
        turns = (read_turn(self._layout, kv) for kv in _flat(answer.ranges))
        return {lun: (node, token) for lun, node, token in turns}

    async def fences(self) -> Mapping[tuple[str, str], str]:
        now, facts = await self._snapshot_and([], [self._layout.fences], CALL_S)
        found = {f.boot: f.at for f in (read_fence(self._layout, kv) for kv in facts) if not f.promised}
        renewing = {(holder.node, holder.boot_id) for holder in now.witness.present.values()}
        return {boot: at for boot, at in found.items() if boot not in renewing}

    async def nodes(self) -> tuple[NodeRecord, ...]:
        now, seens = await self._snapshot_and([self._layout.resources], [self._layout.seens], CALL_S)
        seen = {read_holder(self._layout, self._layout.seens, kv): read_seen(kv) for kv in seens}
        live = set(now.witness.present.values())
        gone = {s.lease.holder for s in now.stored if now.witness.present.get(s.lease.holder.node) is None}
        silent = set(seen) - live - gone  # gone, and holding nothing; or back, and not at work yet
        return tuple(
            NodeRecord(holder, seen.get(holder, ((), ""))[1], seen.get(holder, ((), ""))[0], holder in live)
            for holder in sorted(live | gone | silent, key=lambda h: (h.node, h.boot_id, h.session))
        )

    async def publish(self, luns: frozenset[str], policy_digest: str) -> None:
        facts = self._session()
        if facts is None:
            raise StoreUnavailable(NO_SESSION, hint="systemctl status enforcer-keeper")
        value = write_seen(self.holder, luns, policy_digest)
        try:
            answer = await self._etcd.write(
                self._if_session(facts),
                # without a TTL: a node that fell silent may still have mounted what it saw
                [put(self._layout.seen(self.holder.node), value)],
                budget_s=CALL_S,
            )
        except EtcdRefused as error:
            if error.code == GRPC_NOT_FOUND:
                raise LeaseLost(NO_SESSION, hint="systemctl status enforcer-keeper") from None
            raise
        if not answer.succeeded:
            raise LeaseLost(NO_SESSION, hint="systemctl status enforcer-keeper")

    async def fence_confirm(self, node: str, boot_id: str, by: str, *, force: bool = False) -> None:
        fence = self._layout.fence(node, boot_id)
        while True:
            now, uses = await self._snapshot_and([self._layout.resources], [self._layout.conflicts], CALL_S)
            if (node, boot_id) in now.witness.fenced and not force:
                return
            known = [read_holder(self._layout, self._layout.conflicts, kv) for kv in uses]
            check_fence(
                now.witness, [*known, *(s.lease.holder for s in now.stored)], self.holder, node, boot_id, force=force
            )
            record = now.nodes.get(node)
            unchanged = if_modified_at(self._layout.node(node), record.mod_revision if record else 0)
            answer = await self._etcd.write([unchanged], [put(fence, write_fence(by))], budget_s=CALL_S)
            if answer.succeeded:
                present = now.witness.present.get(node)
                if record is not None and present is not None and present.boot_id == boot_id:
                    await self._etcd.lease_revoke(record.lease, budget_s=CALL_S)
                return

    async def adopt(self) -> tuple[Lease, ...]:
        done: set[str] = set()
        while True:
            now = await self._snapshot([self._layout.resources], CALL_S)
            me = self._require_session(now)
            ours = [s for s in now.stored if self._same_boot(s.lease.holder)]
            others = [s for s in ours if s.lease.holder != self.holder or s.key not in done][:BATCH]
            if not others:
                self._sure = {s.lease.resource: s.lease.token for s in ours}
                return tuple(sorted((s.lease for s in ours), key=lambda lease: lease.resource))
            ops = [
                put(
                    s.key,
                    write_lease(
                        self.holder,
                        s.lease.mode,
                        s.lease.since,
                        s.lease.guarantee,
                        s.lease.facts,
                        token=s.lease.token,
                    ),
                )
                for s in others
            ]
            if await self._write_again([*me, *(if_modified_at(s.key, s.mod_revision) for s in others)], ops):
                done.update(s.key for s in others)

    async def forget_old_boots(self) -> tuple[Lease, ...]:
        forgotten: dict[str, Lease] = {}
        while True:
            now = await self._snapshot([self._layout.resources], CALL_S)
            me = self._require_session(now)
            node = self.holder.node
            old = [s for s in now.stored if s.lease.holder.node == node and not self._same_boot(s.lease.holder)]
            facts = [b for n, b in now.witness.barred if n == node and b != self.holder.boot_id]
            if not old and not facts:
                return tuple(sorted(forgotten.values(), key=lambda lease: lease.resource))
            forgotten.update((s.key, s.lease) for s in old[:BATCH])
            if old:
                compares = [*me, *(if_modified_at(s.key, s.mod_revision) for s in old[:BATCH])]
                await self._write_again(compares, [delete(s.key) for s in old[:BATCH]])
            else:  # facts about boots that hold nothing any more
                await self._write_again(me, [delete(self._layout.fence(node, b)) for b in facts[:BATCH]])

    async def _write_again(self, compares: Sequence[Json], ops: Sequence[Json]) -> bool:
        """A write whose caller reads again in any case. False, after a moment, if something has changed."""
        answer = await self._etcd.write(compares, ops, budget_s=CALL_S)
        if not answer.succeeded:
            await asyncio.sleep(random.uniform(0, 0.02))
        return answer.succeeded

    async def _snapshot(self, prefixes: Sequence[str], budget_s: float) -> _Snapshot:
        return (await self._snapshot_and(prefixes, [], budget_s))[0]

    async def _snapshot_and(
        self, prefixes: Sequence[str], extra: Sequence[str], budget_s: float
    ) -> tuple[_Snapshot, tuple[KeyValue, ...]]:
        layout = self._layout
        ops = [get_prefix(prefix) for prefix in (layout.nodes, layout.fences, *prefixes, *extra)]
        answer = await self._etcd.read(ops, budget_s=budget_s)
        nodes, fences, *rest = answer.ranges
        present = [(read_holder(layout, layout.nodes, kv), kv) for kv in nodes]
        facts = [read_fence(layout, kv) for kv in fences]
        stored = tuple(read_lease(layout, kv) for kv in _flat(rest[: len(prefixes)]))
        live = {holder.node: holder for holder, _ in present}
        self._absences = self._absences.noted(live, [s.lease.holder for s in stored], boot_ns())
        gone = self._absences.gone(boot_ns(), Deadlines(self.ttl_s or 0.0))
        now = _Snapshot(
            answer.revision,
            stored,
            {holder.node: kv for holder, kv in present},
            Witness(live, {f.boot for f in facts if not f.promised}, gone, {f.boot for f in facts if f.promised}),
        )
        return now, tuple(_flat(rest[len(prefixes) :]))

    def _require_session(self, now: _Snapshot) -> list[Json]:
        """Compares that hold while this node has the right to act. Raises StoreUnavailable, LeaseLost."""
        facts = self._session()
        if (self.holder.node, self.holder.boot_id) in now.witness.barred:
            raise LeaseLost("this boot of this node was confirmed fenced", hint="reboot this node")
        if facts is None:
            raise StoreUnavailable(NO_SESSION, hint="systemctl status enforcer-keeper")
        record = now.nodes.get(self.holder.node)
        if now.witness.present.get(self.holder.node) != self.holder or record is None:
            raise LeaseLost(NO_SESSION, hint="systemctl status enforcer-keeper")
        if record.create_revision != facts.create_revision:
            raise LeaseLost(NO_SESSION, hint="systemctl status enforcer-keeper")
        return self._if_session(facts)

    def _if_session(self, facts: SessionFacts) -> list[Json]:
        node, boot_id = self.holder.node, self.holder.boot_id
        return [
            if_created_at(self._layout.node(node), facts.create_revision),
            if_created_at(self._layout.fence(node, boot_id), 0),
        ]

    def _same_boot(self, other: Holder) -> bool:
        return other.node == self.holder.node and other.boot_id == self.holder.boot_id

    def _below(self, lun: str | None) -> str:
        return self._layout.resources if lun is None else self._layout.subtree(lun)


def _flat(ranges: Iterable[tuple[KeyValue, ...]]) -> Iterable[KeyValue]:
    return (kv for found in ranges for kv in found)
