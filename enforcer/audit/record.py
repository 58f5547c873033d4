# SPDX-License-Identifier: GPL-2.0-or-later
"""The audit record: what one intent wanted, what was answered, and everything that explains the answer.

It is a plain dict, because it lives as a line of JSON: written by this version, read by the next. Every
string in it is escaped when it is built, so that no reader of the log, ours or not, can be fooled by a
device label.
"""

from __future__ import annotations

import errno as errno_names
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from enforcer.model.clock import boot_ns
from enforcer.model.escape import PATH_LIMIT, for_terminal
from enforcer.model.intent import Caller, Intent, Verdict
from enforcer.model.lease import HeldLease

SCHEMA: Final = 1
GAP: Final = "gap"  # the kind of a record that says how many others were lost, and why
MAX_ALIASES: Final = 4
MAX_RESOURCES: Final = 64


@dataclass(frozen=True, slots=True)
class Origin:
    """The node in this boot, as every record of it says."""

    node: str
    boot_id: str


def event_id(boot_id: str, number: int) -> str:
    """``E-1a2b3c-17``: short enough to type, unique enough to be looked up in the logs of a cluster."""
    return f"E-{boot_id.replace('-', '')[:6]}-{number}"


def build(origin: Origin, intent: Intent, verdict: Verdict, *, at: datetime | None = None) -> dict[str, object]:
    """The record of one intent. ``seq`` and ``prev`` are given by the log when the line is written."""
    now_ns = boot_ns()
    record = _head(origin, intent.id, str(intent.kind), now_ns, at)
    record.update(
        effect=str(verdict.effect),
        errno={"name": errno_name(verdict.errno), "number": verdict.errno},
        reason=for_terminal(verdict.reason, 1024),
        rule=for_terminal(verdict.rule),
        default=for_terminal(verdict.default),
        generation=verdict.generation,
        source=str(verdict.source),
        holder=_holder(verdict.blocking),
        token=verdict.token,
        store=for_terminal(verdict.store),
        caller=_caller(intent.caller),
        device=_device(intent),
        source_path=for_terminal(intent.source, PATH_LIMIT),
        target=for_terminal(intent.target, PATH_LIMIT),
        fstype=for_terminal(intent.fstype),
        read_only=intent.read_only,
        latency_us=_latency(intent, verdict, now_ns),
        remedy=for_terminal(verdict.remedy, 1024),
        veto=for_terminal(verdict.veto),
        prev="",
    )
    return record


def notice(
    origin: Origin,
    kind: str,
    reason: str,
    facts: Mapping[str, object] | None = None,
    *,
    number: int = 0,
    at: datetime | None = None,
) -> dict[str, object]:
    """A record that no caller caused: ``start``, ``reload``, ``conflict``, ``gap``."""
    record = _head(origin, number, for_terminal(kind), boot_ns(), at)
    record["reason"] = for_terminal(reason, 1024)
    for key, value in (facts or {}).items():
        record[key] = for_terminal(value, 1024) if isinstance(value, str) else value
    record["prev"] = ""
    return record


def errno_name(number: int) -> str:
    """``EBUSY`` for 16, empty for 0, the number itself for one that has no name."""
    return errno_names.errorcode.get(number, str(number)) if number else ""


def stamp(at: datetime) -> str:
    """RFC 3339 in UTC with milliseconds."""
    return at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _head(origin: Origin, number: int, kind: str, now_ns: int, at: datetime | None) -> dict[str, object]:
    return {
        "schema": SCHEMA,
        "seq": 0,
        "id": for_terminal(event_id(origin.boot_id, number)) if number else "",
        "boot_id": for_terminal(origin.boot_id),
        "time": stamp(at or datetime.now(UTC)),
        "boot_ns": now_ns,
        "node": for_terminal(origin.node),
        "kind": kind,
    }


def _holder(blocking: tuple[HeldLease, ...]) -> dict[str, object] | None:
    if not blocking:
        return None
    first = blocking[0]
    lease = first.lease
    return {
        "node": for_terminal(lease.holder.node),
        "boot_id": for_terminal(lease.holder.boot_id),
        "since": for_terminal(lease.since),
        "liveness": str(first.liveness),
        "guarantee": str(lease.guarantee),
        "resource": for_terminal(str(lease.resource)),
        "mode": str(lease.mode),
        "token": lease.token,
        "others": len(blocking) - 1,
    }


def _caller(caller: Caller) -> dict[str, object]:
    return {
        "pid": caller.pid,
        "tid": caller.tid,
        "uid": caller.uid,
        "comm": for_terminal(caller.comm, 64),
        "exe": for_terminal(caller.exe, PATH_LIMIT),
        "build_id": for_terminal(caller.build_id, 64),
        "cgroup": for_terminal(caller.cgroup, PATH_LIMIT),
        "unit": for_terminal(caller.unit),
        "mount_ns": caller.mount_ns,
        "syscall": for_terminal(caller.syscall, 64),
    }


def _device(intent: Intent) -> dict[str, object] | None:
    device = intent.device
    if device is None:
        if intent.dev is None:
            return None
        return {"dev": str(intent.dev), "name": "", "resources": [], "aliases": [], "attached_by": ""}
    return {
        "dev": str(device.dev),
        "name": for_terminal(device.name),
        "resources": _strings(device.resources, MAX_RESOURCES),
        "aliases": _strings(device.aliases, MAX_ALIASES),
        "attached_by": for_terminal(device.attached_by, 64),
    }


def _strings(values: Iterable[object], most: int) -> list[str]:
    return [for_terminal(str(value)) for value in values][:most]


def _latency(intent: Intent, verdict: Verdict, now_ns: int) -> dict[str, int]:
    stages = {for_terminal(name, 32): ns // 1000 for name, ns in verdict.stages_ns.items()}
    if "total" not in stages:
        waited = now_ns - intent.asked_ns if intent.asked_ns else 0
        stages["total"] = max(waited // 1000, sum(stages.values()))
    return stages
