# SPDX-License-Identifier: GPL-2.0-or-later
"""Taken over by time: only who promised to silence itself, only when that time is over, and never half."""

from __future__ import annotations

import asyncio

import pytest
from lab_cluster import Cluster, EtcdServer, Node, Proxy, play

from enforcer.cluster.etcd_http import EtcdClient
from enforcer.cluster.etcd_store import EtcdStore
from enforcer.model.deadlines import margin_s
from enforcer.model.errors import LeaseLost
from enforcer.model.lease import Denied, Granted, Guarantee, Liveness
from enforcer.model.resource import ResourceId


async def holds(c: Cluster, guarantee: Guarantee) -> Node:
    """node-1, which has taken ``a`` with this promise."""
    node = await c.boot("node-1")
    node.store._guarantee = lambda wanted: guarantee if wanted == {ResourceId("a")} else Guarantee.NONE
    granted = await node.must_take("a")
    assert [lease.guarantee for lease in granted.leases] == [guarantee]
    return node


@pytest.mark.parametrize("guarantee", Guarantee)
def test_who_promised_silence_is_taken_over_when_its_time_is_over_and_stays_out(
    etcd_cluster: Cluster, etcd: EtcdServer, guarantee: Guarantee
) -> None:
    async def scenario(c: Cluster) -> None:
        one, two = await holds(c, guarantee), await c.boot("node-2")
        await one.crash()
        early = await two.take("a")
        assert isinstance(early, Denied) and early.blocking[0].liveness is Liveness.STRANDED
        await asyncio.sleep(margin_s(c.ttl_s) + 0.1)
        late = await two.take("a")
        if guarantee not in (Guarantee.CUT, Guarantee.WATCHDOG):
            seen = Liveness.PREEMPTIBLE if guarantee is Guarantee.RESERVATION else Liveness.STRANDED
            assert isinstance(late, Denied) and late.blocking[0].liveness is seen
            return
        assert isinstance(late, Granted) and late.token > early.blocking[0].lease.token
        assert one.session is not None
        with pytest.raises(LeaseLost, match="confirmed fenced"):
            await one.session.open()

    play(etcd_cluster, scenario)


def test_who_comes_back_before_the_write_is_not_taken_over(etcd_cluster: Cluster, etcd: EtcdServer) -> None:
    async def scenario(c: Cluster) -> None:
        one = await holds(c, Guarantee.CUT)
        async with Proxy(etcd.url) as proxy:
            two = await c.boot("node-2", client=EtcdClient([proxy.url], per_try_s=5))
            await one.crash()
            assert isinstance(await two.take("a"), Denied)
            await asyncio.sleep(margin_s(c.ttl_s) + 0.1)
            proxy.fate, proxy.wanted = "delay", lambda request: b"request_put" in request
            taking = asyncio.create_task(two.take("a"))
            await proxy.meeting.wait()
            assert one.session is not None
            await one.session.open()
            proxy.fate = "pass"
            proxy.go.set()
            answer = await taking
            assert isinstance(answer, Denied) and answer.blocking[0].liveness is Liveness.LIVE

    play(etcd_cluster, scenario)


def test_what_is_held_already_never_comes_to_promise_more(etcd_cluster: Cluster, etcd: EtcdServer) -> None:
    """The revoker was told of it without a promise, and may not be told before the next failure."""

    async def scenario(c: Cluster) -> None:
        node = await c.boot("node-1")
        await node.must_take("a")
        node.store._guarantee = lambda _: Guarantee.CUT
        both = await node.must_take("a", "b")
        assert {lease.guarantee for lease in both.leases} == {Guarantee.NONE}
        alone = await node.must_take("c")
        assert [lease.guarantee for lease in alone.leases] == [Guarantee.CUT]

    play(etcd_cluster, scenario)


def test_who_reserves_takes_over_from_who_reserved_and_that_is_no_fencing(
    etcd_cluster: Cluster, etcd: EtcdServer
) -> None:
    async def scenario(c: Cluster) -> None:
        one, two = await holds(c, Guarantee.RESERVATION), await c.boot("node-2")
        assert isinstance(two.store, EtcdStore)
        two.store._guarantee = lambda _: Guarantee.RESERVATION
        await one.crash()
        assert isinstance(await two.take("a"), Denied), "not at once"
        await asyncio.sleep(margin_s(c.ttl_s) + 0.1)
        assert isinstance(await two.take("a"), Granted)
        assert (await two.store.leases("a"))[0].lease.guarantee is Guarantee.RESERVATION
        assert one.session is not None
        await one.session.open()
        assert isinstance(await one.take("b"), Granted), "what else it has was never in question"

    play(etcd_cluster, scenario)


def test_what_was_promised_for_one_disk_says_nothing_of_another(etcd_cluster: Cluster) -> None:
    """A disk that cannot be cut: whoever takes over its neighbour must not get it too."""

    async def scenario(c: Cluster) -> None:
        one, two = await holds(c, Guarantee.CUT), await c.boot("node-2")
        other = await one.must_take("b")
        assert [lease.guarantee for lease in other.leases] == [Guarantee.NONE]
        await one.crash()
        await two.take("a")
        await asyncio.sleep(margin_s(c.ttl_s) + 0.1)
        assert isinstance(await two.take("a"), Granted)
        denied = await two.take("b")
        assert isinstance(denied, Denied) and denied.blocking[0].liveness is Liveness.STRANDED
        assert await two.store.fences() == {}, "no mark on a disk is excused by it"
        await two.store.fence_confirm("node-1", one.holder.boot_id, "root")
        assert isinstance(await two.take("b"), Granted)

    play(etcd_cluster, scenario)
