# SPDX-License-Identifier: GPL-2.0-or-later
"""One module for each verb, and what each of them must offer."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from typing import Protocol

from enforcer.cli.output import Output


class Verb(Protocol):
    """A module of this package."""

    SUMMARY: str  # one clause, for the list of verbs
    EXAMPLE: str  # one command that works as it stands

    def arguments(self, parser: ArgumentParser) -> None:
        """Say what may follow the verb."""

    def run(self, options: Namespace, output: Output) -> int:
        """Do it; returns an exit code or raises EnforcerError."""
