# SPDX-License-Identifier: GPL-2.0-or-later
"""The policy of the settings, and what the kernel's gate has to know of it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from enforcer.kernel import abi
from enforcer.kernel.tables import Tables
from enforcer.policy import parse
from enforcer.policy.engine import kernel_fstypes
from enforcer.policy.rules import Implicit, MultiAttached, Policy, RuleMode
from enforcer.settings import Settings


def load_policy(settings: Settings, generation: int, *, audit_only: bool) -> Policy:
    """Read the policy files. ``audit_only`` turns every enforcing rule and default into a watching one.

    Raises BadConfiguration.
    """
    policy = parse.load(settings.paths.policy_dirs, generation=generation)
    if not audit_only:
        return policy
    rules = tuple(replace(r, mode=RuleMode.AUDIT) if r.mode is RuleMode.ENFORCE else r for r in policy.rules)
    multi = MultiAttached.AUDIT if policy.defaults.multi_attached is not MultiAttached.ALLOW else MultiAttached.ALLOW
    defaults = replace(policy.defaults, multi_attached=multi, implicit=Implicit.ALLOW, unknown=Implicit.ALLOW)
    return replace(policy, rules=rules, defaults=defaults, digest="")


def nodev_types() -> set[str]:
    """Filesystem types that need no device, as the running kernel lists them (/proc/filesystems)."""
    return {
        line.split("\t")[1].strip()
        for line in Path("/proc/filesystems").read_text().splitlines()
        if line.startswith("nodev")
    }


def tell_fstypes(policy: Policy, tables: Tables) -> None:
    """Which types of filesystem the gate passes, and which it asks about."""
    wanted = kernel_fstypes(policy, nodev_types())
    for name in tables.fstype_names() - set(wanted):
        tables.fstype(name, None)
    for name, handling in wanted.items():
        tables.fstype(name, abi.FsHandling(int(handling)))
    asked = any(int(handling) != abi.FsHandling.PASS for handling in wanted.values())
    tables.configure(types_asked=int(asked))
