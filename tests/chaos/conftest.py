# SPDX-License-Identifier: GPL-2.0-or-later
"""Another run than that of ``make test``: ``pytest tests/chaos --seed 7 --steps 90``."""

from __future__ import annotations

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--seed", type=int, default=138, help="which plan; by default one that begins with partitions")
    parser.addoption("--steps", type=int, default=0, help="how many faults (default: every cell once)")
    parser.addoption("--kernel", default="6.12", help="series of the guests' kernel")
