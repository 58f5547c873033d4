# SPDX-License-Identifier: GPL-2.0-or-later
"""What a node makes of the records and of sanlock's lock space at one moment: who lives, and whether it belongs there.

Pure: no disk, no daemon.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from enforcer.cluster.conflicts import Witness
from enforcer.cluster.sanlock_area import Delta
from enforcer.cluster.sanlock_records import NodeEntry, Records
from enforcer.cluster.sanlock_socket import HostState
from enforcer.model.errors import BadConfiguration, LeaseLost
from enforcer.model.lease import HeldLease, Holder


@dataclass(frozen=True, slots=True)
class Moment:
    """All that was read at one moment."""

    records: Records
    witness: Witness
    token: int = 0  # under which a write of this step goes

    def held(self, lun: str | None = None) -> tuple[HeldLease, ...]:
        found = (lease for lease in self.records.leases if lun is None or lease.resource.lun == lun)
        told = (HeldLease(lease, self.witness.liveness(lease.holder, lease.guarantee)) for lease in found)
        return tuple(sorted(told, key=lambda h: (h.lease.resource, h.lease.holder.node)))


def registered(now: Moment, me: Holder, host_id: int, *, joined: bool) -> Records:
    """The records with this node in them. Raises LeaseLost if it was fenced, BadConfiguration for a clash.

    Once this host has joined, sanlock has made sure that nobody else uses its host id.
    """
    if (me.node, me.boot_id) in now.records.fenced:
        raise LeaseLost("this boot of this node was confirmed fenced", hint="reboot this node")
    nodes = dict(now.records.nodes)
    found = nodes.get(me.node)
    busy = {(lease.holder.node, lease.holder.boot_id) for lease in now.records.leases}
    for entry in now.records.nodes.values():
        other = entry.holder
        same = other.node == me.node
        if (other.boot_id == me.boot_id and same) or same == (entry.host_id == host_id):
            continue
        proven = joined and entry.host_id == host_id
        if (other.node, other.boot_id) in busy or (other.node in now.witness.present and not proven):
            raise BadConfiguration(
                f"the node name {me.node!r} and the host id {host_id} do not belong together: "
                f"{other.node} (boot id {other.boot_id}) is host id {entry.host_id}",
                hint="give every node a [node] name and a [store] host_id of its own",
            )
        del nodes[other.node]
    if found is None or (found.holder, found.host_id) != (me, host_id):
        nodes[me.node] = NodeEntry(me, host_id)
    return replace(now.records, nodes=nodes)


def gone(entry: NodeEntry, deltas: Mapping[int, Delta], states: Mapping[tuple[int, int], HostState]) -> bool:
    """Left, or dead in the eyes of the daemon here. Whoever has joined again, and not told yet, is not gone."""
    delta = deltas.get(entry.host_id, Delta(0, 1))
    return not delta.timestamp or states.get((entry.host_id, delta.generation)) is HostState.DEAD
