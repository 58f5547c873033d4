# SPDX-License-Identifier: GPL-2.0-or-later
"""Expected verdicts as files: what ``enforcer policy test`` and our own tests run.

An administrator who changes a rule wants to know that last year's promises still hold. A case file says in
TOML what is asked and what must come out; see policy/README.md. It tests the policy that it brings along,
or, if it brings none, the one that it is given.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, fields
from pathlib import Path

from enforcer.model.intent import Caller, Intent
from enforcer.model.resource import Device, DevNum, ResourceId, UseKind
from enforcer.policy.document import Document, LocatedErrors, Problem, parse_bytes, read_bytes
from enforcer.policy.engine import Action, Decision, Facts, Guarding, decide, guards
from enforcer.policy.fields import Fields, errno_name
from enforcer.policy.parse import load, parse
from enforcer.policy.rules import Policy, RuleMode

CASE_KEYS = {
    "": ("policy", "policy_files", "device", "case"),
    "device": ("name", "dev", "resources", "aliases", "system", "problem", "carrier"),
    "case": ("name", "intent", "seen_by", "unresolved", "expect"),
    "case.intent": ("kind", "device", "fstype", "source", "target", "unit", "exe", "comm", "uid"),
    "case.expect": ("action", "mode", "rule", "default", "errno", "guarded"),
}


class CaseErrors(LocatedErrors):
    """A case file cannot be used."""


@dataclass(frozen=True, slots=True)
class Expected:
    """What must come out; None is not looked at."""

    action: Action
    mode: RuleMode | None = None
    rule: str | None = None
    default: str | None = None
    errno: str | None = None
    guarded: bool | None = None  # the kernel table's view of the device


@dataclass(frozen=True, slots=True)
class Case:
    """One intent and what is expected of it."""

    name: str
    intent: Intent
    facts: Facts
    expected: Expected
    policy: Policy | None  # None: whatever policy is being tested
    file: str
    line: int


@dataclass(frozen=True, slots=True)
class CaseResult:
    """What came out."""

    case: Case
    decision: Decision
    guarding: Guarding | None
    differences: tuple[str, ...]  # one clause each; empty if all is as expected

    @property
    def passed(self) -> bool:
        """True if nothing differs."""
        return not self.differences


def load_cases(paths: Iterable[str | Path]) -> list[Case]:
    """The cases of files, and of all ``*.toml`` in directories. Raises CaseErrors and PolicyErrors."""
    problems: list[Problem] = []
    cases: list[Case] = []
    for path in map(Path, paths):
        for file in sorted(path.glob("*.toml")) if path.is_dir() else [path]:
            content = read_bytes(str(file), problems)
            if content is None:
                continue
            document = parse_bytes(content, str(file))
            cases += _cases(document)
            problems += document.problems
    if problems:
        raise CaseErrors(problems)
    return cases


def run_case(case: Case, policy: Policy | None = None) -> CaseResult:
    """Decide one case under its own policy, or under ``policy`` if it brings none."""
    policy = case.policy or policy or Policy()
    decision = decide(policy, case.intent, case.facts)
    guarding = guards(policy, case.intent.device, case.facts) if case.intent.device else None
    actual: dict[str, object] = {
        "action": decision.action,
        "mode": decision.mode,
        "rule": decision.rule,
        "default": decision.default,
        "errno": errno_name(decision.errno),
        "guarded": guarding.guarded if guarding else False,
    }
    differences: list[str] = []
    for item in fields(case.expected):
        wanted = getattr(case.expected, item.name)
        if wanted is not None and wanted != actual[item.name]:
            differences.append(f"{item.name} is {json.dumps(actual[item.name])}, expected {json.dumps(wanted)}")
    return CaseResult(case, decision, guarding, tuple(differences))


def _cases(document: Document) -> list[Case]:
    top = Fields(document, (), document.data, CASE_KEYS[""])
    policy: Policy | None = None
    files = top.strings("policy_files")
    if files:
        policy = load([Path(document.file).parent / name for name in files])
    elif top.has("policy"):
        policy = parse(top.string("policy"), f"{document.file} (policy)")
    devices = {device.name: device for device in map(_device, _tables(top, "device"))}
    return [_case(fields, devices, policy) for fields in _tables(top, "case")]


def _tables(top: Fields, key: str) -> list[Fields]:
    value = top.data.get(key, [])
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        top.problem(key, f'"{key}" is not a list of tables', f"Write [[{key}]]")
        return []
    return [Fields(top.document, (key, index), item, CASE_KEYS[key]) for index, item in enumerate(value)]


def _device(fields: Fields) -> Device:
    name = fields.string("name")
    resources = tuple(sorted(ResourceId.parse(text) for text in fields.strings("resources")))
    dev = DevNum(0, 0)
    try:
        dev = DevNum.parse(fields.string("dev", "8:0"))
    except ValueError:
        fields.problem("dev", '"dev" is not a device number', 'Write "8:0"')
    return Device(
        dev=dev,
        name=name,
        resources=resources,
        aliases=tuple(dict.fromkeys([*map(str, resources), *fields.strings("aliases"), name])),
        system=fields.string("system"),
        problem=fields.string("problem"),
        carrier=bool(fields.boolean("carrier")),
    )


def _case(fields: Fields, devices: dict[str, Device], policy: Policy | None) -> Case:
    intent = fields.table("intent", CASE_KEYS["case.intent"])
    expect = fields.table("expect", CASE_KEYS["case.expect"])
    name = intent.string("device")
    if name and name not in devices:
        intent.problem("device", f'there is no device "{name}"', "Declare it with [[device]]")
    if not expect.has("action"):
        expect.problem("action", "the case expects nothing", 'Write expect = { action = "pass" }, lease or refuse')
    device = devices.get(name)
    uid = intent.data.get("uid", 0)
    caller = Caller(
        pid=1,
        tid=1,
        uid=uid if isinstance(uid, int) else 0,
        comm=intent.string("comm", "mount"),
        exe=intent.string("exe", "/usr/bin/mount"),
        unit=intent.string("unit"),
        cgroup="/",
    )
    return Case(
        name=fields.string("name"),
        intent=Intent(
            id=0,
            kind=intent.choice("kind", UseKind, UseKind.MOUNT),
            caller=caller,
            fstype=intent.string("fstype"),
            source=intent.string("source"),
            target=intent.string("target"),
            dev=device.dev if device else None,
            device=device,
        ),
        facts=Facts(frozenset(fields.strings("seen_by")), fields.string("unresolved")),
        expected=Expected(
            action=expect.choice("action", Action, Action.PASS),
            mode=expect.choice("mode", RuleMode, RuleMode.ENFORCE) if expect.has("mode") else None,
            rule=expect.string("rule") if expect.has("rule") else None,
            default=expect.string("default") if expect.has("default") else None,
            errno=expect.string("errno") if expect.has("errno") else None,
            guarded=expect.boolean("guarded"),
        ),
        policy=policy,
        file=fields.document.file,
        line=fields.line,
    )
