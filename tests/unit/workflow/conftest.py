# SPDX-License-Identifier: GPL-2.0-or-later
"""A node without a kernel for each test."""

from __future__ import annotations

from pathlib import Path

import pytest
from lab_node import Node, make_node


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Node:
    return make_node(tmp_path, monkeypatch)
