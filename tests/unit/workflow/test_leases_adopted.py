# SPDX-License-Identifier: GPL-2.0-or-later
"""The next daemon goes on with the leases of the one before it, under the same tokens."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from lab_node import A2, ME, PART2, SECOND, B, Node, run

from enforcer.kernel.abi import State
from enforcer.model.errors import StoreUnavailable
from enforcer.model.resource import DevNum
from enforcer.storage.reservations import key_of
from enforcer.workflow.reserving import Reservations


def test_the_next_daemon_goes_on(node: Node) -> None:
    async def scenario() -> None:
        old = node.store.hold(A2, replace(ME, boot_id="boot-0"))
        mine = node.store.hold(B, replace(ME, session="session-0"))
        node.count(SECOND, uses=1)  # mounted all the time
        node.count(SECOND, uses=1)
        told = await node.leases.adopt()
        assert len(told) == 2 and str(A2) in told[0] and f"token {mine.token}" in told[1]
        assert old not in node.store.records.values()
        assert node.held() == {B: (mine.token, "live")} and node.entry(SECOND).token == mine.token
        assert node.state(SECOND) is State.LIVE and node.state(PART2) is State.FREE
        assert await node.leases.adopt() == [] and node.held()[B][0] == mine.token

    run(scenario())


def test_what_an_earlier_boot_reserved_is_ended_when_its_lun_appears(node: Node, tmp_path: Path) -> None:
    """The store forgets that boot's lease at once; the disk may come later, and with it what keeps others out."""
    keys = {key_of(node.store.hold(B, replace(ME, boot_id="boot-0")))}

    @contextmanager
    def port(_dev: DevNum, *, scratch: Path) -> Iterator[Any]:
        yield SimpleNamespace(registered=lambda: tuple(keys), unregister=keys.discard)

    async def scenario() -> None:
        node.leases._reservations = Reservations(
            node.devices, node.store, ME, patterns=("wwn-*",), scratch=tmp_path, port=port
        )
        later = node.there.pop(SECOND)
        node.devices.reclassify()
        await node.leases.adopt()
        running = asyncio.create_task(node.leases.run())
        await asyncio.sleep(0.1)
        assert keys
        node.add(later)
        for _ in range(200):
            node.leases.wake()
            await asyncio.sleep(0.01 if keys else 0)
        assert not keys
        running.cancel()

    run(scenario())


def test_adoption_without_a_store_is_told(node: Node) -> None:
    node.store.out_of_reach = True
    with pytest.raises(StoreUnavailable):
        run(node.leases.adopt())
    assert node.held() == {}
