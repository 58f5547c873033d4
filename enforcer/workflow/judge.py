# SPDX-License-Identifier: GPL-2.0-or-later
"""One ask, one verdict: which device is meant, what the policy says of it, whether the lease is ours.

Whatever is not clear ends in a refusal with its reason. A guarded device needs the lease for any claim, whichever
uses a rule lists: rules select and shape, safety does not hang on them.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from enforcer.cluster.view import Opinion, Stance
from enforcer.kernel import abi
from enforcer.kernel.tables import Tables
from enforcer.model.clock import boot_ns
from enforcer.model.errors import EnforcerError
from enforcer.model.escape import from_bytes
from enforcer.model.intent import Effect, Intent, Source, Verdict
from enforcer.model.lease import Denied, Liveness, Standing
from enforcer.model.resource import Device, Mode, UseKind
from enforcer.policy import message
from enforcer.policy.engine import MULTIPATH_TARGET, Action, Decision, Facts, decide
from enforcer.policy.rules import FailMode, MultiAttached, Policy, RuleMode
from enforcer.workflow import callers
from enforcer.workflow.clustered import Clustered
from enforcer.workflow.consent import Consent, vouching
from enforcer.workflow.devices import Devices
from enforcer.workflow.fencing import Fences
from enforcer.workflow.leases import Leases
from enforcer.workflow.resolver import Question, Resolver

STALE_S = 2.0  # after which what the cluster manager said is asked for again
POLL_S = 0.25  # while a caller waits for a holder that is about to release


class Judge:
    """Reaches verdicts; holds no state of its own."""

    def __init__(
        self,
        node: str,
        policy: Callable[[], Policy],
        devices: Devices,
        leases: Leases,
        store_name: str,
        tables: Tables,
        scratch: Path,
        consent: Consent | None = None,
        fences: Fences | None = None,
    ) -> None:
        self._node, self._policy, self._devices, self._leases = node, policy, devices, leases
        self._store, self._resolver = store_name, Resolver(devices, leases, tables, scratch)
        self._clustered = Clustered(scratch)
        self._consent, self._fences = consent, fences

    def intent_of(self, question: Question) -> Intent:
        """The ask in the model's words, not yet resolved."""
        return Intent(
            id=question.intent,
            kind=callers.use_kind(question.op, question.syscall_nr),
            caller=question.caller(),
            fstype=from_bytes(question.fstype),
            source=from_bytes(question.source),
            source_cut=abi.AskFlag.SOURCE_CUT in question.flags,
            target=from_bytes(question.target),
            read_only=abi.AskFlag.READ_ONLY in question.flags,
            dev=question.dev,
            asked_ns=question.asked_ns,
        )

    async def judge(self, question: Question, intent: Intent, deadline_ns: int) -> tuple[Intent, Verdict]:
        """The verdict, with the intent as far as it could be resolved. ``deadline_ns``: boot clock."""
        policy = self._policy()
        stages: dict[str, int] = {}
        began = boot_ns()
        found = await self._resolver.resolve(question, intent)
        intent, unresolved, others = found.intent, found.problem, list(found.others)
        stages["classify"] = boot_ns() - began
        began = boot_ns()
        if found.carrier and not unresolved:
            decision = decide(policy, replace(intent, fstype=MULTIPATH_TARGET))
            passed = self._verdict(decision, Effect.PERMIT, decision.source, decision.reason, stages)
            return intent, replace(passed, carrier=True)
        facts = Facts(self._devices.seen_by(intent.device) if intent.device else frozenset(), unresolved)
        decision, intent = self._decide_set(policy, intent, facts, others)
        stages["policy"] = boot_ns() - began
        if decision.action is Action.PASS:
            passed = self._verdict(decision, Effect.PERMIT, decision.source, decision.reason, stages)
            # no device that we can see: if the type needs one, the superblock's own ask knows which
            blind = question.op is abi.Op.SB_MOUNT and intent.dev is None and not decision.rule
            return intent, replace(passed, final=not blind)
        if decision.action is Action.REFUSE:
            return intent, self._refusal(decision, intent, decision.source, decision.reason, stages)
        began = boot_ns()
        verdict = await self._lease(decision, question, intent, deadline_ns, stages)
        verdict.stages_ns["store"] = boot_ns() - began
        return intent, verdict

    def at_deadline(self, intent: Intent) -> Verdict:
        """The answer when there is none in time. Work goes on behind it: a second try may find it done."""
        return self.without_answer(
            intent, Source.DEADLINE, f"no answer within {self._policy().defaults.deadline_s:g} s"
        )

    def without_answer(self, intent: Intent, source: Source, reason: str) -> Verdict:
        """A refusal, or in audit mode the remark that it would have been one.

        EAGAIN, try again, is for mounts that came too early alone: elsewhere it means other things to callers.
        """
        policy = self._policy()
        known = self._devices.known.get(intent.dev) if intent.dev is not None else None
        audit = known.guarding.audit if known is not None else not _enforces(policy)
        free = known is not None and not known.guarding.guarded and policy.defaults.on_deadline is FailMode.DENY_GUARDED
        return Verdict(
            Effect.PERMIT if free else Effect.WOULD_REFUSE if audit else Effect.REFUSE,
            errno.EAGAIN if source is Source.DEADLINE and intent.kind is UseKind.MOUNT else errno.EBUSY,
            source,
            reason,
            default="on_deadline" if source is Source.DEADLINE else "",
            generation=policy.generation,
            store=self._store,
            remedy="enforcer status",
        )

    def _decide(self, policy: Policy, intent: Intent, facts: Facts) -> Decision:
        decision = decide(policy, intent, facts)
        known = self._devices.known.get(intent.device.dev) if intent.device else None
        if decision.action is Action.PASS and known is not None and known.guarding.guarded:
            # guarded, but this use or this caller is in no rule: a claim needs the lease all the same
            guarding = known.guarding
            decision = replace(
                decision,
                action=Action.LEASE,
                mode=RuleMode.AUDIT if guarding.audit else RuleMode.ENFORCE,
                rule=guarding.rule,
                default=guarding.default,
                errno=guarding.errno or errno.EBUSY,
                reason=guarding.reason,
            )
        if (
            decision.action is not Action.PASS
            and known is not None
            and known.guarding.guarded
            and not known.guarding.audit
        ):
            # another rule enforces on this device, so the guard will: the record has to say so
            decision = replace(decision, mode=RuleMode.ENFORCE)
        if decision.action is Action.LEASE and known is not None:
            trouble = facts.unresolved or known.device.problem
            if trouble:
                decision = replace(decision, action=Action.REFUSE, reason=trouble)
        return decision

    def _decide_set(
        self, policy: Policy, intent: Intent, facts: Facts, others: list[Device]
    ) -> tuple[Decision, Intent]:
        """The strictest decision over all devices of the set, and the intent with all that has to be leased."""
        decision = self._decide(policy, intent, facts)
        if not others or intent.device is None:
            return decision, intent
        resources = set(intent.device.resources if decision.action is not Action.PASS else ())
        for device in others:
            beside = Facts(self._devices.seen_by(device), device.problem)
            other = self._decide(policy, replace(intent, dev=device.dev, device=device), beside)
            if other.action is not Action.PASS:
                resources |= set(device.resources)
            decision = max(decision, other, key=lambda d: d.strictness)
        names = ", ".join([intent.device.name, *(device.name for device in others)])
        whole = replace(intent.device, name=names, resources=tuple(sorted(resources)))
        return decision, replace(intent, device=whole)

    async def _lease(
        self, decision: Decision, question: Question, intent: Intent, deadline_ns: int, stages: dict[str, int]
    ) -> Verdict:
        device = intent.device
        if device is None or device.problem or not device.resources:
            why = device.problem if device and device.problem else "what it touches could not be resolved"
            return self._refusal(decision, intent, Source.POLICY, why, stages)
        if double := self._devices.double(device):
            refused = self._refusal(decision, intent, Source.STORE, double, stages)
            return replace(refused, remedy="end one of the two uses and check the filesystem; enforcer who")
        facts = {
            "fstype": intent.fstype,
            "target": intent.target,
            "comm": intent.caller.comm,
            "kind": str(intent.kind),
        }
        want = await self._clustered.want(question, intent, self._resolver.options(question))
        if isinstance(want, Denied):
            refused = self._refusal(decision, intent, Source.CLUSTER, want.reason, stages, want)
            return replace(refused, remedy=want.remedy)
        freed = False
        wait_until_ns = min(deadline_ns, boot_ns() + int(decision.wait_s * 1e9))
        while True:
            opinion = await self._asked(intent, device)
            if opinion is not None and opinion.objects:
                if boot_ns() + POLL_S * 1e9 >= wait_until_ns:
                    return self._objection(decision, intent, opinion, stages)
                await asyncio.sleep(POLL_S)
                continue
            budget_s = max(0.1, (deadline_ns - boot_ns()) / 1e9 - 0.5)
            asked_ns = boot_ns()
            try:
                with vouching(opinion, device) if opinion is not None else contextlib.nullcontext():
                    outcome = await self._leases.acquire(
                        device, intent.id, {k: v for k, v in facts.items() if v}, budget_s=budget_s, want=want
                    )
            except EnforcerError as error:
                outcome = Denied(Standing.UNKNOWN, str(error), remedy=error.hint)
            if not isinstance(outcome, Denied):
                if opinion is not None and boot_ns() - asked_ns > STALE_S * 1e9:  # it may have changed its mind
                    opinion = await self._asked(intent, device)
                    if opinion is not None and opinion.objects:
                        self._leases.permit_over(intent.id)
                        return self._objection(decision, intent, opinion, stages)
                reason = "the lease is held here"
                if opinion is not None and opinion.stance is Stance.VOUCHES:
                    reason = f"{reason}, and {opinion.reason}"
                verdict = self._verdict(decision, Effect.PERMIT, Source.STORE, reason, stages)
                return replace(verdict, token=outcome.token, shared=want.mode is Mode.CW)
            if self._consent is not None and not freed and outcome.blocking:
                freed = await self._consent.freed(outcome.blocking)
                if freed:
                    continue
            if self._fences is not None and decision.mode is not RuleMode.AUDIT:
                outcome = self._fences.on_demand(outcome)
            if outcome.standing is not Standing.ELSEWHERE or boot_ns() + POLL_S * 1e9 >= wait_until_ns:
                break
            await asyncio.sleep(POLL_S)
        source = Source.VETO if outcome.veto else Source.STORE
        verdict = self._refusal(decision, intent, source, outcome.reason, stages, outcome)
        return replace(verdict, blocking=outcome.blocking, remedy=outcome.remedy, veto=outcome.veto)

    async def _asked(self, intent: Intent, device: Device) -> Opinion | None:
        if self._consent is None:
            return None
        return await self._consent.of(intent, covered=self._leases.covered(device))

    def _objection(self, decision: Decision, intent: Intent, opinion: Opinion, stages: dict[str, int]) -> Verdict:
        verdict = self._refusal(decision, intent, Source.VIEW, opinion.reason, stages)
        name = self._consent.view.name if self._consent is not None else ""
        return replace(verdict, remedy=opinion.remedy, veto=name)

    def _refusal(
        self,
        decision: Decision,
        intent: Intent,
        source: Source,
        reason: str,
        stages: dict[str, int],
        denied: Denied | None = None,
    ) -> Verdict:
        living = denied is not None and denied.blocking and all(b.liveness is Liveness.LIVE for b in denied.blocking)
        if decision.message and denied is not None and living:  # what is stranded must be said in our words
            first = denied.blocking[0].lease
            reason = message.render(
                decision.message,
                {
                    "device": intent.device.name if intent.device else intent.source,
                    "holder": first.holder.node,
                    "since": first.since,
                    "fstype": intent.fstype,
                    "target": intent.target,
                    "node": self._node,
                },
            )
        effect = Effect.WOULD_REFUSE if decision.mode is RuleMode.AUDIT else Effect.REFUSE
        return replace(self._verdict(decision, effect, source, reason, stages), errno=decision.errno or errno.EBUSY)

    def _verdict(
        self, decision: Decision, effect: Effect, source: Source, reason: str, stages: dict[str, int]
    ) -> Verdict:
        return Verdict(
            effect=effect,
            errno=0,
            source=source,
            reason=reason,
            rule=decision.rule,
            default=decision.default,
            generation=decision.generation,
            store=self._store,
            stages_ns=stages,
        )


def _enforces(policy: Policy) -> bool:
    """False if nothing that this policy says could refuse anything."""
    rules = any(rule.mode is RuleMode.ENFORCE for rule in policy.rules)
    return rules or policy.defaults.multi_attached in (MultiAttached.DENY, MultiAttached.LEASE)
