# SPDX-License-Identifier: GPL-2.0-or-later
"""Who stands in the way of a claim, and who may be pushed aside: pure functions, shared by all stores.

A store reads the whole subtree of every LUN of a set at one moment, asks here, and writes only if nothing of
what it read has changed since. So all rules of exclusion are in this one module, without I/O, and every
property of theirs can be tested by generating histories.

Two holders exclude each other if they are different boots of nodes (a session more or less on the same boot
is the same kernel), their resources meet, and their modes are not compatible. Only a holder that is *proven
silent* can be taken over: a fencing fact about its very boot id, the same machine back under another boot
id, or a session that has been gone for long enough while the lease bears a self-fencing guarantee. The first
two can never become untrue again, so it does no harm that they were read a moment before the write. The third
can: the node may come back and prolong its deadline while its table still says live. So the write that takes
over by time must compare that the session is still gone, and it leaves a fencing fact behind
(``Ruling.silenced``): that boot gets no session any more. A holder that is merely gone from sight is stranded,
and stays in the way.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field

from enforcer.model.deadlines import Deadlines
from enforcer.model.errors import EnforcerError
from enforcer.model.lease import (
    SELF_FENCING,
    Claim,
    Denied,
    Guarantee,
    HeldLease,
    Holder,
    Lease,
    Liveness,
    Standing,
)
from enforcer.model.resource import Mode, ResourceId


@dataclass(frozen=True, slots=True)
class Witness:
    """What is known of nodes at the moment of the read."""

    present: Mapping[str, Holder] = field(default_factory=dict)  # node name -> whose liveness record stands now
    fenced: AbstractSet[tuple[str, str]] = frozenset()  # (node name, boot id) of each fencing fact
    gone: AbstractSet[tuple[str, str]] = frozenset()  # those whose session has been gone for m (Absences)
    silenced: AbstractSet[tuple[str, str]] = frozenset()  # fencing facts about what they promised to silence alone

    @property
    def barred(self) -> AbstractSet[tuple[str, str]]:
        """(node name, boot id) of all who get nothing any more."""
        return self.fenced | self.silenced

    def liveness(self, holder: Holder, guarantee: Guarantee = Guarantee.NONE) -> Liveness:
        """What is known of the holder of a lease with that guarantee.

        Nobody who still renews counts as fenced, whatever was confirmed.
        """
        present = self.present.get(holder.node)
        if present is not None and present.boot_id == holder.boot_id:
            return Liveness.LIVE  # another session on the same boot is the same running kernel
        if (holder.node, holder.boot_id) in self.fenced:
            return Liveness.FENCED
        if (holder.node, holder.boot_id) in self.silenced and guarantee in SELF_FENCING:
            return Liveness.FENCED
        if present is None and (holder.node, holder.boot_id) in self.gone:
            if guarantee in SELF_FENCING:
                return Liveness.SILENT
            if guarantee is Guarantee.RESERVATION:
                return Liveness.PREEMPTIBLE
        return Liveness.STRANDED if present is None else Liveness.REBOOTED


@dataclass(frozen=True, slots=True)
class Absences:
    """Since when one process has seen nodes without a session, on its own boot clock.

    The clock starts when the answer was there, which is later than the read; a process that has just started knows
    nothing and waits its full time.
    """

    since_ns: Mapping[tuple[str, str], int] = field(default_factory=dict)  # (node name, boot id) -> boot clock

    def noted(self, present: Mapping[str, Holder], holders: Iterable[Holder], now_ns: int) -> Absences:
        """After one more read that found these sessions and these holders of leases."""
        away = {(h.node, h.boot_id): now_ns for h in holders if h.node not in present}
        return Absences(away | {who: ns for who, ns in self.since_ns.items() if who[0] not in present})

    def gone(self, now_ns: int, deadlines: Deadlines) -> frozenset[tuple[str, str]]:
        """Who has been away for so long that a self-fencing guarantee has done its work."""
        waits_ns = deadlines.taker_waits_ns()
        return frozenset(who for who, since_ns in self.since_ns.items() if now_ns >= since_ns + waits_ns)


@dataclass(frozen=True, slots=True)
class Ruling:
    """The outcome for a set: what is in the way, what goes, what we want and what of it we have."""

    me: Holder
    wanted: Mapping[ResourceId, Mode]  # in name order; our own earlier modes joined in
    blocking: tuple[HeldLease, ...]
    taken_over: tuple[HeldLease, ...]  # to be deleted in the very transaction that grants
    mine: Mapping[ResourceId, Lease]  # records of this node and boot on wanted resources, of any session

    @property
    def held_token(self) -> int | None:
        """The token of the set if all of it is ours already as wanted; None if something must be written."""
        tokens = set()
        for resource, mode in self.wanted.items():
            lease = self.mine.get(resource)
            if lease is None or lease.holder != self.me or lease.mode is not mode:
                return None
            tokens.add(lease.token)
        return tokens.pop() if len(tokens) == 1 and not self.blocking else None

    def permit(self, sure: Mapping[ResourceId, int]) -> int | None:
        """``held_token``, if no late write of ours can touch its records any more; None if they must be written.

        ``sure``: tokens of records whose release was never sent and that this process was granted or adopted.
        """
        token = self.held_token
        return token if token is not None and all(sure.get(r) == token for r in self.wanted) else None

    @property
    def absent(self) -> frozenset[str]:
        """Nodes of which the write must compare that they have no session: who is taken over because it has none."""
        why = (Liveness.SILENT, Liveness.PREEMPTIBLE)
        return frozenset(h.lease.holder.node for h in self.taken_over if h.liveness in why)

    @property
    def silenced(self) -> frozenset[tuple[str, str]]:
        """(node name, boot id) of everybody who is taken over by time: the write must record a fencing fact about each.

        None about who is preempted: the storage silences it on this LUN alone.
        """
        gone = (h.lease.holder for h in self.taken_over if h.liveness is Liveness.SILENT)
        return frozenset((holder.node, holder.boot_id) for holder in gone)

    def fresh(self, told: Mapping[ResourceId, int]) -> bool:
        """False only if all was held under tokens in ``told`` and nobody else could write meanwhile.

        Others write under CW too, so what was held in CW and is wanted in EX is fresh.
        """
        for resource, mode in self.wanted.items():
            lease = self.mine.get(resource)
            if lease is None or lease.holder != self.me or told.get(resource) != lease.token:
                return True
            if lease.mode is Mode.CW and mode is not Mode.CW:
                return True
        return False


def join(one: Mode, other: Mode) -> Mode:
    """The weakest mode that covers both."""
    return one if one is other else Mode.EX


def may_take_over(held: HeldLease) -> bool:
    """True if the holder is proven silent."""
    return held.liveness in (Liveness.FENCED, Liveness.REBOOTED, Liveness.SILENT)


def judge(claims: Iterable[Claim], me: Holder, held: Iterable[HeldLease], *, preempts: bool = False) -> Ruling:
    """Hold the wanted set against all leases on its LUNs (more do no harm).

    ``preempts``: before it uses any of the set, the claimant makes itself the holder of the storage's reservation.
    """
    records = sorted(held, key=lambda h: (h.lease.resource, h.lease.holder.node, h.lease.holder.boot_id))
    ours = {h.lease.resource: h.lease for h in records if _same_boot(h.lease.holder, me)}
    wanted: dict[ResourceId, Mode] = {}
    for claim in sorted(claims, key=lambda c: c.resource):
        wanted[claim.resource] = join(wanted.get(claim.resource, claim.mode), claim.mode)
    for resource, mode in wanted.items():
        if resource in ours:
            wanted[resource] = join(ours[resource].mode, mode)
    blocking: list[HeldLease] = []
    taken_over: list[HeldLease] = []
    for record in records:
        if not _same_boot(record.lease.holder, me) and _in_the_way(record.lease, me, wanted):
            preempted = preempts and record.liveness is Liveness.PREEMPTIBLE and record.lease.resource in wanted
            (taken_over if preempted or may_take_over(record) else blocking).append(record)
    mine = {r: ours[r] for r in wanted if r in ours}
    return Ruling(me, wanted, tuple(blocking), tuple(taken_over), mine)


def under_token(ours: Mapping[ResourceId, Lease], resources: Iterable[ResourceId], token: int) -> list[ResourceId]:
    """What a release may delete: of ``ours``, what bears the very token that it names, in name order."""
    return [r for r in sorted(resources) if r in ours and ours[r].token == token]


def refusal(blocking: tuple[HeldLease, ...]) -> Denied:
    """Say who is in the way, and what to type if somebody is stranded and nobody lives."""
    live = [held for held in blocking if held.liveness is Liveness.LIVE]
    if live:
        first = live[0].lease
        reason = f"in use on {first.holder.node} since {first.since}"
        return Denied(Standing.ELSEWHERE, reason + _others(blocking), blocking)
    first = blocking[0].lease
    reason = f"stranded: {first.holder.node} (boot id {first.holder.boot_id}) is gone but not proven silent"
    commands = dict.fromkeys(fence_command(held.lease.holder) for held in blocking)
    return Denied(Standing.ELSEWHERE, reason + _others(blocking), blocking, "; ".join(commands))


def fence_command(holder: Holder) -> str:
    """The command by which an administrator vouches that this boot of the node is silent."""
    return f"enforcer fence confirm {holder.node} --boot-id {holder.boot_id}"


def check_fence(witness: Witness, known: Iterable[Holder], me: Holder, node: str, boot_id: str, *, force: bool) -> None:
    """Whether a fencing fact about a boot may be recorded; ``known`` are the holders of all leases.

    Raises EnforcerError: a boot id of which nothing is known is a slip of the pen, a live node is not silent.
    """
    present = witness.present.get(node)
    boots = {holder.boot_id for holder in known if holder.node == node}
    boots |= {boot for name, boot in witness.barred if name == node}
    if present is not None:
        boots.add(present.boot_id)
    if boot_id not in boots:
        told = f"known boot ids: {', '.join(sorted(boots))}" if boots else "the store knows nothing of that node"
        raise EnforcerError(f"{node} has no lease and no session of boot id {boot_id}; {told}", hint="enforcer who")
    if (node, boot_id) == (me.node, me.boot_id):
        raise EnforcerError("a running node cannot be confirmed fenced from itself", hint="run this on another node")
    if present is not None and present.boot_id == boot_id and not force:
        raise EnforcerError(
            f"{node} is live: it renews its session, so it is not fenced",
            hint="cut it off first; if its path to the storage alone is cut, repeat with --force",
        )


def _same_boot(one: Holder, other: Holder) -> bool:
    return one.node == other.node and one.boot_id == other.boot_id


def _in_the_way(lease: Lease, me: Holder, wanted: Mapping[ResourceId, Mode]) -> bool:
    if lease.holder.node == me.node and lease.resource in wanted:
        return True  # an earlier boot of ours: stores keep one record per resource and node, so it has to go
    return any(lease.resource.meets(r) and not lease.mode.compatible(mode) for r, mode in wanted.items())


def _others(blocking: tuple[HeldLease, ...]) -> str:
    count = len(blocking) - 1
    return f", and {count} more in the way" if count else ""


def exclusive_only(claims: Iterable[Claim], promised: Guarantee) -> Guarantee:
    """What a grant of these may promise. A reservation lets one node write, so nothing shared is reserved."""
    shared = any(claim.mode is not Mode.EX for claim in claims)
    return Guarantee.NONE if shared and promised is Guarantee.RESERVATION else promised
