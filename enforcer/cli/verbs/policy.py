# SPDX-License-Identifier: GPL-2.0-or-later
"""``enforcer policy check|test|show|reload``: judge policy files without a daemon, then hand them to it.

Only ``reload`` talks to the daemon. The others read files, so that a policy can be written, checked and
tested on a machine that enforces nothing.
"""

from __future__ import annotations

import dataclasses
from argparse import ArgumentParser, Namespace
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING

from enforcer.audit.loose import number, text, texts
from enforcer.audit.record import errno_name
from enforcer.cli.client import Client
from enforcer.cli.output import Output
from enforcer.model.errors import EnforcerError, Exit, UsageError
from enforcer.model.escape import for_terminal
from enforcer.policy.fields import show_duration

if TYPE_CHECKING:
    from enforcer.policy.document import Problem
    from enforcer.policy.rules import Policy, Rule

SUMMARY = "check, test, show or reload the policy files"
EXAMPLE = "enforcer policy check && enforcer policy test cases.toml && enforcer policy reload"
_DIRS = "in place of /usr/lib/enforcer/policy.d and /etc/enforcer/policy.d; may be given again"


def arguments(parser: ArgumentParser) -> None:
    verbs = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    check = verbs.add_parser("check", help="print every mistake with file and line; exit 6 if any")
    check.add_argument("places", nargs="*", type=Path, metavar="DIR|FILE", help=_DIRS)
    check.add_argument("--strict", action="store_true", help="exit 6 for warnings too")
    test = verbs.add_parser("test", help="run case files: what is asked, and what must come out")
    test.add_argument("cases", nargs="+", type=Path, metavar="CASES", help="TOML files or directories")
    test.add_argument("--dir", action="append", type=Path, metavar="DIR|FILE", help=_DIRS)
    show = verbs.add_parser("show", help="print the rules in the order in which they are asked")
    show.add_argument("rule", nargs="?", metavar="ID", help="one rule, in full")
    show.add_argument("--dir", action="append", type=Path, metavar="DIR|FILE", help=_DIRS)
    reload = verbs.add_parser("reload", help="make the daemon use the files as they are now, all or nothing")
    for verb in (check, test, show, reload):
        verb.add_argument("--json", action="store_true", help="one object")


def run(options: Namespace, output: Output) -> int:
    return {"check": _check, "test": _test, "show": _show, "reload": _reload}[options.action](options, output)


def _load(places: list[Path] | None) -> Policy:
    from enforcer.policy.parse import DIRECTORIES, load

    return load(places or DIRECTORIES, named=bool(places))


def _check(options: Namespace, output: Output) -> int:
    from enforcer.policy.document import LocatedErrors
    from enforcer.policy.lint import lint

    policy = None
    errors: tuple[Problem, ...] = ()
    warnings: list[Problem] = []
    try:
        policy = _load(options.places)
        warnings = lint(policy)
    except LocatedErrors as error:
        errors = error.problems
    failed = bool(errors) or (options.strict and bool(warnings))
    if options.json:
        output.json(
            {
                "schema": 1,
                "ok": not failed,
                "errors": [_problem(problem) for problem in errors],
                "warnings": [_problem(problem) for problem in warnings],
                "files": list(policy.files) if policy else [],
                "digest": policy.digest if policy else "",
            }
        )
        return Exit.NOT_CONFIGURED if failed else Exit.OK
    for problem in errors:
        output.line(for_terminal(str(problem), 2048))
    for problem in warnings:
        output.line("warning: " + for_terminal(str(problem), 2048))
    if policy is not None:
        rules, files = len(policy.rules), len(policy.files)
        output.line(f"{rules} rules in {files} files, {len(warnings)} warnings, digest {policy.digest[:16]}")
    return Exit.NOT_CONFIGURED if failed else Exit.OK


def _problem(problem: Problem) -> dict[str, object]:
    return {
        "file": problem.file,
        "line": problem.line,
        "message": problem.message,
        "remedy": problem.remedy,
    }


def _test(options: Namespace, output: Output) -> int:
    from enforcer.policy.cases import load_cases, run_case

    for place in options.cases:
        if place.is_dir() and not any(place.glob("*.toml")):
            raise UsageError(f"there is no case file (*.toml) in {for_terminal(str(place))}", hint="nothing was tested")
    cases = load_cases(options.cases)
    if not cases:
        raise UsageError("the files hold no case", hint="a case is a table [[case]]; nothing was tested")
    needed = any(case.policy is None for case in cases)
    policy = _load(options.dir) if needed else None
    results = [run_case(case, policy) for case in cases]
    failed = [result for result in results if not result.passed]
    if options.json:
        rows = [
            {
                "file": result.case.file,
                "line": result.case.line,
                "name": result.case.name,
                "passed": result.passed,
                "differences": list(result.differences),
            }
            for result in results
        ]
        output.json({"schema": 1, "ok": not failed, "cases": rows})
        return Exit.FAILURE if failed else Exit.OK
    for result in failed:
        case = result.case
        said = "; ".join(result.differences)
        output.line(for_terminal(f"{case.file}:{case.line}: {case.name}: {said}", 2048))
        output.line(for_terminal(f"  because {result.decision.reason}", 2048))
    output.line(f"{len(results) - len(failed)} of {len(results)} cases come out as expected")
    return Exit.FAILURE if failed else Exit.OK


def _show(options: Namespace, output: Output) -> int:
    policy = _load(options.dir)
    rules = [rule for rule in policy.rules if options.rule in (None, rule.id)]
    if options.rule and not rules:
        raise EnforcerError(
            f"there is no rule {for_terminal(options.rule)}", hint="enforcer policy show lists them all"
        )
    if options.json:
        output.json(
            {
                "schema": 1,
                "digest": policy.digest,
                "files": list(policy.files),
                "defaults": _plain(policy.defaults),
                "rules": [_plain(rule) for rule in rules],
            }
        )
        return Exit.OK
    from enforcer.cli import render

    if options.rule:
        for rule in rules:
            rows = [(key, _short(value)) for key, value in _flat(rule)]
            output.draw(render.plain_table(("", f"rule {for_terminal(rule.id)}"), rows, {}))
        return Exit.OK
    table = [(r.id, str(r.mode), _on(r), _condition(r), f"{r.file}:{r.line}") for r in rules]
    styles = {"enforce": "green", "audit": "yellow", "off": "dim"}
    output.draw(render.plain_table(("rule", "mode", "on", "if", "where"), table, styles))
    defaults = ", ".join(f"{key} {_short(value)}" for key, value in _flat(policy.defaults))
    output.line(f"\nwhere no rule matches: {defaults}")
    return Exit.OK


def _reload(options: Namespace, output: Output) -> int:
    data = Client(options.socket, timeout=60).ask("policy-reload")
    if options.json:
        output.json({"schema": 1, **data})
        return Exit.OK
    output.line(f"policy generation {number(data, 'generation')}, digest {text(data, 'policy_digest')[:16]}")
    for warning in texts(data, "warnings"):
        output.line(f"warning: {warning}")
    return Exit.OK


def _on(rule: Rule) -> str:
    return " ".join(sorted(rule.on))


def _condition(rule: Rule) -> str:
    found = [f"{key}={_short(value)}" for key, value in _flat(rule.match) if value not in ((), None)]
    return " ".join(found) or "anything"


def _flat(value: object) -> list[tuple[str, object]]:
    """The fields of a dataclass, those of an inner one by their own names, without what is not said."""
    from enforcer.policy.rules import Mask, UidMask

    rows: list[tuple[str, object]] = []
    if dataclasses.is_dataclass(value):
        for item in dataclasses.fields(value):
            inner = getattr(value, item.name)
            if isinstance(inner, (Mask, UidMask)):
                rows.append((item.name, str(inner)))
            elif dataclasses.is_dataclass(inner):
                rows += _flat(inner)
            elif inner not in ((), None, ""):
                rows.append(_as_written(item.name, inner))
    return rows


def _as_written(name: str, value: object) -> tuple[str, object]:
    """A key and its value as they stand in a policy file."""
    if name == "errno" and isinstance(value, int):
        return name, errno_name(value)
    if name.endswith("_s") and isinstance(value, float):
        return name.removesuffix("_s"), show_duration(value)
    return name, value


def _short(value: object) -> str:
    if isinstance(value, (tuple, frozenset, set)):
        return ",".join(sorted(_short(item) for item in value))
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)


def _plain(value: object) -> object:
    """A dataclass as JSON has it."""
    if dataclasses.is_dataclass(value):
        return {item.name: _plain(getattr(value, item.name)) for item in dataclasses.fields(value)}
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, (tuple, list)):
        return [_plain(item) for item in value]
    if isinstance(value, (set, frozenset)):
        return sorted(str(item) for item in value)
    return value if isinstance(value, (str, int, float, bool, type(None))) else str(value)
