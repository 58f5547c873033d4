# SPDX-License-Identifier: GPL-2.0-or-later
"""Intents, verdicts and hostile names for the tests of the log and of the command line."""

from __future__ import annotations

import errno
from datetime import UTC, datetime

from hypothesis import strategies as st

from enforcer.audit.record import Origin, build
from enforcer.audit.view import Record
from enforcer.model.intent import Caller, Effect, Intent, Source, Verdict
from enforcer.model.lease import Guarantee, HeldLease, Holder, Lease, Liveness
from enforcer.model.resource import Device, DevNum, Mode, ResourceId, UseKind

ORIGIN = Origin("node-2", "1a2b3c4d-aaaa-4bbb-8ccc-123456789abc")
AT = datetime(2026, 11, 22, 12, 5, 1, 250000, tzinfo=UTC)
OTHER_BOOT = "9f8e7d6c-0000-4000-8000-00000000beef"
LUN = ResourceId("wwn-0x5000c500aa", ("p1",))


def intent(number: int = 17, *, name: str = "sdb1", kind: UseKind = UseKind.MOUNT, **changes: object) -> Intent:
    fields: dict[str, object] = {
        "id": number,
        "kind": kind,
        "caller": Caller(4711, 4711, 0, "mount", "/usr/bin/mount", "", "/system.slice/ssh.service", "ssh.service"),
        "fstype": "ext4",
        "source": f"/dev/{name}",
        "target": "/srv/db",
        "dev": DevNum(8, 17),
        "device": Device(DevNum(8, 17), name, (LUN,), (str(LUN), "vg:data"), attached_by="iscsi"),
    }
    return Intent(**{**fields, **changes})


def held(liveness: Liveness = Liveness.LIVE, node: str = "node-1") -> HeldLease:
    holder = Holder(node, OTHER_BOOT, "s1")
    return HeldLease(Lease(LUN, Mode.EX, holder, 41, "2026-11-22T12:03:00Z", Guarantee.NONE), liveness)


STAGES = {"classify": 800_000, "policy": 100_000, "store": 11_200_000, "total": 12_300_000}

REFUSED = Verdict(
    Effect.REFUSE, errno.EBUSY, Source.STORE, "held by node-1", "san", "", 7, "etcd", 0, (held(),), "", STAGES
)
STRANDED = Verdict(
    Effect.REFUSE, errno.EBUSY, Source.STORE, "held by node-1, which is silent", "san", "", 7, "etcd", 0,
    (held(Liveness.STRANDED),), "", STAGES,
)  # grouped by meaning  # fmt: skip
GUARD_ONLY = Verdict(
    Effect.REFUSE,
    errno.EPERM,
    Source.GUARD,
    "the kernel's table holds no live lease",
    "",
    "multi_attached",
    7,
)
WOULD_REFUSE = Verdict(
    Effect.WOULD_REFUSE, 0, Source.STORE, "held by node-1", "trial", "", 7, "etcd", 0, (held(),), "", STAGES
)
PERMITTED = Verdict(Effect.PERMIT, 0, Source.STORE, "the lease is ours", "san", "", 7, "etcd", 42, (), "", STAGES)
ALL = (REFUSED, STRANDED, GUARD_ONLY, WOULD_REFUSE, PERMITTED)


def record(verdict: Verdict, wanted: Intent | None = None) -> dict[str, object]:
    return build(ORIGIN, wanted or intent(), verdict, at=AT)


def view(verdict: Verdict, wanted: Intent | None = None) -> Record:
    return Record.of(record(verdict, wanted))


_NASTY = (
    "\x1b[2J\x1b[31m", "\x1b]0;title\x07", "\n", "\r", "\0", "\x7f", "\x9b1m", "\u202e", "\u2066", "\u2028",
    "\ufeff", "\udcff", "\ud800", "'", '"', "\\", "[bold red]", "[/]", ":skull:", "{x}", "%s", "\U000e0041",
    "é", "\t", "[link=http://x]", "\u200b",
)  # grouped by meaning  # fmt: skip
hostile = st.one_of(
    st.text(st.characters(), max_size=40),
    st.lists(st.sampled_from(_NASTY), min_size=1, max_size=12).map("".join),
    st.sampled_from(_NASTY).map(lambda piece: (piece * 4096)[:4096]),
    st.binary(max_size=60).map(lambda raw: raw.decode("utf-8", "surrogateescape")),
)


def hostile_record(name: str, verdict: Verdict = REFUSED) -> dict[str, object]:
    """A record in which everything that somebody else chooses is ``name``."""
    caller = Caller(4711, 4711, 1000, name, name, name, name, name, 1, name)
    device = Device(DevNum(8, 17), name, (ResourceId(name),), (name, name), attached_by=name)
    wanted = Intent(3, UseKind.MOUNT, caller, name, name, name, False, device.dev, device)
    lease = Lease(ResourceId(name), Mode.EX, Holder(name, name, name), 1, name)
    made = Verdict(
        verdict.effect, verdict.errno, verdict.source, name, name, name, 1, name, 1,
        (HeldLease(lease, Liveness.STRANDED),), name, {name: 5000},
    )  # grouped by meaning  # fmt: skip
    return build(Origin(name, name), wanted, made, at=AT)


def shows_only_printable(text: str) -> bool:
    return all(char.isprintable() or char == "\n" for char in text)
