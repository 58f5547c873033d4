# SPDX-License-Identifier: GPL-2.0-or-later
"""The verb ``layers``: what every layer says of some devices, side by side, and where two of them disagree.

It reads disks and all of /proc, in threads, so it may take seconds; nothing waits for it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING

from enforcer.cluster.view import Use
from enforcer.daemon import report
from enforcer.kernel.abi import State
from enforcer.model.errors import EnforcerError, UsageError
from enforcer.model.escape import for_terminal
from enforcer.model.lease import HeldLease
from enforcer.storage.usage import Usage
from enforcer.workflow.devices import Known
from enforcer.workflow.layers import Key, Layers, compare
from enforcer.workflow.looking import MOST, OnDisk

if TYPE_CHECKING:
    from enforcer.daemon.verbs import Parts

Answer = dict[str, object]


def at_hand(parts: Parts, known: Known, stored: Sequence[HeldLease] | None) -> Layers:
    """What can be told of a device without a look at anything slow. ``stored``: of all devices, or no answer."""
    it = known.device
    entry = parts.tables.guard.get(it.dev.to_kernel())
    met = None
    if stored is not None:
        met = tuple(h for h in stored if any(h.lease.resource.meets(own) for own in it.resources))
    return Layers(
        it.name,
        parts.holder.node,
        it.resources,
        known.guarding.guarded and not known.guarding.audit,
        met,
        (State(entry.state) if entry is not None else State.UNKNOWN).name.lower(),
        int(entry.token) if entry is not None else 0,
        parts.deadline_left_s(),
        max(0, parts.leases.uses.of(it.dev)[0] - parts.asks.pending_on(it.dev)),  # who waits is counted, and no use
        it.in_use,
    )


def verb(parts: Parts) -> Callable[[Mapping[str, object]], Awaitable[Answer]]:
    """``{"devices": ["8:1", ...]}`` -> ``{"layers": [...]}``, one object each, in the order asked for."""

    async def layers(request: Mapping[str, object]) -> Answer:
        asked = request.get("devices")
        if not isinstance(asked, list):
            raise UsageError("which devices?", hint="are enforcer and enforcerd of the same version?")
        wanted = {str(dev): None for dev in asked[:MOST]}
        chosen = [known for known in parts.devices.known.values() if str(known.device.dev) in wanted]
        return {"layers": await _layers(parts, chosen), "left_out": max(0, len(asked) - MOST)}

    return layers


async def _layers(parts: Parts, chosen: Sequence[Known]) -> list[Answer]:
    try:
        stored: Sequence[HeldLease] | None = await parts.store.leases()
        trouble = ""
    except EnforcerError as error:
        stored, trouble = None, str(error)
    looking = parts.looking
    devices = [known.device for known in chosen]
    disks, uses, names = await asyncio.gather(looking.disks(devices), looking.uses(), looking.names())
    told: list[Answer] = []
    for known in chosen:
        it = known.device
        disk, used = disks.get(it.dev, OnDisk(unread="not looked at")), uses.get(it.dev, Usage())
        use = Use(it.dev, tuple(it.resources), tuple(it.aliases), running=bool(it.in_use))
        quorum, runs_on = await looking.cluster(parts.view, use)
        found = await asyncio.to_thread(parts.devices.use_of, it.dev, used)
        whole = replace(
            at_hand(parts, known, stored),
            found=found,
            signs=disk.signs,
            key=_key(disk),
            quorum=quorum,
            runs_on=runs_on,
            own_names=names,
        )
        told.append(_told(parts, known, whole, disk, used, trouble))
    return told


def _key(disk: OnDisk) -> Key | None:
    found = disk.reserved
    if found is None:
        return None
    holders = dict.fromkeys(each.initiator for each in found.registrants if each.holds)
    return Key(found.key, found.kind, tuple(holders), found.ours)


def _told(parts: Parts, known: Known, it: Layers, disk: OnDisk, used: Usage, trouble: str) -> Answer:
    entry = report.device(known, parts.tables, parts.leases)
    reserved = disk.reserved
    return {
        "dev": str(known.device.dev),
        "name": it.name,
        "resources": [str(r) for r in it.resources],
        "store": {
            "kind": parts.store.name,
            "trouble": for_terminal(trouble, 1024),
            "leases": [report.lease(h) for h in it.stored or ()],
        },
        "enforcerd": [
            {"resource": str(lease.resource), "token": lease.token, "hold": str(hold)}
            for lease, hold in parts.leases.held()
            if any(lease.resource.meets(own) for own in it.resources)
        ],
        "kernel": {
            "state": it.state,
            "token": it.token,
            "deadline_in_s": None if it.deadline_left_s is None else round(it.deadline_left_s, 1),
            "uses": it.uses,
            "inflight": entry["inflight"],
            "rule": entry["rule"],
        },
        "proc": {
            "says": it.found,
            "mounted_at": used.mounted_at,
            "swap": used.swap,
            "holders": list(used.holders),
            "writers": [asdict(writer) for writer in used.writers],
        },
        "disk": {
            "unread": disk.unread,
            "marks": [
                {
                    "layer": s.layer,
                    "owner": for_terminal(s.owner or ""),
                    "says": for_terminal(s.says, 1024),
                    "moves": s.moves,
                }
                for s in it.signs
            ],
            "reservation": reserved
            and {
                "kind": reserved.kind,
                "key": f"{reserved.key:#x}",
                "ours": reserved.ours,
                "registrants": [
                    {"key": f"{r.key:#x}", "initiator": for_terminal(r.initiator), "holds": r.holds}
                    for r in reserved.registrants
                ],
            },
        },
        "cluster": {
            "kind": parts.view.name,
            "quorum": str(it.quorum),
            "runs_on": None if it.runs_on is None else list(it.runs_on),
        },
        "conflicts": [
            {
                "node": use.node,
                "resource": str(use.resource),
                "says": for_terminal(use.says),
                "holders": list(use.holders),
            }
            for use in parts.conflicts.known
            if any(use.resource.meets(own) for own in it.resources)
        ],
        "disagreements": [
            *report.conflicts(u for u in parts.conflicts.known if any(u.resource.meets(o) for o in it.resources)),
            *compare(it),
        ],
    }
