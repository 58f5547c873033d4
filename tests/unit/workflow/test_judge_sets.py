# SPDX-License-Identifier: GPL-2.0-or-later
"""One use, several devices: sources, companions and tables are resolved first, and the strictest decides."""

from __future__ import annotations

import errno
import threading
from collections.abc import Callable
from dataclasses import replace

import pytest
from lab_court import BROKEN, LOCAL, ONLY_SWAP, TABLE, Court, mount, question, refuses
from lab_node import A1, PART, SAN, SECOND, A, B, disk, run

from enforcer.kernel import abi
from enforcer.kernel.abi import AskFlag, Op
from enforcer.model.clock import boot_ns
from enforcer.model.intent import Effect
from enforcer.model.resource import DevNum, ResourceId, UseKind
from enforcer.policy.rules import Match, Rule, RuleMode
from enforcer.policy.rules import RuleVerdict as Wants
from enforcer.storage import dmtable
from enforcer.storage.companions import Companions
from enforcer.storage.dmtable import DmTable, DmTableError, DmTarget
from enforcer.workflow import resolver


def test_the_source_is_what_it_means_to_the_caller(court: Court) -> None:
    court.paths[b"/dev/disk"] = SECOND
    intent, verdict = court.judge(mount(None, source=b"/dev/disk"))
    assert intent.dev == SECOND and verdict.token == court.node.store.ours()[B]


@pytest.mark.parametrize("flags", [AskFlag.REQUIRES_DEV, AskFlag.REQUIRES_DEV | AskFlag.SOURCE_CUT])
def test_a_source_that_cannot_be_resolved_is_refused(court: Court, flags: AskFlag) -> None:
    court.paths = {b"/dev/cut": SECOND} if AskFlag.SOURCE_CUT in flags else {}
    _, verdict = court.judge(mount(None, source=b"/dev/cut", flags=flags))
    assert refuses(verdict) and "could not be resolved" in verdict.reason and court.node.store.calls == []


def test_all_of_a_set_in_one_question(court: Court) -> None:
    court.beside = Companions((PART,))
    intent, verdict = court.judge(mount())
    assert court.node.store.calls == ["acquire"] and set(court.node.store.ours()) == {A1, B}
    assert verdict.effect is Effect.PERMIT and intent.device is not None
    assert (intent.device.name, intent.device.dev) == ("sdb, sda1", SECOND)


def test_one_of_a_set_that_is_elsewhere_refuses_the_set(court: Court) -> None:
    court.beside = Companions((PART,))
    court.node.store.hold(A)
    assert refuses(court.judge(mount())[1]) and court.node.store.ours() == {}


def test_a_guarded_companion_of_a_free_device(court: Court) -> None:
    court.beside = Companions((PART,))
    intent, verdict = court.judge(mount(LOCAL))
    assert set(court.node.store.ours()) == {A1}  # what no rule speaks of is not taken
    assert verdict.token and intent.dev == LOCAL


def test_the_strictest_rule_decides(court: Court) -> None:
    hard = Rule(
        "hard", frozenset({UseKind.MOUNT}), match=Match(device=("wwn-a*",)), verdict=Wants.DENY, errno=errno.EPERM
    )
    court.rules(hard, replace(SAN, mode=RuleMode.AUDIT))
    court.beside = Companions((PART,))
    _, verdict = court.judge(mount())
    assert refuses(verdict, errno.EPERM) and verdict.rule == "hard"
    court.beside = Companions((SECOND,))
    _, verdict = court.judge(mount(PART))  # whichever of them is named
    assert refuses(verdict, errno.EPERM) and verdict.rule == "hard"


def test_a_companion_in_audit_does_not_soften(court: Court) -> None:
    soft = Rule("soft", frozenset({UseKind.MOUNT}), RuleMode.AUDIT, Match(device=("wwn-a*",)))
    court.rules(soft, SAN)
    court.beside = Companions((PART,))
    court.node.store.hold(A)
    assert refuses(court.judge(mount())[1])


def test_a_companion_that_is_seen_elsewhere_counts(court: Court) -> None:
    court.rules()
    court.node.devices.set_seen_by({"wwn-a": frozenset({"node-2"})})
    court.beside = Companions((PART,))
    _, verdict = court.judge(mount())
    assert refuses(verdict) and verdict.default == "multi_attached" and "node-2" in verdict.reason


@pytest.mark.parametrize("rule", [SAN, ONLY_SWAP])
@pytest.mark.parametrize("what", ["a companion's problem", "a set that is not known", "options cut", "too many"])
def test_what_of_a_set_cannot_be_resolved_refuses_it(court: Court, rule: Rule, what: str) -> None:
    court.rules(rule)
    ask = mount()
    match what:
        case "a companion's problem":
            court.beside = Companions((BROKEN,))
        case "a set that is not known":
            court.beside = Companions((PART,), "the journal could not be found")
        case "options cut":
            ask = mount(flags=AskFlag.OPTIONS_CUT)
        case _:
            court.node.tables.params[9] = abi.Params(used=abi.PARAMS + 1)
            ask = mount(op=Op.SB_ALLOC, arg=9)
    _, verdict = court.judge(ask)
    assert refuses(verdict) and court.node.store.calls == []


def test_why_a_set_is_refused_is_said(court: Court) -> None:
    assert "too long" in court.judge(mount(flags=AskFlag.OPTIONS_CUT))[1].reason
    court.beside = Companions((BROKEN,))
    reason = court.judge(mount())[1].reason
    assert "its paths disagree" in reason


def test_options_are_those_of_the_call(court: Court) -> None:
    court.judge(mount(options=b"logdev=/dev/x"))
    slots = abi.Params(used=2)
    for slot, (key, value) in zip(slots.slots, ((b"logdev", b"/dev/y"), (b"rtdev", b"/dev/z")), strict=False):
        slot.key[: len(key)], slot.value[: len(value)] = list(key), list(value)
    court.node.tables.params[9] = slots
    court.judge(mount(op=Op.SB_ALLOC, arg=9))
    court.judge(mount(op=Op.SB_ALLOC, arg=10))
    assert court.options == [b"logdev=/dev/x", b"logdev=/dev/y,rtdev=/dev/z", b""]


def test_only_mounts_have_companions(court: Court) -> None:
    court.judge(question())
    assert court.options == []


def over(*devs: object) -> DmTable:
    return DmTable("vol", "", None, tuple(DmTarget(0, 8, "linear", f"{dev} 0".encode()) for dev in devs))


def test_a_table_takes_what_it_stands_on(court: Court) -> None:
    court.table = over(PART, SECOND)
    intent, verdict = court.judge(TABLE)
    assert verdict.effect is Effect.PERMIT and set(court.node.store.ours()) == {A1, B}
    assert (intent.kind, intent.fstype, intent.source) == (UseKind.DM_LOAD, "linear", "sda1, sdb")


def test_a_table_that_cannot_be_read_is_refused(court: Court) -> None:
    court.table = DmTableError("the table ends in memory that is not there")
    _, verdict = court.judge(TABLE)
    assert refuses(verdict) and "not there" in verdict.reason and verdict.default == "unknown"


@pytest.mark.parametrize("lower", ["253:99", "8:48", "/dev/nowhere"])
def test_a_table_over_what_is_not_known_is_refused(court: Court, lower: str) -> None:
    court.table = over(SECOND, lower)
    assert refuses(court.judge(TABLE)[1]) and court.node.store.calls == []


def test_the_guards_table_is_written_by_the_loop_alone(court: Court, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another thread could write LIVE over a CLOSING that is newer than what it has read."""
    new, unguarded, writers = DevNum(8, 80), DevNum(253, 7), list[threading.Thread]()
    guard = court.node.tables.guard

    def heard(real: Callable[..., object]) -> Callable[..., object]:
        return lambda *words: (writers.append(threading.current_thread()), real(*words))[1]

    court.node.add(disk(unguarded, "dm-7", ResourceId("local-2"), size_bytes=1 << 20))
    court.node.map_of_table = unguarded
    for name in ("put", "delete"):
        monkeypatch.setattr(guard, name, heard(getattr(guard, name)))
    court.node.there[new] = disk(new, "sdd", ResourceId("wwn-d"))
    court.table = over(new)
    assert court.judge(TABLE)[1].effect is Effect.PERMIT
    assert court.node.entry(unguarded) is None and len(writers) > 1
    assert set(writers) == {threading.current_thread()}


def test_a_disk_whose_superblock_cannot_be_read_in_time_is_refused_and_keeps_few_threads(
    court: Court, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, answers = list[object](), threading.Event()

    def hang(dev: object, *_: object, **__: object) -> Companions:
        begun.append(dev)
        answers.wait(20)
        return Companions(())

    monkeypatch.setattr(resolver, "companions", hang)
    monkeypatch.setattr(resolver, "READ_S", 0.02)

    async def scenario() -> None:
        try:
            judge = court.real()
            for _ in range(6):
                _, verdict = await judge.judge(mount(), judge.intent_of(mount()), boot_ns() + 5_000_000_000)
                assert refuses(verdict) and "sdb did not answer within 0.02 s" in verdict.reason
            assert begun == [SECOND] * 4
        finally:
            answers.set()

    run(scenario())


@pytest.mark.parametrize("order", [(SECOND, LOCAL), (LOCAL, SECOND)])
def test_a_table_over_a_guarded_device_needs_its_lease(court: Court, order: tuple[DevNum, ...]) -> None:
    court.rules(ONLY_SWAP)
    court.table = over(*order)
    _, verdict = court.judge(TABLE)
    assert verdict.effect is Effect.PERMIT and B in court.node.store.ours()


def mpath(*devs: object) -> DmTable:
    params = " ".join(["0 0 1 1 round-robin 0", str(len(devs)), "1", *(f"{dev} 1000" for dev in devs)])
    return DmTable("mpatha", "", None, (DmTarget(0, 8, "multipath", params.encode()),))


@pytest.mark.parametrize(("uuid", "carrier"), [("mpath-3600", True), ("CRYPT-x", False), ("", False)])
def test_a_multipath_map_takes_its_paths_without_a_lease(
    court: Court, monkeypatch: pytest.MonkeyPatch, uuid: str, carrier: bool
) -> None:
    """On every node, whoever uses the LUN. A map that is none of multipathd's is a use like any other."""
    court.table = mpath(SECOND)
    court.node.store.hold(B)
    monkeypatch.setattr(dmtable, "uuid_of", lambda _table, *, scratch: uuid)
    _, verdict = court.judge(TABLE)
    assert (verdict.carrier, verdict.effect is Effect.PERMIT, court.node.store.ours()) == (carrier, carrier, {})


@pytest.mark.parametrize(("whole", "carrier"), [(True, True), (False, False)])
def test_a_piece_of_a_multipath_map_is_no_use_of_it(
    court: Court, monkeypatch: pytest.MonkeyPatch, whole: bool, carrier: bool
) -> None:
    court.node.add(disk(DevNum(253, 0), "dm-0", B, below=(SECOND,), carrier=whole))
    court.table = over(DevNum(253, 0))
    court.node.store.hold(B)
    monkeypatch.setattr(dmtable, "uuid_of", lambda _table, *, scratch: "part1-mpath-3600")
    assert court.judge(TABLE)[1].carrier is carrier
