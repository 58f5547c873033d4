# SPDX-License-Identifier: GPL-2.0-or-later
"""``enforcer doctor``: whether this machine has what enforcement stands on, and what to do."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from enforcer.cli.output import Output
from enforcer.model.errors import Exit, PrerequisiteMissing

SUMMARY = "check what enforcement needs of this machine"
EXAMPLE = "enforcer doctor"


def arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="one object")


def run(options: Namespace, output: Output) -> int:
    try:
        from enforcer.kernel.prerequisites import check
    except ImportError as error:
        raise PrerequisiteMissing(
            f"the checks of the kernel part cannot be loaded: {error}", hint="reinstall mount-enforcer"
        ) from error
    found = list(check())
    ok = all(item.ok for item in found)
    if options.json:
        items = [{"name": item.name, "ok": item.ok, "sentence": item.sentence, "remedy": item.remedy} for item in found]
        output.json({"schema": 1, "ok": ok, "prerequisites": items})
    else:
        from enforcer.cli import render

        rows = [("ok" if item.ok else "MISSING", item.name, item.sentence) for item in found]
        styles = {"ok": "green", "MISSING": "bold red"}
        output.draw(render.plain_table(("", "prerequisite", "what was found"), rows, styles))
        for item in found:
            if not item.ok and item.remedy:
                output.draw(render.cell(f"! {item.name}: {item.remedy}", "bold yellow"))
        output.line("this machine can enforce" if ok else "this machine cannot enforce")
    return Exit.OK if ok else Exit.NOT_INSTALLED
