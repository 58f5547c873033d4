# SPDX-License-Identifier: GPL-2.0-or-later
"""What a node says it uses of others', in a real etcd: until it takes that back, or its boot is proven over."""

from __future__ import annotations

from contextlib import suppress

import pytest
from lab_cluster import Cluster, EtcdServer, play

from enforcer.cluster.board import DoubleUse
from enforcer.cluster.etcd_api import Etcd, put
from enforcer.cluster.etcd_board import EtcdBoard
from enforcer.cluster.etcd_http import EtcdClient
from enforcer.cluster.etcd_records import Layout
from enforcer.model.errors import EnforcerError, StoreUnavailable
from enforcer.model.lease import Holder
from enforcer.model.resource import ResourceId

TWO = Holder("node-2", "boot-2", "s")
USE = DoubleUse("node-2", "boot-2", ResourceId("a", ("p1",)), 'sda1 is mounted at "/srv\x1b', ("node-1",))


def test_it_stays_until_it_is_taken_back(etcd_cluster: Cluster, etcd: EtcdServer) -> None:
    async def scenario(c: Cluster) -> None:
        client = EtcdClient([etcd.url])
        theirs, ours = EtcdBoard(client, c.cluster, TWO), EtcdBoard(client, c.cluster, Holder("node-1", "b", "s"))
        assert await ours.read() == ()
        await theirs.post([USE])
        await ours.post([])
        assert await ours.read() == await theirs.read() == (USE,), "although node-2 has no session"
        await theirs.post([])
        assert await ours.read() == ()
        await client.close()

    play(etcd_cluster, scenario)


def test_a_boot_that_is_over_is_believed_no_more(etcd_cluster: Cluster, etcd: EtcdServer) -> None:
    """Fenced, which may be confirmed of a node of which only this record is known; or back under another boot id."""

    async def scenario(c: Cluster) -> None:
        client = EtcdClient([etcd.url])
        one = await c.boot("node-1")
        board = EtcdBoard(client, c.cluster, TWO)
        await board.post([USE])
        with suppress(EnforcerError):
            await one.store.fence_confirm("node-2", "boot-2", "test")
        assert await board.read() == ()
        three = await c.boot("node-3")
        old = Holder("node-3", "boot-0", "s")
        board = EtcdBoard(client, c.cluster, old)
        await board.post([DoubleUse("node-3", "boot-0", USE.resource, USE.says, USE.holders)])
        assert await board.read() == () and three.holder.boot_id != "boot-0"
        await client.close()

    play(etcd_cluster, scenario)


@pytest.mark.parametrize("value", [b"", b"{}", b'{"v":1,"boot_id":"b","session":"s","uses":[{}]}', b'{"v":2}'])
def test_a_record_that_cannot_be_read_is_no_empty_one(etcd_cluster: Cluster, etcd: EtcdServer, value: bytes) -> None:
    async def scenario(c: Cluster) -> None:
        client = EtcdClient([etcd.url])
        await Etcd(client).write([], [put(Layout(c.cluster).conflict("node-2"), value)], budget_s=2)
        with pytest.raises(StoreUnavailable, match="cannot be read"):
            await EtcdBoard(client, c.cluster, TWO).read()
        await client.close()

    play(etcd_cluster, scenario)
