# SPDX-License-Identifier: GPL-2.0-or-later
"""Verdicts: what is guarded needs the lease whatever the rules list, and whatever is not clear is refused."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from lab_node import A1, ME, OTHER, PART, SAN, SECOND, A, B, Node, disk, run

from enforcer.kernel import abi
from enforcer.kernel.abi import AskFlag, Op, State
from enforcer.model.clock import boot_ns
from enforcer.model.errors import StoreUnavailable
from enforcer.model.intent import Effect, Intent, Source, Verdict
from enforcer.model.resource import Device, DevNum, ResourceId, UseKind
from enforcer.policy.rules import Defaults, Implicit, Mask, Match, MultiAttached, Policy, Rule, RuleMode, Subject
from enforcer.policy.rules import RuleVerdict as Wants
from enforcer.storage import dmtable, sources
from enforcer.storage.companions import Companions
from enforcer.storage.dmtable import DmTable, DmTableError, DmTarget
from enforcer.workflow import judge as module
from enforcer.workflow import resolver
from enforcer.workflow.judge import Judge
from enforcer.workflow.resolver import Question

LOCAL = DevNum(8, 32)  # no rule speaks of it
BROKEN = DevNum(8, 48)
ONLY_SWAP = replace(SAN, on=frozenset({UseKind.SWAP}))
ONLY_OTHER = replace(SAN, match=replace(SAN.match, subject=Subject(comm=Mask("other"))))
FREE_FOR_PROG = Rule("free", SAN.on, RuleMode.OFF, replace(SAN.match, subject=Subject(comm=Mask("prog"))))


@dataclass
class Court:
    node: Node
    beside: Companions = field(default_factory=lambda: Companions(()))
    paths: dict[bytes, DevNum] = field(default_factory=dict)
    options: list[bytes] = field(default_factory=list)
    table: DmTable | DmTableError = field(default_factory=lambda: DmTable("vol", "", None, ()))
    deadline_s: float = 5.0

    def judge(self, question: Question) -> tuple[Intent, Verdict]:
        return run(self.judging(question))

    async def judging(self, question: Question) -> tuple[Intent, Verdict]:
        judge = self.real()
        deadline_ns = boot_ns() + int(self.deadline_s * 1e9)
        return await judge.judge(question, judge.intent_of(question), deadline_ns)

    def real(self) -> Judge:
        node = self.node
        return Judge(ME.node, lambda: node.policy, node.devices, node.leases, "fake", node.tables, node.sysfs)

    def rules(self, *rules: Rule, **defaults: Any) -> None:
        self.node.policy = Policy(rules=rules, defaults=Defaults(**defaults), generation=8)
        for dev in self.node.there:
            self.node.devices.classify(dev)

    def companions(self, _dev: DevNum, _fstype: str, options: bytes, **_more: object) -> Companions:
        self.options.append(options)
        return self.beside


def question(op: Op = Op.FILE_OPEN, dev: DevNum | None = SECOND, *, flags: int = 0, **more: Any) -> Question:
    empty: dict[str, Any] = dict.fromkeys(("arg", "cmd", "mount_ns"), 0)
    texts: Mapping[str, bytes] = {"comm": b"prog", "fstype": b"", "source": b"", "target": b""}
    return Question(
        **{
            **empty, **texts, "op": op, "intent": 5, "tid": 4194305, "tgid": 4194305, "uid": 0, "start_ns": 1,
            "asked_ns": boot_ns(), "dev": dev, "syscall_nr": 257, "flags": AskFlag(flags), **more,
        }
    )  # fmt: skip


def mount(dev: DevNum | None = SECOND, op: Op = Op.SB_MOUNT, **more: Any) -> Question:
    return question(op, dev, **{"fstype": b"ext4", "target": b"/srv", "syscall_nr": 165, **more})


@pytest.fixture
def court(node: Node, monkeypatch: pytest.MonkeyPatch) -> Court:
    court = Court(node)
    node.add(disk(LOCAL, "vda", ResourceId("local-1")))
    node.add(Device(BROKEN, "sdx", (), ("wwn-x",), problem="its paths disagree"))

    def read(_tid: int, _address: int) -> DmTable:
        if isinstance(court.table, DmTableError):
            raise court.table
        return court.table

    monkeypatch.setattr(resolver, "companions", court.companions)
    monkeypatch.setattr(sources, "resolve", lambda _tid, path: court.paths.get(path))
    monkeypatch.setattr(dmtable, "read_table", read)
    return court


def refuses(verdict: Verdict, number: int = errno.EBUSY) -> bool:
    return (verdict.effect, verdict.errno, verdict.token) == (Effect.REFUSE, number, 0)


# -- one device --------------------------------------------------------------------------------------------------


def test_a_permit_has_the_lease(court: Court) -> None:
    intent, verdict = court.judge(question())
    assert (verdict.effect, verdict.source, verdict.errno) == (Effect.PERMIT, Source.STORE, 0)
    assert verdict.token == court.node.store.ours()[B] and court.node.state(SECOND) is State.LIVE
    assert (verdict.rule, verdict.generation, verdict.store) == ("san", 7, "fake")
    assert set(verdict.stages_ns) == {"classify", "policy", "store"} and intent.device is not None
    assert court.node.store.facts == [{"comm": "prog", "kind": "write-open"}]


def test_what_no_rule_speaks_of_passes_without_the_store(court: Court) -> None:
    _, verdict = court.judge(question(dev=LOCAL))
    assert verdict.effect is Effect.PERMIT and court.node.store.calls == []


@pytest.mark.parametrize(
    "rules",
    [
        pytest.param((ONLY_SWAP,), id="this use is in no rule"),
        pytest.param((ONLY_OTHER,), id="who"),
        pytest.param((FREE_FOR_PROG, SAN), id="off for this caller"),
    ],
)  # fmt: skip
def test_a_pass_for_a_guarded_device_needs_the_lease(court: Court, rules: tuple[Rule, ...]) -> None:
    court.rules(*rules)
    _, verdict = court.judge(question())
    assert verdict.effect is Effect.PERMIT and verdict.token == court.node.store.ours()[B]
    court.node.store.records.clear()
    court.node.build()
    court.node.store.hold(B)
    _, verdict = court.judge(question())
    assert refuses(verdict) and verdict.blocking


def test_a_refusal_says_errno_holder_and_reason(court: Court) -> None:
    court.rules(replace(SAN, errno=errno.EACCES))
    court.node.store.hold(B)
    _, verdict = court.judge(question())
    assert refuses(verdict, errno.EACCES) and verdict.source is Source.STORE
    assert verdict.reason == "in use on node-2 since 2026-01-01T00:00:00Z" and verdict.rule == "san"
    assert [held.lease.holder for held in verdict.blocking] == [OTHER]


def test_a_refusal_in_the_words_of_the_rule(court: Court) -> None:
    court.rules(replace(SAN, message="{device} for {fstype} on {target}: {holder} has it since {since}, not {node}"))
    court.node.store.hold(B)
    _, verdict = court.judge(mount())
    assert verdict.reason == "sdb for ext4 on /srv: node-2 has it since 2026-01-01T00:00:00Z, not node-1"


def test_stranded_is_said_in_our_words(court: Court) -> None:
    court.rules(replace(SAN, message="ask {holder}"))
    court.node.store.hold(B)
    del court.node.store.present[OTHER.node]
    _, verdict = court.judge(question())
    assert refuses(verdict) and "stranded" in verdict.reason and "boot-9" in verdict.reason
    assert verdict.remedy == "enforcer fence confirm node-2 --boot-id boot-9"


def test_a_silent_store_is_said_in_our_words(court: Court) -> None:
    court.rules(replace(SAN, message="ask {holder}"))
    court.node.store.out_of_reach = True
    _, verdict = court.judge(question())
    assert refuses(verdict) and verdict.reason == "the lease store did not answer"


def test_an_error_of_the_store_is_a_refusal(court: Court, monkeypatch: pytest.MonkeyPatch) -> None:
    async def fail(*_: object, **__: object) -> None:
        raise StoreUnavailable("no", hint="look there")

    monkeypatch.setattr(court.node.leases, "acquire", fail)
    _, verdict = court.judge(question())
    assert refuses(verdict) and (verdict.reason, verdict.remedy) == ("no", "look there")


def test_audit_reports_and_lets_pass(court: Court) -> None:
    court.rules(replace(SAN, mode=RuleMode.AUDIT))
    court.node.store.hold(B)
    _, verdict = court.judge(question())
    assert (verdict.effect, verdict.errno) == (Effect.WOULD_REFUSE, errno.EBUSY)


def test_a_rule_that_denies_asks_no_store(court: Court) -> None:
    court.rules(replace(SAN, verdict=Wants.DENY, errno=errno.EPERM))
    _, verdict = court.judge(question())
    assert refuses(verdict, errno.EPERM) and verdict.source is Source.POLICY and court.node.store.calls == []


def test_a_system_device_is_never_refused(court: Court) -> None:
    court.node.add(disk(SECOND, "sdb", B, system="holds /usr"))
    court.node.store.hold(B)
    _, verdict = court.judge(question())
    assert (verdict.effect, verdict.source) == (Effect.PERMIT, Source.SYSTEM)


def test_a_device_with_a_problem_is_refused_by_name(court: Court) -> None:
    _, verdict = court.judge(question(dev=BROKEN))
    assert refuses(verdict) and "its paths disagree" in verdict.reason and court.node.store.calls == []


def test_what_changed_since_is_looked_at_anew(court: Court) -> None:
    """The number is another device by now; the table told of the old one."""
    court.node.there[LOCAL] = disk(LOCAL, "sdc", ResourceId("wwn-c"))
    _, verdict = court.judge(question(dev=LOCAL))
    assert set(court.node.store.ours()) == {ResourceId("wwn-c")} and verdict.effect is Effect.PERMIT


def test_a_holder_that_is_about_to_release_is_waited_for(court: Court, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "POLL_S", 0.02)
    court.rules(replace(SAN, wait_s=5.0))
    court.node.store.hold(B)

    async def scenario() -> Verdict:
        judging = asyncio.create_task(court.judging(question()))
        await asyncio.sleep(0.1)
        assert not judging.done()
        court.node.store.records.clear()
        return (await judging)[1]

    assert run(scenario()).effect is Effect.PERMIT


@pytest.mark.parametrize(("wait_s", "deadline_s"), [(0.1, 5), (60, 0.1), (0, 5)])
def test_waiting_ends(court: Court, monkeypatch: pytest.MonkeyPatch, wait_s: float, deadline_s: float) -> None:
    monkeypatch.setattr(module, "POLL_S", 0.02)
    court.rules(replace(SAN, wait_s=wait_s))
    court.deadline_s = deadline_s
    court.node.store.hold(B)
    began = boot_ns()
    assert refuses(court.judge(question())[1]) and boot_ns() - began < 1e9


# -- mounts and what they open besides ---------------------------------------------------------------------------


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
            court.node.tables.params[9] = abi.Params(used=abi.PARAMS + 1)  # type: ignore[index]
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
    court.node.tables.params[9] = slots  # type: ignore[index]
    court.judge(mount(op=Op.SB_ALLOC, arg=9))
    court.judge(mount(op=Op.SB_ALLOC, arg=10))
    assert court.options == [b"logdev=/dev/x", b"logdev=/dev/y,rtdev=/dev/z", b""]


def test_only_mounts_have_companions(court: Court) -> None:
    court.judge(question())
    assert court.options == []


# -- device-mapper tables ----------------------------------------------------------------------------------------


def over(*devs: object) -> DmTable:
    return DmTable("vol", "", None, tuple(DmTarget(0, 8, "linear", f"{dev} 0".encode()) for dev in devs))


TABLE = question(Op.FILE_IOCTL, None, syscall_nr=16, cmd=dmtable.DM_TABLE_LOAD)


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


@pytest.mark.parametrize("order", [(SECOND, LOCAL), (LOCAL, SECOND)])
def test_a_table_over_a_guarded_device_needs_its_lease(court: Court, order: tuple[DevNum, ...]) -> None:
    court.rules(ONLY_SWAP)
    court.table = over(*order)
    _, verdict = court.judge(TABLE)
    assert verdict.effect is Effect.PERMIT and B in court.node.store.ours()


# -- no verdict --------------------------------------------------------------------------------------------------


def intent(kind: UseKind = UseKind.WRITE_OPEN, dev: DevNum | None = SECOND) -> Intent:
    return Intent(5, kind, question().caller(), dev=dev)


@pytest.mark.parametrize(
    ("kind", "source", "number"),
    [
        (UseKind.MOUNT, Source.DEADLINE, errno.EAGAIN),
        (UseKind.WRITE_OPEN, Source.DEADLINE, errno.EBUSY),
        (UseKind.MOUNT, Source.POLICY, errno.EBUSY),
    ],
)
def test_without_an_answer_it_is_refused(court: Court, kind: UseKind, source: Source, number: int) -> None:
    assert refuses(court.real().without_answer(intent(kind), source, "late"), number)
    assert refuses(court.real().without_answer(intent(kind, None), source, "late"), number)


def test_in_audit_mode_want_of_an_answer_refuses_nothing(court: Court) -> None:
    court.rules(replace(SAN, mode=RuleMode.AUDIT), multi_attached=MultiAttached.AUDIT)
    for each in (intent(), intent(dev=None)):
        assert court.real().without_answer(each, Source.POLICY, "").effect is Effect.WOULD_REFUSE


def test_audit_of_one_device_is_not_audit_of_all(court: Court) -> None:
    court.rules(replace(SAN, mode=RuleMode.AUDIT, match=Match(device=("wwn-b*",))), replace(SAN, id="a"))
    judge = court.real()
    assert judge.without_answer(intent(), Source.POLICY, "").effect is Effect.WOULD_REFUSE
    assert judge.without_answer(intent(dev=PART), Source.POLICY, "").effect is Effect.REFUSE
    assert judge.without_answer(intent(dev=None), Source.POLICY, "").effect is Effect.REFUSE


def test_at_the_deadline_the_limit_is_said(court: Court) -> None:
    verdict = court.real().at_deadline(intent(UseKind.MOUNT))
    assert verdict.source is Source.DEADLINE and verdict.default == "on_deadline" and "20 s" in verdict.reason


def test_unknown_may_be_let_through_but_not_past_a_rule(court: Court) -> None:
    court.rules(SAN, unknown=Implicit.ALLOW)
    court.table = DmTableError("unreadable")
    assert court.judge(TABLE)[1].effect is Effect.PERMIT  # the guard judges each device that the kernel then opens
    assert refuses(court.judge(question(dev=BROKEN))[1])


def test_an_ask_is_copied_out_of_the_table() -> None:
    raw = abi.Ask(op=Op.SB_MOUNT, intent=3, tid=7, tgid=6, dev=SECOND.to_kernel(), flags=2 | 1 << 20)
    raw.fstype[:4] = list(b"ext4")
    copied = Question.of(raw)
    raw.fstype[:4] = list(b"XXXX")
    assert (copied.dev, copied.fstype, copied.flags) == (SECOND, b"ext4", AskFlag.READ_ONLY)
    with pytest.raises(ValueError, match="99"):
        Question.of(abi.Ask(op=99))


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
    monkeypatch.setattr(court.node.devices, "map_uuid", lambda _table: uuid)
    _, verdict = court.judge(TABLE)
    assert (verdict.carrier, verdict.effect is Effect.PERMIT, court.node.store.ours()) == (carrier, carrier, {})


@pytest.mark.parametrize(("whole", "carrier"), [(True, True), (False, False)])
def test_a_piece_of_a_multipath_map_is_no_use_of_it(
    court: Court, monkeypatch: pytest.MonkeyPatch, whole: bool, carrier: bool
) -> None:
    court.node.add(disk(DevNum(253, 0), "dm-0", B, below=(SECOND,), carrier=whole))
    court.table = over(DevNum(253, 0))
    court.node.store.hold(B)
    monkeypatch.setattr(court.node.devices, "map_uuid", lambda _table: "part1-mpath-3600")
    assert court.judge(TABLE)[1].carrier is carrier
