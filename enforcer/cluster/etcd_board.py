# SPDX-License-Identifier: GPL-2.0-or-later
"""``conflict/NODE`` in etcd: what a node uses although it is leased to another one.

The record has no TTL. A node that falls silent may go on writing, and then it is the more dangerous; its record counts
until the node itself takes it back, or its boot is proven over: a fencing fact, or the same node under another boot id.
It needs no session either, because it can only make things stricter. A write that arrives late is put right by the next
round of its writer, which holds the record against what it has to say.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from enforcer.cluster.board import DoubleUse
from enforcer.cluster.etcd_api import Etcd, KeyValue, delete, get_prefix, put
from enforcer.cluster.etcd_http import Caller
from enforcer.cluster.etcd_records import MAX_FACT, VERSION, Layout, read_fence, read_holder
from enforcer.model.errors import StoreUnavailable
from enforcer.model.lease import Holder
from enforcer.model.resource import ResourceId

CALL_S = 3.0
MOST = 100  # uses in one record; more of them say nothing new


class EtcdBoard:
    """The Board of one cluster, as one node writes on it."""

    def __init__(self, client: Caller, cluster: str, holder: Holder) -> None:
        self._etcd, self._layout, self._holder = Etcd(client), Layout(cluster), holder

    async def post(self, mine: Sequence[DoubleUse]) -> None:
        key = self._layout.conflict(self._holder.node)
        op = put(key, write(self._holder, mine[:MOST])) if mine else delete(key)
        await self._etcd.write([], [op], budget_s=CALL_S)

    async def read(self) -> tuple[DoubleUse, ...]:
        layout = self._layout
        ops = [get_prefix(prefix) for prefix in (layout.conflicts, layout.nodes, layout.fences)]
        records, nodes, fences = (await self._etcd.read(ops, budget_s=CALL_S)).ranges
        present = {holder.node: holder.boot_id for holder in (read_holder(layout, layout.nodes, kv) for kv in nodes)}
        over = {fence.boot for fence in (read_fence(layout, kv) for kv in fences) if not fence.promised}
        found = [use for kv in records for use in read(layout, kv)]
        return tuple(
            use
            for use in found
            if (use.node, use.boot_id) not in over and present.get(use.node, use.boot_id) == use.boot_id
        )


def write(holder: Holder, uses: Sequence[DoubleUse]) -> bytes:
    """The value of a ``conflict/`` record."""
    told = [{"resource": str(u.resource), "says": u.says[:MAX_FACT], "holders": list(u.holders)} for u in uses]
    value = {"v": VERSION, "boot_id": holder.boot_id, "session": holder.session, "uses": told}
    return json.dumps(value, separators=(",", ":"), sort_keys=True).encode("ascii")


def read(layout: Layout, kv: KeyValue) -> tuple[DoubleUse, ...]:
    """The uses in a record. Raises StoreUnavailable for one that cannot be read: it says that something is wrong."""
    holder = read_holder(layout, layout.conflicts, kv)
    try:
        return tuple(
            DoubleUse(
                holder.node,
                holder.boot_id,
                ResourceId.parse(str(use["resource"])),
                str(use["says"]),
                tuple(str(node) for node in use["holders"]),
            )
            for use in json.loads(kv.value)["uses"]
        )
    except (ValueError, KeyError, TypeError):
        hint = f"written by another version? etcdctl get {kv.key}"
        raise StoreUnavailable(f"the record {kv.key} in the lease store cannot be read", hint=hint) from None
