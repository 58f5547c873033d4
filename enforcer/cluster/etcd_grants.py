# SPDX-License-Identifier: GPL-2.0-or-later
"""What one transaction of etcd writes for a grant: all records of the set, and what had to go for it, or nothing."""

from __future__ import annotations

from collections.abc import Mapping

from enforcer.cluster.conflicts import Ruling
from enforcer.cluster.etcd_api import delete, put
from enforcer.cluster.etcd_http import Json
from enforcer.cluster.etcd_records import Layout, write_fence, write_lease, write_turn
from enforcer.model.lease import Guarantee


def grant_ops(layout: Layout, ruling: Ruling, promised: Guarantee, facts: Mapping[str, str], since: str) -> list[Json]:
    """The operations for what ``ruling`` lets its claimant have; ``since``: RFC 3339, UTC."""
    me = ruling.me
    ours = {layout.resource(r, me.node): mode for r, mode in ruling.wanted.items()}
    gone = [layout.resource(h.lease.resource, h.lease.holder.node) for h in ruling.taken_over]
    puts = [put(key, write_lease(me, mode, since, promised, facts)) for key, mode in ours.items()]
    turns = [put(layout.turn(lun), write_turn(me.node)) for lun in {r.lun for r in ruling.wanted}]
    facts_of_silence = [
        put(layout.fence(node, boot_id), write_fence(f"taken over by {me.node}", promised=True))
        for node, boot_id in sorted(ruling.silenced)
    ]
    return [*(delete(key) for key in dict.fromkeys(gone) if key not in ours), *puts, *turns, *facts_of_silence]
