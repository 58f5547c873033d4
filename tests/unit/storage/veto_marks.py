# SPDX-License-Identifier: GPL-2.0-or-later
"""What the readers of marks say of a disk, as the tests ask."""

from __future__ import annotations

from hypothesis import HealthCheck, settings
from veto_disks import Image

from enforcer.storage.vetoes.local import Local
from enforcer.storage.vetoes.look import look
from enforcer.storage.vetoes.marks import Mark

MIB = 1 << 20
HERE = Local(
    frozenset({"node-1"}), {1: "node-1", 2: "node-2"}, frozenset({"iqn.2026-11.mg:node1", "fc.5001438012345678"})
)
anything = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def seen(disk: Image) -> tuple[Mark, ...]:
    return look(disk, lambda: HERE)


def only(disk: Image) -> Mark:
    found = seen(disk)
    assert len(found) == 1
    return found[0]


def owners(disk: Image) -> list[tuple[str, str | None]]:
    return [(mark.layer, mark.owner) for mark in seen(disk)]


def bounded(disk: Image) -> None:
    seen(disk)
    assert disk.reads <= 600 and disk.bytes_read <= 10 * MIB
