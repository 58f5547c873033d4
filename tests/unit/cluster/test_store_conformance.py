# SPDX-License-Identifier: GPL-2.0-or-later
"""What every lease store promises, tried on each real engine."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

import pytest
from lab_cluster import Cluster, play

from enforcer.model.errors import EnforcerError, LeaseLost
from enforcer.model.lease import Denied, Granted, Standing
from enforcer.model.resource import Mode, ResourceId


def test_of_many_who_race_for_one_resource_exactly_one_wins(cluster: Cluster) -> None:
    async def scenario(c: Cluster) -> None:
        nodes = [await c.boot(f"node-{n}") for n in range(8)]
        for round_ in range(5):
            answers = await asyncio.gather(*(node.take(f"lun-{round_}") for node in nodes))
            assert sum(isinstance(a, Granted) for a in answers) == 1
            refused = [a for a in answers if isinstance(a, Denied)]
            assert all(a.standing is Standing.ELSEWHERE and len(a.blocking) == 1 for a in refused), refused

    play(cluster, scenario)


def test_of_crossing_sets_each_is_taken_as_a_whole_or_not_at_all(cluster: Cluster) -> None:
    async def scenario(c: Cluster) -> None:
        nodes = [await c.boot(f"node-{n}") for n in range(6)]
        sets = [[f"lun-{(n + k) % 6}" for k in range(3)] for n in range(6)]
        answers = await asyncio.gather(*(node.take(*luns) for node, luns in zip(nodes, sets, strict=True)))
        held = await nodes[0].store.leases()
        won = [n for n, a in enumerate(answers) if isinstance(a, Granted)]
        assert won
        assert len(held) == 3 * len(won), "a loser left something behind"
        for n in won:
            mine = {h.lease.resource.lun: h.lease.token for h in held if h.lease.holder == nodes[n].holder}
            answer = answers[n]
            assert isinstance(answer, Granted)
            assert mine == dict.fromkeys(sets[n], answer.token), "one set, one token"

    play(cluster, scenario)


def test_a_whole_disk_meets_its_partitions_and_partitions_do_not_meet(cluster: Cluster) -> None:
    async def scenario(c: Cluster) -> None:
        one, two = await c.boot("node-1"), await c.boot("node-2")
        first = await one.must_take("disk/p1")
        second = await two.must_take("disk/p2/lv")
        for name in ("disk", "disk/p1", "disk/p1/x"):
            answer = await two.take(name)
            assert isinstance(answer, Denied)
            assert [h.lease.resource for h in answer.blocking] == [ResourceId("disk", ("p1",))]
        await one.give(first.token, "disk/p1")
        await two.must_take("disk", "disk/p2/lv")  # its own partition is not in its way
        assert isinstance(await one.take("disk/p1"), Denied)
        assert second.leases[0].resource == ResourceId("disk", ("p2", "lv"))

    play(cluster, scenario)


def test_parallel_claims_on_partitions_of_one_disk_all_succeed(cluster: Cluster) -> None:
    async def scenario(c: Cluster) -> None:
        nodes = [await c.boot(f"node-{n}") for n in range(6)]
        answers = await asyncio.gather(*(node.take(f"disk/p{n}") for n, node in enumerate(nodes)))
        assert all(isinstance(a, Granted) for a in answers), answers

    play(cluster, scenario)


def test_only_equal_modes_other_than_ex_go_together(cluster: Cluster) -> None:
    async def scenario(c: Cluster) -> None:
        one, two = await c.boot("node-1"), await c.boot("node-2")
        await one.must_take("gfs", mode=Mode.CW)
        await two.must_take("gfs", mode=Mode.CW)
        assert isinstance(await two.take("gfs", mode=Mode.PR), Denied)
        assert isinstance(await two.take("gfs", mode=Mode.EX), Denied)
        after = {(h.lease.holder.node, h.lease.mode) for h in await one.store.leases("gfs")}
        assert after == {("node-1", Mode.CW), ("node-2", Mode.CW)}, "a refused upgrade changes nothing"

    play(cluster, scenario)


def test_what_is_held_is_kept_and_every_new_grant_has_a_higher_token(cluster: Cluster) -> None:
    async def scenario(c: Cluster) -> None:
        one, two = await c.boot("node-1"), await c.boot("node-2")
        first = await one.must_take("a")
        again = await one.must_take("a")
        assert (again.token, again.fresh, again.leases) == (first.token, False, first.leases)
        assert first.fresh
        wider = await one.must_take("a", "b")
        assert wider.fresh
        assert wider.token > first.token
        assert {lease.token for lease in wider.leases} == {wider.token}
        with pytest.raises(LeaseLost):
            await one.give(first.token, "a")
        await one.give(wider.token, "a", "b")
        other = await two.must_take("a")
        assert other.token > wider.token
        assert other.fresh

    play(cluster, scenario)


def test_a_stale_token_releases_nothing(cluster: Cluster) -> None:
    async def scenario(c: Cluster) -> None:
        one, two = await c.boot("node-1"), await c.boot("node-2")
        mine = await one.must_take("a", "b")
        for node, token, name in (
            (one, mine.token - 1, "a"),
            (one, mine.token + 1, "a"),
            (two, mine.token, "a"),
        ):
            with pytest.raises(LeaseLost, match="a"):
                await node.give(token, name)
        assert len(await one.store.leases()) == 2
        with pytest.raises(LeaseLost, match="never"):
            await one.give(mine.token, "a", "never")
        assert [str(h.lease.resource) for h in await two.store.leases()] == ["b"], "what was ours is released"
        await two.must_take("a")

    play(cluster, scenario)


def test_who_shows_holder_mode_token_and_facts_and_strange_names_survive(cluster: Cluster) -> None:
    async def scenario(c: Cluster) -> None:
        node = await c.boot("knoten/ä %2F")
        granted = await node.must_take("lun%2F é/p 1/..", "other")
        (held,) = await node.store.leases("lun%2F é")
        assert held.lease == granted.leases[0]
        assert held.lease.resource.path == ("p 1", "..")
        assert held.lease.facts == {"fstype": "ext4"}
        assert held.liveness.value == "live"
        await node.store.publish(frozenset({"x", "y"}), "digest")
        (record,) = await node.store.nodes()
        assert (record.holder, record.luns, record.policy_digest) == (node.holder, ("x", "y"), "digest")
        assert record.live

    play(cluster, scenario)


def test_the_next_run_on_the_same_boot_adopts_all_under_the_same_tokens(cluster: Cluster) -> None:
    async def scenario(c: Cluster) -> None:
        first = await c.boot("node-1", session="s1")
        a, b = await first.must_take("a", "a/p1"), await first.must_take("b")
        if c.kind != "sqlite":
            await first.crash()
        second = await c.boot("node-1", session="s2")
        for _ in range(2):  # and again, after a restart of the daemon alone
            adopted = await second.store.adopt()
            assert {str(lease.resource): lease.token for lease in adopted} == {
                "a": a.token,
                "a/p1": a.token,
                "b": b.token,
            }
            assert all(lease.holder == second.holder for lease in adopted)
        kept = await second.must_take("a", "a/p1")
        assert kept.token == a.token
        assert kept.fresh, "nobody knows whether the earlier run dropped its caches"
        await second.give(b.token, "b")
        assert await second.store.forget_old_boots() == ()

    play(cluster, scenario)


def test_a_rebooted_node_forgets_what_its_earlier_boots_held(cluster: Cluster) -> None:
    async def scenario(c: Cluster) -> None:
        before = await c.boot("node-1", boot="boot-1")
        old = await before.must_take("a", "b")
        if c.kind != "sqlite":
            await before.crash()
        after = await c.boot("node-1", boot="boot-2", session="s2")
        assert await after.store.adopt() == (), "leases of another boot are not ours"
        new = await after.must_take("a")
        assert new.fresh
        assert new.token > old.token
        assert [str(lease.resource) for lease in await after.store.forget_old_boots()] == ["b"]
        assert [h.lease for h in await after.store.leases()] == list(new.leases)

    play(cluster, scenario)


def test_fencing_is_confirmed_only_for_a_known_boot_of_another_silent_node(cluster: Cluster) -> None:
    async def scenario(c: Cluster) -> None:
        one, two = await c.boot("node-1"), await c.boot("node-2")
        lost = await one.must_take("a", "b")
        if c.kind != "sqlite":
            await one.crash()
        stranded = await two.take("a")
        assert isinstance(stranded, Denied)
        assert stranded.remedy == "enforcer fence confirm node-1 --boot-id boot-of-node-1"
        with pytest.raises(EnforcerError, match="known boot ids: boot-of-node-1"):
            await two.store.fence_confirm("node-1", "boot-of-nodd-1", "root")
        with pytest.raises(EnforcerError, match="knows nothing"):
            await two.store.fence_confirm("node-7", "boot-of-node-7", "root")
        with pytest.raises(EnforcerError, match="from itself"):
            await two.store.fence_confirm("node-2", "boot-of-node-2", "root", force=True)
        assert await two.store.fences() == {}
        await two.store.fence_confirm("node-1", "boot-of-node-1", "root")
        ((boot, at),) = (await two.store.fences()).items()
        assert boot == ("node-1", "boot-of-node-1")
        assert abs(datetime.now(UTC) - datetime.fromisoformat(at)) < timedelta(seconds=30)
        taken = await two.must_take("a")
        assert taken.fresh
        assert taken.token > lost.token
        left = {(str(h.lease.resource), h.lease.holder.node) for h in await two.store.leases()}
        assert left == {("a", "node-2"), ("b", "node-1")}, "only what was wanted is taken over"

    play(cluster, scenario)


def test_an_empty_wish_is_no_permit(cluster: Cluster) -> None:
    async def scenario(c: Cluster) -> None:
        node = await c.boot("node-1")
        answer = await node.store.acquire(frozenset(), {}, budget_s=1)
        assert isinstance(answer, Denied)
        assert answer.standing is Standing.UNKNOWN

    play(cluster, scenario)
