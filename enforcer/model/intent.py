# SPDX-License-Identifier: GPL-2.0-or-later
"""One intent, one ask, one record: what a caller wanted and what was answered."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from enforcer.model.lease import HeldLease
from enforcer.model.resource import Device, DevNum, UseKind


class Effect(StrEnum):
    """What happened to the caller."""

    PERMIT = "permit"
    REFUSE = "refuse"
    WOULD_REFUSE = "would-refuse"  # a rule in mode audit


class Source(StrEnum):
    """Who gave the verdict."""

    POLICY = "policy"  # rules alone
    STORE = "store"  # the lease store
    VETO = "veto"  # a mark on the disk itself
    CLUSTER = "cluster"  # the stack that a cluster filesystem hangs on
    VIEW = "view"  # the cluster manager
    SYSTEM = "system"  # a system device is never guarded
    GUARD = "guard"  # the kernel table, without an ask
    DEADLINE = "deadline"  # no answer in time: on_deadline
    FAIL_MODE = "fail-mode"  # the daemon was dead: on_daemon_dead
    CALLER_GONE = "caller-gone"  # the caller was killed while it waited


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks. Strings come from other people's processes: escape before showing them anywhere."""

    pid: int
    tid: int
    uid: int
    comm: str
    exe: str = ""
    build_id: str = ""
    cgroup: str = ""
    unit: str = ""
    mount_ns: int = 0
    syscall: str = ""


@dataclass(frozen=True, slots=True)
class Intent:
    """What a caller wants, as the kernel reported it and as the daemon resolved it."""

    id: int  # unique on this node in this boot; the event id in messages is ``Intent.event_id``
    kind: UseKind
    caller: Caller
    fstype: str = ""
    source: str = ""
    target: str = ""
    read_only: bool = False
    dev: DevNum | None = None
    device: Device | None = None
    asked_ns: int = 0  # CLOCK_BOOTTIME at which the kernel asked
    source_cut: bool = False  # the source was longer than the kernel hands on: ``source`` is only how it begins


@dataclass(frozen=True, slots=True)
class Verdict:
    """The answer and everything that explains it."""

    effect: Effect
    errno: int  # 0 or a positive errno
    source: Source
    reason: str  # one clause for people
    rule: str = ""  # id of the rule that decided, "" for a default
    default: str = ""  # name of the default that decided ("implicit", "multi_attached"), if no rule did
    generation: int = 0
    store: str = ""
    token: int = 0
    blocking: tuple[HeldLease, ...] = ()
    remedy: str = ""
    stages_ns: dict[str, int] = field(default_factory=dict)  # latency by stage: classify, policy, store, prepare
    carrier: bool = False  # a multipath map takes its paths: no lease, and no use
    shared: bool = False  # a cluster filesystem, under a lease that other nodes may have too
    final: bool = True  # False: a later gate judges the same intent, and its verdict is the one for the record
    veto: str = ""  # which kind of mark objects, if Source.VETO; which cluster manager, if Source.VIEW
