# SPDX-License-Identifier: GPL-2.0-or-later
"""Nodes that are switched off so that their leases may be taken over: by command, or when somebody waits for a lease.

The fact that is recorded is about boots, and these are read from the lease records *before* the agent runs. Whichever
boot of the machine the agent then finds, those that were read are over when it is off; one that is started while the
agent runs is not among them, so no fact covers what it takes.

A fact is never forced upon the store. Who was switched off renews no more, so a session that does not end within its
time says that another machine was switched off (a wrong plug), and nothing is recorded. Of a node that was gone from
the start nothing can tell: there the settings are believed.

A node that is off before its agent did anything may be suspended only, so an administrator must answer for it
(``was_off``), as for a confirmed fencing. What this process itself saw going off needs no such word: a run whose fact
could not be recorded is repeated, without the agent: by then another boot may be up.

The agent may take minutes before it comes to the power. So the store and the quorum are asked once more just then.

On demand the same is done without an administrator, more carefully: only if everybody in the way is gone and has an
agent, not for a use that a rule in mode audit lets pass, not without the cluster's quorum where there is a cluster
manager, once at a time for each node, and after a failure not before ``FIRST_PAUSE_S``, then twice that, and so on.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial

from enforcer.cluster.fence_agent import WasOff, switch_off, untrusted
from enforcer.cluster.store import LeaseStore
from enforcer.cluster.view import ClusterView, Quorum
from enforcer.model.clock import boot_ns
from enforcer.model.errors import EnforcerError, StoreUnavailable
from enforcer.model.lease import SELF_FENCING, Denied, Guarantee, HeldLease, Holder, Liveness
from enforcer.settings import FenceAgent, Fencing

log = logging.getLogger(__name__)
GONE = (Liveness.STRANDED, Liveness.PREEMPTIBLE)  # what a fencing fact would free
FIRST_PAUSE_S, MOST_PAUSE_S = 30.0, 600.0  # after a failure on demand
AGAIN_S = 1.0  # between two tries to record
SEEN_NS = 600_000_000_000  # so long it counts that a boot was seen going off; a wrong plug may show only later
SLACK_S = 10.0
CLOSE_S = 2.0

Notice = Callable[[str, str, Mapping[str, object]], None]


@dataclass(frozen=True, slots=True)
class Fenced:
    """A node that is off, the boots of it that are recorded as fenced, and what they held."""

    node: str
    agent: str
    boot_ids: tuple[str, ...]
    resources: tuple[str, ...]
    was_off: bool = False  # nobody saw it go off: it was, and somebody answers for it


@dataclass(frozen=True, slots=True)
class _Pause:
    """After a run on demand. ``why`` it failed; empty if it did not. ``flag``: of the command that may do it."""

    until_ns: int
    pause_s: float
    why: str
    flag: str


class Fences:
    """Runs the agents of the settings. ``notice(kind, sentence, facts)`` writes to the audit log."""

    def __init__(
        self,
        settings: Fencing,
        store: LeaseStore,
        view: ClusterView,
        me: Holder,
        notice: Notice,
        *,
        off: Callable[[FenceAgent, str, bool, Callable[[], Awaitable[object]]], Awaitable[bool]] = switch_off,
        now_ns: Callable[[], int] = boot_ns,
    ) -> None:
        self._settings, self._store, self._view, self._me, self._notice = settings, store, view, me, notice
        self._off, self._now_ns = off, now_ns
        self._running: dict[str, tuple[frozenset[str], asyncio.Task[Fenced]]] = {}
        self._demanded: dict[str, asyncio.Task[None]] = {}
        self._pauses: dict[str, _Pause] = {}
        # (node, boot id) -> until when it counts, ns: seen going off, and the store was not there to record it
        self._went_off: dict[tuple[str, str], int] = {}
        for node, agent in settings.nodes.items():  # better heard of now than when it is needed
            if what := untrusted(agent.program):
                log.warning("%s cannot be fenced: %s %s", node, agent.program, what)

    async def close(self) -> None:
        """End what runs, within ``CLOSE_S``. A node may be off then without a fact: for an administrator to say."""
        tasks = [*self._demanded.values(), *(task for _, task in self._running.values())]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=CLOSE_S)

    async def run(
        self, node: str, *, alive: bool = False, was_off: bool = False, asked_by: str, demanded: bool = False
    ) -> Fenced:
        """Switch ``node`` off, and record that the boots of it that hold leases now are silent for ever.

        ``alive``: even if it renews its session; ``was_off``: whoever asks answers for it that it is without power, if
        its agent says that it was off already; ``demanded``: nobody was asked, so the cluster must have its quorum. Who
        comes while it is being done gets the same outcome. Raises EnforcerError: not this node, no agent, nothing to be
        freed, still alive, no quorum, not proven off, not recorded.
        """
        agent = self._agent(node)
        wanted = await self._in_the_way(node, alive=alive, demanded=demanded)
        boots = frozenset(h.lease.holder.boot_id for h in wanted)
        if node in self._running:
            known, task = self._running[node]
            if not boots <= known:
                raise EnforcerError(f"an earlier boot of {node} is being fenced", hint="try again when that is over")
        else:
            resources = tuple(sorted(str(h.lease.resource) for h in wanted))
            fenced = Fenced(node, agent.name, tuple(sorted(boots)), resources)
            gone = all(h.liveness in GONE for h in wanted)
            still = partial(self._in_the_way, node, alive=alive, demanded=demanded)
            task = asyncio.create_task(self._fence(agent, fenced, asked_by, still, was_off=was_off, gone=gone))
            self._running[node] = boots, task
            task.add_done_callback(lambda done: self._ended(node, done))
        return await asyncio.shield(task)

    def on_demand(self, denied: Denied) -> Denied:
        """Have everybody in the way switched off, if that is wanted and can help; the refusal says how it goes.

        If it is not wanted and would help, the refusal names the command that does it.
        """
        nodes = sorted({h.lease.holder.node for h in denied.blocking})
        if not nodes or not all(self._helps(h) for h in denied.blocking):
            return denied
        if not self._settings.on_demand:
            commands = "; ".join(f"enforcer fence run {node}" for node in nodes)
            return replace(denied, remedy=f"{commands}; or, if it is off for certain, {denied.remedy}")
        said, remedies = [], []
        for node in nodes:
            pause = self._pauses.get(node)
            name = self._settings.nodes[node].name
            if node not in self._demanded and (pause is None or self._now_ns() >= pause.until_ns):
                self._demanded[node] = asyncio.create_task(self._demand(node))
            if node in self._demanded:
                said.append(f"{name} is switching {node} off")
                remedies.append("try again when that is over: enforcer who")
            elif pause is not None and pause.why:
                said.append(f"it was to be switched off, but {pause.why}")
                remedies.append(f"enforcer fence run {node}{pause.flag}; or, if it is off for certain, {denied.remedy}")
        if not said:
            return denied
        return replace(denied, reason=f"{denied.reason}; {', '.join(said)}", remedy="; ".join(dict.fromkeys(remedies)))

    # -- what is done ----------------------------------------------------------------------------------------------

    def _agent(self, node: str) -> FenceAgent:
        if node == self._me.node:
            raise EnforcerError("a node does not switch itself off", hint="run this on another node")
        agent = self._settings.nodes.get(node)
        if agent is None:
            hint = f"add [fencing.{node}] to enforcer.toml and restart enforcerd; or switch it off, and fence confirm"
            raise EnforcerError(f"{node} has no fence agent", hint=hint)
        return agent

    async def _in_the_way(self, node: str, *, alive: bool, demanded: bool) -> list[HeldLease]:
        """What ``node`` holds and its fencing would free, if it may be fenced now. Raises EnforcerError."""
        if demanded and (quorum := await self._view.quorum()) not in (Quorum.HELD, Quorum.NONE):
            raise EnforcerError(f"the cluster's quorum is {quorum}")
        held = [h for h in await self._store.leases() if h.lease.holder.node == node]
        live = {h.lease.holder.boot_id for h in held if h.liveness is Liveness.LIVE}
        for boot_id in live:
            self._went_off.pop((node, boot_id), None)  # what was seen going off was another machine
        wanted = [h for h in held if h.liveness in GONE or h.liveness is Liveness.LIVE]
        if not wanted:
            raise EnforcerError(f"{node} holds no lease that waits for its fencing", hint="enforcer who")
        if live and not alive:
            raise EnforcerError(
                f"{node} is live: it renews its session",
                hint=f"unmount there; or enforcer fence run {node} --alive, which ends its uses with its power",
            )
        return wanted

    def _helps(self, held: HeldLease) -> bool:
        """Whether switching the holder off would free this lease, and nothing else will in a moment.

        Who is only stranded yet will be preempted soon; whom the storage could preempt and did not blocks for good.
        """
        node, guarantee = held.lease.holder.node, held.lease.guarantee
        soon = guarantee is Guarantee.RESERVATION and held.liveness is Liveness.STRANDED
        by_time = soon or (guarantee in SELF_FENCING and self._store.ttl_s is not None)
        return held.liveness in GONE and not by_time and node != self._me.node and node in self._settings.nodes

    async def _fence(
        self,
        agent: FenceAgent,
        fenced: Fenced,
        asked_by: str,
        still: Callable[[], Awaitable[object]],
        *,
        was_off: bool,
        gone: bool,
    ) -> Fenced:
        node, facts = fenced.node, {"boot_ids": list(fenced.boot_ids), "resources": list(fenced.resources)}
        word = f"{asked_by}, who answers for it if it was off already" if was_off else asked_by
        self._notice("fence-run", f"{agent.name} is to switch {node} off, {word}", facts)
        boots = {(node, boot_id) for boot_id in fenced.boot_ids}
        try:
            seen = all(self._went_off.get(boot, 0) > self._now_ns() for boot in boots)
            went_off = seen or await self._off(agent, node, was_off, still)
            how = "" if went_off else ", off already: an administrator answers for it"
            try:
                for boot_id in fenced.boot_ids:
                    await self._record(node, boot_id, f"{agent.name} on {self._me.node}{how}")
            except StoreUnavailable:
                if went_off and gone and not seen:  # who was alive may have another plug
                    self._went_off |= dict.fromkeys(boots, self._now_ns() + SEEN_NS)
                raise
        except EnforcerError as error:
            self._notice("fence-failed", f"{node} is not fenced: {error}", facts)
            raise
        except BaseException as error:
            why = (
                "it was cut short" if isinstance(error, asyncio.CancelledError) else f"{type(error).__name__}: {error}"
            )
            self._notice("fence-failed", f"{node} is not fenced, and may be off: {why}", facts)
            raise
        done = f"has switched {node} off" if went_off else f"says that {node} was off, and {asked_by} that it is"
        self._notice("fence-confirm", f"{agent.name} {done}: boot {' and '.join(fenced.boot_ids)} is fenced", facts)
        return replace(fenced, was_off=not went_off)

    async def _record(self, node: str, boot_id: str, by: str) -> None:
        clock = asyncio.get_running_loop().time
        end = clock() + self._store.gone_after_s + SLACK_S
        while True:
            try:
                await self._store.fence_confirm(node, boot_id, by)
                return
            except EnforcerError as error:
                if clock() >= end:
                    what = f"its agent says that {node} is off, but that is not recorded: {error}"
                    if isinstance(error, StoreUnavailable):
                        raise StoreUnavailable(what, hint=error.hint) from None
                    hint = "was it another machine? check the plug in enforcer.toml"
                    raise EnforcerError(what, hint=hint) from None
            await asyncio.sleep(AGAIN_S)

    async def _demand(self, node: str) -> None:
        pause, why, flag = FIRST_PAUSE_S, "", ""
        try:
            await self.run(node, asked_by="because its lease is wanted here", demanded=True)
        except EnforcerError as error:
            why, flag = str(error), " --was-off" if isinstance(error, WasOff) else ""
        except Exception as error:
            log.exception("fencing %s failed", node)
            why = f"fencing failed: {error}"
        finally:
            before = self._pauses.get(node)
            if why and before is not None and before.why:
                pause = min(2 * before.pause_s, MOST_PAUSE_S)
            if why:
                log.warning("%s is not fenced, and not tried again for %g s: %s", node, pause, why)
            self._pauses[node] = _Pause(self._now_ns() + int(pause * 1e9), pause, why, flag)
            del self._demanded[node]

    def _ended(self, node: str, task: asyncio.Task[Fenced]) -> None:
        del self._running[node]
        if not task.cancelled() and (error := task.exception()) is not None and not isinstance(error, EnforcerError):
            log.error("fencing %s failed", node, exc_info=error)
