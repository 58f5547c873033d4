# SPDX-License-Identifier: GPL-2.0-or-later
"""Verdicts: what is guarded needs the lease whatever the rules list, and whatever is not clear is refused."""

from __future__ import annotations

import asyncio
import errno
from dataclasses import replace

import pytest
from lab_court import BROKEN, LOCAL, ONLY_SWAP, TABLE, Court, mount, question, refuses
from lab_node import OTHER, PART, SAN, SECOND, B, disk, run

from enforcer.kernel import abi
from enforcer.kernel.abi import AskFlag, Op, State
from enforcer.model.clock import boot_ns
from enforcer.model.errors import StoreUnavailable
from enforcer.model.intent import Effect, Intent, Source, Verdict
from enforcer.model.resource import DevNum, ResourceId, UseKind
from enforcer.policy.rules import Implicit, Mask, Match, MultiAttached, Rule, RuleMode, Subject
from enforcer.policy.rules import RuleVerdict as Wants
from enforcer.storage.dmtable import DmTableError
from enforcer.storage.vetoes.marks import Mark
from enforcer.workflow import judge as module
from enforcer.workflow.resolver import Question

ONLY_OTHER = replace(SAN, match=replace(SAN.match, subject=Subject(comm=Mask("other"))))
FREE_FOR_PROG = Rule("free", SAN.on, RuleMode.OFF, replace(SAN.match, subject=Subject(comm=Mask("prog"))))


def test_a_permit_has_the_lease(court: Court) -> None:
    intent, verdict = court.judge(question())
    assert (verdict.effect, verdict.source, verdict.errno) == (Effect.PERMIT, Source.STORE, 0)
    assert verdict.token == court.node.store.ours()[B] and court.node.state(SECOND) is State.LIVE
    assert (verdict.rule, verdict.generation, verdict.store) == ("san", 7, "fake")
    assert set(verdict.stages_ns) == {"classify", "policy", "store"} and intent.device is not None
    assert court.node.store.facts == [{"comm": "prog", "kind": "write-open"}]


def test_a_mark_on_the_disk_is_named_as_the_source(court: Court) -> None:
    court.node.marks[SECOND] = [(Mark("ext4-mmp", "", "node-2", "its MMP block: mounted on node-2", remedy="umount"),)]
    court.rules(replace(SAN, wait_s=5.0))
    _, verdict = court.judge(question())
    assert refuses(verdict) and (verdict.source, verdict.veto, verdict.remedy) == (Source.VETO, "ext4-mmp", "umount")
    assert "node-2" in verdict.reason and verdict.blocking == () and court.node.looked == [SECOND]  # no wait for it
    court.rules(replace(SAN, mode=RuleMode.AUDIT))
    assert court.judge(question())[1].effect is Effect.WOULD_REFUSE


def test_what_two_nodes_use_is_refused_although_the_lease_is_here(court: Court) -> None:
    assert court.judge(question())[1].effect is Effect.PERMIT
    court.node.devices.set_double({B: "in use on two nodes: sdz is mounted on node-2"})
    _, verdict = court.judge(question())
    assert refuses(verdict) and verdict.reason.startswith("in use on two nodes") and "enforcer who" in verdict.remedy
    court.rules(replace(SAN, mode=RuleMode.AUDIT))
    assert court.judge(question())[1].effect is Effect.WOULD_REFUSE


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
)  # grouped by meaning  # fmt: skip
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


@pytest.mark.parametrize(
    ("asked", "final"),
    [
        (mount(None, source=b"/dev/none"), False),
        (mount(None, op=Op.SB_ALLOC), True),
        (mount(LOCAL), True),
        (mount(), True),
    ],
)
def test_a_permit_without_a_device_is_not_the_last_word(court: Court, asked: Question, final: bool) -> None:
    assert court.judge(replace(asked, asked_ns=boot_ns()))[1].final is final


def test_what_a_rule_says_of_a_type_without_a_device_is_the_last_word(court: Court) -> None:
    court.rules(Rule("off", SAN.on, RuleMode.OFF, Match(fstype=("9p",))))
    _, verdict = court.judge(mount(None, fstype=b"9p"))
    assert (verdict.effect, verdict.rule, verdict.final) == (Effect.PERMIT, "off", True)
