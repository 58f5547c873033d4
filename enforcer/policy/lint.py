# SPDX-License-Identifier: GPL-2.0-or-later
"""What is allowed in a policy but hardly meant. Warnings, with file and line; nothing here stops a reload."""

from __future__ import annotations

import re
import stat
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from enforcer.model.resource import Device, UseKind
from enforcer.policy.document import Problem
from enforcer.policy.masks import covers
from enforcer.policy.match import NETWORK_LIKE, Answer, any_mask, match_device
from enforcer.policy.rules import Policy, Rule, RuleMode, RuleVerdict, Subject

# Uses that write to a device: a rule that means one of them nearly always means all.
WRITING_USES = (UseKind.MOUNT, UseKind.SWAP, UseKind.WRITE_OPEN, UseKind.DM_LOAD)

NO_DEVICE = NETWORK_LIKE | {"fuse", "overlay", "tmpfs", "ramfs", "proc", "sysfs", "bpf", "hugetlbfs", "zfs"}

# Kernel names are given in the order of discovery (Documentation/admin-guide/devices.txt).
UNSTABLE_NAME = re.compile(r"(/dev/)?(sd|vd|xvd|hd|dm-|nvme\d|nbd\d|md\d|loop\d)[a-z0-9*?\[\]-]*$")

# What udev, multipath and mount(8) call a LUN or what is on it; enforcer.storage.names spells them in its own way.
FOREIGN_NAME = re.compile(r"(scsi-|dm-uuid-mpath-)?3[0-9A-Fa-f]{6}|naa\.|(UUID|LABEL|PARTUUID|PARTLABEL|ID)=")


def lint(policy: Policy, devices: Iterable[Device] = ()) -> list[Problem]:
    """All warnings for a policy, in its order; ``devices`` are those of this node."""
    devices = tuple(devices)
    files = [Path(file) for file in policy.files if Path(file).exists()]  # not those parsed from a text
    trusted = dict.fromkeys(path for file in files for path in (file.parent, file))
    problems = [warning for path in trusted for warning in _trust(path)]
    for index, rule in enumerate(policy.rules):
        problems += _unreached(rule, policy.rules[:index])
        problems += _uses(rule)
        problems += _network(rule)
        problems += _subject(rule)
        problems += _system(rule, devices)
        problems += _unstable(rule)
        problems += _foreign(rule)
    return problems


def _warn(rule: Rule, message: str, remedy: str) -> Problem:
    return Problem(rule.file, rule.line, f"rule {rule.id}: {message}", remedy)


def _trust(path: Path) -> list[Problem]:
    """Who else may change a file or directory. (Root is refused files that everybody may write anyway.)"""
    try:
        status = path.stat()
    except OSError:
        return []  # gone since
    found: list[Problem] = []
    if status.st_uid != 0:
        what = f"belongs to user {status.st_uid}, not to root"
        found.append(Problem(str(path), 0, what, f"Run: chown root {path}"))
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        who = "everybody" if status.st_mode & stat.S_IWOTH else "its group"
        found.append(Problem(str(path), 0, f"can be written by {who}", f"Run: chmod go-w {path}"))
    return found


def _unreached(rule: Rule, earlier: tuple[Rule, ...]) -> list[Problem]:
    deciders = [next((other for other in earlier if _decides_for(other, rule, kind)), None) for kind in rule.on]
    found = [other for other in deciders if other is not None]
    if not found or len(found) < len(deciders):
        return []
    names = ", ".join(dict.fromkeys(f"{other.id} ({other.file}:{other.line})" for other in found))
    return [_warn(rule, f"is never reached: decided before by {names}", "Put it before them, or remove it")]


def _decides_for(other: Rule, rule: Rule, kind: UseKind) -> bool:
    """True if ``other`` surely decides all that ``rule`` could, for one kind of use."""
    if kind not in other.on:
        return False
    wide, narrow = other.match, rule.match
    if wide.source or narrow.source:
        same = wide.source and narrow.source and _all_covered(wide.source, narrow.source)
        if not same:
            return False
    # A catch-all does not name types that have no device, so it takes nothing from a rule that does.
    if not wide.fstype and not narrow.device and any_mask(narrow.fstype, NO_DEVICE):
        return False
    if kind is not UseKind.MOUNT and (wide.fstype or wide.target):
        return False  # they only perhaps match what is not a mount
    return (
        _all_covered(wide.device, narrow.device)
        and _all_covered(wide.fstype, narrow.fstype)
        and _all_covered(wide.target, narrow.target)
        and _subject_covers(wide.subject, narrow.subject)
    )


def _all_covered(wide: tuple[str, ...], narrow: tuple[str, ...]) -> bool:
    """True if every mask of ``narrow`` lies in one of ``wide``; no masks at all are "any"."""
    if not wide:
        return True
    return bool(narrow) and all(any(covers(mask, glob) for mask in wide) for glob in narrow)


def _subject_covers(wide: Subject, narrow: Subject) -> bool:
    """True if each condition of ``wide`` is one of ``narrow``."""
    return all(getattr(wide, name) in (None, getattr(narrow, name)) for name in ("unit", "uid", "exe", "comm"))


def _uses(rule: Rule) -> list[Problem]:
    if rule.mode is RuleMode.OFF or rule.match.source or not rule.on.intersection(WRITING_USES):
        return []
    if rule.match.fstype and not rule.match.device:
        return []  # about a type, and only mounts have one
    missing = [str(kind) for kind in WRITING_USES if kind not in rule.on]
    if not missing:
        return []
    remedy = f"Add {', '.join(missing)} to on, unless other rules are about them"
    return [_warn(rule, f"leaves {', '.join(missing)} of its devices to later rules and defaults", remedy)]


def _network(rule: Rule) -> list[Problem]:
    if rule.mode is RuleMode.OFF or rule.verdict is RuleVerdict.DENY or rule.match.device:
        return []
    if not rule.match.source and not any_mask(rule.match.fstype, NETWORK_LIKE):
        return []
    what = "names types that lie on no device, so there is nothing to lease and it refuses them"
    return [_warn(rule, what, 'Write verdict = "deny" to say so, or remove those types')]


def _subject(rule: Rule) -> list[Problem]:
    comm = rule.match.subject.comm
    if comm is None or rule.mode is RuleMode.AUDIT or (not comm.negate and rule.mode is RuleMode.ENFORCE):
        return []
    return [_warn(rule, "lets callers through by comm, which every program can set", "Use unit or exe instead")]


def _unstable(rule: Rule) -> list[Problem]:
    names = [glob for glob in rule.match.device if UNSTABLE_NAME.match(glob)]
    if not names:
        return []
    what = f"names {', '.join(names)}, which may be another disk after the next boot"
    return [_warn(rule, what, 'Name the LUN, as in "wwn-0x5000c500*"')]


def _foreign(rule: Rule) -> list[Problem]:
    names = [glob for glob in rule.match.device if FOREIGN_NAME.match(glob)]
    if not names:
        return []
    what = f"names {', '.join(names)}, as other programs call a LUN: it matches nothing"
    return [
        _warn(rule, what, 'Write 3600140a* or naa.600140a* as "wwn-0x600140a*"; enforcer.policy(5) lists the names')
    ]


def _system(rule: Rule, devices: tuple[Device, ...]) -> list[Problem]:
    if rule.mode is RuleMode.OFF or not rule.match.device:
        return []
    return [
        _warn(
            rule,
            f"matches {device.name}, which {device.system} and is never guarded",
            "Narrow its device masks",
        )
        for device in devices
        if device.system and match_device(rule, replace(device, system="")) is not Answer.NO
    ]
