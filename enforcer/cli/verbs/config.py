# SPDX-License-Identifier: GPL-2.0-or-later
"""``enforcer config check [FILE]``: read the settings as the daemons would, and start nothing."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path

from enforcer import settings
from enforcer.cli.output import Output
from enforcer.model.errors import Exit
from enforcer.model.escape import for_terminal
from enforcer.policy.document import LocatedErrors

SUMMARY = "check enforcer.toml without starting anything"
EXAMPLE = "enforcer config check"


def arguments(parser: ArgumentParser) -> None:
    verbs = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    check = verbs.add_parser("check", help="print every mistake with file and line; exit 6 if any")
    check.add_argument("file", nargs="?", type=Path, metavar="FILE", help=f"another file than {settings.DEFAULT_PATH}")
    check.add_argument("--json", action="store_true", help="one object: the mistakes, and what is in force")


def run(options: Namespace, output: Output) -> int:
    problems: list[dict[str, object]] = []
    lines: list[str] = []
    found = None
    try:
        found = settings.load(options.file)
    except LocatedErrors as error:
        lines = [str(problem) for problem in error.problems]
        problems = [
            {"file": each.file, "line": each.line, "message": each.message, "remedy": each.remedy}
            for each in error.problems
        ]
    if options.json:
        told = found.as_dict() if found else {}
        output.json({"schema": 1, "ok": not problems, "errors": problems, "settings": told})
        return Exit.NOT_CONFIGURED if problems else Exit.OK
    for line in lines:
        output.line(for_terminal(line, 2048))
    if found is not None:
        where = found.file or f"{settings.DEFAULT_PATH} is not there: the defaults"
        store = f"store {found.store.kind}, cluster {found.store.cluster}"
        output.line(for_terminal(f"{where}: in order; node {found.node.name}, {store}", 1024))
    return Exit.NOT_CONFIGURED if problems else Exit.OK
