# SPDX-License-Identifier: GPL-2.0-or-later
"""The external store with a real peer, and lines between them that arrive late: what was granted since stays."""

from __future__ import annotations

import asyncio
from pathlib import Path

from lab_cluster import Node, external
from lab_external import ME, LineProxy, behind_a_proxy, held, must_not_know, soon

from enforcer.model.lease import Granted, Holder


def test_a_slow_answer_holds_up_nobody_else(tmp_path: Path) -> None:
    async def scenario(one: Node, two: Node, proxy: LineProxy) -> None:
        proxy.hold = lambda request: any(claim["resource"] == "slow" for claim in request.get("claims", ()))
        waiting = asyncio.create_task(one.take("slow"))
        await proxy.meeting.wait()
        answers = await asyncio.gather(*(one.must_take(f"lun-{n}") for n in range(20)))
        assert len({answer.token for answer in answers}) == 20
        assert len(await one.store.leases()) == 20
        assert not waiting.done()
        proxy.go.set()
        assert isinstance(await waiting, Granted)

    behind_a_proxy(tmp_path, scenario)


def test_a_release_that_arrives_late_takes_nothing_from_who_asked_again(tmp_path: Path) -> None:
    async def scenario(one: Node, two: Node, proxy: LineProxy) -> None:
        first = await one.must_take("a")
        proxy.hold = lambda request: request["call"] == "gone"
        releasing = asyncio.create_task(one.give(first.token, "a"))
        await proxy.meeting.wait()
        releasing.cancel()
        again = await one.must_take("a")
        assert again.token > first.token and again.fresh
        proxy.go.set()
        await one.store.leases()  # what was sent before is done by then
        await asyncio.sleep(0.05)
        assert await held(two) == {"a": ("node-1", again.token)}

    behind_a_proxy(tmp_path, scenario)


def test_a_late_release_takes_nothing_from_the_next_run_of_the_daemon(tmp_path: Path) -> None:
    async def scenario(one: Node, two: Node, proxy: LineProxy) -> None:
        first = await one.must_take("a")
        proxy.hold = lambda request: request["call"] == "gone"
        releasing = asyncio.create_task(one.give(first.token, "a"))
        await proxy.meeting.wait()
        releasing.cancel()
        next_run = Holder(ME.node, ME.boot_id, "s2")
        after = Node(next_run, external(next_run, tmp_path, path=str(tmp_path / "peer.sock")))
        await after.store.open()
        assert [lease.token for lease in await after.store.adopt()] == [first.token]
        assert (await after.must_take("a")).token == first.token
        proxy.go.set()
        await asyncio.sleep(0.05)
        assert await held(two) == {"a": ("node-1", first.token)}
        await after.store.close()

    behind_a_proxy(tmp_path, scenario)


def test_an_ask_that_arrives_late_changes_nothing_that_was_granted_since(tmp_path: Path) -> None:
    async def scenario(one: Node, two: Node, proxy: LineProxy) -> None:
        kept = await one.must_take("a")
        proxy.hold = lambda request: request["call"] == "authorise" and not proxy.held
        await must_not_know(one, "a", "b", budget_s=0.2)
        since = await one.must_take("b")
        proxy.go.set()
        await asyncio.sleep(0.1)
        assert await held(two) == {"a": ("node-1", kept.token), "b": ("node-1", since.token)}
        assert (await one.must_take("a")).token == kept.token

    behind_a_proxy(tmp_path, scenario)


def test_a_set_that_is_granted_late_leaves_what_was_held_before(tmp_path: Path) -> None:
    async def scenario(one: Node, two: Node, proxy: LineProxy) -> None:
        await one.must_take("a")
        proxy.hold = lambda request: request["call"] == "authorise"
        await must_not_know(one, "a", "b", budget_s=0.2)
        proxy.go.set()

        async def b_is_free() -> bool:
            return any(call["call"] == "refused" for call in proxy.calls) and "b" not in await held(two)

        assert await soon(b_is_free)
        assert (await held(two)).get("a", ("nobody", 0))[0] == "node-1", "perhaps it is in use"
        await two.must_take("b")

    behind_a_proxy(tmp_path, scenario)
