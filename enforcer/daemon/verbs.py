# SPDX-License-Identifier: GPL-2.0-or-later
"""The control socket's verbs. They only look, but for ``fence-*``, and may be slow: no verdict waits for them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from enforcer.cluster.identity import read_session
from enforcer.cluster.store import LeaseStore
from enforcer.cluster.view import ClusterView
from enforcer.daemon import layered, report
from enforcer.daemon.reactions import Reactions
from enforcer.daemon.recorder import Recorder
from enforcer.kernel import abi
from enforcer.kernel.program import Attached
from enforcer.kernel.tables import Tables
from enforcer.model.clock import boot_ns
from enforcer.model.errors import EnforcerError, UsageError
from enforcer.model.lease import Holder
from enforcer.policy.rules import Policy
from enforcer.workflow.asks import Asks
from enforcer.workflow.conflicting import Conflicts
from enforcer.workflow.devices import Devices
from enforcer.workflow.fencing import Fences
from enforcer.workflow.layers import compare
from enforcer.workflow.leases import Leases
from enforcer.workflow.looking import Looking


@dataclass(frozen=True, slots=True)
class Parts:
    """What the verbs look at. ``store_state()``: what is wrong with the store, or "", and whether ours is adopted."""

    attached: Attached
    tables: Tables
    devices: Devices
    leases: Leases
    asks: Asks
    reactions: Reactions
    recorder: Recorder
    store: LeaseStore
    view: ClusterView
    holder: Holder
    run_dir: Path
    audit_only: bool
    warnings: list[str]
    policy: Callable[[], Policy]
    deadline_ns: Callable[[], int | None]
    lost: Callable[[], dict[str, object]]
    store_state: Callable[[], tuple[str, bool]]
    looking: Looking
    conflicts: Conflicts
    fences: Fences

    def deadline_left_s(self) -> float | None:
        """Until the kernel's deadline; None for a store without sessions."""
        deadline = self.deadline_ns()
        return None if deadline is None else (deadline - boot_ns()) / 1e9


class Verbs:
    """One method a verb: the request's fields in, the reply's ``data`` out."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    async def status(self, _request: Mapping[str, object]) -> dict[str, object]:
        """How the daemon, the kernel, the store and the keeper are."""
        trouble_of_store, adopted = self._parts.store_state()
        stats, config = self._parts.tables.stats.get(0) or abi.Stats(), self._parts.tables.config.get(0) or abi.Config()
        deadline = self._parts.deadline_ns()
        by_disk = self._parts.store.name == "sanlock"  # whose session is not the keeper's: it only watches
        session, trouble = read_session(self._parts.run_dir) if deadline is not None and not by_disk else (None, "")
        return {
            "node": self._parts.holder.node,
            "boot_id": self._parts.holder.boot_id,
            "session": self._parts.holder.session,
            "mode": "audit" if self._parts.audit_only else "enforce",
            "generation": self._parts.policy().generation,
            "policy_digest": self._parts.policy().digest,
            "store": {
                "kind": self._parts.store.name,
                "reachable": not trouble_of_store and adopted,
                "detail": trouble_of_store,
                "ttl_s": self._parts.store.ttl_s,
            },
            "cluster": await self._cluster(),
            "enforcing": bool(config.enforce),
            "kernel": {
                "programs": len(self._parts.attached.programs),
                "misses": sum(self._parts.attached.misses().values()),
                "drops": int(stats.events_lost),
                "strict": bool(config.strict),
                "pinned": self._parts.attached.pinned is not None,
            },
            "keeper": {
                "alive": session is not None or (by_disk and boot_ns() < (deadline or 0)),
                "deadline_in_s": round((deadline - boot_ns()) / 1e9, 1) if deadline else None,
                "detail": trouble,
            },
            "lost": self._parts.lost(),
            "counters": {
                **self._parts.asks.counts,
                **self._parts.reactions.counts,
                "waiting": self._parts.asks.waiting(),
                "kernel_asks": int(stats.asks),
                "no_answer": int(stats.no_answer),
                "passed_without_upcall": int(stats.passed_types),
                **{f"audit_{k}": v for k, v in self._parts.recorder.log.counters().items()},
            },
            "devices": len(self._parts.devices.known),
            "warnings": [
                *self._parts.warnings,
                *([f"store: {trouble_of_store}"] if trouble_of_store else []),
            ],
        }

    async def who(self, _request: Mapping[str, object]) -> dict[str, object]:
        """Every lease, node and device, side by side."""
        trouble = ""
        try:
            stored, nodes = await self._parts.store.leases(), await self._parts.store.nodes()
            said = report.disagreements(stored, nodes, self._parts.leases.held(), self._parts.holder.node)
            said += report.conflicts(self._parts.conflicts.known)
            for known in self._parts.devices.known.values():
                said += compare(layered.at_hand(self._parts, known, stored))
        except EnforcerError as error:
            stored, nodes, trouble = (), (), str(error)
            said = [f"the store did not answer: {error}"]
        devices = sorted(self._parts.devices.known.values(), key=lambda k: k.device.dev)
        return {
            "leases": [report.lease(h) for h in stored],
            "nodes": [report.node(n) for n in nodes],
            "devices": [report.device(k, self._parts.tables, self._parts.leases) for k in devices],
            "disagreements": said,
            "node": self._parts.holder.node,
            "boot_id": self._parts.holder.boot_id,
            "trouble": trouble,
            "cluster": await self._cluster(),
        }

    async def _cluster(self) -> dict[str, object]:
        health = await self._parts.view.health()
        return {"view": self._parts.view.name, "quorum": str(health.quorum), "detail": health.said}

    async def fence_confirm(self, request: Mapping[str, object]) -> dict[str, object]:
        """Record that a boot of a node is silent for ever."""
        node, boot_id = request.get("node"), request.get("boot_id")
        if not isinstance(node, str) or not isinstance(boot_id, str) or not node or not boot_id:
            raise UsageError("node and boot id are needed", hint="enforcer fence confirm NODE --boot-id ID")
        await self._parts.store.fence_confirm(
            node, boot_id, f"root on {self._parts.holder.node}", force=request.get("force") is True
        )
        over = [
            str(h.lease.resource)
            for h in await self._parts.store.leases()
            if h.lease.holder.node == node and h.lease.holder.boot_id == boot_id
        ]
        self._parts.recorder.notice(
            "fence-confirm", f"boot {boot_id} of {node} was confirmed as fenced", {"resources": over}
        )
        return {"node": node, "boot_id": boot_id, "resources": over}

    async def fence_run(self, request: Mapping[str, object]) -> dict[str, object]:
        """Switch a node off by its agent; it may take minutes, and goes on if the peer goes away."""
        node = request.get("node")
        if not isinstance(node, str) or not node:
            raise UsageError("a node is needed", hint="enforcer fence run NODE")
        by = f"root on {self._parts.holder.node} says"
        alive, was_off = request.get("alive") is True, request.get("was_off") is True
        fenced = await self._parts.fences.run(node, alive=alive, was_off=was_off, asked_by=by)
        return dataclasses.asdict(fenced)
