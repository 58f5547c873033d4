# SPDX-License-Identifier: GPL-2.0-or-later
"""A line of the audit log read back, typed.

Logs outlive versions, and the last line of one may be torn. So any line is taken: unknown keys are kept in
``raw``, missing or mistyped ones become empty, and what is no record at all becomes None. Strings are
escaped once more, because a log file may have been written by anybody.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from enforcer.audit.loose import mapping, number, text, texts
from enforcer.model.escape import PATH_LIMIT, for_terminal
from enforcer.model.intent import Caller


@dataclass(frozen=True, slots=True)
class HolderView:
    """Who stood in the way, as the record has it."""

    node: str
    boot_id: str
    since: str
    liveness: str
    guarantee: str
    resource: str
    token: int
    others: int


@dataclass(frozen=True, slots=True)
class DeviceView:
    """The device that was wanted, as the record has it."""

    dev: str
    name: str
    resources: tuple[str, ...]
    aliases: tuple[str, ...]
    attached_by: str


@dataclass(frozen=True, slots=True)
class Record:
    """One line of the log, typed. All strings are escaped, also those of a line that somebody else wrote."""

    raw: Mapping[str, object]
    schema: int
    seq: int
    id: str
    boot_id: str
    time: str
    boot_ns: int
    node: str
    kind: str
    effect: str
    errno_name: str
    errno_number: int
    reason: str
    rule: str
    default: str
    generation: int
    source: str
    holder: HolderView | None
    token: int
    store: str
    caller: Caller
    device: DeviceView | None
    source_path: str
    target: str
    fstype: str
    read_only: bool
    latency_us: Mapping[str, int]
    remedy: str
    veto: str
    prev: str
    lost: int
    why: str

    @classmethod
    def parse(cls, line: bytes | str) -> Record | None:
        """One line, or None if it is damaged: no JSON, or JSON that is no object."""
        try:
            value = json.loads(line)
        except (ValueError, RecursionError):
            return None
        return cls.of(value) if isinstance(value, dict) else None

    @classmethod
    def of(cls, raw: Mapping[str, object]) -> Record:
        """The typed view of a record that was already parsed."""
        errno = mapping(raw, "errno")
        latency = mapping(raw, "latency_us")
        return cls(
            raw=raw,
            schema=number(raw, "schema"),
            seq=number(raw, "seq"),
            id=text(raw, "id"),
            boot_id=text(raw, "boot_id"),
            time=text(raw, "time"),
            boot_ns=number(raw, "boot_ns"),
            node=text(raw, "node"),
            kind=text(raw, "kind"),
            effect=text(raw, "effect"),
            errno_name=text(errno, "name"),
            errno_number=number(errno, "number"),
            reason=text(raw, "reason", 1024),
            rule=text(raw, "rule"),
            default=text(raw, "default"),
            generation=number(raw, "generation"),
            source=text(raw, "source"),
            holder=_holder_view(mapping(raw, "holder")),
            token=number(raw, "token"),
            store=text(raw, "store"),
            caller=_caller_view(mapping(raw, "caller")),
            device=_device_view(mapping(raw, "device")),
            source_path=text(raw, "source_path", PATH_LIMIT),
            target=text(raw, "target", PATH_LIMIT),
            fstype=text(raw, "fstype"),
            read_only=raw.get("read_only") is True,
            latency_us={for_terminal(name, 32): number(latency, name) for name in latency},
            remedy=text(raw, "remedy", 1024),
            veto=text(raw, "veto"),
            prev=text(raw, "prev"),
            lost=number(raw, "lost"),
            why=text(raw, "why", 1024),
        )

    @property
    def logged(self) -> bool:
        """Whether it has what the log gives every line: a schema, a number, and the hash of the line before."""
        return self.schema > 0 and self.seq > 0 and isinstance(self.raw.get("prev"), str)

    @property
    def device_name(self) -> str:
        """What to call the object of the intent: the path that was typed, the device, or the target."""
        if self.source_path.startswith("/"):
            return self.source_path
        if self.device:
            return f"/dev/{self.device.name}" if self.device.name else self.device.dev
        return self.source_path or self.target

    @property
    def when(self) -> datetime | None:
        """The time of the record, or None if it holds none."""
        return parse_time(self.time)


def parse_time(written: str) -> datetime | None:
    """RFC 3339 as stores and records write it, aware; None for anything else."""
    try:
        at = datetime.fromisoformat(written)
    except ValueError:
        return None
    return at if at.tzinfo else at.replace(tzinfo=UTC)


def _holder_view(raw: Mapping[str, object]) -> HolderView | None:
    if not raw:
        return None
    return HolderView(
        node=text(raw, "node"),
        boot_id=text(raw, "boot_id"),
        since=text(raw, "since"),
        liveness=text(raw, "liveness"),
        guarantee=text(raw, "guarantee"),
        resource=text(raw, "resource"),
        token=number(raw, "token"),
        others=number(raw, "others"),
    )


def _caller_view(raw: Mapping[str, object]) -> Caller:
    return Caller(
        pid=number(raw, "pid"),
        tid=number(raw, "tid"),
        uid=number(raw, "uid"),
        comm=text(raw, "comm", 64),
        exe=text(raw, "exe", PATH_LIMIT),
        build_id=text(raw, "build_id", 64),
        cgroup=text(raw, "cgroup", PATH_LIMIT),
        unit=text(raw, "unit"),
        mount_ns=number(raw, "mount_ns"),
        syscall=text(raw, "syscall", 64),
    )


def _device_view(raw: Mapping[str, object]) -> DeviceView | None:
    if not raw:
        return None
    return DeviceView(
        dev=text(raw, "dev"),
        name=text(raw, "name"),
        resources=texts(raw, "resources"),
        aliases=texts(raw, "aliases"),
        attached_by=text(raw, "attached_by"),
    )
