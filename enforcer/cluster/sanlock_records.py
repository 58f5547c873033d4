# SPDX-License-Identifier: GPL-2.0-or-later
"""All records of a sanlock cluster, as one value and as the JSON document that lies on the shared disk.

One step of a node reads the whole, judges, and writes the whole or nothing; so a set is all or nothing by itself. A
document of another version, or one that does not fit, is StoreUnavailable as a whole: to skip a record would be to
take a resource from a holder that we do not understand.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from enforcer.model.errors import StoreUnavailable
from enforcer.model.lease import Guarantee, Holder, Lease
from enforcer.model.resource import Mode, ResourceId

VERSION = 1


@dataclass(frozen=True, slots=True)
class NodeEntry:
    """One node in its latest boot, and by which host id of the lock space its renewals are seen."""

    holder: Holder
    host_id: int
    policy: str = ""
    luns: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Records:
    """Everything that the nodes of one cluster have told each other."""

    leases: tuple[Lease, ...] = ()
    nodes: Mapping[str, NodeEntry] = field(default_factory=dict)
    turns: Mapping[str, tuple[str, int]] = field(default_factory=dict)  # LUN -> node and token of the last grant
    fenced: Mapping[tuple[str, str], tuple[str, str]] = field(default_factory=dict)  # (node, boot id) -> by whom, when

    def dump(self) -> bytes:
        """The document."""
        leases = [
            {
                "resource": str(lease.resource),
                "mode": lease.mode.value,
                "holder": _holder(lease.holder),
                "token": lease.token,
                "since": lease.since,
                "guarantee": lease.guarantee.value,
                "facts": dict(lease.facts),
            }
            for lease in sorted(self.leases, key=lambda lease: (lease.resource, lease.holder.node))
        ]
        nodes = [
            {
                "holder": _holder(entry.holder),
                "host_id": entry.host_id,
                "policy": entry.policy,
                "luns": list(entry.luns),
            }
            for _, entry in sorted(self.nodes.items())
        ]
        turns = {lun: list(turn) for lun, turn in self.turns.items()}
        fenced = [[*boot, *fact] for boot, fact in sorted(self.fenced.items())]
        body = {"v": VERSION, "leases": leases, "nodes": nodes, "turns": turns, "fenced": fenced}
        return json.dumps(body, separators=(",", ":"), sort_keys=True).encode("ascii")


def load(document: bytes) -> Records:
    """Raises StoreUnavailable for a document that this version did not write."""
    try:
        body: dict[str, Any] = json.loads(document)
        if body["v"] != VERSION:
            raise ValueError(f"version {body['v']}")
        entries = [_entry(raw) for raw in body["nodes"]]
        return Records(
            tuple(_lease(raw) for raw in body["leases"]),
            {entry.holder.node: entry for entry in entries},
            {str(lun): (str(node), int(token)) for lun, (node, token) in body["turns"].items()},
            {(str(node), str(boot)): (str(by), str(at)) for node, boot, by, at in body["fenced"]},
        )
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        what = f"the records on the shared disk cannot be read: {type(error).__name__}: {error}"
        raise StoreUnavailable(what, hint="were they written by another version of enforcer?") from None


def _holder(holder: Holder) -> list[str]:
    return [holder.node, holder.boot_id, holder.session]


def _read_holder(raw: Any) -> Holder:
    node, boot_id, session = raw
    return Holder(str(node), str(boot_id), str(session))


def _lease(raw: Any) -> Lease:
    return Lease(
        ResourceId.parse(raw["resource"]),
        Mode(raw["mode"]),
        _read_holder(raw["holder"]),
        int(raw["token"]),
        str(raw["since"]),
        Guarantee(raw["guarantee"]),
        {str(name): str(fact) for name, fact in raw["facts"].items()},
    )


def _entry(raw: Any) -> NodeEntry:
    holder = _read_holder(raw["holder"])
    luns = tuple(str(lun) for lun in raw["luns"])
    return NodeEntry(holder, int(raw["host_id"]), str(raw["policy"]), luns)
