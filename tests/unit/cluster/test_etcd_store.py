# SPDX-License-Identifier: GPL-2.0-or-later
"""What is special to etcd: sessions that end, servers that hang, answers that get lost."""

from __future__ import annotations

import asyncio
import time

import pytest
from lab_cluster import Cluster, EtcdServer, Proxy, play

from enforcer.cluster import etcd_store
from enforcer.cluster.etcd_api import Etcd, if_unwritten_since, put
from enforcer.cluster.etcd_http import EtcdClient
from enforcer.cluster.etcd_records import Layout
from enforcer.model.errors import EnforcerError, LeaseLost, StoreUnavailable
from enforcer.model.lease import Denied, Granted, Liveness, Standing


def writes(request: bytes) -> bool:
    return b"request_put" in request


def deletes(request: bytes) -> bool:
    return b"request_delete_range" in request


def test_without_a_session_not_even_what_is_ours_is_permitted(etcd_cluster: Cluster) -> None:
    async def scenario(c: Cluster) -> None:
        one = await c.boot("node-1")
        await one.must_take("a")
        await Etcd(EtcdClient([str(c.where)])).lease_revoke(one.lease_id, budget_s=1)
        late = await one.take("a")
        assert isinstance(late, Denied)
        assert late.standing is Standing.UNKNOWN

    play(etcd_cluster, scenario)


def test_the_same_machine_back_under_a_new_boot_id_proves_its_old_boot_silent(etcd_cluster: Cluster) -> None:
    async def scenario(c: Cluster) -> None:
        one, two = await c.boot("node-1", boot="boot-1"), await c.boot("node-2")
        await one.must_take("a")
        await one.crash()
        assert isinstance(await two.take("a"), Denied)
        await c.boot("node-1", boot="boot-2", session="s2")
        (held,) = await two.store.leases("a")
        assert held.liveness is Liveness.REBOOTED
        assert (await two.must_take("a")).fresh

    play(etcd_cluster, scenario)


def test_a_live_node_is_confirmed_fenced_only_by_force_and_then_loses_its_session(
    etcd_cluster: Cluster,
) -> None:
    async def scenario(c: Cluster) -> None:
        one, two = await c.boot("node-1"), await c.boot("node-2")
        await one.must_take("a")
        with pytest.raises(EnforcerError, match="is live"):
            await two.store.fence_confirm("node-1", "boot-of-node-1", "root")
        assert isinstance(await two.take("a"), Denied)
        await two.store.fence_confirm("node-1", "boot-of-node-1", "root", force=True)
        await two.must_take("a")
        assert one.session is not None
        with pytest.raises(LeaseLost):
            await one.session.renew()
        assert isinstance(await one.take("b"), Denied), "a fenced boot gets nothing any more"
        with pytest.raises(LeaseLost):
            await one.store.adopt()

    play(etcd_cluster, scenario)


def test_a_renewal_that_a_hung_server_does_not_answer_moves_no_deadline(
    etcd_cluster: Cluster, etcd: EtcdServer
) -> None:
    async def scenario(c: Cluster) -> None:
        node = await c.boot("node-1")
        assert node.session is not None
        etcd.stop()
        try:
            deadline = node.session.deadline_ns
            with pytest.raises(StoreUnavailable):
                await node.session.renew(budget_s=0.5)
            assert node.session.deadline_ns == deadline
        finally:
            etcd.go_on()
        await node.session.renew()
        assert node.session.deadline_ns > deadline

    play(etcd_cluster, scenario)


def test_an_absent_server_denies_and_a_second_endpoint_permits(
    etcd_cluster: Cluster, etcd: EtcdServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(etcd_store, "CALL_S", 0.2)

    async def scenario(c: Cluster) -> None:
        dead = "http://127.0.0.1:1"
        node = await c.boot("node-1", client=EtcdClient([dead, etcd.url]))
        await node.must_take("a")
        assert node.client is not None
        node.client.endpoints = EtcdClient([dead]).endpoints
        begun = time.monotonic()
        answer = await node.take("a", budget_s=0.5)
        assert time.monotonic() - begun < 0.8
        assert isinstance(answer, Denied)
        assert answer.standing is Standing.UNKNOWN
        with pytest.raises(StoreUnavailable):
            await node.store.leases()

    play(etcd_cluster, scenario)


def test_a_grant_whose_answer_was_lost_is_recognised_and_fresh(etcd_cluster: Cluster, etcd: EtcdServer) -> None:
    async def scenario(c: Cluster) -> None:
        async with Proxy(etcd.url) as proxy:
            node = await c.boot("node-1", client=EtcdClient([proxy.url]))
            proxy.fate, proxy.wanted = "lose-answer", lambda request: writes(request) and proxy.met == 0
            granted = await node.must_take("a", "b")
            assert proxy.met == 1
            assert granted.fresh
            held = await node.store.leases()
            assert {h.lease.token for h in held} == {granted.token}
            assert len(held) == 2

            proxy.met, proxy.wanted = 0, writes  # now every answer is lost, until the budget is over
            denied = await node.take("c", budget_s=0.4)
            assert isinstance(denied, Denied)
            assert denied.standing is Standing.UNKNOWN
            proxy.fate = "pass"
            assert len(await node.store.leases("c")) == 1, "it was carried out nevertheless"
            assert (await node.must_take("c")).fresh, "its caches were never dropped"

            proxy.fate, proxy.met = "lose-answer", 0
            proxy.wanted = lambda request: deletes(request) and proxy.met == 0
            await node.give(granted.token, "a", "b")
            assert proxy.met == 1
            assert not await node.store.leases("a")

    play(etcd_cluster, scenario)


def test_a_release_that_arrives_late_takes_nothing_from_who_asked_again(
    etcd_cluster: Cluster, etcd: EtcdServer
) -> None:
    async def scenario(c: Cluster) -> None:
        other = await c.boot("node-2")
        async with Proxy(etcd.url) as proxy:
            node = await c.boot("node-1", client=EtcdClient([proxy.url], per_try_s=0.2))
            first = await node.must_take("a")
            proxy.fate, proxy.wanted = "delay", deletes
            releasing = asyncio.create_task(node.give(first.token, "a"))
            await proxy.meeting.wait()
            releasing.cancel()
            again = await node.must_take("a")
            assert again.token > first.token
            proxy.go.set()
            await asyncio.sleep(0.1)
            assert [h.lease.token for h in await other.store.leases("a")] == [again.token]
            assert isinstance(await other.take("a"), Denied)

    play(etcd_cluster, scenario)


def test_a_late_release_takes_nothing_from_the_next_run_of_the_daemon(etcd_cluster: Cluster, etcd: EtcdServer) -> None:
    async def scenario(c: Cluster) -> None:
        async with Proxy(etcd.url) as proxy:
            before = await c.boot("node-1", client=EtcdClient([proxy.url]))
            first = await before.must_take("a")
            proxy.fate, proxy.wanted = "delay", deletes
            releasing = asyncio.create_task(before.give(first.token, "a"))
            await proxy.meeting.wait()
            releasing.cancel()
            after = await c.boot("node-1")
            await after.store.adopt()
            assert (await after.must_take("a")).token == first.token
            proxy.go.set()
            await asyncio.sleep(0.1)
            assert [h.lease.token for h in await after.store.leases("a")] == [first.token]

    play(etcd_cluster, scenario)


def test_a_session_that_ends_between_read_and_write_gets_nothing(etcd_cluster: Cluster, etcd: EtcdServer) -> None:
    async def scenario(c: Cluster) -> None:
        async with Proxy(etcd.url) as proxy:
            node = await c.boot("node-1", client=EtcdClient([proxy.url]))
            proxy.fate, proxy.wanted = "delay", writes
            taking = asyncio.create_task(node.take("a"))
            await proxy.meeting.wait()
            await Etcd(EtcdClient([etcd.url])).lease_revoke(node.lease_id, budget_s=1)
            proxy.go.set()
            denied = await taking
            assert isinstance(denied, Denied)
            assert denied.standing is Standing.UNKNOWN
            assert not await node.store.leases()

    play(etcd_cluster, scenario)


def test_an_unreadable_record_in_the_subtree_denies(etcd_cluster: Cluster, etcd: EtcdServer) -> None:
    async def scenario(c: Cluster) -> None:
        node, layout = await c.boot("node-1"), Layout(c.cluster)
        raw = Etcd(EtcdClient([etcd.url]))
        for lun, rest, value in (("x", "/node-9", b"{"), ("y", "/node-9", b'{"v":2}'), ("z", "odd", b"")):
            await raw.write([], [put(layout.subtree(lun) + rest, value)], budget_s=2)
            answer = await node.take(lun)
            assert isinstance(answer, Denied)
            assert answer.standing is Standing.UNKNOWN
            assert "cannot be read" in answer.reason
        assert isinstance(await node.take("w"), Granted), "only who meets it is denied"
        await raw.client.close()

    play(etcd_cluster, scenario)


def test_the_engine_compares_a_whole_subtree_and_an_empty_one_passes(etcd: EtcdServer) -> None:
    async def scenario(c: Cluster) -> None:
        raw = Etcd(EtcdClient([etcd.url]))
        here = f"/{c.cluster}/"
        first = await raw.write([], [put(f"/elsewhere-{c.cluster}", b"")], budget_s=2)
        empty = await raw.write([if_unwritten_since(here, first.revision)], [put(here + "k", b"")], budget_s=2)
        assert empty.succeeded
        assert empty.revision == first.revision + 1
        stale = await raw.write([if_unwritten_since(here, first.revision)], [put(here + "l", b"")], budget_s=2)
        assert not stale.succeeded
        current = await raw.write([if_unwritten_since(here, empty.revision)], [put(here + "l", b"")], budget_s=2)
        assert current.succeeded
        await raw.client.close()

    play(Cluster("etcd", etcd.url), scenario)


def test_who_had_a_lun_last_is_known_after_it_was_given_back(etcd_cluster: Cluster) -> None:
    async def scenario(c: Cluster) -> None:
        one, two = await c.boot("node-1"), await c.boot("node-2")
        first = await one.must_take("disk/p1")
        second = await two.must_take("disk/p2")
        assert await one.store.last_grants() == {"disk": ("node-2", second.token)}
        await two.give(second.token, "disk/p2")
        await one.give(first.token, "disk/p1")
        assert await one.store.last_grants() == {"disk": ("node-2", second.token)}

    play(etcd_cluster, scenario)
