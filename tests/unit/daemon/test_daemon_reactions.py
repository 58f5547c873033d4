# SPDX-License-Identifier: GPL-2.0-or-later
"""Events of the kernel that nobody asks about: each intent gets one record, and leases hear of uses that ended."""

from __future__ import annotations

import asyncio
import errno
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from lab_node import OTHER, PART, SECOND, A, B, Node, disk, run

from enforcer.daemon import reactions as module
from enforcer.daemon.reactions import Reactions
from enforcer.kernel.abi import Alarm, EventFlag, EventKind, Op, State
from enforcer.kernel.events import KernelEvent
from enforcer.model.intent import Effect, Intent, Source, Verdict
from enforcer.model.resource import DevNum, UseKind

NOTHING = DevNum(0, 0)
LOCAL = DevNum(8, 32)


class Watched:
    """Reactions, and everything that comes of them."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.records: list[tuple[Intent, Verdict]] = []
        self.notices: list[tuple[str, str]] = []
        self.reactions = Reactions(
            node.devices,
            node.leases,
            lambda: node.policy,
            lambda intent, verdict: self.records.append((intent, verdict)),
            lambda kind, text: self.notices.append((kind, text)),
            "fake",
        )
        node.leases._wake.clear()

    def on(self, kind: EventKind, dev: DevNum = SECOND, **more: Any) -> None:
        event = {
            "at_ns": 1, "intent": 5, "tid": 8, "tgid": 7, "uid": 1000, "start_ns": 1, "mode": 0, "error": 0,
            "state": 0, "flags": EventFlag(0), "syscall_nr": 165, "mount_ns": 0, "comm": b"mo\x1bunt",
            "fstype": b"ext4",
        } | more  # grouped by meaning  # fmt: skip
        self.reactions.handle(KernelEvent(kind, dev=dev, **event))

    def only(self) -> tuple[Intent, Verdict]:
        (record,) = self.records
        return record

    @property
    def woken(self) -> bool:
        return self.node.leases._wake.is_set()


@pytest.fixture
def watched(node: Node) -> Watched:
    return Watched(node)


# -- the guard alone ---------------------------------------------------------------------------------------------


HOLD_OPEN = "hold /dev/sdb open for writing while it is taken: exec 9<>/dev/sdb; try again; exec 9>&-"


@pytest.mark.parametrize(
    ("state", "reason", "remedy"),
    [
        (State.UNKNOWN, "the device has not been classified yet", "try again"),
        (State.FREE, "no lease is held here", HOLD_OPEN),
        (State.LIVE, "the lease's deadline has passed", "systemctl status enforcer-keeper"),
        (State.CLOSING, "the lease is being given back", "try again"),
        (State.ELSEWHERE, "another node holds it", HOLD_OPEN),
        (State.UNGUARDED, "no live lease", "try again"),
        (77, "no live lease", "try again"),
    ],
)
def test_a_refusal_of_the_guard_has_one_record(watched: Watched, state: int, reason: str, remedy: str) -> None:
    watched.on(EventKind.GUARD_REFUSED, state=state, error=-errno.EACCES)
    intent, verdict = watched.only()
    assert (verdict.effect, verdict.errno, verdict.source) == (Effect.REFUSE, errno.EACCES, Source.GUARD)
    assert verdict.reason == reason and verdict.blocking == () and verdict.token == 0
    assert (verdict.rule, verdict.generation, verdict.store) == ("san", 7, "fake")
    assert verdict.remedy == remedy
    assert (intent.id, intent.kind, intent.dev, intent.source) == (5, UseKind.WRITE_OPEN, SECOND, "/dev/sdb")
    assert intent.device is not None and intent.device.resources == (B,)
    assert (intent.caller.pid, intent.caller.tid, intent.caller.uid) == (7, 8, 1000)
    assert intent.caller.comm == "mo\\x1bunt" and intent.caller.syscall == "mount"
    assert watched.reactions.counts["guard_refusals"] == 1


def _held_by_other(watched: Watched) -> None:
    watched.node.store.hold(B)
    watched.node.store.hold(A)  # of another LUN: not in the way
    run(watched.node.leases.refresh())


@pytest.mark.parametrize("state", [State.ELSEWHERE, State.FREE])
def test_a_refusal_of_the_guard_names_the_holder(watched: Watched, state: State) -> None:
    _held_by_other(watched)
    watched.on(EventKind.GUARD_REFUSED, state=state, error=-errno.EBUSY)
    _, verdict = watched.only()
    assert [(b.lease.holder.node, b.lease.resource) for b in verdict.blocking] == [("node-2", B)]
    assert verdict.reason == "in use on node-2 since 2026-01-01T00:00:00Z"
    assert verdict.remedy == f"end its use on node-2; then {HOLD_OPEN}"


def test_a_mount_that_the_guard_refuses_is_not_told_to_open_the_device(watched: Watched) -> None:
    _held_by_other(watched)
    watched.on(EventKind.GUARD_REFUSED, state=State.ELSEWHERE, error=-errno.EBUSY, flags=EventFlag.IN_MOUNT)
    assert watched.only()[1].remedy == "enforcer who"


def test_a_stranded_holder_is_named_with_the_command_to_type(watched: Watched) -> None:
    del watched.node.store.present["node-2"]
    _held_by_other(watched)
    watched.on(EventKind.GUARD_REFUSED, state=State.ELSEWHERE, error=-errno.EBUSY)
    _, verdict = watched.only()
    assert verdict.blocking and "stranded: node-2" in verdict.reason
    assert verdict.remedy == "enforcer fence confirm node-2 --boot-id boot-9"


def test_a_holder_that_is_proven_silent_is_in_nobodys_way(watched: Watched) -> None:
    watched.node.store.present["node-2"] = replace(OTHER, boot_id="boot-10")
    _held_by_other(watched)
    watched.on(EventKind.GUARD_REFUSED, state=State.ELSEWHERE, error=-errno.EBUSY)
    _, verdict = watched.only()
    assert verdict.blocking == () and verdict.remedy == HOLD_OPEN


def test_what_the_guard_would_have_refused(watched: Watched) -> None:
    watched.on(EventKind.GUARD_WOULD, state=State.FREE, error=-errno.EBUSY, flags=EventFlag.IN_MOUNT)
    intent, verdict = watched.only()
    assert verdict.effect is Effect.WOULD_REFUSE and intent.kind is UseKind.MOUNT
    assert (watched.reactions.counts["guard_would"], watched.reactions.counts["guard_refusals"]) == (1, 0)


def test_a_refusal_of_a_device_that_nobody_knows(watched: Watched) -> None:
    watched.on(EventKind.GUARD_REFUSED, DevNum(259, 3), error=-errno.EBUSY)
    intent, verdict = watched.only()
    assert intent.device is None and intent.dev == DevNum(259, 3) and (verdict.rule, verdict.remedy) == ("", "")


# -- nobody answered ---------------------------------------------------------------------------------------------


def test_a_refusal_for_want_of_an_answer(watched: Watched) -> None:
    watched.on(EventKind.NO_ANSWER, NOTHING, mode=Op.SB_MOUNT, error=-errno.EBUSY)
    watched.on(EventKind.MOUNT_DONE, NOTHING, error=-errno.EBUSY)
    intent, verdict = watched.only()
    assert (verdict.effect, verdict.errno, verdict.source) == (Effect.REFUSE, errno.EBUSY, Source.FAIL_MODE)
    assert (intent.kind, intent.dev, intent.fstype) == (UseKind.MOUNT, None, "ext4")
    assert watched.reactions.counts["unanswered"] == 1


@pytest.mark.parametrize(
    ("op", "syscall", "kind"),
    [
        (Op.SB_ALLOC, 431, UseKind.MOUNT),
        (Op.FILE_OPEN, 257, UseKind.WRITE_OPEN),
        (Op.FILE_OPEN, 167, UseKind.SWAP),
        (Op.FILE_IOCTL, 16, UseKind.DM_LOAD),
        (99, 165, UseKind.MOUNT),
    ],
)
def test_what_was_not_answered(watched: Watched, op: int, syscall: int, kind: UseKind) -> None:
    watched.on(EventKind.NO_ANSWER, mode=op, syscall_nr=syscall, error=-errno.EBUSY)
    assert watched.only()[0].kind is kind


def test_an_unanswered_ask_that_the_guard_refuses_is_one_record(watched: Watched) -> None:
    watched.on(EventKind.NO_ANSWER, NOTHING, mode=Op.SB_MOUNT)
    assert watched.records == []
    flags = EventFlag.FAIL_MODE | EventFlag.IN_MOUNT
    watched.on(EventKind.GUARD_REFUSED, state=State.FREE, error=-errno.EBUSY, flags=flags, fstype=b"")
    watched.on(EventKind.MOUNT_DONE, error=-errno.EBUSY)
    intent, verdict = watched.only()
    assert (verdict.effect, verdict.source) == (Effect.REFUSE, Source.FAIL_MODE)
    assert verdict.reason == "enforcerd did not answer and no lease is held here" and verdict.remedy == ""
    assert (intent.dev, intent.fstype) == (
        SECOND,
        "ext4",
    ) and intent.device is not None


def test_an_unanswered_ask_of_another_is_not_taken(watched: Watched) -> None:
    watched.on(EventKind.NO_ANSWER, NOTHING, mode=Op.SB_MOUNT, intent=4, fstype=b"xfs")
    watched.on(EventKind.GUARD_REFUSED, state=State.FREE, error=-errno.EBUSY)
    assert watched.only()[0].fstype == "ext4"
    watched.on(EventKind.MOUNT_DONE, LOCAL, intent=4)
    assert [intent.fstype for intent, _ in watched.records] == ["ext4", "xfs"]


def test_a_permit_by_the_fail_mode(watched: Watched) -> None:
    watched.on(EventKind.NO_ANSWER, NOTHING, mode=Op.SB_MOUNT)
    watched.on(EventKind.MOUNT_DONE, LOCAL)
    watched.on(EventKind.MOUNT_DONE, LOCAL)
    intent, verdict = watched.only()
    assert (verdict.effect, verdict.errno, verdict.source) == (Effect.PERMIT, 0, Source.FAIL_MODE)
    assert intent.dev == LOCAL and "not guarded" in verdict.reason


def test_asks_without_an_end_do_not_pile_up(watched: Watched) -> None:
    for number in range(1, 1100):
        watched.on(EventKind.NO_ANSWER, NOTHING, mode=Op.SB_MOUNT, intent=number)
    assert len(watched.reactions._unanswered) == 1024
    watched.on(EventKind.MOUNT_DONE, LOCAL, intent=1099)
    assert watched.only()[0].id == 1099  # the oldest go first


# -- mounts, umounts, devices, alarms ----------------------------------------------------------------------------


def test_a_mount_ends_its_permit(watched: Watched) -> None:
    async def scenario() -> None:
        await watched.node.take(watched.node.there[SECOND], 5)
        await watched.node.take(watched.node.there[PART], 6)
        watched.node.leases._wake.clear()
        watched.on(EventKind.MOUNT_DONE, error=-errno.EINVAL)
        assert watched.woken and watched.records == []
        await watched.node.leases.release_unused()
        assert B not in watched.node.store.ours() and len(watched.node.store.ours()) == 1

    run(scenario())


@pytest.mark.parametrize("kind", [EventKind.USE_END, EventKind.SB_GONE])
def test_the_end_of_a_use_wakes_whoever_gives_back(watched: Watched, kind: EventKind) -> None:
    watched.on(kind)
    assert watched.woken and watched.records == []


def test_a_use_that_begins_is_no_news(watched: Watched) -> None:
    watched.on(EventKind.USE_BEGIN)
    assert not watched.woken and watched.records == []


@pytest.mark.parametrize(("error", "records"), [(0, 1), (-errno.EBUSY, 0)])
def test_who_joins_a_live_superblock_has_a_record(watched: Watched, error: int, records: int) -> None:
    watched.on(EventKind.MOUNT_DONE, flags=EventFlag.JOINED, error=error)
    assert [(v.effect, v.source, i.dev) for i, v in watched.records] == [
        (Effect.PERMIT, Source.GUARD, SECOND)
    ] * records


def test_an_umount_has_a_record(watched: Watched) -> None:
    watched.on(EventKind.UMOUNT)
    intent, verdict = watched.only()
    assert (intent.kind, verdict.effect, verdict.errno) == (UseKind.UMOUNT, Effect.PERMIT, 0)


@pytest.mark.parametrize("alarm", [*Alarm, 99])
def test_alarms_are_counted_and_said(watched: Watched, alarm: int) -> None:
    watched.on(EventKind.ALARM, mode=alarm)
    watched.on(EventKind.ALARM, mode=alarm)
    assert watched.reactions.counts["alarms"] == 2
    ((kind, text), _) = watched.notices
    assert kind == "alarm" and (text == "unknown alarm") == (alarm == 99)


@pytest.mark.parametrize("kind", [EventKind.DEVICE_ADDED, EventKind.DEVICE_CHANGED])
@pytest.mark.parametrize("gone", [False, True])
def test_devices_that_come_are_classified(
    watched: Watched, monkeypatch: pytest.MonkeyPatch, kind: EventKind, gone: bool
) -> None:
    node = watched.node
    monkeypatch.setattr(module, "Path", lambda text: node.sysfs / str(text).lstrip("/"))

    async def scenario() -> None:
        node.there[LOCAL] = disk(LOCAL, "sdc")
        if not gone:
            Path(node.sysfs / f"sys/dev/block/{LOCAL}").mkdir()
        watched.on(kind, LOCAL)
        assert LOCAL not in node.devices.known  # not yet: sysfs is behind the event
        await asyncio.sleep(0.08)

    run(scenario())
    assert (LOCAL in node.devices.known) != gone
