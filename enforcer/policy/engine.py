# SPDX-License-Identifier: GPL-2.0-or-later
"""Decisions, and the kernel tables that must agree with them. Pure: no clock, no file, no store.

``decide`` answers one intent; ``guards`` and ``kernel_fstypes`` say what the kernel may let through without
asking. They are three views of one walk over the rules, so that a device that some caller could be refused is
guarded, and a type that no rule names costs no upcall. A PASS for a guarded device (another caller would have
been asked for a lease) is a matter of the ask; the table stays as it is.
"""

from __future__ import annotations

import errno
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import IntEnum, StrEnum

from enforcer.model.intent import Intent, Source
from enforcer.model.resource import Device, UseKind
from enforcer.policy.match import NETWORK_LIKE, Answer, match_device, match_rule, rules_of_type
from enforcer.policy.rules import (
    RULE_USES,
    FailMode,
    Implicit,
    MultiAttached,
    Policy,
    Rule,
    RuleMode,
    RuleVerdict,
)

MULTIPATH_TARGET = "multipath"  # drivers/md/dm-mpath.c; ``fstype`` of a dm-load intent is its target type


class Action(StrEnum):
    """What is to be done with an intent."""

    PASS = "pass"  # not guarded: let it through
    LEASE = "lease"  # permit it if the lease is ours
    REFUSE = "refuse"


@dataclass(frozen=True, slots=True)
class Facts:
    """What the cluster knows that the intent does not say."""

    seen_by: frozenset[str] = frozenset()  # other nodes that see one of the LUNs
    unresolved: str = ""  # why part of what the use touches could not be resolved, or empty


NO_FACTS = Facts()


@dataclass(frozen=True, slots=True)
class Decision:
    """What the policy says. In mode audit a REFUSE is reported and let through."""

    action: Action
    mode: RuleMode
    reason: str  # one clause for people, without full stop
    source: Source = Source.POLICY
    rule: str = ""  # id of the rule that decided
    default: str = ""  # or the default: implicit, multi_attached, unknown
    errno: int = 0  # positive; 0 for PASS. For LEASE the errno of a refusal by the store
    wait_s: float = 0.0
    message: str = ""  # template for enforcer.policy.message.render, or empty
    multi_attached: bool | None = None  # other nodes see it: as known or stated, None if neither
    generation: int = 0

    @property
    def strictness(self) -> int:
        """Order for candidates: enforced refusals last."""
        if self.action is Action.PASS:
            return 0
        return 1 + (self.action is Action.REFUSE) + 2 * (self.mode is RuleMode.ENFORCE)


@dataclass(frozen=True, slots=True)
class Guarding:
    """The entry of one device in the kernel table."""

    guarded: bool
    errno: int = 0  # what the guard answers where there is no lease; positive
    audit: bool = False  # only report
    rule: str = ""
    default: str = ""
    reason: str = ""


class FsHandling(IntEnum):
    """What the kernel does with a mount of a type that has no device; the numbers are the kernel table's."""

    PASS = 1
    ASK = 2  # and let through when the daemon is dead
    ASK_DENY_DEAD = 3  # and refuse when the daemon is dead


def decide(policy: Policy, intent: Intent, facts: Facts = NO_FACTS) -> Decision:
    """The policy's answer to one intent; never raises."""
    device = intent.device
    if intent.kind is UseKind.UMOUNT:
        return _pass(policy, "an umount gives back and is never refused")
    if device is not None and device.system:
        return _pass(policy, f"a system device is never guarded: {device.system}", Source.SYSTEM)
    if intent.kind is UseKind.DM_LOAD and intent.fstype == MULTIPATH_TARGET:
        return _pass(policy, "a multipath map is a carrier; what uses the map is asked for")
    if device is None and (intent.dev is not None or facts.unresolved):
        return _unknown(policy, facts.unresolved or f"device {intent.dev} could not be described")
    candidates: list[Decision] = []
    for rule in policy.rules:
        answer = match_rule(rule, intent)
        if answer is not Answer.NO:
            candidates.append(_by_rule(policy, rule, device, facts, intent.fstype))
        if answer is Answer.YES:
            break
    else:
        candidates.append(_by_default(policy, device, facts))
    return max(candidates, key=lambda decision: decision.strictness)  # the first of equals


def _pass(
    policy: Policy, reason: str, source: Source = Source.POLICY, *, rule: str = "", default: str = ""
) -> Decision:
    return Decision(Action.PASS, RuleMode.OFF, reason, source, rule=rule, default=default, generation=policy.generation)


def _unknown(policy: Policy, why: str) -> Decision:
    if policy.defaults.unknown is Implicit.ALLOW:
        return _pass(policy, why, default="unknown")
    return Decision(
        Action.REFUSE,
        RuleMode.ENFORCE,
        why,
        default="unknown",
        errno=errno.EBUSY,
        generation=policy.generation,
    )


def _by_rule(policy: Policy, rule: Rule, device: Device | None, facts: Facts, fstype: str = "") -> Decision:
    """What a rule says once it is taken to match."""
    if rule.mode is RuleMode.OFF:
        return _pass(policy, f"rule {rule.id} is off", rule=rule.id)
    action = Action.REFUSE
    if rule.verdict is RuleVerdict.DENY:
        reason = f"rule {rule.id} denies it"
    elif device is None:
        reason = f"{fstype or 'the type'} lies on no device that a lease could be taken of"
    elif _trouble(device, facts):
        reason = _trouble(device, facts)
    else:
        action = Action.LEASE
        reason = f"rule {rule.id} wants a lease"
    multi_attached = True if facts.seen_by else rule.multi_attached  # a fact beats a statement
    return Decision(
        action,
        rule.mode,
        reason,
        rule=rule.id,
        errno=rule.errno,
        wait_s=rule.wait_s,
        message=rule.message,
        multi_attached=multi_attached,
        generation=policy.generation,
    )


def _trouble(device: Device, facts: Facts) -> str:
    """Why no lease can be taken, by name, or empty."""
    if device.problem:
        return f"{_name(device)} cannot be resolved: {device.problem}"
    if facts.unresolved:
        return f"{_name(device)} touches what cannot be resolved: {facts.unresolved}"
    return ""


def _name(device: Device) -> str:
    return device.aliases[0] if device.aliases else device.name


def _by_default(policy: Policy, device: Device | None, facts: Facts) -> Decision:
    """What holds where no rule surely matched."""
    defaults = policy.defaults
    if device is None:
        return _pass(policy, "no rule names a type without a device", default="implicit")
    if facts.seen_by and (device.resources or device.problem):
        nodes = ", ".join(sorted(facts.seen_by))
        why = f"no rule matches, and {nodes} {'sees' if len(facts.seen_by) == 1 else 'see'} it too"
        if defaults.multi_attached is MultiAttached.ALLOW:
            return _pass(policy, why, default="multi_attached")
        trouble = _trouble(device, facts)
        lease = defaults.multi_attached is MultiAttached.LEASE and not trouble
        return Decision(
            Action.LEASE if lease else Action.REFUSE,
            RuleMode.AUDIT if defaults.multi_attached is MultiAttached.AUDIT else RuleMode.ENFORCE,
            trouble or why,
            default="multi_attached",
            errno=errno.EBUSY,
            multi_attached=True,
            generation=policy.generation,
        )
    if device.problem and not device.resources:
        return _unknown(policy, _trouble(device, facts))  # a rule may mean this very LUN: nobody can tell
    if defaults.implicit is Implicit.DENY:
        return Decision(
            Action.REFUSE,
            RuleMode.ENFORCE,
            "no rule permits it",
            default="implicit",
            errno=errno.EPERM,
            generation=policy.generation,
        )
    return _pass(policy, "no rule matches", default="implicit")


def guards(policy: Policy, device: Device, facts: Facts = NO_FACTS) -> Guarding:
    """The kernel table's entry for one device, whoever may come to use it.

    Guarded as soon as some intent on it could be anything but PASS; audit only if none could be refused.
    """
    if device.system:
        return Guarding(False, reason=f"a system device is never guarded: {device.system}")
    candidates = list(_possible(policy, device, facts))
    strictest = max(candidates, key=lambda decision: decision.strictness)
    if strictest.action is Action.PASS:
        return Guarding(False, rule=strictest.rule, default=strictest.default, reason=strictest.reason)
    return Guarding(
        True,
        errno=strictest.errno,
        audit=strictest.mode is RuleMode.AUDIT,
        rule=strictest.rule,
        default=strictest.default,
        reason=strictest.reason,
    )


def _possible(policy: Policy, device: Device, facts: Facts) -> Iterator[Decision]:
    """Every decision that some use of a device could get; at least one."""
    open_uses = set(RULE_USES)  # uses that no rule has surely decided yet
    for rule in policy.rules:
        about = match_device(rule, device)
        if about is Answer.NO or not rule.on & open_uses:
            continue
        yield _by_rule(policy, rule, device, facts)
        if about is Answer.YES and rule.match.subject.empty:
            narrowed = rule.match.fstype or rule.match.target
            open_uses -= frozenset() if narrowed else rule.on
    if open_uses:
        yield _by_default(policy, device, facts)


def kernel_fstypes(policy: Policy, nodev_types: Iterable[str]) -> dict[str, FsHandling]:
    """How mounts of types without a device are handled, for the kernel table.

    ``nodev_types`` are those that /proc/filesystems marks nodev. The network-like ones are always in the
    answer, for their modules are loaded by the very mount that is asked about. A type that is not in the
    answer is asked.
    """
    return {fstype: _handling(policy, fstype) for fstype in sorted(NETWORK_LIKE.union(nodev_types))}


def _handling(policy: Policy, fstype: str) -> FsHandling:
    modes: set[RuleMode] = set()
    for rule in rules_of_type(policy, fstype):
        modes.add(rule.mode)
        if rule.match.subject.empty and not rule.match.target and not rule.match.source:
            break  # it surely decides: later rules never see this type
    if not modes - {RuleMode.OFF}:
        return FsHandling.PASS
    if RuleMode.ENFORCE in modes or policy.defaults.on_daemon_dead is FailMode.DENY:
        return FsHandling.ASK_DENY_DEAD
    return FsHandling.ASK
