# SPDX-License-Identifier: GPL-2.0-or-later
"""Figures are shown at the end."""

from __future__ import annotations

from tools.at_end import pytest_terminal_summary as pytest_terminal_summary
from tools.at_end import taken as taken
