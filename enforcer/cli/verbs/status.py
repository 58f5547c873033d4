# SPDX-License-Identifier: GPL-2.0-or-later
"""``enforcer status``: is this node enforcing, under which policy, and does the store answer."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from enforcer.cli.client import Client
from enforcer.cli.output import Output
from enforcer.model.errors import Exit

SUMMARY = "say whether this node enforces, under which policy, and what troubles it"
EXAMPLE = "enforcer status --json"


def arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="one object")


def run(options: Namespace, output: Output) -> int:
    data = Client(options.socket).ask("status")
    if options.json:
        output.json({"schema": 1, **data})
    else:
        from enforcer.cli import render

        output.draw(*render.status_grid(data))
    return Exit.OK
