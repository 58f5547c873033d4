# SPDX-License-Identifier: GPL-2.0-or-later
"""The next daemon goes on with the leases of the one before it, under the same tokens."""

from __future__ import annotations

from dataclasses import replace

import pytest
from lab_node import A2, ME, PART2, SECOND, B, Node, run

from enforcer.kernel.abi import State
from enforcer.model.errors import StoreUnavailable


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


def test_adoption_without_a_store_is_told(node: Node) -> None:
    node.store.out_of_reach = True
    with pytest.raises(StoreUnavailable):
        run(node.leases.adopt())
    assert node.held() == {}
