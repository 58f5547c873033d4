# SPDX-License-Identifier: GPL-2.0-or-later
"""The policy as data: rules in order, defaults, a generation, a digest. One decision never mixes two.

Rules select and shape. What is safe (names of LUNs, lease modes, who may take over) is code and no rule
weakens it. Masks are shell globs as in fnmatch(3) without FNM_PATHNAME: ``*`` crosses a slash, case counts.
"""

from __future__ import annotations

import errno
import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from enum import StrEnum
from fnmatch import fnmatchcase

from enforcer.model.resource import UseKind

MAX_DEADLINE_S = 30.0  # a sleeping BPF program stalls RCU Tasks Trace: nothing may wait longer
DEFAULT_DEADLINE_S = 20.0

# What ``on`` may hold. An umount is never refused: it gives back what others wait for.
RULE_USES = tuple(kind for kind in UseKind if kind is not UseKind.UMOUNT)


class RuleMode(StrEnum):
    """What a rule does when it decides."""

    ENFORCE = "enforce"
    AUDIT = "audit"  # asks the store and reports what enforce would have done; refuses nothing
    OFF = "off"  # lets through, and no later rule is asked


class RuleVerdict(StrEnum):
    """What a rule wants."""

    LEASE = "lease"  # permitted for whoever gets the lease
    DENY = "deny"  # refused outright


class Implicit(StrEnum):
    """When no rule matched."""

    ALLOW = "allow"
    DENY = "deny"


class MultiAttached(StrEnum):
    """When no rule matched and another node sees the LUN too."""

    DENY = "deny"
    LEASE = "lease"
    AUDIT = "audit"  # report what deny would have refused
    ALLOW = "allow"


class FailMode(StrEnum):
    """When nobody answers. There is no "allow": silence never permits the use of a guarded device."""

    DENY = "deny"  # every ask
    DENY_GUARDED = "deny-guarded"  # asks that concern a guarded device or a type that a rule names


@dataclass(frozen=True, slots=True)
class Mask:
    """A glob, or with ``negate`` everything but it (``!backup.service``)."""

    glob: str
    negate: bool = False

    def matches(self, value: str) -> bool:
        """True if ``value`` is meant."""
        return fnmatchcase(value, self.glob) is not self.negate

    def __str__(self) -> str:
        return ("!" if self.negate else "") + self.glob


@dataclass(frozen=True, slots=True)
class UidMask:
    """A user id, or with ``negate`` every other."""

    uid: int
    negate: bool = False

    def matches(self, value: int) -> bool:
        """True if ``value`` is meant."""
        return (value == self.uid) is not self.negate

    def __str__(self) -> str:
        return ("!" if self.negate else "") + str(self.uid)


@dataclass(frozen=True, slots=True)
class Subject:
    """Who asks; every condition given must hold. None is no condition."""

    unit: Mask | None = None
    uid: UidMask | None = None
    exe: Mask | None = None
    comm: Mask | None = None

    @property
    def empty(self) -> bool:
        """True if it means everybody."""
        return self == ANYBODY


ANYBODY = Subject()


@dataclass(frozen=True, slots=True)
class Match:
    """What a rule is about: one mask of each list given must match; an empty list is no condition."""

    device: tuple[str, ...] = ()  # against a device's aliases and the names of the LUNs it lies on
    fstype: tuple[str, ...] = ()  # narrows mounts; says nothing about other uses
    target: tuple[str, ...] = ()  # narrows mounts; says nothing about other uses
    source: tuple[str, ...] = ()  # for types without a device only: ``server:/export``
    subject: Subject = ANYBODY


@dataclass(frozen=True, slots=True)
class Rule:
    """One [[rule]]; the first that matches decides."""

    id: str
    on: frozenset[UseKind]
    mode: RuleMode = RuleMode.ENFORCE
    match: Match = Match()
    verdict: RuleVerdict = RuleVerdict.LEASE
    errno: int = errno.EBUSY  # positive
    wait_s: float = 0.0  # how long a caller waits for a holder that is about to release
    message: str = ""  # template (enforcer.policy.message); "" lets the verdict's reason speak
    multi_attached: bool | None = None  # what the administrator states: other nodes see these LUNs (not)
    file: str = ""
    line: int = 0


@dataclass(frozen=True, slots=True)
class Defaults:
    """What holds where no rule decides, or nobody does."""

    implicit: Implicit = Implicit.ALLOW
    multi_attached: MultiAttached = MultiAttached.DENY
    unknown: Implicit = Implicit.DENY  # a device that is not, or cannot be, described
    on_deadline: FailMode = FailMode.DENY
    on_daemon_dead: FailMode = FailMode.DENY_GUARDED
    deadline_s: float = DEFAULT_DEADLINE_S


@dataclass(frozen=True, slots=True)
class Policy:
    """All rules of all files in order. Equal digests mean equal verdicts."""

    rules: tuple[Rule, ...] = ()
    defaults: Defaults = Defaults()
    generation: int = 0
    files: tuple[str, ...] = ()  # in the order in which they were read, without the masked ones
    digest: str = field(default="", compare=False)  # set from the content when left empty

    def __post_init__(self) -> None:
        if not self.digest:
            object.__setattr__(self, "digest", digest_of(self.rules, self.defaults))

    def rule(self, rule_id: str) -> Rule | None:
        """The rule of that id."""
        return next((rule for rule in self.rules if rule.id == rule_id), None)


def digest_of(rules: Iterable[Rule], defaults: Defaults) -> str:
    """SHA-256, in hexadecimal, of a canonical form: the order of rules counts, that of masks not.

    File names, lines, comments and white space do not enter, so nodes that split their files differently but
    decide alike compare equal.
    """
    form = {
        "format": 1,
        "defaults": {item.name: getattr(defaults, item.name) for item in fields(defaults)},
        "rules": [_rule_form(rule) for rule in rules],
    }
    text = json.dumps(form, sort_keys=True, ensure_ascii=True, separators=(",", ":"))
    return hashlib.sha256(text.encode("ascii")).hexdigest()


def _rule_form(rule: Rule) -> dict[str, object]:
    """A rule without where it was written, sets sorted."""
    match = rule.match
    subject = {name: str(getattr(match.subject, name) or "") for name in ("unit", "uid", "exe", "comm")}
    return {
        "id": rule.id,
        "on": sorted(rule.on),
        "mode": rule.mode,
        "match": {
            "device": sorted(set(match.device)),
            "fstype": sorted(set(match.fstype)),
            "target": sorted(set(match.target)),
            "source": sorted(set(match.source)),
            "subject": subject,
        },
        "verdict": rule.verdict,
        "errno": errno.errorcode.get(rule.errno, str(rule.errno)),
        "wait_s": rule.wait_s,
        "message": rule.message,
        "multi_attached": rule.multi_attached,
    }
