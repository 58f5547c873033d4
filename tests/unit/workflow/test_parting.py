# SPDX-License-Identifier: GPL-2.0-or-later
"""A daemon that ends: what nobody uses any more is given back first, what is in use does not keep it."""

from __future__ import annotations

import time

import pytest
from lab_node import ME, SECOND, A, B, Node, run

from enforcer.model.lease import Lease
from enforcer.storage.usage import Usage
from enforcer.workflow import parting
from enforcer.workflow.parting import give_back


async def looked() -> None: ...


async def held(node: Node, uses: int) -> None:
    node.store.hold(B, ME)
    await node.leases.adopt()
    node.count(SECOND, uses=uses)


def test_what_was_just_unmounted_is_waited_for(node: Node) -> None:
    """It could not go at once: a permit that was not over yet, a store that was slow."""

    async def scenario() -> None:
        node.store.hold(A, ME)
        await held(node, 0)
        node.leases._held[B].permits[1] = node.now() + 10**9
        node.store.loses["release"] = 1
        began = time.monotonic()
        left = await give_back(node.leases, node.devices, looked)
        assert time.monotonic() - began < 5
        # the one without an answer is CLOSING until the next daemon has asked the store
        assert B not in left and B not in node.store.ours()

    run(scenario())


@pytest.mark.parametrize("error", [TimeoutError(), OSError(5, "Input/output error")])
def test_a_storage_that_does_not_end_its_reservation_keeps_no_other_lease(
    node: Node, monkeypatch: pytest.MonkeyPatch, error: OSError
) -> None:
    async def give_up(lease: Lease) -> None:
        if lease.resource == A:
            raise error

    async def scenario() -> None:
        monkeypatch.setattr(node.leases._reservations, "give_up", give_up)
        monkeypatch.setattr(parting, "END_S", 0.3)
        node.store.hold(A, ME)
        await held(node, 0)
        left = await give_back(node.leases, node.devices, looked)
        assert left == [A] and set(node.store.ours()) == {A}

    run(scenario())


def test_what_is_in_use_keeps_nobody(node: Node) -> None:
    async def scenario() -> None:
        await held(node, 1)
        began = time.monotonic()
        assert await give_back(node.leases, node.devices, looked) == [B]
        assert time.monotonic() - began < 1 and B in node.store.ours()

    run(scenario())


@pytest.mark.parametrize("still", [False, True])
def test_a_use_that_nobody_counted_is_looked_for(node: Node, still: bool) -> None:
    async def scenario() -> None:
        await held(node, 0)
        node.used[SECOND] = Usage(mounted_at=["/srv"])
        node.devices.note_use(SECOND, "mounted at /srv")
        node.leases.mark_uncounted(node.devices.known[SECOND].device)

        async def look() -> None:
            node.pass_s(6)
            if not still:
                node.used.clear()
                node.devices.note_use(SECOND, "")

        began = time.monotonic()
        left = await give_back(node.leases, node.devices, look)
        assert left == ([B] if still else []) and time.monotonic() - began < 2

    run(scenario())


def test_it_is_not_waited_for_ever(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        monkeypatch.setattr(parting, "END_S", 0.3)
        await held(node, 0)
        node.claimed[SECOND] = True  # somebody inside the kernel has it, and no count tells
        began = time.monotonic()
        assert await give_back(node.leases, node.devices, looked) == [B]
        assert 0.3 <= time.monotonic() - began < 2 and B in node.store.ours()

    run(scenario())
