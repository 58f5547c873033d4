# SPDX-License-Identifier: GPL-2.0-or-later
"""A multipath map: what it takes is no use, what is done through it is, whatever becomes of its paths."""

from __future__ import annotations

from dataclasses import replace

import pytest
from lab_node import DISK, MAP, PATH2, SECOND, B, Node, disk, multipath, run

from enforcer.kernel.abi import State
from enforcer.model.resource import Device
from enforcer.storage import dmtable
from enforcer.storage.dmtable import DmTable
from enforcer.storage.usage import Usage
from enforcer.workflow.resolver import Resolver

HELD = Usage(holders=("dm-9",))


@pytest.mark.parametrize("problem", ["", "sdb in dm-9/slaves went away"])
def test_a_map_in_use_that_loses_its_paths_keeps_the_lease(node: Node, problem: str) -> None:
    """It queues what is written; when a path comes back, that is written out."""

    async def scenario() -> None:
        multipath(node)
        await node.take(node.there[MAP])
        node.count(MAP, uses=1)
        node.leases.permit_over(1)
        for gone in (SECOND, PATH2):
            del node.there[gone]
            node.devices.forget(gone)
        node.add(disk(MAP, "dm-9", size_bytes=1 << 20, problem=problem))
        await node.leases.release_unused()
        assert node.store.ours() and node.state(MAP) is not State.UNGUARDED

    run(scenario())


def test_a_map_that_was_in_use_before_keeps_the_lease_without_its_paths(node: Node) -> None:
    async def scenario() -> None:
        multipath(node)
        node.used[MAP] = Usage(mounted_at=["/srv"])
        node.devices.note_use(MAP, "mounted at /srv")
        assert await node.leases.take_in_use(node.devices.known[MAP].device, budget_s=1) is None
        for gone in (SECOND, PATH2):
            del node.there[gone]
            node.devices.forget(gone)
        node.add(disk(MAP, "dm-9", size_bytes=1 << 20))
        node.pass_s(6)
        await node.leases.release_unused()
        assert node.store.ours() and node.devices.known[MAP].device.resources == (B,)
        node.used.clear()
        node.pass_s(6)
        await node.leases.release_unused()
        assert node.store.ours() == {}

    run(scenario())


def test_what_was_mounted_on_a_map_before_enforcement_is_given_back(node: Node) -> None:
    async def scenario() -> None:
        multipath(node)
        node.carriers = {SECOND, PATH2}
        node.used = {SECOND: HELD, PATH2: HELD, MAP: Usage(mounted_at=["/srv"])}
        in_use = replace(node.there[MAP], in_use="mounted at /srv")
        assert await node.leases.take_in_use(in_use, budget_s=1) is None
        await node.leases.release_unused()
        assert node.store.ours()
        del node.used[MAP]
        node.pass_s(6)
        await node.leases.release_unused()
        assert node.store.ours() == {}

    run(scenario())


def test_a_map_that_lost_its_paths_before_a_restart_keeps_what_was_held(node: Node) -> None:
    """Nobody can tell any more which LUN what is mounted there waits for."""

    async def scenario() -> None:
        multipath(node)
        await node.hold(node.there[MAP])
        for dev in (SECOND, PATH2):
            del node.there[dev]
        # as it is told while the link of a path that is gone is there still (storage/identity.py)
        node.there[MAP] = Device(MAP, str(MAP), (), (), problem="a path could not be read")
        node.count(MAP, uses=1)
        node.build()
        await node.leases.adopt()
        await node.leases.release_unused()
        assert node.store.ours()
        node.count(MAP, uses=0)
        await node.leases.release_unused()
        assert node.store.ours() == {}

    run(scenario())


@pytest.mark.parametrize(
    ("path", "uses", "covered", "carrier"),
    [
        (PATH2, 0, False, True),
        (PATH2, 1, True, True),
        (PATH2, 1, False, False),
        (PATH2, -1, False, False),
        (DISK, 0, False, False),
        (None, 0, False, True),
        (None, 1, False, False),
    ],
    ids=[
        "idle",
        "in use under its lease",
        "in use without a lease",
        "in use uncounted without a lease",
        "another LUN",
        "idle, of a LUN that nobody knows",
        "in use, of a LUN that nobody knows",
    ],
)
def test_what_a_map_may_take_without_a_lease(
    node: Node, monkeypatch: pytest.MonkeyPatch, path: object, uses: int, covered: bool, carrier: bool
) -> None:
    monkeypatch.setattr(dmtable, "uuid_of", lambda _table, *, scratch: "mpath-x")

    async def scenario() -> None:
        multipath(node)
        if path is None:  # the daemon began when it had no path
            node.devices.known.pop(MAP)
            node.add(replace(node.there[MAP], resources=(), below=()))
        if covered:
            await node.take(node.there[MAP])
        if uses < 0:
            node.devices.note_use(MAP, "mounted at /srv")
        node.count(MAP, uses=max(uses, 0))
        resolver = Resolver(node.devices, node.leases, node.tables, node.sysfs)
        table = DmTable("mpatha", "", MAP, ())
        assert resolver._carries(table, {"multipath"}, [node.there[path or PATH2]]) is carrier

    run(scenario())
