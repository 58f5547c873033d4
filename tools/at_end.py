# SPDX-License-Identifier: GPL-2.0-or-later
"""Figures that tests take are shown at the end of the log, of a run that passed too: for a conftest to import."""

from __future__ import annotations

import io
from collections.abc import Callable

import pytest
from rich.console import Console

from tools import figures
from tools.figures import Figure

Keep = Callable[[list[Figure]], None]
TAKEN = pytest.StashKey[list[Figure]]()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """pytest's hook."""
    if taken := config.stash.get(TAKEN, []):
        terminalreporter.section("figures (where CPUs are emulated, only the ratios mean something)")
        drawn = io.StringIO()
        Console(file=drawn, width=120).print(figures.table(taken, ""))
        terminalreporter.write(drawn.getvalue())


@pytest.fixture(scope="session")
def taken(request: pytest.FixtureRequest) -> Keep:
    """Keeps figures for the end of the log."""
    return request.config.stash.setdefault(TAKEN, []).extend
