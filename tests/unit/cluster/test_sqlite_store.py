# SPDX-License-Identifier: GPL-2.0-or-later
"""The embedded store: one node only, and every trouble with its file has a sentence and a remedy."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from lab_cluster import Cluster, Node, play

from enforcer.cluster.view import NoCluster, Quorum, Use
from enforcer.model.errors import StoreUnavailable
from enforcer.model.lease import Denied, Standing


@pytest.fixture
def alone(tmp_path: Path) -> Cluster:
    return Cluster("sqlite", tmp_path / "leases.db", multi_attached=frozenset({"san"}))


async def must_not_know(node: Node, *names: str, budget_s: float = 2.0) -> Denied:
    answer = await node.take(*names, budget_s=budget_s)
    assert isinstance(answer, Denied)
    assert answer.standing is Standing.UNKNOWN
    return answer


def test_a_lun_that_another_node_sees_is_refused_with_the_way_out(alone: Cluster) -> None:
    async def scenario(c: Cluster) -> None:
        node = await c.boot("node-1")
        answer = await must_not_know(node, "disk", "san/p1")
        assert answer.reason == "no lease store for a multi-attached device"
        assert answer.remedy == 'configure [store] kind = "etcd"'
        assert not await node.store.leases()

    play(alone, scenario)


def test_leases_and_the_token_counter_survive_a_restart(alone: Cluster) -> None:
    async def scenario(c: Cluster) -> None:
        first = await c.boot("node-1")
        granted = await first.must_take("a")
        await first.store.close()
        second = await c.boot("node-1")
        assert [lease.token for lease in await second.store.adopt()] == [granted.token]
        assert (await second.must_take("b")).token > granted.token
        Path(c.where).unlink()
        third = await c.boot("node-1")
        assert (await third.must_take("a")).token >= granted.token, "a new file begins at the time of day"

    play(alone, scenario)


@pytest.mark.parametrize(
    ("prepare", "said"),
    [
        (lambda path: path.write_bytes(b"no database at all" * 99), "is no database"),
        (lambda path: path.symlink_to("/dev/null"), "cannot be opened"),
        (lambda path: path.mkdir(), "cannot be opened"),
        (lambda path: sqlite3.connect(path).execute("pragma user_version = 99"), "not of this version"),
    ],
)
def test_a_file_that_cannot_be_used_is_told_and_permits_nothing(
    alone: Cluster, prepare: Callable[[Path], object], said: str
) -> None:
    prepare(Path(alone.where))

    async def scenario(c: Cluster) -> None:
        with pytest.raises(StoreUnavailable, match=said) as told:
            await c.boot("node-1")
        assert told.value.hint

    play(alone, scenario)


def test_a_file_that_breaks_or_fills_up_later_denies(alone: Cluster) -> None:
    async def scenario(c: Cluster) -> None:
        node = await c.boot("node-1")
        await node.store._write(lambda db: db.execute("pragma max_page_count = 1"))
        full = await must_not_know(node, *(f"lun-{n}" + "x" * 200 for n in range(100)))
        assert "the disk is full" in full.reason
        assert full.remedy
        await node.must_take("a")
        other = sqlite3.connect(c.where)
        other.execute("update lease set mode = 'XX'")
        other.commit()
        assert "cannot be used" in (await must_not_know(node, "a")).reason

    play(alone, scenario)


def test_a_locked_file_denies_within_the_budget_and_changes_nothing(alone: Cluster) -> None:
    async def scenario(c: Cluster) -> None:
        node = await c.boot("node-1")
        other = sqlite3.connect(c.where, isolation_level=None)
        other.execute("begin immediate")
        begun = time.monotonic()
        answers = await asyncio.gather(*(must_not_know(node, name, budget_s=0.4) for name in ("a", "b", "c")))
        assert time.monotonic() - begun < 0.8
        assert "another process" in answers[0].reason
        other.execute("rollback")
        assert not await node.store.leases(), "what came too late was not done"
        await node.must_take("a")

    play(alone, scenario)


def test_without_a_cluster_manager_nobody_objects_and_nobody_bears_witness() -> None:
    async def run() -> None:
        view = NoCluster()
        assert await view.quorum() is Quorum.NONE
        assert not (await view.opinion(Use(None, ()))).objects and await view.fencings() == ()

    asyncio.run(run())
