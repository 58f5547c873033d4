# SPDX-License-Identifier: GPL-2.0-or-later
"""``enforcer version``."""

from __future__ import annotations

import platform
from argparse import ArgumentParser, Namespace

import enforcer
from enforcer.audit.record import SCHEMA as AUDIT_SCHEMA
from enforcer.cli.client import SCHEMA as CONTROL_SCHEMA
from enforcer.cli.output import Output
from enforcer.model.errors import Exit

SUMMARY = "print the version"
EXAMPLE = "enforcer version"


def arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="one object")


def run(options: Namespace, output: Output) -> int:
    if options.json:
        output.json(
            {
                "schema": 1,
                "version": enforcer.__version__,
                "audit_schema": AUDIT_SCHEMA,
                "control_schema": CONTROL_SCHEMA,
                "python": platform.python_version(),
                "kernel": platform.release(),
            }
        )
    else:
        output.line(f"enforcer {enforcer.__version__} (Linux {platform.release()})")
    return Exit.OK
