# SPDX-License-Identifier: GPL-2.0-or-later
"""Leases in somebody else's hands: any cluster stack that speaks the protocol of docs/external-protocol.md.

The peer decides who holds what, in one step for a whole set. This side believes as little of it as it can: the
records of a grant must be exactly those that were asked for, ours, under one token; the token of a new grant must be
higher than any ever seen on its LUNs, and that is on disk before anybody is told; what went for it must be proven
silent. Whatever does not fit, comes late or does not come is UNKNOWN, with a sentence that names the peer.

**Compare and set.** A request may be carried out long after its sender gave up. So ``authorise`` says which tokens
we hold on the set's resources, and a peer that finds others changes nothing and names them; ``gone`` and ``refused``
name a token. A grant that comes late, or is not believed, is given back by ``refused``, but for what we held before.
What was released without an answer, or found without having been granted to or adopted by this process, is never
simply kept: it is asked for under a new token.

**Liveness** is the peer's own: nothing is renewed here, ``ttl_s`` is None and the kernel gets no deadline. In return
nobody may be taken over whom the peer does not call fenced or rebooted.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from enforcer.cluster import external_protocol as protocol
from enforcer.cluster.conflicts import Witness, check_fence, join, judge, refusal
from enforcer.cluster.external_peer import Peer
from enforcer.cluster.external_protocol import Grant, Nonsense, State
from enforcer.cluster.external_tokens import HighestTokens
from enforcer.model.errors import EnforcerError, LeaseLost, StoreUnavailable
from enforcer.model.lease import Claim, Denied, Granted, HeldLease, Holder, Lease, Liveness, NodeRecord, Standing
from enforcer.model.resource import Mode, ResourceId

log = logging.getLogger(__name__)
GONE_AFTER_S = 150.0  # the peer does not say; the slowest of ours, sanlock, takes 140 s

CALL_S = 3.0  # budget of calls that bring none of their own
GREET_S = 1.0  # that a start waits for the peer
MOST_CHANGES = 5  # of what we hold, between an answer and the next request

Body = Mapping[str, Any]


class ExternalStore:
    """The LeaseStore at a peer: ``command`` is started, ``path`` is the socket of one that runs."""

    name = "external"

    def __init__(
        self, holder: Holder, cluster: str, state_dir: Path, *, command: Sequence[str] = (), path: str = ""
    ) -> None:
        self.ttl_s: float | None = None
        self.gone_after_s = GONE_AFTER_S
        self.holder = holder
        self._tokens = HighestTokens(state_dir / "external-tokens.json", cluster)
        hello = {"cluster": cluster, "holder": protocol.holder_body(holder)}
        self._peer = Peer(hello, command=command, path=path)
        self._told: dict[ResourceId, int] = {}  # tokens that this process handed out
        self._sure: dict[ResourceId, int] = {}  # tokens of records that no late request of ours can touch
        self._mounted: dict[ResourceId, int] = {}  # what the peer was told to be in use
        self._tasks: set[asyncio.Task[None]] = set()

    async def open(self) -> None:
        """Raises StoreUnavailable for a damaged file of tokens. A peer that is not there yet does not matter."""
        self._tokens.load()
        try:
            await self._peer.wants("prepare", budget_s=GREET_S)
        except StoreUnavailable as error:
            log.warning("%s; what is guarded is denied until it answers", error)

    async def close(self) -> None:
        if self._tasks:  # what is to be given back
            await asyncio.wait(self._tasks, timeout=GREET_S)
        await self._peer.close()

    # -- taking and giving back ----------------------------------------------------------------------------------

    async def acquire(self, claims: frozenset[Claim], facts: Mapping[str, str], *, budget_s: float) -> Granted | Denied:
        if not claims:
            return Denied(Standing.UNKNOWN, "nothing was asked for")
        try:
            async with asyncio.timeout(budget_s):
                return await self._acquire(claims, facts, budget_s)
        except TimeoutError:
            late = self._peer.late(budget_s)
            return Denied(Standing.UNKNOWN, str(late), remedy=late.hint)
        except EnforcerError as error:
            return Denied(Standing.UNKNOWN, str(error), remedy=error.hint)

    async def _acquire(self, claims: frozenset[Claim], facts: Mapping[str, str], budget_s: float) -> Granted | Denied:
        self._believe()
        wanted: dict[ResourceId, Mode] = {}
        for claim in claims:
            wanted[claim.resource] = join(wanted.get(claim.resource, claim.mode), claim.mode)
        end = asyncio.get_running_loop().time() + budget_s
        if await self._peer.wants("prepare", budget_s=budget_s):
            body = {"resources": protocol.names(wanted), "facts": dict(facts)}
            self._read(await self._call("prepare", body, end), done=protocol.read_done)
        holding = {r: self._sure[r] for r in wanted if r in self._sure}
        keep = holding.keys() == wanted.keys() and len(set(holding.values())) == 1
        for _ in range(MOST_CHANGES):
            answer = await self._authorise(wanted, holding, keep, facts, end)
            if not isinstance(answer, dict):
                return answer
            holding, keep = answer, False
        raise self._peer.trouble("says again and again that this node holds something else")

    async def _authorise(
        self, wanted: Mapping[ResourceId, Mode], holding: Mapping[ResourceId, int], keep: bool, facts: Body, end: float
    ) -> Granted | Denied | dict[ResourceId, int]:
        """One try; if what we hold is something else, that."""
        body = {
            "claims": [{"resource": str(r), "mode": wanted[r].value} for r in sorted(wanted)],
            "holding": {str(r): token for r, token in sorted(holding.items())},
            "keep": keep,
            "facts": dict(facts),
        }
        new = wanted.keys() - holding.keys()
        floor = self._tokens.known

        def too_late(late: Body) -> None:
            if late.get("answer") == "granted" and late.get("kept") is not True:
                self._give_back(new, late.get("token"))

        raw = await self._call("authorise", body, end, too_late)
        try:
            kind, answer = self._read(
                raw, granted=protocol.read_grant, blocked=protocol.read_leases, changed=protocol.read_leases
            )
            if kind == "blocked":
                return self._refused(wanted, answer)
            if kind == "changed":
                return {h.lease.resource: h.lease.token for h in answer if h.lease.resource in wanted and self._ours(h)}
            if fault := self._fault(answer, wanted, keep):
                raise self._nonsense(fault)
            if aged := self._aged(answer, floor):
                await self._set_back(aged)
            await self._tokens.raise_to({lun: token for lun, (_, token) in answer.last.items()})
        except BaseException:  # also if the caller's time ended meanwhile
            too_late(raw)
            raise
        return self._granted(answer)

    def _fault(self, grant: Grant, wanted: Mapping[ResourceId, Mode], keep: bool) -> str:
        """Why a grant is not what was asked for."""
        modes = {held.lease.resource: held.lease.mode for held in grant.leases}
        if modes.keys() != wanted.keys():
            return "a grant of something else than was asked for"
        if any(modes[r] not in (mode, Mode.EX) for r, mode in wanted.items()):
            return "a grant in a weaker mode"
        if any(held.lease.holder != self.holder or held.lease.token != grant.token for held in grant.leases):
            return "a grant to somebody else, or under several tokens"
        for gone in grant.taken_over:
            if gone.liveness not in (Liveness.FENCED, Liveness.REBOOTED):
                return f"a grant over the lease of {gone.lease.holder.node}, which is {gone.liveness}"
        if grant.kept and not (keep and all(self._sure.get(r) == grant.token for r in wanted)):
            return "it kept what was to be granted anew"
        if grant.last.keys() != {resource.lun for resource in wanted}:
            return "a grant that does not say who was granted its LUNs last"
        if not grant.kept and any(turn != (self.holder.node, grant.token) for turn in grant.last.values()):
            return "a grant that was not the last one"
        return ""

    def _aged(self, grant: Grant, floor: Mapping[str, int]) -> str:
        """Why its tokens are not those of a store that remembers every grant; ``floor`` was known before we asked."""
        for lun, (_, last) in sorted(grant.last.items()):
            least = floor.get(lun, 0) + (not grant.kept)
            if last < least:
                return _behind(lun, last, least)
        return ""

    def _granted(self, grant: Grant) -> Granted:
        leases = tuple(held.lease for held in grant.leases)
        fresh = not grant.kept or any(self._told.get(lease.resource) != grant.token for lease in leases)
        self._told.update((lease.resource, grant.token) for lease in leases)
        self._sure.update((lease.resource, grant.token) for lease in leases)
        return Granted(grant.token, leases, fresh)

    def _refused(self, wanted: Mapping[ResourceId, Mode], blocking: Sequence[HeldLease]) -> Denied:
        """The peer names who is in the way; our own rules must see them there, too."""
        ruling = judge((Claim(r, mode) for r, mode in wanted.items()), self.holder, blocking)
        if not ruling.blocking:
            raise self._nonsense("it refuses, and names nobody who is in the way")
        return refusal(ruling.blocking)

    async def release(self, resources: frozenset[ResourceId], token: int) -> None:
        for resource in resources:
            for known in (self._told, self._mounted):
                if known.get(resource) == token:
                    del known[resource]
            self._sure.pop(resource, None)
        answer = await self._call("gone", {"resources": protocol.names(resources), "token": token})
        _, released = self._read(answer, released=protocol.read_released)
        if lost := sorted(resources - released):
            raise LeaseLost(f"not held under token {token} any more: {', '.join(map(str, lost))}")

    def _give_back(self, resources: frozenset[ResourceId] | set[ResourceId], token: object) -> None:
        """Tell the peer, without waiting, that a grant is not used: it came too late, or is not believed."""
        if resources and type(token) is int and 0 < token <= protocol.MOST_TOKEN:
            body = {"resources": protocol.names(resources), "token": token}
            task = asyncio.get_running_loop().create_task(self._tell("refused", body))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _tell(self, call: str, body: Body) -> None:
        try:
            await self._call(call, body)
        except StoreUnavailable as error:
            log.warning("%s of %s was not told: %s", call, body, error)

    async def in_use(self, resources: frozenset[ResourceId]) -> None:
        """``mounted``: the kernel counts a use of these. Told once for each token, to a peer that wants to hear it."""
        news = {r: self._sure[r] for r in resources if r in self._sure and self._mounted.get(r) != self._sure[r]}
        if news and await self._peer.wants("mounted", budget_s=CALL_S):
            for token in sorted(set(news.values())):
                of_token = {r: t for r, t in news.items() if t == token}
                answer = await self._call("mounted", {"resources": protocol.names(of_token), "token": token})
                self._read(answer, done=protocol.read_done)
                self._mounted.update(of_token)

    # -- reading -------------------------------------------------------------------------------------------------

    async def leases(self, lun: str | None = None) -> tuple[HeldLease, ...]:
        return tuple(held for held in (await self._who()).leases if lun is None or held.lease.resource.lun == lun)

    async def last_grants(self) -> Mapping[str, tuple[str, int]]:
        return (await self._who()).last

    async def fences(self) -> Mapping[tuple[str, str], str]:
        state = await self._who()
        live = {(node.holder.node, node.holder.boot_id) for node in state.nodes if node.live}
        return {boot: since for boot, since in state.fenced.items() if boot not in live}

    async def nodes(self) -> tuple[NodeRecord, ...]:
        return tuple(sorted((await self._who()).nodes, key=lambda node: (node.holder.node, node.holder.boot_id)))

    async def _who(self) -> State:
        self._believe()
        floor = self._tokens.known
        state: State
        _, state = self._read(await self._call("who", {}), state=protocol.read_state)
        seen = {lun: token for lun, (_, token) in state.last.items()}
        for lun, known in sorted(floor.items()):
            if seen.get(lun, 0) < known:
                await self._set_back(_behind(lun, seen.get(lun, 0), known))
        for held in state.leases:
            if held.lease.token > seen.get(held.lease.resource.lun, 0):
                raise self._nonsense(f"a lease on {held.lease.resource} under a token that was never granted")
        await self._tokens.raise_to(seen)
        return state

    # -- what befalls nodes --------------------------------------------------------------------------------------

    async def publish(self, luns: frozenset[str], policy_digest: str) -> None:
        answer = await self._call("publish", {"luns": sorted(luns), "policy": policy_digest})
        self._read(answer, done=protocol.read_done)

    async def fence_confirm(self, node: str, boot_id: str, by: str, *, force: bool = False) -> None:
        state = await self._who()
        witness = Witness({n.holder.node: n.holder for n in state.nodes if n.live}, frozenset(state.fenced))
        known = [*(held.lease.holder for held in state.leases), *(n.holder for n in state.nodes)]
        check_fence(witness, known, self.holder, node, boot_id, force=force)
        body = {"node": node, "boot_id": boot_id, "by": by, "force": force}
        self._read(await self._call("fenced", body), done=protocol.read_done)

    async def adopt(self) -> tuple[Lease, ...]:
        _, found = self._read(await self._call("adopt", {}), leases=protocol.read_leases)
        if any(held.lease.holder != self.holder for held in found):
            raise self._nonsense("it adopts for somebody else")
        self._sure = {held.lease.resource: held.lease.token for held in found}
        return tuple(held.lease for held in found)

    async def forget_old_boots(self) -> tuple[Lease, ...]:
        _, found = self._read(await self._call("forget", {}), leases=protocol.read_leases)
        if any(held.lease.holder.node != self.holder.node or self._ours(held) for held in found):
            raise self._nonsense("it forgets what is no earlier boot of this node")
        return tuple(held.lease for held in found)

    # -- answers -------------------------------------------------------------------------------------------------

    async def _call(self, call: str, body: Body, end: float | None = None, on_late: Any = None) -> Body:
        budget_s = CALL_S if end is None else max(0.0, end - asyncio.get_running_loop().time())
        return await self._peer.call(call, body, budget_s=budget_s, on_late=on_late)

    def _read(self, body: Body, **readers: Any) -> tuple[str, Any]:
        """The answer's kind and content. Raises StoreUnavailable, LeaseLost."""
        try:
            kind = protocol.answer(body)
            if kind not in ("unknown", "lost"):
                if kind not in readers:
                    raise Nonsense("an answer to another question")
                return kind, readers[kind](body)
            reason, remedy = protocol.read_why(body)
        except Nonsense as error:
            raise self._nonsense(str(error)) from None
        if kind == "lost":
            raise LeaseLost(reason, hint=remedy or "reboot this node")
        raise StoreUnavailable(f"{self._peer.where} cannot tell: {reason}", hint=remedy or self._peer.hint)

    def _nonsense(self, what: str) -> StoreUnavailable:
        return self._peer.trouble(f"talks nonsense: {what}")

    def _believe(self) -> None:
        if what := self._tokens.set_back:
            raise StoreUnavailable(f"{self._peer.where} {what}", hint=self._tokens.remedy)

    async def _set_back(self, what: str) -> None:
        await self._tokens.distrust(what)
        self._believe()

    def _ours(self, held: HeldLease) -> bool:
        holder = held.lease.holder
        return (holder.node, holder.boot_id) == (self.holder.node, self.holder.boot_id)


def _behind(lun: str, token: int, known: int) -> str:
    return f"has forgotten grants: its token {token} of {lun} is lower than {known}"
