# SPDX-License-Identifier: GPL-2.0-or-later
"""Leases on a shared disk, without a network: sanlock tells who lives and who may write, the records lie beside it.

**A step** takes sanlock's lease on the record area, reads all records, judges, writes all of them or nothing, makes
sure that the lease was still its own, and gives it back. ``sanlock_area`` tells why a step that comes late can
harm nobody. Steps of one node come one after the other; one whose disk hangs keeps the turn, so that whoever comes
after it gets UNKNOWN in its time. Its write may still be carried out: then records of ours are there that nobody
was told of, and they are never simply kept but written anew, under a new token.

**The token** of a set is the ``lver`` of the lease under which it was written, above a number that the area got when it
was made (the time, so that tokens go on growing if it is made anew). The highest ever seen is on this node's own
disk as well: an area that was set back, by a snapshot of the LUN, is not believed.

**Reading** takes no lease: nobody held it before and after, under the same ``lver``, so nobody wrote in between.

**Liveness** is sanlock's. A node is gone if its host id has left the lock space, or was not renewed until its watchdog
must have fired (DEAD). Whether it did, nobody here can know, so no lease bears a guarantee: gone is stranded, and a
takeover needs a fencing fact or the same node in another boot. We never leave the lock space: what was mounted stays
mounted when enforcerd ends.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import random
from collections.abc import Callable, Coroutine, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from enforcer.cluster import sanlock_records
from enforcer.cluster.conflicts import Witness, check_fence, judge, refusal, under_token
from enforcer.cluster.etcd_records import trim_facts, utc_now
from enforcer.cluster.external_tokens import HighestTokens
from enforcer.cluster.sanlock_area import LOCK, LOCK_AT, Area, Image
from enforcer.cluster.sanlock_moment import Moment, gone, registered
from enforcer.cluster.sanlock_records import NodeEntry, Records
from enforcer.cluster.sanlock_socket import BUSY, SOCKET, Hold, HostState, SanlockDaemon, Space, meaning
from enforcer.model.errors import BadConfiguration, EnforcerError, LeaseLost, StoreUnavailable
from enforcer.model.lease import Claim, Denied, Granted, Guarantee, HeldLease, Holder, Lease, NodeRecord, Standing
from enforcer.model.resource import ResourceId

log = logging.getLogger(__name__)
T = TypeVar("T")

CALL_S = 3.0  # budget of calls that bring none of their own
HOSTS_S = 0.5  # for the daemon's word on which hosts are dead; without it nobody is
POLL_S = 1.0  # between looks whether this host is still in the lock space
GIVE_BACK_S = 1.0
FIRST_PAUSE_S, MOST_PAUSE_S = 0.02, 0.16  # between bids for the lease; one step takes about 15 ms
ASK_AGAIN_S = 0.5  # for a lease whose holder may have died


class SanlockStore:
    """The LeaseStore on ``space``; ``socket`` is the daemon's."""

    name = "sanlock"

    def __init__(self, holder: Holder, space: Space, state_dir: Path, *, socket: str = SOCKET) -> None:
        self.ttl_s: float | None = None  # nobody is taken over by time
        self.gone_after_s = float(space.dead_after_s)
        self.holder = holder
        self.trouble = "has not begun to join"  # why this host is not in the lock space; "": it is
        self._space = space
        self._area = Area(space.device, space.name)
        self._daemon = SanlockDaemon(socket)
        self._tokens = HighestTokens(state_dir / "sanlock-tokens.json", space.name)
        self._told: dict[ResourceId, int] = {}  # tokens that this process handed out
        self._sure: dict[ResourceId, int] = {}  # tokens of records that no late write of ours can touch
        self._turn = asyncio.Lock()
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="lease-disk")
        self._tasks: set[asyncio.Task[Any]] = set()

    async def open(self) -> None:
        """Raises BadConfiguration for a host id or a name that another live node has, or an area that is none.

        A disk or a daemon that does not answer yet must not keep enforcerd from starting.
        """
        self._tokens.load()
        try:
            image = await self._within(lambda end: self._in_thread(self._area.read), CALL_S)
            joined = await self._daemon.join(self._space, budget_s=CALL_S) == 0
            registered(await self._moment(image), self.holder, self._space.host_id, joined=joined)
        except BadConfiguration:
            await self.close()
            raise
        except (StoreUnavailable, LeaseLost) as error:
            log.warning("%s; what is guarded is denied", error)
        self._spawn(self._stay())

    async def close(self) -> None:
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._thread.shutdown(wait=False)

    async def _stay(self) -> None:
        """In the lock space, from the moment at which the daemon answers."""
        while True:
            try:
                result = await self._daemon.join(self._space, budget_s=CALL_S)
                now = "" if result == 0 else f"joins: {meaning(result)}"
                if result not in (0, -errno.EINPROGRESS):
                    now = f"cannot join as host id {self._space.host_id}: {meaning(result)}"
            except StoreUnavailable as error:
                now = str(error)
            if now != self.trouble:
                log.info("lock space %s: %s", self._space.name, now or "joined")
            self.trouble = now
            await asyncio.sleep(POLL_S)

    # -- taking and giving back ------------------------------------------------------------------------------------

    async def acquire(self, claims: frozenset[Claim], facts: Mapping[str, str], *, budget_s: float) -> Granted | Denied:
        if not claims:
            return Denied(Standing.UNKNOWN, "nothing was asked for")

        def work(now: Moment) -> tuple[Granted | Denied, Records]:
            ruling = judge(claims, self.holder, now.held())
            if ruling.blocking:
                return refusal(ruling.blocking), now.records
            fresh = ruling.fresh(self._told)
            if token := ruling.permit(self._sure):
                return Granted(token, tuple(ruling.mine[r] for r in ruling.wanted), fresh), now.records
            since = utc_now()
            new = tuple(
                Lease(r, mode, self.holder, now.token, since, Guarantee.NONE, trim_facts(facts))
                for r, mode in ruling.wanted.items()
            )
            gone = [*(h.lease for h in ruling.taken_over), *ruling.mine.values()]
            kept = tuple(lease for lease in now.records.leases if lease not in gone)
            turns = dict.fromkeys({r.lun for r in ruling.wanted}, (self.holder.node, now.token))
            after = replace(now.records, leases=kept + new, turns={**now.records.turns, **turns})
            return Granted(now.token, new, fresh), after

        try:
            answer = await self._change(work, budget_s)
        except EnforcerError as error:
            return Denied(Standing.UNKNOWN, str(error), remedy=error.hint)
        if isinstance(answer, Granted):
            for known in (self._told, self._sure):
                known.update((lease.resource, answer.token) for lease in answer.leases)
        return answer

    async def release(self, resources: frozenset[ResourceId], token: int) -> None:
        for resource in resources:
            if self._told.get(resource) == token:
                del self._told[resource]
            self._sure.pop(resource, None)

        def work(now: Moment) -> tuple[list[str], Records]:
            ours = {lease.resource: lease for lease in now.records.leases if self._same_boot(lease.holder)}
            mine = under_token(ours, resources, token)
            kept = tuple(x for x in now.records.leases if x.resource not in mine or not self._same_boot(x.holder))
            return [str(r) for r in sorted(resources) if r not in mine], replace(now.records, leases=kept)

        if lost := await self._change(work, CALL_S):
            raise LeaseLost(f"not held under token {token} any more: {', '.join(lost)}")

    # -- reading ---------------------------------------------------------------------------------------------------

    async def leases(self, lun: str | None = None) -> tuple[HeldLease, ...]:
        return (await self._look(CALL_S)).held(lun)

    async def last_grants(self) -> Mapping[str, tuple[str, int]]:
        return (await self._look(CALL_S)).records.turns

    async def fences(self) -> Mapping[tuple[str, str], str]:
        now = await self._look(CALL_S)
        renewing = {(holder.node, holder.boot_id) for holder in now.witness.present.values()}
        return {boot: at for boot, (_, at) in now.records.fenced.items() if boot not in renewing}

    async def nodes(self) -> tuple[NodeRecord, ...]:
        now = await self._look(CALL_S)
        told = {entry.holder: entry for entry in now.records.nodes.values()}
        live = frozenset(now.witness.present.values())
        known = told.keys() | {x.holder for x in now.records.leases if x.holder.node not in now.records.nodes}
        return tuple(
            NodeRecord(h, told[h].policy if h in told else "", told[h].luns if h in told else (), h in live)
            for h in sorted(known, key=lambda h: (h.node, h.boot_id, h.session))
        )

    # -- what befalls nodes ----------------------------------------------------------------------------------------

    async def publish(self, luns: frozenset[str], policy_digest: str) -> None:
        told = (await self._look(CALL_S)).records.nodes.get(self.holder.node)
        if told == NodeEntry(self.holder, self._space.host_id, policy_digest, tuple(sorted(luns))):
            return  # as every few seconds

        def work(now: Moment) -> tuple[None, Records]:
            mine = now.records.nodes[self.holder.node]
            mine = replace(mine, luns=tuple(sorted(luns)), policy=policy_digest)
            return None, replace(now.records, nodes={**now.records.nodes, self.holder.node: mine})

        await self._change(work, CALL_S)

    async def fence_confirm(self, node: str, boot_id: str, by: str, *, force: bool = False) -> None:
        def work(now: Moment) -> tuple[None, Records]:
            known = [lease.holder for lease in now.records.leases] + [e.holder for e in now.records.nodes.values()]
            check_fence(now.witness, known, self.holder, node, boot_id, force=force)
            fenced = {(node, boot_id): (by[:256], utc_now()), **now.records.fenced}
            nodes = dict(now.records.nodes)
            if force and node in nodes and nodes[node].holder.boot_id == boot_id:
                del nodes[node]  # it is refused everything from now on, and learns of it so
            return None, replace(now.records, fenced=fenced, nodes=nodes)

        await self._change(work, CALL_S)

    async def adopt(self) -> tuple[Lease, ...]:
        def work(now: Moment) -> tuple[tuple[Lease, ...], Records]:
            after = tuple(
                replace(x, holder=self.holder) if self._same_boot(x.holder) else x for x in now.records.leases
            )
            mine = sorted((x for x in after if x.holder == self.holder), key=lambda lease: lease.resource)
            return tuple(mine), replace(now.records, leases=after)

        mine = await self._change(work, CALL_S)
        self._sure = {lease.resource: lease.token for lease in mine}
        return mine

    async def forget_old_boots(self) -> tuple[Lease, ...]:
        def work(now: Moment) -> tuple[tuple[Lease, ...], Records]:
            node, boot = self.holder.node, self.holder.boot_id
            old = tuple(x for x in now.records.leases if x.holder.node == node and x.holder.boot_id != boot)
            kept = tuple(x for x in now.records.leases if x not in old)
            fenced = {who: fact for who, fact in now.records.fenced.items() if who[0] != node or who[1] == boot}
            return old, replace(now.records, leases=kept, fenced=fenced)

        return await self._change(work, CALL_S)

    # -- steps -----------------------------------------------------------------------------------------------------

    async def _look(self, budget_s: float) -> Moment:
        """All records at one moment, without the lease if nobody writes."""

        async def look(end: float) -> Moment:
            async with self._turn:
                for _ in range(5):
                    before, image, after = await self._in_thread(
                        lambda: (self._area.leader(), self._area.read(), self._area.leader())
                    )
                    if before == after and not after.held:
                        return await self._moment(image)
                    await asyncio.sleep(random.uniform(0, 0.02))
            return await self._step(lambda now: (now, now.records), end)

        return await self._answer(look, budget_s)

    async def _change(self, work: Callable[[Moment], tuple[T, Records]], budget_s: float) -> T:
        return await self._answer(lambda end: self._step(work, end), budget_s)

    async def _answer(self, work: Callable[[float], Coroutine[Any, Any, T]], budget_s: float) -> T:
        try:
            return await self._within(work, budget_s)
        except BadConfiguration as error:  # what was well when we began
            raise StoreUnavailable(str(error), hint=error.hint) from None

    async def _step(self, work: Callable[[Moment], tuple[T, Records]], end: float) -> T:
        """``work`` under the lease: its answer, and the records that are to be from then on."""
        async with self._turn:
            hold = await self._hold(end)
            try:
                lease, image = await self._in_thread(lambda: (self._area.leader(), self._area.read()))
                if lease.host_id != self._space.host_id or not lease.held:
                    raise self._unavailable("gave this node a lease that the disk gives to another one")
                token = image.geometry.first_token + lease.lver
                if token <= image.sequence:
                    raise self._unavailable(f"gave its lease under number {token}, and {image.sequence} was written")
                now = await self._moment(image, token)
                here = registered(now, self.holder, self._space.host_id, joined=True)
                present = {**now.witness.present, self.holder.node: self.holder}
                answer, after = work(replace(now, records=here, witness=Witness(present, here.fenced.keys())))
                if after != now.records or not image.whole:
                    await self._in_thread(lambda: self._area.write(lease, token, after.dump(), end_s=end))
                    await self._tokens.raise_to({"": token})
                return answer
            finally:
                await hold.give_back(budget_s=GIVE_BACK_S)

    async def _hold(self, end: float) -> Hold:
        """The lease on the records. Who sees on the disk that it is held does not ask: each bid slows others down."""
        clock = asyncio.get_running_loop().time
        asked, seen, pause_s = 0.0, None, FIRST_PAUSE_S
        while True:
            left = end - clock()
            if left <= 0:
                raise self._late("another node, or one that died this moment, holds sanlock's lease on the records")
            leader = await self._in_thread(self._area.leader)
            if not leader.held or (leader == seen and clock() - asked > ASK_AGAIN_S):
                got = await self._daemon.hold(self._space, LOCK, LOCK_AT, budget_s=left)
                if isinstance(got, Hold):
                    return got
                if got not in BUSY:
                    why = "this host is not in the lock space" if got == -errno.ENOSPC else meaning(got)
                    raise self._unavailable(f"does not give the lease on the records: {why}")
                asked = clock()
            elif leader != seen:
                asked = clock()
            seen = leader
            await asyncio.sleep(random.uniform(0, pause_s))
            pause_s = min(pause_s * 2, MOST_PAUSE_S)

    async def _moment(self, image: Image, token: int = 0) -> Moment:
        """Raises StoreUnavailable for an area that was set back."""
        self._believe()
        known = self._tokens.known.get("", 0)
        if image.sequence < known:
            was = (
                f"{self._space.device} has forgotten grants: its records are of {image.sequence}, and {known} was seen"
            )
            await self._tokens.distrust(was)
            self._believe()
        await self._tokens.raise_to({"": image.sequence})
        records = sanlock_records.load(image.body)
        states: Mapping[tuple[int, int], HostState] = {}
        try:
            states = await self._daemon.hosts(self._space, budget_s=HOSTS_S)
        except StoreUnavailable as error:
            log.debug("nobody counts as dead: %s", error)
        present = {name: e.holder for name, e in records.nodes.items() if not gone(e, image.deltas, states)}
        if not self.trouble:
            present[self.holder.node] = self.holder
        return Moment(records, Witness(present, records.fenced.keys()), token)

    async def _within(self, work: Callable[[float], Coroutine[Any, Any, T]], budget_s: float) -> T:
        """Answer in time; what has begun goes on behind it, because a disk cannot be told to stop."""
        task = self._spawn(work(asyncio.get_running_loop().time() + budget_s))
        done, _ = await asyncio.wait({task}, timeout=budget_s)
        if not done:
            raise self._late(f"no decision within {budget_s:.1f} s")
        return task.result()

    def _spawn(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            log.debug("a step failed: %s", task.exception())

    async def _in_thread(self, job: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, job)

    def _believe(self) -> None:
        if what := self._tokens.set_back:
            raise StoreUnavailable(what, hint=self._tokens.remedy)

    def _late(self, what: str) -> StoreUnavailable:
        return StoreUnavailable(f"the lease store did not answer: {what}", hint="sanlock client status")

    def _unavailable(self, what: str) -> StoreUnavailable:
        return StoreUnavailable(f"sanlock {what}", hint="sanlock client status; systemctl status sanlock")

    def _same_boot(self, other: Holder) -> bool:
        return (other.node, other.boot_id) == (self.holder.node, self.holder.boot_id)
