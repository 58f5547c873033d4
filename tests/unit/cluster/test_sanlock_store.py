# SPDX-License-Identifier: GPL-2.0-or-later
"""The sanlock store when a host is paused, a disk hangs or rots, a daemon is gone, or two nodes are set up as one."""

from __future__ import annotations

import asyncio
import signal
import threading
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
from lab_sanlock import BODY_BYTES, FIRST_TOKEN, JOIN_S, Disk, SanlockHosts

from enforcer.cluster import sanlock_area
from enforcer.cluster.sanlock_area import BLOCK, HEAD_AT, LOCK, LOCK_AT, MIB, Area, Geometry, Leader
from enforcer.cluster.sanlock_socket import Hold, SanlockDaemon
from enforcer.cluster.sanlock_store import SanlockStore
from enforcer.model.errors import BadConfiguration, EnforcerError, LeaseLost, StoreUnavailable
from enforcer.model.lease import Claim, Denied, Granted, Holder, Standing
from enforcer.model.resource import ResourceId

GEOMETRY = Geometry(8, BODY_BYTES, FIRST_TOKEN, "")


def holder(node: str, boot: str = "") -> Holder:
    return Holder(node, boot or f"boot-of-{node}", "s1")


async def take(store: SanlockStore, name: str, *, budget_s: float = 5.0, fact: str = "") -> Granted | Denied:
    claims = frozenset({Claim(ResourceId.parse(name))})
    return await store.acquire(claims, {"fstype": fact}, budget_s=budget_s)


async def must_take(store: SanlockStore, name: str) -> Granted:
    answer = await take(store, name)
    assert isinstance(answer, Granted), answer
    return answer


async def unknown(store: SanlockStore, name: str, *, budget_s: float = 5.0) -> str:
    answer = await take(store, name, budget_s=budget_s)
    assert isinstance(answer, Denied) and answer.standing is Standing.UNKNOWN, answer
    assert answer.remedy
    return answer.reason


async def held(store: SanlockStore) -> set[tuple[str, str]]:
    try:
        return {(str(found.lease.resource), found.lease.holder.node) for found in await store.leases()}
    except StoreUnavailable as error:
        raise AssertionError(f"it should have been readable: {error}") from error


def play(
    hosts: SanlockHosts,
    place: Path,
    scenario: Callable[[Disk, SanlockStore, SanlockStore], Coroutine[Any, Any, None]],
) -> None:
    """One scenario for two nodes on a fresh disk."""

    async def run() -> None:
        disk = Disk(hosts, place)
        stores = []
        try:
            for node in ("node-1", "node-2"):
                stores.append(await disk.open(holder(node)))
            await scenario(disk, stores[0], stores[1])
        finally:
            for host in hosts.hosts.values():
                host.signal(signal.SIGCONT)
            for store in stores:
                await store.close()
            await disk.close()

    asyncio.run(run())


def scribble(disk: Disk, at: int, data: bytes) -> None:
    with open(disk.device, "r+b") as image:
        image.seek(at)
        image.write(data)


def keep(disk: Disk, at: int, size: int) -> bytes:
    with open(disk.device, "rb") as image:
        image.seek(at)
        return image.read(size)


def test_a_daemon_that_was_stopped_denies_in_time_and_one_that_goes_on_answers(
    sanlock_hosts: SanlockHosts, tmp_path: Path
) -> None:
    async def scenario(disk: Disk, one: SanlockStore, two: SanlockStore) -> None:
        await must_take(one, "a")
        sanlock_hosts.host(1).signal(signal.SIGSTOP)
        began = time.monotonic()
        await unknown(one, "a", budget_s=0.5)
        with pytest.raises(StoreUnavailable):
            await one.release(frozenset({ResourceId("a")}), FIRST_TOKEN + 1)
        assert time.monotonic() - began < 4.5
        assert isinstance(await take(two, "a"), Denied), "a silent holder is in the way as ever"
        sanlock_hosts.host(1).signal(signal.SIGCONT)
        await must_take(one, "a")

    play(sanlock_hosts, tmp_path, scenario)


def test_without_its_daemon_a_node_gets_nothing_and_sees_everything_and_joins_again(
    sanlock_hosts: SanlockHosts, tmp_path: Path
) -> None:
    async def scenario(disk: Disk, one: SanlockStore, two: SanlockStore) -> None:
        await must_take(two, "a")
        sanlock_hosts.host(1).kill()
        assert "is not running" in await unknown(one, "b")
        assert await held(one) == {("a", "node-2")}
        sanlock_hosts.host(1).start()
        assert "not in the lock space" in await unknown(one, "b")
        async with asyncio.timeout(JOIN_S):
            while not isinstance(await take(one, "b"), Granted):  # noqa: ASYNC110, the daemon tells nobody
                await asyncio.sleep(0.2)

    play(sanlock_hosts, tmp_path, scenario)


def test_a_write_that_comes_after_the_lease_was_given_away_undoes_nothing_and_is_told(
    sanlock_hosts: SanlockHosts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Paused between the last look at the lease and the write, for as long as the host takes to count as dead."""

    async def scenario(disk: Disk, one: SanlockStore, two: SanlockStore) -> None:
        loop = asyncio.get_running_loop()
        looked = Area._still
        paused = threading.Event()

        async def meanwhile() -> None:
            assert one_holds is not None
            await one_holds.give_back(budget_s=5)  # as sanlock does for a host that is dead
            await must_take(two, "a")

        def pause(area: Area, fd: int, lease: Leader) -> None:
            looked(area, fd, lease)
            if lease.host_id == 1 and not paused.is_set():
                paused.set()
                asyncio.run_coroutine_threadsafe(meanwhile(), loop).result(20)

        one_holds = None
        take_lease = one._hold

        async def hold(end: float) -> Any:
            nonlocal one_holds
            one_holds = await take_lease(end)
            return one_holds

        monkeypatch.setattr(one, "_hold", hold)
        monkeypatch.setattr(Area, "_still", pause)
        assert "written too late" in await unknown(one, "a", budget_s=30)
        assert paused.is_set()
        assert await held(one) == await held(two) == {("a", "node-2")}
        answer = await take(one, "a")
        assert isinstance(answer, Denied) and answer.standing is Standing.ELSEWHERE

    play(sanlock_hosts, tmp_path, scenario)


def test_nobody_reads_what_is_written_and_does_not_count_yet(
    sanlock_hosts: SanlockHosts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario(disk: Disk, one: SanlockStore, two: SanlockStore) -> None:
        loop, looked = asyncio.get_running_loop(), Area._still
        looks, seen = 0, list[object]()

        async def read() -> None:
            try:
                seen.append(await one.leases())
            except StoreUnavailable as error:
                seen.append(error)

        def pause(area: Area, fd: int, lease: Leader) -> None:
            nonlocal looks
            looks += lease.host_id == 2
            if looks == 2:  # all is written
                asyncio.run_coroutine_threadsafe(read(), loop).result(20)
            looked(area, fd, lease)

        monkeypatch.setattr(Area, "_still", pause)
        answer = await take(two, "a", budget_s=20)
        assert isinstance(answer, Granted)
        assert [type(what) for what in seen] == [StoreUnavailable]
        assert await held(one) == {("a", "node-2")}

    play(sanlock_hosts, tmp_path, scenario)


def test_nothing_is_written_under_a_lease_that_was_given_away_nor_for_a_caller_who_has_gone(
    sanlock_hosts: SanlockHosts, tmp_path: Path
) -> None:
    async def scenario(disk: Disk, one: SanlockStore, two: SanlockStore) -> None:
        await must_take(one, "a")
        area = Area(disk.device, disk.name)
        mine = area.leader()
        await must_take(two, "b")
        before = keep(disk, HEAD_AT, disk_end() - HEAD_AT)
        with pytest.raises(StoreUnavailable, match="given the lease away"):
            area.write(mine, FIRST_TOKEN + mine.lver, b"{}", end_s=time.monotonic() + 5)
        hold = await SanlockDaemon(sanlock_hosts.host(1).socket).hold(disk.space(1), LOCK, LOCK_AT, budget_s=5)
        assert isinstance(hold, Hold)
        try:
            mine = area.leader()
            with pytest.raises(StoreUnavailable, match="too long"):
                area.write(mine, FIRST_TOKEN + mine.lver, b"{}", end_s=time.monotonic() - 0.1)
        finally:  # sanlock kills whoever still holds a lease in a lock space that is left
            await hold.give_back(budget_s=5)
        assert keep(disk, HEAD_AT, disk_end() - HEAD_AT) == before

    play(sanlock_hosts, tmp_path, scenario)


def disk_end() -> int:
    return GEOMETRY.end


def test_one_damaged_copy_harms_nobody_and_two_are_unknown_never_what_was_before(
    sanlock_hosts: SanlockHosts, tmp_path: Path
) -> None:
    async def scenario(disk: Disk, one: SanlockStore, two: SanlockStore) -> None:
        await must_take(two, "old")
        await must_take(one, "new")  # host 1 wrote last
        all_of_it = {("old", "node-2"), ("new", "node-1")}
        for copy in (0, 1):
            good = keep(disk, GEOMETRY.body_at(1, copy), 64)
            scribble(disk, GEOMETRY.body_at(1, copy), b"x" * 64)
            assert await held(two) == all_of_it
            scribble(disk, GEOMETRY.body_at(1, copy), good)
        scribble(disk, GEOMETRY.header_at(1, 0), bytes(BLOCK))
        assert await held(two) == all_of_it
        scribble(disk, GEOMETRY.header_at(1, 1), bytes(BLOCK))
        assert "both headers of host id 1" in await unknown(two, "other")
        with pytest.raises(StoreUnavailable, match="damaged"):
            await two.leases()

    play(sanlock_hosts, tmp_path, scenario)


def test_if_the_newest_bodies_are_gone_the_older_ones_of_another_host_do_not_count(
    sanlock_hosts: SanlockHosts, tmp_path: Path
) -> None:
    async def scenario(disk: Disk, one: SanlockStore, two: SanlockStore) -> None:
        await must_take(two, "old")
        await must_take(one, "new")
        for copy in (0, 1):
            scribble(disk, GEOMETRY.body_at(1, copy), b"x")
        assert "no copy of the records" in await unknown(two, "new")

    play(sanlock_hosts, tmp_path, scenario)


def test_a_half_written_change_is_written_whole_by_whoever_comes_next(
    sanlock_hosts: SanlockHosts, tmp_path: Path
) -> None:
    async def scenario(disk: Disk, one: SanlockStore, two: SanlockStore) -> None:
        granted = await must_take(one, "a")
        scribble(disk, GEOMETRY.body_at(1, 1), b"x")
        assert (await must_take(one, "a")).token == granted.token, "it wants only what it has"
        scribble(disk, GEOMETRY.body_at(1, 0), b"x")
        assert await held(two) == {("a", "node-1")}

    play(sanlock_hosts, tmp_path, scenario)


def test_an_area_or_a_lease_that_was_set_back_is_not_believed(sanlock_hosts: SanlockHosts, tmp_path: Path) -> None:
    async def scenario(disk: Disk, one: SanlockStore, two: SanlockStore) -> None:
        await must_take(one, "a")
        lock = keep(disk, LOCK_AT, MIB)
        records = keep(disk, HEAD_AT, disk_end() - HEAD_AT)
        await must_take(one, "b")
        now = keep(disk, LOCK_AT, MIB)
        scribble(disk, LOCK_AT, lock)
        assert "gave its lease under number" in await unknown(two, "c")
        scribble(disk, LOCK_AT, now)
        await must_take(two, "c")
        scribble(disk, HEAD_AT, records)  # as a snapshot of the LUN does
        for store in (one, two):
            assert "has forgotten grants" in await unknown(store, "d")
            with pytest.raises(StoreUnavailable, match="forgotten"):
                await store.leases()

    play(sanlock_hosts, tmp_path, scenario)


def test_records_that_do_not_fit_are_refused_and_change_nothing(sanlock_hosts: SanlockHosts, tmp_path: Path) -> None:
    async def scenario(disk: Disk, one: SanlockStore, two: SanlockStore) -> None:
        await must_take(two, "a")
        claims = frozenset(Claim(ResourceId(f"lun-{n}")) for n in range(600))
        answer = await one.acquire(claims, {"fstype": "ext4"}, budget_s=10)
        assert isinstance(answer, Denied) and answer.standing is Standing.UNKNOWN and "do not fit" in answer.reason
        assert await held(one) == {("a", "node-2")}

    play(sanlock_hosts, tmp_path, scenario)


def test_a_disk_that_hangs_denies_in_time_and_what_it_writes_later_is_not_kept(
    sanlock_hosts: SanlockHosts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario(disk: Disk, one: SanlockStore, two: SanlockStore) -> None:
        await must_take(two, "other")
        write, go = sanlock_area._pwrite, threading.Event()

        def hang(fd: int, at: int, data: bytes) -> None:
            go.wait(20)
            write(fd, at, data)

        monkeypatch.setattr(sanlock_area, "_pwrite", hang)
        began = time.monotonic()
        await unknown(one, "a", budget_s=1)
        await unknown(one, "b", budget_s=0.5)
        assert time.monotonic() - began < 3
        monkeypatch.setattr(sanlock_area, "_pwrite", write)
        go.set()
        async with asyncio.timeout(10):
            while ("a", "node-1") not in await held(two):  # noqa: ASYNC110, the disk tells nobody
                await asyncio.sleep(0.05)
        (found,) = await one.leases("a")
        answer = await must_take(one, "a")
        assert answer.fresh and answer.token > found.lease.token
        assert ("b", "node-1") not in await held(two), "its time was over before it began"

    play(sanlock_hosts, tmp_path, scenario)


def test_a_node_that_was_confirmed_fenced_by_force_gets_nothing_and_is_taken_over(
    sanlock_hosts: SanlockHosts, tmp_path: Path
) -> None:
    async def scenario(disk: Disk, one: SanlockStore, two: SanlockStore) -> None:
        await must_take(one, "a")
        with pytest.raises(EnforcerError, match="live"):
            await two.fence_confirm("node-1", "boot-of-node-1", "root")
        assert isinstance(await take(two, "a"), Denied)
        await two.fence_confirm("node-1", "boot-of-node-1", "root", force=True)
        assert "confirmed fenced" in await unknown(one, "b")
        with pytest.raises(LeaseLost, match="fenced"):
            await one.publish(frozenset(), "")
        assert (await must_take(two, "a")).fresh

    play(sanlock_hosts, tmp_path, scenario)


def test_two_nodes_with_one_host_id_or_one_name_are_refused_at_start(
    sanlock_hosts: SanlockHosts, tmp_path: Path
) -> None:
    async def scenario(disk: Disk, one: SanlockStore, two: SanlockStore) -> None:
        await must_take(one, "a")
        await must_take(two, "b")
        for node, boot, number in (("node-3", "boot-3", 1), ("node-1", "boot-3", 3)):
            other = SanlockStore(
                Holder(node, boot, "s"), disk.space(number), tmp_path, socket=sanlock_hosts.host(3).socket
            )
            with pytest.raises(BadConfiguration, match="host id 1"):
                await other.open()
            await other.close()
        assert await held(two) == {("a", "node-1"), ("b", "node-2")}

    play(sanlock_hosts, tmp_path, scenario)


def test_a_device_that_was_not_made_for_this_or_is_anothers_is_refused_at_start(
    sanlock_hosts: SanlockHosts, tmp_path: Path
) -> None:
    async def scenario(disk: Disk, one: SanlockStore, two: SanlockStore) -> None:
        disk.name = "another"
        with pytest.raises(BadConfiguration, match="is of the cluster"):
            await SanlockStore(holder("node-3"), disk.space(3), tmp_path).open()
        scribble(disk, HEAD_AT, b"x")
        with pytest.raises(BadConfiguration, match="no record area"):
            await SanlockStore(holder("node-3"), disk.space(3), tmp_path).open()

    play(sanlock_hosts, tmp_path, scenario)
