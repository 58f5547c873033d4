# SPDX-License-Identifier: GPL-2.0-or-later
"""Where each record lies in etcd and what is written in it: the format that all nodes of a cluster share.

========================================  =======  ==========================================================
key below ``/enforcer/CLUSTER/``          TTL      value (JSON)
========================================  =======  ==========================================================
``node/NODE``                             session  boot_id, session, started: this node is live
``seen/NODE``                             session  boot_id, session, luns, policy: what it sees
``res/LUN/PATH/NODE``                     none     boot_id, session, mode, since, guarantee, facts, token?
``turn/LUN``                              none     node: who was granted something on it last
``fenced/NODE/BOOT_ID``                   none     by, at, promised: proven silent
``conflict/NODE``                         none     boot_id, session, uses: what it uses of others' (etcd_board.py)
========================================  =======  ==========================================================

Names are percent-quoted, so a slash in a key is always a separator; PATH is one quoted component, empty for
the whole LUN, and ``res/LUN/`` is the subtree that a claim is held against. Every value bears ``v``; a record
of another version, or one that cannot be read, is StoreUnavailable for whoever meets it. To skip it would be
to take a resource from a holder that we do not understand.

**The token is the revision that wrote the record**, so the key's ``mod_revision`` tells it and no value has
to. Only a record that was taken over from an earlier session of the same boot was rewritten without a new
grant: it names in ``token`` the lower revision whose grant it carries on.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import NamedTuple
from urllib.parse import quote, unquote

from enforcer.cluster.etcd_api import KeyValue
from enforcer.model.errors import StoreUnavailable
from enforcer.model.lease import Guarantee, Holder, Lease
from enforcer.model.resource import Mode, ResourceId

VERSION = 1
MAX_FACTS = 16
MAX_FACT = 256  # characters


class Layout:
    """The keys of one cluster."""

    def __init__(self, cluster: str) -> None:
        self.root = f"/enforcer/{_quote(cluster)}/"
        self.nodes = self.root + "node/"
        self.seens = self.root + "seen/"
        self.fences = self.root + "fenced/"
        self.resources = self.root + "res/"
        self.turns = self.root + "turn/"
        self.conflicts = self.root + "conflict/"

    def node(self, name: str) -> str:
        return self.nodes + _quote(name)

    def seen(self, name: str) -> str:
        return self.seens + _quote(name)

    def fence(self, name: str, boot_id: str) -> str:
        return f"{self.fences}{_quote(name)}/{_quote(boot_id)}"

    def turn(self, lun: str) -> str:
        return self.turns + _quote(lun)

    def conflict(self, name: str) -> str:
        return self.conflicts + _quote(name)

    def subtree(self, lun: str) -> str:
        return f"{self.resources}{_quote(lun)}/"

    def resource(self, resource: ResourceId, node: str) -> str:
        return f"{self.subtree(resource.lun)}{_quote('/'.join(resource.path))}/{_quote(node)}"

    def parts(self, key: str, below: str, count: int) -> list[str]:
        """The ``count`` unquoted components of ``key`` below a prefix. Raises StoreUnavailable."""
        parts = key.removeprefix(below).split("/")
        if not key.startswith(below) or len(parts) != count:
            raise _unreadable(key)
        return [unquote(part, errors="surrogateescape") for part in parts]


@dataclass(frozen=True, slots=True)
class StoredLease:
    """A lease with the revision of its record, for compare-and-set."""

    lease: Lease
    key: str
    mod_revision: int


def write_lease(
    holder: Holder,
    mode: Mode,
    since: str,
    guarantee: Guarantee,
    facts: Mapping[str, str],
    *,
    token: int | None = None,
) -> bytes:
    """The value of a ``res/`` record; ``token`` only for one that carries on an earlier grant."""
    value: dict[str, object] = {
        "boot_id": holder.boot_id,
        "session": holder.session,
        "mode": mode.value,
        "since": since,
        "guarantee": guarantee.value,
        "facts": trim_facts(facts),
    }
    return _dump(value if token is None else {**value, "token": token})


def read_lease(layout: Layout, kv: KeyValue) -> StoredLease:
    """Raises StoreUnavailable for a record that cannot be read."""
    lun, path, node = layout.parts(kv.key, layout.resources, 3)
    value = _load(kv)
    token = value.get("token", kv.mod_revision)
    facts = value.get("facts", {})
    try:
        mode, guarantee = Mode(_text(kv, value, "mode")), Guarantee(_text(kv, value, "guarantee"))
    except ValueError:
        raise _unreadable(kv.key) from None
    if not isinstance(token, int) or not 0 < token <= kv.mod_revision or not isinstance(facts, dict):
        raise _unreadable(kv.key)
    lease = Lease(
        resource=ResourceId(lun, tuple(path.split("/")) if path else ()),
        mode=mode,
        holder=Holder(node, _text(kv, value, "boot_id"), _text(kv, value, "session")),
        token=token,
        since=_text(kv, value, "since"),
        guarantee=guarantee,
        facts={str(name): str(fact) for name, fact in facts.items()},
    )
    return StoredLease(lease, kv.key, kv.mod_revision)


def write_node(holder: Holder) -> bytes:
    """The value of a ``node/`` record."""
    return _dump({"boot_id": holder.boot_id, "session": holder.session, "started": utc_now()})


def read_holder(layout: Layout, below: str, kv: KeyValue) -> Holder:
    """Whose ``node/``, ``seen/`` or ``conflict/`` record it is. Raises StoreUnavailable."""
    (node,) = layout.parts(kv.key, below, 1)
    value = _load(kv)
    return Holder(node, _text(kv, value, "boot_id"), _text(kv, value, "session"))


def write_seen(holder: Holder, luns: frozenset[str], policy: str) -> bytes:
    """The value of a ``seen/`` record."""
    return _dump({"boot_id": holder.boot_id, "session": holder.session, "luns": sorted(luns), "policy": policy})


def read_seen(kv: KeyValue) -> tuple[tuple[str, ...], str]:
    """LUNs and policy digest of a ``seen/`` record. Raises StoreUnavailable."""
    value = _load(kv)
    luns = value.get("luns")
    if not isinstance(luns, list) or not all(isinstance(lun, str) for lun in luns):
        raise _unreadable(kv.key)
    return tuple(luns), _text(kv, value, "policy")


def write_turn(node: str) -> bytes:
    """The value of a ``turn/`` record; its revision is the token of the grant."""
    return _dump({"node": node})


def read_turn(layout: Layout, kv: KeyValue) -> tuple[str, str, int]:
    """(LUN, node, token) of a ``turn/`` record. Raises StoreUnavailable."""
    (lun,) = layout.parts(kv.key, layout.turns, 1)
    return lun, _text(kv, _load(kv), "node"), kv.mod_revision


class Fence(NamedTuple):
    """A fencing fact. ``promised``: of what that boot promised to silence by itself, and nothing else."""

    boot: tuple[str, str]  # node name, boot id
    at: str
    promised: bool


def write_fence(by: str, *, promised: bool = False) -> bytes:
    """The value of a fencing fact: who vouches, and since when."""
    return _dump({"by": by[:MAX_FACT], "at": utc_now(), "promised": promised})


def read_fence(layout: Layout, kv: KeyValue) -> Fence:
    """A ``fenced/`` record. Raises StoreUnavailable."""
    node, boot_id = layout.parts(kv.key, layout.fences, 2)
    value = _load(kv)
    return Fence((node, boot_id), _text(kv, value, "at"), value.get("promised") is True)


def trim_facts(facts: Mapping[str, str]) -> dict[str, str]:
    """Facts come from other people's processes: a bounded number of bounded strings."""
    return {name[:MAX_FACT]: fact[:MAX_FACT] for name, fact in list(facts.items())[:MAX_FACTS]}


def utc_now() -> str:
    """RFC 3339 in UTC, to the second; for people only, never compared."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _quote(text: str) -> str:
    return quote(text, safe="", errors="surrogateescape")


def _dump(value: Mapping[str, object]) -> bytes:
    return json.dumps({"v": VERSION, **value}, separators=(",", ":"), sort_keys=True).encode("ascii")


def _load(kv: KeyValue) -> dict[str, object]:
    try:
        value = json.loads(kv.value)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict) or value.get("v") != VERSION:
        raise _unreadable(kv.key)
    return value


def _text(kv: KeyValue, value: Mapping[str, object], name: str) -> str:
    text = value.get(name)
    if not isinstance(text, str):
        raise _unreadable(kv.key)
    return text


def _unreadable(key: str) -> StoreUnavailable:
    return StoreUnavailable(
        f"the record {key} in the lease store cannot be read",
        hint=f"written by another version? etcdctl get {key}",
    )
