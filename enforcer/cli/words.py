# SPDX-License-Identifier: GPL-2.0-or-later
"""A record in plain words. Pure: what is said here can be tested word by word, and is drawn elsewhere."""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import tzinfo
from typing import Final

from enforcer.audit.sentence import in_zone, local, since
from enforcer.audit.view import DeviceView, HolderView, Record, parse_time
from enforcer.model.intent import Effect, Source
from enforcer.model.lease import Guarantee, Liveness

_WOULD: Final = "would be refused"
EFFECTS: Final = {
    Effect.PERMIT: "permitted",
    Effect.REFUSE: "refused",
    Effect.WOULD_REFUSE: _WOULD,
}
_WANTED: Final = {
    "mount": "to mount {object}{fstype}{target}{read_only}",
    "swap": "to use {object} as swap",
    "write-open": "to open {object} for writing, or exclusively",
    "dm-load": "to load a device-mapper table that uses {object}",
    "loop": "to set up a loop device on {object}",
    "umount": "to unmount {object}{fstype}",
}
_LIVENESS: Final = {
    Liveness.LIVE: "it is alive and renews its session",
    Liveness.STRANDED: "stranded: it is silent, and nothing proves that it no longer writes",
    Liveness.SILENT: "it is silent for longer than its guarantee takes",
    Liveness.PREEMPTIBLE: "it is silent, and its reservation can be preempted by a node that uses reservations",
    Liveness.FENCED: "a fencing of that boot was confirmed",
    Liveness.REBOOTED: "the machine is back under another boot id",
}
_GUARANTEE: Final = {
    Guarantee.NONE: "it does not silence itself",
    Guarantee.CUT: "it cuts itself off when it loses the lease",
    Guarantee.WATCHDOG: "its watchdog resets it when it loses the lease",
    Guarantee.RESERVATION: "a reservation on the storage keeps it off",
}


@dataclass(frozen=True, slots=True)
class Explanation:
    """A headline and labelled lines."""

    headline: str
    rows: tuple[tuple[str, str], ...]
    next_steps: tuple[str, ...]


def what(record: Record) -> str:
    """``mount ext4 /dev/sdb1``."""
    return " ".join(filter(None, (record.kind, record.fstype, record.device_name)))


def why(record: Record, zone: tzinfo | None = None) -> str:
    """The table's column: the holder where there is one, else the reason."""
    holder = record.holder
    if holder is None:
        return in_zone(record.reason, zone) or record.why or record.source
    if holder.liveness == Liveness.LIVE or not holder.liveness:
        return f"in use on {holder.node}{since(holder, record, zone)}"
    return f"held by {holder.node}{since(holder, record, zone)}, {holder.liveness}"


def caller(record: Record) -> str:
    """``mount[4711] ssh.service``."""
    if not record.caller.pid:
        return ""
    return f"{record.caller.comm}[{record.caller.pid}] {record.caller.unit}".rstrip()


def milliseconds(micros: int) -> str:
    """Two digits that mean something: ``0.04``, ``1.2``, ``340``."""
    ms = micros / 1000
    return f"{ms:.2f}" if ms < 1 else f"{ms:.1f}" if ms < 100 else f"{ms:.0f}"


def explain(record: Record, *, rule_place: str = "", zone: tzinfo | None = None) -> Explanation:
    """Everything an administrator asks of one event, in the order in which it is asked."""
    if not record.effect:
        rows = [("kind", record.kind), ("when", _at(record, zone))]
        return Explanation(record.reason or record.kind, tuple(rows), ())
    rows = [
        ("who", _who(record)),
        ("wanted", _wanted(record)),
        ("when", _at(record, zone)),
        ("decided", _decided(record)),
        ("because", in_zone(record.reason, zone)),
        ("rule", _rule(record, rule_place)),
        ("device", _device(record.device)),
        ("took", _took(record)),
    ]
    if record.holder:
        rows.insert(6, ("holder", _holder(record.holder, record, zone)))
    elif record.effect == Effect.PERMIT and record.token:
        store = f" in {record.store}" if record.store else ""
        rows.insert(6, ("lease", f"held by {record.node} under token {record.token}{store}"))
    kept = tuple((label, text) for label, text in rows if text)
    return Explanation(_headline(record), kept, _next_steps(record))


def _headline(record: Record) -> str:
    text = f"{record.id}: {record.kind} of {record.device_name or 'a device'} {EFFECTS[_effect(record)]}"
    if record.errno_number and record.effect == Effect.REFUSE:
        text += f" with {record.errno_name} ({os.strerror(record.errno_number)})"
    return text


def _effect(record: Record) -> Effect:
    return Effect(record.effect) if record.effect in set(Effect) else Effect.WOULD_REFUSE


def _who(record: Record) -> str:
    by = record.caller
    if not by.pid:
        return ""
    text = f"{by.comm}[{by.pid}], uid {by.uid}"
    if by.unit:
        text += f", of {by.unit}"
    if by.exe:
        text += f", program {by.exe}"
    if by.build_id:
        text += f" (build {by.build_id[:12]})"
    return text


def _wanted(record: Record) -> str:
    form = _WANTED.get(record.kind, f"{record.kind} of {{object}}")
    return form.format_map(
        {
            "object": record.device_name or "something",
            "fstype": f" ({record.fstype})" if record.fstype else "",
            "target": f" on {record.target}" if record.target else "",
            "read_only": ", read-only" if record.read_only else "",
        }
    ) + (f", by {record.caller.syscall}(2)" if record.caller.syscall else "")


def _at(record: Record, zone: tzinfo | None) -> str:
    at = local(record.when, zone)
    text = f"{at:%Y-%m-%d %H:%M:%S %Z}".rstrip() if at else record.time
    return f"{text} on {record.node}" if record.node else text


def _decided(record: Record) -> str:
    store = f"the lease store {record.store}" if record.store else "the lease store"
    outcome = EFFECTS[_effect(record)]
    by = {
        Source.POLICY: f"{outcome} by the policy alone, {store} was not asked",
        Source.STORE: f"{outcome} by {store}",
        Source.VETO: f"{outcome} by what stands on the disk ({record.veto}), although {store} granted the lease",
        Source.VIEW: f"{outcome} by the cluster manager ({record.veto}), {store} was not asked",
        Source.SYSTEM: f"{outcome}: a device that the system itself stands on is never guarded",
        Source.CLUSTER: f"{outcome} because of the stack that the cluster filesystem hangs on; {store} was not asked",
        Source.GUARD: f"{outcome} inside the kernel by its device table, without asking the daemon",
        Source.DEADLINE: f"{outcome}: no answer came in time, so on_deadline decided",
        Source.FAIL_MODE: f"{outcome} by the kernel: the daemon was dead, so on_daemon_dead decided",
        Source.CALLER_GONE: "the caller was killed or interrupted while it waited for the answer",
    }
    said = by[Source(record.source)] if record.source in set(Source) else outcome
    return f"{said}; let through, because its rule is in mode audit" if outcome == _WOULD else said


def _rule(record: Record, place: str) -> str:
    if record.rule:
        text = f"{record.rule}, {place}" if place else record.rule
    elif record.default:
        text = f"none matched, the default {record.default!r} decided"
    else:
        return ""
    return f"{text}, policy generation {record.generation}" if record.generation else text


def _holder(holder: HolderView, record: Record, zone: tzinfo | None) -> str:
    text = holder.node
    began = local(parse_time(holder.since), zone)
    if began:
        text += f" since {began:%Y-%m-%d %H:%M:%S}"
    if holder.token:
        text += f", token {holder.token}"
    if holder.boot_id:
        text += f", boot id {holder.boot_id}"
    if holder.liveness in set(Liveness):
        text += f"; {_LIVENESS[Liveness(holder.liveness)]}"
    if holder.liveness == Liveness.STRANDED and holder.guarantee in set(Guarantee):
        text += f"; {_GUARANTEE[Guarantee(holder.guarantee)]}"
    if holder.others > 0:
        text += f"; {holder.others} more in the way"
    return text


def _device(device: DeviceView | None) -> str:
    if device is None:
        return ""
    text = f"{device.name} ({device.dev})" if device.name else device.dev
    if device.resources:
        text += " = " + ", ".join(device.resources)
    if device.attached_by:
        text += f", attached by {device.attached_by}"
    return text


def _took(record: Record) -> str:
    total = record.latency_us.get("total", 0)
    if not total:
        return ""
    stages = ", ".join(f"{name} {milliseconds(us)}" for name, us in record.latency_us.items() if name != "total")
    return f"{milliseconds(total)} ms" + (f" ({stages})" if stages else "")


def _next_steps(record: Record) -> tuple[str, ...]:
    if record.effect == Effect.PERMIT:
        return ()
    if record.effect == Effect.WOULD_REFUSE:
        rule = record.rule or "the default"
        return (
            f'nothing was refused; set mode = "enforce" in {rule} once every such line is meant',
            f"enforcer audit --effect would-refuse{f' --rule {record.rule}' if record.rule else ''}",
        )
    if record.remedy:
        return (record.remedy,)
    return _by_holder(record) if record.holder else _by_source(record)


def _by_holder(record: Record) -> tuple[str, ...]:
    holder = record.holder
    assert holder is not None
    look = f"enforcer who {holder.resource or record.device_name}".rstrip()
    if holder.liveness in (Liveness.STRANDED, Liveness.PREEMPTIBLE):
        return (
            f"make sure that {holder.node} is off or cut off from the storage, and only then:",
            f"enforcer fence confirm {holder.node} --boot-id {holder.boot_id}",
        )
    if holder.liveness in (Liveness.FENCED, Liveness.REBOOTED, Liveness.SILENT):
        return ("try again: the lease may be taken over now", look)
    return (f"end its use on {holder.node} and try again; who holds it now:", look)


def _by_source(record: Record) -> tuple[str, ...]:
    if record.source == Source.GUARD:
        name = record.device_name or (record.device.dev if record.device else "")
        return ("see what the kernel's table says of the device:", f"enforcer who {name}".rstrip())
    if record.source == Source.FAIL_MODE:
        return ("systemctl start enforcerd, then try again",)
    if record.source in (Source.DEADLINE, Source.STORE):
        return ("see whether the store answers, then try again:", "enforcer status")
    if record.source == Source.CALLER_GONE:
        return ("try again",)
    return ("see whether the rule says what you mean:", f"enforcer policy show {record.rule}".rstrip())
