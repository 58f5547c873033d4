# SPDX-License-Identifier: GPL-2.0-or-later
"""Devices, intents, rules and policies in one line each."""

from __future__ import annotations

from dataclasses import replace

from enforcer.model.intent import Caller, Intent
from enforcer.model.resource import Device, DevNum, ResourceId, UseKind
from enforcer.policy.rules import (
    RULE_USES,
    Defaults,
    Policy,
    Rule,
)

CALLER = Caller(pid=1, tid=1, uid=0, comm="mount", exe="/usr/bin/mount", cgroup="/", unit="a.service")
LUN_A, LUN_B = ResourceId("a"), ResourceId("b")


def device(*resources: ResourceId, name: str = "sdx", aliases: tuple[str, ...] = (), **more: object) -> Device:
    names = tuple(map(str, resources)) + aliases + (name,)
    return replace(Device(DevNum(8, 0), name, resources, names), **more)


def intent(kind: UseKind = UseKind.MOUNT, dev: Device | None = None, **more: object) -> Intent:
    base = Intent(1, kind, CALLER, fstype="ext4", target="/srv", device=dev, dev=dev.dev if dev else None)
    return replace(base, **more)


def rule(rule_id: str = "r", **more: object) -> Rule:
    return replace(Rule(rule_id, frozenset(RULE_USES)), **more)


def policy(*rules: Rule, **defaults: object) -> Policy:
    return Policy(rules, replace(Defaults(), **defaults), generation=3)
