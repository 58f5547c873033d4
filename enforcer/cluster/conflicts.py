# SPDX-License-Identifier: GPL-2.0-or-later
"""Who stands in the way of a claim, and who may be pushed aside: pure functions, shared by all stores.

A store reads the whole subtree of every LUN of a set at one moment, asks here, and writes only if nothing of
what it read has changed since. So all rules of exclusion are in this one module, without I/O, and every
property of theirs can be tested by generating histories.

Two holders exclude each other if they are different boots of nodes (a session more or less on the same boot
is the same kernel), their resources meet, and their modes are not compatible. Only a holder that is *proven
silent* can be taken over: a fencing fact about its very boot id, or the same machine back under another boot
id. Both facts can never become untrue again, so it does no harm that they were read a moment before the
write. A holder that is merely gone from sight is stranded, and stays in the way.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field

from enforcer.model.errors import EnforcerError
from enforcer.model.lease import Claim, Denied, HeldLease, Holder, Lease, Liveness, Standing
from enforcer.model.resource import Mode, ResourceId


@dataclass(frozen=True, slots=True)
class Witness:
    """What is known of nodes at the moment of the read."""

    present: Mapping[str, Holder] = field(default_factory=dict)  # node name -> whose liveness record stands now
    fenced: AbstractSet[tuple[str, str]] = frozenset()  # (node name, boot id) of each fencing fact

    def liveness(self, holder: Holder) -> Liveness:
        """What is known of one holder. Nobody who still renews counts as fenced, whatever was confirmed."""
        present = self.present.get(holder.node)
        if present is not None and present.boot_id == holder.boot_id:
            return Liveness.LIVE  # another session on the same boot is the same running kernel
        if (holder.node, holder.boot_id) in self.fenced:
            return Liveness.FENCED
        return Liveness.STRANDED if present is None else Liveness.REBOOTED


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
    """True if the holder is proven silent. The seam for self-fencing guarantees: today none is believed."""
    return held.liveness in (Liveness.FENCED, Liveness.REBOOTED)


def judge(claims: Iterable[Claim], me: Holder, held: Iterable[HeldLease]) -> Ruling:
    """Hold the wanted set against all leases on its LUNs (more do no harm)."""
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
            (taken_over if may_take_over(record) else blocking).append(record)
    mine = {r: ours[r] for r in wanted if r in ours}
    return Ruling(me, wanted, tuple(blocking), tuple(taken_over), mine)


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
    boots |= {boot for name, boot in witness.fenced if name == node}
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
