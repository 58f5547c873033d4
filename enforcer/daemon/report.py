# SPDX-License-Identifier: GPL-2.0-or-later
"""What ``enforcer status`` and ``enforcer who`` show: the store, the kernel and the storage side by side, and where
they disagree. A question here may be slow or fail; verdicts never wait for it.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from enforcer.cluster.board import DoubleUse
from enforcer.cluster.identity import read_tiers
from enforcer.kernel.abi import State
from enforcer.kernel.tables import Tables
from enforcer.lost.files import read_beat, revoker_trouble
from enforcer.model.escape import for_terminal
from enforcer.model.guarantee import Ready, offer
from enforcer.model.lease import HeldLease, Lease, Liveness, NodeRecord
from enforcer.workflow.devices import Hold, Known
from enforcer.workflow.leases import Leases


def lease(held: HeldLease) -> dict[str, object]:
    """One lease of the store."""
    own = held.lease
    return {
        "resource": str(own.resource),
        "mode": str(own.mode),
        "token": own.token,
        "since": own.since,
        "guarantee": str(own.guarantee),
        "liveness": str(held.liveness),
        "facts": {for_terminal(k): for_terminal(v) for k, v in own.facts.items()},
        "holder": {"node": own.holder.node, "boot_id": own.holder.boot_id, "session": own.holder.session},
    }


def device(known: Known, tables: Tables, leases: Leases) -> dict[str, object]:
    """One device of this node: what it is, and what the kernel's tables say of it."""
    it = known.device
    entry = tables.guard.get(it.dev.to_kernel())
    uses, inflight = leases.uses.of(it.dev)
    state = State(entry.state) if entry is not None else State.UNKNOWN
    return {
        "dev": str(it.dev),
        "name": it.name,
        "resources": [str(r) for r in it.resources],
        "aliases": [for_terminal(a) for a in it.aliases],
        "state": state.name.lower(),
        "token": int(entry.token) if entry is not None else 0,
        "uses": uses,
        "inflight": inflight,
        "rule": known.guarding.rule or known.guarding.default,
        "system": it.system,
        "problem": it.problem,
        "seen_by": sorted(known.facts.seen_by),
        "audit": known.guarding.audit,
        "in_use": it.in_use,
    }


def lost(run_dir: Path, worst_s: float | None) -> dict[str, object]:
    """What becomes of this node without its session: promise, reason, longest takeover (s), and what is cut off."""
    promised, beat = offer(read_tiers(run_dir), Ready(revoker_trouble(run_dir))), read_beat(run_dir)
    return {
        "guarantee": str(promised.guarantee),
        "reason": promised.reason,
        "worst_takeover_s": round(worst_s, 1) if worst_s is not None else None,
        "cut": list(beat.cut) if beat else [],
        "failed": beat.failed if beat else "",
    }


def conflicts(known: Iterable[DoubleUse]) -> list[str]:
    """What nodes use although it is leased to others, as they say themselves."""
    return [
        f"{use.resource}: IN USE ON TWO NODES: {for_terminal(use.says)} on {use.node}, "
        f"and leased to {' and '.join(use.holders)}"
        for use in known
    ]


def node(record: NodeRecord) -> dict[str, object]:
    """One node as the store knows it."""
    return {
        "node": record.holder.node,
        "boot_id": record.holder.boot_id,
        "live": record.live,
        "policy_digest": record.policy_digest,
        "luns": list(record.luns),
    }


def disagreements(
    stored: Iterable[HeldLease],
    nodes: Iterable[NodeRecord],
    held: Iterable[tuple[Lease, Hold]],
    me: str,
) -> list[str]:
    """Where store, daemon and nodes tell different stories; ``layers.compare`` knows about each device."""
    said: list[str] = []
    tokens = {h.lease.resource: h.lease.token for h in stored if h.lease.holder.node == me}
    mine = {kept.resource: kept.token for kept, _ in held}
    for resource, token in tokens.items():
        if mine.get(resource) != token:
            ours = f"has token {mine[resource]}" if resource in mine else "does not hold it"
            said.append(f"{resource}: the store says held here with token {token}, enforcerd {ours}")
    said += [
        f"{resource}: enforcerd holds it with token {token}, the store does not"
        for resource, token in mine.items()
        if resource not in tokens
    ]
    for h in stored:
        if h.liveness in (Liveness.STRANDED, Liveness.PREEMPTIBLE):
            boot = h.lease.holder.boot_id
            said.append(
                f"{h.lease.resource}: stranded, {h.lease.holder.node} is gone but not proven silent: "
                f"enforcer fence confirm {h.lease.holder.node} --boot-id {boot}"
            )
    digests = {n.policy_digest for n in nodes if n.live and n.policy_digest}
    if len(digests) > 1:
        said.append("the nodes do not have the same policy")
    return said
