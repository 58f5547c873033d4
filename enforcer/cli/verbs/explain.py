# SPDX-License-Identifier: GPL-2.0-or-later
"""``enforcer explain ID``: one event in plain words, from the log alone."""

from __future__ import annotations

import contextlib
from argparse import ArgumentParser, Namespace
from pathlib import Path

from enforcer.audit import reader
from enforcer.audit.view import Record
from enforcer.audit.writer import LOG
from enforcer.cli import words
from enforcer.cli.output import Output
from enforcer.model.errors import EnforcerError, Exit
from enforcer.model.escape import for_terminal

SUMMARY = "say in plain words why an event was decided as it was"
EXAMPLE = "enforcer explain E-1a2b3c-17"


def arguments(parser: ArgumentParser) -> None:
    parser.add_argument("id", metavar="ID", help="the event, as the refused caller was told; or: last")
    parser.add_argument("--json", action="store_true", help="the record as it is")
    parser.add_argument("--file", type=Path, default=LOG, help=f"another log than {LOG}")


def run(options: Namespace, output: Output) -> int:
    record = _last(options.file) if options.id == "last" else reader.find(options.file, options.id)
    if record is None:
        raise EnforcerError(
            f"no event {for_terminal(options.id)} in {options.file}",
            hint="enforcer audit -n 20 shows the latest; an event is logged on the node where it happened",
        )
    if options.json:
        output.json(record.raw)
        return Exit.OK
    from enforcer.cli import render

    found = words.explain(record, rule_place=_rule_place(record))
    output.draw(*render.explanation(found, record.effect))
    return Exit.OK


def _last(path: Path) -> Record | None:
    """The latest refusal."""
    last = None
    for record in reader.read(path):
        if record.effect in ("refuse", "would-refuse"):
            last = record
    return last


def _rule_place(record: Record) -> str:
    """Where the rule stands today; the log names it by id, and files may have changed since."""
    if not record.rule:
        return ""
    with contextlib.suppress(ImportError, EnforcerError, OSError):
        from enforcer.policy.parse import load

        rule = load().rule(record.rule)
        return f"now at {rule.file}:{rule.line}" if rule else "which is no longer in the policy files"
    return ""
