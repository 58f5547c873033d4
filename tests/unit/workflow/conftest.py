# SPDX-License-Identifier: GPL-2.0-or-later
"""A node without a kernel for each test, and the judge of it."""

from __future__ import annotations

from pathlib import Path

import pytest
from lab_court import BROKEN, LOCAL, Court
from lab_node import Node, disk, make_node

from enforcer.model.resource import Device, ResourceId
from enforcer.storage import dmtable, sources
from enforcer.storage.dmtable import DmTable, DmTableError
from enforcer.workflow import resolver


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Node:
    return make_node(tmp_path, monkeypatch)


@pytest.fixture
def court(node: Node, monkeypatch: pytest.MonkeyPatch) -> Court:
    court = Court(node)
    node.add(disk(LOCAL, "vda", ResourceId("local-1")))
    node.add(Device(BROKEN, "sdx", (), ("wwn-x",), problem="its paths disagree"))

    def read(_tid: int, _address: int) -> DmTable:
        if isinstance(court.table, DmTableError):
            raise court.table
        return court.table

    monkeypatch.setattr(resolver, "companions", court.companions)
    monkeypatch.setattr(sources, "resolve", lambda _tid, path: court.paths.get(path))
    monkeypatch.setattr(dmtable, "read_table", read)
    return court
