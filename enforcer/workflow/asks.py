# SPDX-License-Identifier: GPL-2.0-or-later
"""Gates that wait: one pending intent per caller, however often its system call is restarted.

A signal ends the FUSE request at once, but not the ask: if the caller comes back with the same question (a handler
with SA_RESTART, a stop and continue, the freezer), it joins what is pending or picks up what was decided meanwhile.
If it does not come back, the ask is dropped and recorded as such. At the deadline every waiter gets the configured
answer, whatever the work behind it is doing.
"""

from __future__ import annotations

import asyncio
import errno
import logging
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from dataclasses import dataclass, replace

from enforcer.kernel import abi
from enforcer.kernel.tables import Tables, start_ticks
from enforcer.model.clock import boot_ns
from enforcer.model.intent import Effect, Intent, Source, Verdict
from enforcer.model.resource import DevNum
from enforcer.policy.rules import Policy
from enforcer.workflow import callers
from enforcer.workflow.judge import Judge
from enforcer.workflow.resolver import Question

log = logging.getLogger(__name__)
ABANDONED_S = 3.0  # a caller that runs on after a signal and does not come back within this has given up
TELL_S = 0.25  # how long a refused caller is kept so that it can be told why
STALE_NS = 5_000_000_000  # a verdict that waited longer for its caller is reached anew
KEPT_NS = 60_000_000_000  # how long a verdict waits for a caller that is stopped or frozen


@dataclass(slots=True)
class _Pending:
    question: Question
    intent: Intent
    began: int  # start of the caller in ticks: tells a reused TID apart
    extra: object  # what the recorder wanted to begin while the caller waits
    unique: int | None  # the FUSE request that waits, None while the caller handles a signal
    nonce: int
    verdict: Verdict | None = None
    verdict_ns: int = 0
    recorded: bool = False
    left_ns: int = 0


class Asks:
    """All pending asks. ``answer(unique, value)`` sends a verdict; ``noticed(tid)`` may begin work for the record while
    the caller surely waits, and ``done(intent, verdict, began, extra)`` records the outcome with what it returned; it
    may give back a future, while which the caller is told.
    ``dropped(intent)`` tells of a caller that gave up."""

    def __init__(
        self,
        tables: Tables,
        judge: Judge,
        policy: Callable[[], Policy],
        answer: Callable[[int, bytes], None],
        noticed: Callable[[int], object],
        done: Callable[[Intent, Verdict, int, object], Future[bool] | None],
        dropped: Callable[[int], None],
    ) -> None:
        self._tables, self._judge, self._policy = tables, judge, policy
        self._answer, self._noticed, self._done, self._dropped = answer, noticed, done, dropped
        self._pending: dict[tuple[object, ...], _Pending] = {}
        self._by_unique: dict[int, _Pending] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self.counts = {"asks": 0, "joined": 0, "permits": 0, "refusals": 0, "would_refuse": 0}

    def asked(self, tid: int, unique: int) -> None:
        """A gate of thread ``tid`` waits for an answer to FUSE request ``unique``."""
        raw = self._tables.asks.get(tid)
        if raw is None:
            log.error("somebody read the anchor's attribute without an ask (tid %d)", tid)
            self._answer(unique, b"")  # too short to be a verdict: no answer
            return
        try:
            question = Question.of(raw)
        except ValueError:
            self._answer(unique, b"")
            return
        pending = self._pending.get(question.key)
        if pending is not None:
            self.counts["joined"] += 1
            pending.unique, pending.nonce, pending.left_ns = unique, raw.nonce, 0
            self._by_unique[unique] = pending
            if pending.verdict is not None and boot_ns() - pending.verdict_ns > STALE_NS:
                pending.verdict = None  # a permit does not keep; it is still the same ask and the same record
                pending.question = question  # with a deadline of its own
                self._start(self._work(pending))
            elif pending.verdict is not None:
                self._start(self._reply(pending))
            return
        self.counts["asks"] += 1
        try:
            began = start_ticks(tid)
        except (OSError, ValueError):
            began = 0
        pending = _Pending(question, self._judge.intent_of(question), began, self._noticed(tid), unique, raw.nonce)
        self._pending[question.key] = pending
        self._by_unique[unique] = pending
        self._start(self._work(pending))

    def interrupted(self, unique: int) -> None:
        """The caller has a signal to handle; its request is answered, its ask is kept."""
        pending = self._by_unique.pop(unique, None)
        if pending is None:
            return
        pending.unique, pending.left_ns = None, boot_ns()
        self._start(self._watch_left(pending, pending.left_ns))

    def pending_on(self, dev: DevNum) -> int:
        """How many callers wait for a verdict about a device: files that are counted, but not open yet."""
        return sum(1 for pending in self._pending.values() if pending.question.dev == dev)

    def waiting(self) -> int:
        """How many callers wait now."""
        return len(self._by_unique)

    async def close(self) -> None:
        """Stop all work; the waiting requests end with the connection."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _start(self, work: Coroutine[object, object, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _work(self, pending: _Pending) -> None:
        policy = self._policy()
        deadline_ns = pending.question.asked_ns + int(policy.defaults.deadline_s * 1e9)
        intent, verdict = pending.intent, None
        try:
            async with asyncio.timeout(max(0.05, (deadline_ns - boot_ns()) / 1e9)):
                intent, verdict = await self._judge.judge(pending.question, pending.intent, deadline_ns)
        except TimeoutError:
            verdict = self._judge.at_deadline(intent)
        except asyncio.CancelledError:
            raise
        except Exception:
            log.exception("event %d: no verdict could be reached; refused", pending.intent.id)
            verdict = self._judge.without_answer(intent, Source.POLICY, "an internal error, see the journal")
        pending.intent, pending.verdict, pending.verdict_ns = intent, verdict, boot_ns()
        effect = {Effect.PERMIT: "permits", Effect.REFUSE: "refusals", Effect.WOULD_REFUSE: "would_refuse"}[
            verdict.effect
        ]
        self.counts[effect] += 1
        if pending.left_ns and not callers.alive(pending.question.tid, pending.began):
            self._forget(pending)
        elif pending.unique is not None:
            await self._reply(pending)

    async def _reply(self, pending: _Pending) -> None:
        """Record the verdict once, let the caller read its line while it surely is there, then answer."""
        verdict, unique = pending.verdict, pending.unique
        if verdict is None or unique is None:
            return
        if not pending.recorded and verdict.final:
            pending.recorded = True
            await self._record(pending, verdict)
        if pending.unique != unique:
            return  # interrupted meanwhile: whoever comes back is answered then
        refused = verdict.effect is Effect.REFUSE
        dev = pending.intent.dev if pending.question.op is abi.Op.SB_MOUNT else None
        reply = abi.Reply(
            nonce=pending.nonce,
            intent=pending.intent.id,
            verdict=-verdict.errno if refused else 0,
            dev=dev.to_kernel() if dev else 0,
            flags=(verdict.carrier and abi.ReplyFlag.CARRIER) | (verdict.shared and abi.ReplyFlag.CLUSTER),
        )
        self._by_unique.pop(unique, None)
        self._pending.pop(pending.question.key, None)
        self._answer(unique, bytes(reply))

    async def _record(self, pending: _Pending, verdict: Verdict) -> None:
        """Nothing that goes wrong with a record may keep a caller from its answer."""
        try:
            told = self._done(pending.intent, verdict, pending.began, pending.extra)
            if told is not None:
                await asyncio.wait({asyncio.wrap_future(told)}, timeout=TELL_S)
        except Exception:
            log.exception("event %d could not be recorded", pending.intent.id)

    async def _watch_left(self, pending: _Pending, left_ns: int) -> None:
        """Drop the ask once its caller is dead, or runs on without coming back. ``left_ns``: when it left."""
        stopped_ns = left_ns
        while True:
            await asyncio.sleep(0.1)
            if pending.left_ns != left_ns:
                return  # it came back
            now_ns, tid = boot_ns(), pending.question.tid
            if _stopped(tid):
                stopped_ns = now_ns
            abandoned = now_ns - stopped_ns > ABANDONED_S * 1e9 or now_ns - left_ns > KEPT_NS
            if abandoned or not callers.alive(tid, pending.began):
                self._forget(pending)
                return

    def _forget(self, pending: _Pending) -> None:
        if self._pending.pop(pending.question.key, None) is None:
            return
        pending.left_ns = 0
        self._dropped(pending.intent.id)
        if pending.recorded:
            return
        verdict = pending.verdict or Verdict(
            Effect.REFUSE, errno.EINTR, Source.CALLER_GONE, "", generation=self._policy().generation
        )
        reason = "the caller was killed or gave up while it waited"
        self._done(
            pending.intent,
            replace(verdict, effect=Effect.REFUSE, errno=errno.EINTR, source=Source.CALLER_GONE, reason=reason),
            pending.began,
            pending.extra,
        )


def _stopped(tid: int) -> bool:
    """True if a task is stopped, traced or frozen and so cannot come back by itself (proc(5), field 3 of stat)."""
    try:
        with open(f"/proc/{tid}/stat", "rb") as stat:
            state = stat.read().rpartition(b")")[2].split()[0]
        if state in (b"T", b"t"):
            return True
        with open(f"/proc/{tid}/wchan", "rb") as wchan:
            return b"freez" in wchan.read()
    except (OSError, IndexError):
        return False
