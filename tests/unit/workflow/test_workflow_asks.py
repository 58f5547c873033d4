# SPDX-License-Identifier: GPL-2.0-or-later
"""Callers that wait: one record for each intent, one answer for each request, whatever signals come between."""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any

import pytest

from enforcer.kernel import abi
from enforcer.kernel.tables import start_ticks
from enforcer.model.clock import boot_ns
from enforcer.model.intent import Caller, Effect, Intent, Source, Verdict
from enforcer.policy.rules import Defaults, Policy
from enforcer.workflow import asks as module
from enforcer.workflow import callers
from enforcer.workflow.asks import Asks
from enforcer.workflow.judge import Judge
from enforcer.workflow.resolver import Question

TID = os.getpid()
PERMIT = Verdict(Effect.PERMIT, 0, Source.STORE, "the lease is held here")
REFUSE = Verdict(Effect.REFUSE, errno.EBUSY, Source.STORE, "in use on node-2")


@dataclass
class Kernel:
    """The asks table, a judge whose verdict the test gives, and everything that comes out."""

    table: dict[int, abi.Ask] = field(default_factory=dict)
    verdict: asyncio.Future[Verdict] = field(default_factory=asyncio.Future)
    judged: int = 0
    answers: list[tuple[int, abi.Reply]] = field(default_factory=list)
    short: list[int] = field(default_factory=list)
    done: list[tuple[int, Verdict]] = field(default_factory=list)
    dropped: list[int] = field(default_factory=list)
    deadline_s: float = 20.0

    def __post_init__(self) -> None:
        tables: Any = self
        judge: Any = self
        self.asks_ = Asks(
            tables,
            judge,
            lambda: Policy(defaults=Defaults(deadline_s=self.deadline_s), generation=4),
            self.answer,
            lambda tid: ("noticed", tid),
            lambda intent, verdict, _began, _extra: self.done.append((intent.id, verdict)),
            self.dropped.append,
        )

    @property
    def asks(self) -> dict[int, abi.Ask]:
        return self.table

    def intent_of(self, question: Question) -> Intent:
        caller = Caller(pid=question.tgid, tid=question.tid, uid=0, comm="mount")
        return Intent(question.intent, callers.use_kind(question.op, question.syscall_nr), caller)

    async def judge(self, question: Question, intent: Intent, _deadline_ns: int) -> tuple[Intent, Verdict]:
        self.judged += 1
        return intent, await asyncio.shield(self.verdict)

    def at_deadline(self, intent: Intent) -> Verdict:
        return self.real.at_deadline(intent)

    def without_answer(self, intent: Intent, source: Source, reason: str) -> Verdict:
        return self.real.without_answer(intent, source, reason)

    @property
    def real(self) -> Judge:
        """The judge's own answers for when there is no verdict; they need no device."""
        nothing: Any = SimpleNamespace(known={})
        return Judge(
            "node-1",
            lambda: Policy(defaults=Defaults(deadline_s=self.deadline_s)),
            nothing,
            nothing,
            "etcd",
            nothing,
            nothing,
        )

    def answer(self, unique: int, value: bytes) -> None:
        if value:
            self.answers.append((unique, abi.Reply.from_buffer_copy(value)))
        else:
            self.short.append(unique)

    def ask(self, unique: int, *, intent: int = 1, nonce: int = 100, op: abi.Op = abi.Op.SB_MOUNT, **more: int) -> None:
        self.table[TID] = abi.Ask(
            nonce=nonce, intent=intent, asked_ns=boot_ns(), start_ns=5, op=op, tid=TID, tgid=TID, syscall_nr=165, **more
        )
        self.asks_.asked(TID, unique)

    def says(self, verdict: Verdict) -> None:
        self.verdict.set_result(verdict)


Scenario = Callable[[Kernel], Coroutine[Any, Any, None]]


def play(scenario: Scenario, **more: float) -> Kernel:
    async def whole() -> Kernel:
        kernel = Kernel(**more)
        try:
            await asyncio.wait_for(scenario(kernel), 20)
        finally:
            await kernel.asks_.close()
        return kernel

    return asyncio.run(whole())


async def turn(times: int = 5) -> None:
    for _ in range(times):
        await asyncio.sleep(0)


def test_one_ask_one_answer_one_record() -> None:
    async def scenario(kernel: Kernel) -> None:
        kernel.ask(11, nonce=77, intent=3)
        await turn()
        assert kernel.asks_.waiting() == 1 and not kernel.answers
        kernel.says(PERMIT)
        await turn()

    kernel = play(scenario)
    ((unique, reply),) = kernel.answers
    assert (unique, reply.nonce, reply.intent, reply.verdict) == (11, 77, 3, 0)
    assert kernel.done == [(3, PERMIT)] and kernel.asks_.waiting() == 0
    assert kernel.asks_.counts == {"asks": 1, "joined": 0, "permits": 1, "refusals": 0, "would_refuse": 0}


def test_a_permit_that_a_later_gate_judges_again_has_no_record() -> None:
    async def scenario(kernel: Kernel) -> None:
        kernel.ask(11, intent=3)
        kernel.says(replace(PERMIT, final=False))
        await turn()

    kernel = play(scenario)
    assert [reply.verdict for _, reply in kernel.answers] == [0] and kernel.done == []


@pytest.mark.parametrize(("verdict", "word"), [(REFUSE, -errno.EBUSY), (PERMIT, 0)])
def test_a_refusal_is_a_negative_errno(verdict: Verdict, word: int) -> None:
    async def scenario(kernel: Kernel) -> None:
        kernel.says(verdict)
        kernel.ask(1)
        await turn(10)

    assert [reply.verdict for _, reply in play(scenario).answers] == [word]


def test_a_would_refuse_lets_pass() -> None:
    async def scenario(kernel: Kernel) -> None:
        kernel.says(Verdict(Effect.WOULD_REFUSE, errno.EBUSY, Source.STORE, "in use on node-2"))
        kernel.ask(1)
        await turn(10)

    assert [reply.verdict for _, reply in play(scenario).answers] == [0]


def test_a_restarted_call_joins_what_is_pending() -> None:
    async def scenario(kernel: Kernel) -> None:
        kernel.ask(1, nonce=100, intent=3)
        await turn()
        kernel.asks_.interrupted(1)
        assert kernel.asks_.waiting() == 0
        await asyncio.sleep(0.15)
        kernel.ask(2, nonce=200, intent=4)  # the kernel has made a new ask, with a new number
        assert kernel.asks_.waiting() == 1
        kernel.says(PERMIT)
        await turn()

    kernel = play(scenario)
    ((unique, reply),) = kernel.answers
    assert (unique, reply.nonce, reply.intent) == (2, 200, 3)  # the answer tells which intent it belongs to
    assert kernel.judged == 1 and kernel.asks_.counts["joined"] == 1
    assert kernel.done == [(3, PERMIT)] and not kernel.dropped


def test_a_restarted_call_picks_up_what_was_decided_meanwhile() -> None:
    async def scenario(kernel: Kernel) -> None:
        kernel.ask(1, intent=3)
        await turn()
        kernel.asks_.interrupted(1)
        kernel.says(REFUSE)
        await turn()
        assert not kernel.answers and not kernel.done  # nobody waits: nothing is answered, nothing recorded yet
        kernel.ask(2, intent=4)

    kernel = play(scenario)
    assert [(unique, reply.verdict) for unique, reply in kernel.answers] == [(2, -errno.EBUSY)]
    assert kernel.done == [(3, REFUSE)] and kernel.judged == 1


def test_a_hundred_interrupts_are_one_ask() -> None:
    async def scenario(kernel: Kernel) -> None:
        for unique in range(100):
            kernel.ask(unique, intent=unique + 1, nonce=unique)
            await turn()
            kernel.asks_.interrupted(unique)
        kernel.ask(100, nonce=100)
        kernel.says(PERMIT)
        await turn()

    kernel = play(scenario)
    assert [unique for unique, _ in kernel.answers] == [100]
    assert kernel.judged == 1 and kernel.done == [(1, PERMIT)]


def test_another_question_is_another_ask() -> None:
    async def scenario(kernel: Kernel) -> None:
        kernel.ask(1, intent=3)
        await turn()
        kernel.asks_.interrupted(1)
        kernel.ask(2, intent=4, op=abi.Op.FILE_OPEN, dev=8 << 20)
        kernel.says(PERMIT)
        await turn()

    kernel = play(scenario)
    assert kernel.judged == 2
    assert [(unique, reply.intent) for unique, reply in kernel.answers] == [(2, 4)]


def test_a_caller_that_runs_on_has_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ABANDONED_S", 0.15)

    async def scenario(kernel: Kernel) -> None:
        kernel.ask(1, intent=3)
        await turn()
        kernel.asks_.interrupted(1)
        await asyncio.sleep(0.5)
        kernel.says(PERMIT)
        await turn()

    kernel = play(scenario)
    assert kernel.dropped == [3] and not kernel.answers
    ((number, verdict),) = kernel.done
    assert number == 3 and (verdict.effect, verdict.source) == (Effect.REFUSE, Source.CALLER_GONE)


def test_a_stopped_caller_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ABANDONED_S", 0.1)
    monkeypatch.setattr(module, "_stopped", lambda _tid: True)

    async def scenario(kernel: Kernel) -> None:
        kernel.ask(1, intent=3)
        await turn()
        kernel.asks_.interrupted(1)
        await asyncio.sleep(0.4)
        assert not kernel.dropped
        kernel.ask(2)
        kernel.says(PERMIT)
        await turn()

    assert [unique for unique, _ in play(scenario).answers] == [2]


def test_a_caller_that_goes_on_has_time_to_come_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """However long it was stopped: on a busy machine it may take a while from SIGCONT to the next instruction."""
    stopped = True
    monkeypatch.setattr(module, "ABANDONED_S", 0.4)
    monkeypatch.setattr(module, "_stopped", lambda _tid: stopped)

    async def scenario(kernel: Kernel) -> None:
        nonlocal stopped
        kernel.ask(1, intent=3)
        await turn()
        kernel.asks_.interrupted(1)
        await asyncio.sleep(0.6)
        stopped = False
        await asyncio.sleep(0.2)
        assert not kernel.dropped
        kernel.ask(2)
        kernel.says(PERMIT)
        await turn()

    kernel = play(scenario)
    assert [unique for unique, _ in kernel.answers] == [2] and len(kernel.done) == 1


def test_a_dead_caller_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(kernel: Kernel) -> None:
        kernel.ask(1, intent=3)
        await turn()
        monkeypatch.setattr(callers, "alive", lambda _tid, _began: False)
        kernel.asks_.interrupted(1)
        await asyncio.sleep(0.3)

    kernel = play(scenario)
    assert kernel.dropped == [3]
    assert [verdict.source for _, verdict in kernel.done] == [Source.CALLER_GONE]


@pytest.mark.parametrize(("op", "number"), [(abi.Op.SB_MOUNT, errno.EAGAIN), (abi.Op.FILE_OPEN, errno.EBUSY)])
def test_at_the_deadline_everybody_is_answered(op: abi.Op, number: int) -> None:
    async def scenario(kernel: Kernel) -> None:
        kernel.ask(1, op=op)
        await asyncio.sleep(0.3)

    kernel = play(scenario, deadline_s=0.1)
    assert [reply.verdict for _, reply in kernel.answers] == [-number]
    assert [verdict.source for _, verdict in kernel.done] == [Source.DEADLINE]


def test_an_error_of_ours_is_a_refusal_and_a_record() -> None:
    async def scenario(kernel: Kernel) -> None:
        kernel.verdict.set_exception(RuntimeError("a mistake"))
        kernel.ask(1)
        await turn(10)

    kernel = play(scenario)
    assert [reply.verdict for _, reply in kernel.answers] == [-errno.EBUSY] and len(kernel.done) == 1


def test_who_asks_without_an_ask_gets_no_verdict() -> None:
    async def scenario(kernel: Kernel) -> None:
        kernel.asks_.asked(TID, 1)
        kernel.table[TID] = abi.Ask(op=99, tid=TID)
        kernel.asks_.asked(TID, 2)

    kernel = play(scenario)
    assert kernel.short == [1, 2] and not kernel.answers and not kernel.done


def test_an_interrupt_of_what_is_not_known_is_nothing() -> None:
    async def scenario(kernel: Kernel) -> None:
        kernel.asks_.interrupted(9)
        await turn()

    assert not play(scenario).done


def test_began_tells_a_reused_thread_apart() -> None:
    assert callers.alive(TID, start_ticks(TID)) and not callers.alive(TID, start_ticks(TID) + 1)
