# SPDX-License-Identifier: GPL-2.0-or-later
"""Does a rule mean this? Yes, no, or perhaps: what is not known must not decide as if it were.

A mount through fsopen(2) has no target when its superblock is made; a raw write has no filesystem type; the
executable of a caller may be unreadable; an LV may lie on one LUN that a rule names and on one that it does
not. Such a condition neither holds nor fails. The engine takes every rule that perhaps matches for a
candidate and lets the strictest of them decide, so leaving a fact out never gets anybody past a rule.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import IntEnum
from fnmatch import fnmatchcase

from enforcer.model.intent import Caller, Intent
from enforcer.model.resource import Device, UseKind
from enforcer.policy.rules import Match, Policy, Rule, RuleMode, RuleVerdict, Subject

# Types that lie on no block device but on another machine's storage, which others may use at the same time.
# All other types without a device (proc, tmpfs, overlay ...) hold nothing that a second node could destroy.
# Names as registered in fs/*/ of Linux and by the out-of-tree clients lustre, gpfs, beegfs, panfs, vboxsf
# and vmhgfs.
NETWORK_LIKE = frozenset(
    (
        "nfs",
        "nfs4",
        "cifs",
        "smb3",
        "smbfs",
        "ceph",
        "9p",
        "virtiofs",
        "afs",
        "coda",
        "orangefs",
        "pvfs2",
        "lustre",
        "gpfs",
        "beegfs",
        "panfs",
        "vboxsf",
        "vmhgfs",
    )
)


class Answer(IntEnum):
    """Whether a rule matches; ``min`` is "and"."""

    NO = 0
    PERHAPS = 1
    YES = 2


def any_mask(globs: Iterable[str], values: Iterable[str]) -> bool:
    """True if one of the masks matches one of the values."""
    values = tuple(values)
    return any(fnmatchcase(value, glob) for glob in globs for value in values)


def match_device(rule: Rule, device: Device) -> Answer:
    """Whether a rule is about a device, by identity alone.

    A LUN's name means everything that lies on it. A device that lies on several LUNs of which only some are
    named is meant perhaps: an "off" rule for one disk must not let a volume through that has its other half
    elsewhere.
    """
    match = rule.match
    if match.source or device.system:
        return Answer.NO
    if not device.resources and not device.problem and not _acts_without_lun(rule):
        return Answer.NO
    if not match.device:
        return Answer.YES
    luns: dict[str, set[str]] = {}
    for resource in device.resources:
        luns.setdefault(resource.lun, {resource.lun}).add(str(resource))
    parts = set().union(*luns.values()) if len(luns) > 1 else set()
    if any_mask(match.device, set(device.aliases) - parts):
        return Answer.YES
    named = [any_mask(match.device, names) for names in luns.values()]
    if named and all(named):
        return Answer.YES
    return Answer.PERHAPS if any(named) else Answer.NO


def _acts_without_lun(rule: Rule) -> bool:
    """True if a rule names a device and needs no lease: it can speak where there is no LUN."""
    return bool(rule.match.device) and (rule.verdict is RuleVerdict.DENY or rule.mode is RuleMode.OFF)


def names_fstype(rule: Rule, fstype: str) -> bool:
    """True if a rule is about a type without a device: it names it, or a source of a network's."""
    if UseKind.MOUNT not in rule.on or rule.match.device:
        return False
    if rule.match.fstype:
        return any_mask(rule.match.fstype, [fstype])
    return bool(rule.match.source) and fstype in NETWORK_LIKE


def match_rule(rule: Rule, intent: Intent) -> Answer:
    """Whether a rule is about an intent, all its conditions taken together."""
    if intent.kind not in rule.on:
        return Answer.NO
    if intent.device is not None:
        about = match_device(rule, intent.device)
    else:
        about = Answer.YES if names_fstype(rule, intent.fstype) else Answer.NO
    if about is Answer.NO:
        return Answer.NO
    return min(about, _match_mount(rule.match, intent), match_subject(rule.match.subject, intent.caller))


def _match_mount(match: Match, intent: Intent) -> Answer:
    """The conditions that narrow mounts. Other uses have neither type nor target: perhaps."""
    answer = Answer.YES
    for globs, value in (
        (match.fstype, intent.fstype),
        (match.target, intent.target),
        (match.source, "" if intent.source_cut else intent.source),
    ):
        if not globs:
            continue
        if intent.kind is not UseKind.MOUNT or not value:
            answer = Answer.PERHAPS
        elif not any_mask(globs, [value]):
            return Answer.NO
    return answer


def match_subject(subject: Subject, caller: Caller) -> Answer:
    """The conditions on who asks. A caller has no unit for sure only if its cgroup is known."""
    answer = Answer.YES
    known_unit = bool(caller.unit or caller.cgroup)
    for mask, value, known in (
        (subject.unit, caller.unit, known_unit),
        (subject.exe, caller.exe, bool(caller.exe)),
        (subject.comm, caller.comm, bool(caller.comm)),
    ):
        if mask is None:
            continue
        if not known:
            answer = Answer.PERHAPS
        elif not mask.matches(value):
            return Answer.NO
    if subject.uid is not None and not subject.uid.matches(caller.uid):
        return Answer.NO
    return answer


def rules_of_type(policy: Policy, fstype: str) -> list[Rule]:
    """The rules that a mount of a type without a device may meet."""
    return [rule for rule in policy.rules if names_fstype(rule, fstype)]
