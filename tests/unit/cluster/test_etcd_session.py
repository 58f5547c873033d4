# SPDX-License-Identifier: GPL-2.0-or-later
"""The node's session: one node, one name, and a deadline that is over before the session is."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time

import pytest
from lab_cluster import Cluster, EtcdServer, Proxy, play

from enforcer.cluster import etcd_session
from enforcer.cluster.etcd_http import EtcdClient
from enforcer.cluster.etcd_session import EtcdSession
from enforcer.model.clock import boot_ns
from enforcer.model.deadlines import margin_s
from enforcer.model.errors import BadConfiguration, LeaseLost, StoreUnavailable
from enforcer.model.lease import Holder


def session(c: Cluster, boot: str, run: str, *, ttl_s: int = 30, url: str = "") -> EtcdSession:
    return EtcdSession(EtcdClient([url or str(c.where)]), c.cluster, Holder("node-1", boot, run), ttl_s=ttl_s)


def test_the_deadline_counts_from_before_the_renewal_was_sent(etcd_cluster: Cluster) -> None:
    async def scenario(c: Cluster) -> None:
        one = session(c, "boot-1", "s1", ttl_s=10)
        assert one.deadline_ns == 0
        before = boot_ns()
        facts = await one.open()
        assert facts.ttl_s == 10
        assert before <= one.deadline_ns - int((10 - margin_s(10)) * 1e9) <= boot_ns()
        before = boot_ns()
        t0 = await one.renew()
        assert before <= t0 <= boot_ns()
        assert one.deadline_ns == t0 + int((10 - 0.52) * 1e9)

    play(etcd_cluster, scenario)


def test_the_same_run_goes_on_with_its_session(etcd_cluster: Cluster) -> None:
    async def scenario(c: Cluster) -> None:
        facts = await session(c, "boot-1", "s1").open()
        assert await session(c, "boot-1", "s1").open() == facts

    play(etcd_cluster, scenario)


def test_an_older_session_is_waited_for_and_a_living_one_refuses_the_name(
    etcd_cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(etcd_session, "SLACK_S", 1.0)

    async def scenario(c: Cluster) -> None:
        await session(c, "boot-1", "s1", ttl_s=1).open()
        second = session(c, "boot-2", "s2", ttl_s=1)
        begun = time.monotonic()
        await second.open()
        assert time.monotonic() - begun > 0.5, "it was not pushed aside"

        async def keep_alive() -> None:
            while True:
                await second.renew()
                await asyncio.sleep(0.2)

        renewing = asyncio.create_task(keep_alive())
        with pytest.raises(BadConfiguration, match="two nodes use the name 'node-1': boot id boot-2") as refused:
            await session(c, "boot-3", "s3").open()
        assert refused.value.hint
        renewing.cancel()
        assert second.deadline_ns > boot_ns(), "and the living one was not disturbed"

    play(etcd_cluster, scenario)


def test_an_expired_session_is_lost_and_can_be_opened_anew(etcd_cluster: Cluster) -> None:
    async def scenario(c: Cluster) -> None:
        one = session(c, "boot-1", "s1", ttl_s=1)
        first = await one.open()
        await asyncio.sleep(0.6)
        assert one.deadline_ns <= boot_ns(), "over here ..."
        assert (await session(c, "boot-1", "s1").open()) == first, "... before it is over there"
        await asyncio.sleep(2.0)
        with pytest.raises(LeaseLost):
            await one.renew()
        assert (one.facts, one.deadline_ns) == (None, 0)
        again = await one.open()
        assert again.create_revision > first.create_revision

    play(etcd_cluster, scenario)


def test_two_nodes_that_start_at_once_do_not_both_get_the_name(etcd_cluster: Cluster, etcd: EtcdServer) -> None:
    async def scenario(c: Cluster) -> None:
        async with Proxy(etcd.url) as proxy:
            proxy.fate, proxy.wanted = "delay", lambda request: b"request_put" in request
            late = asyncio.create_task(session(c, "boot-1", "s1", url=proxy.url).open())
            await proxy.meeting.wait()  # it has seen that the name is free
            quick = session(c, "boot-2", "s2")
            await quick.open()
            proxy.go.set()
            await asyncio.sleep(0.1)
            await quick.renew()
            late.cancel()

    play(etcd_cluster, scenario)


def test_a_session_whose_answer_was_lost_is_found_again(etcd_cluster: Cluster, etcd: EtcdServer) -> None:
    async def scenario(c: Cluster) -> None:
        async with Proxy(etcd.url) as proxy:
            proxy.fate = "lose-answer"
            proxy.wanted = lambda request: b"request_put" in request and proxy.met == 0
            one = session(c, "boot-1", "s1", url=proxy.url)
            facts = await one.open()
            assert proxy.met == 1
            assert one.facts == facts
            await one.renew()

    play(etcd_cluster, scenario)


def test_a_renewal_whose_second_half_is_silent_tells_why_and_moves_no_deadline(
    etcd_cluster: Cluster, etcd: EtcdServer
) -> None:
    async def scenario(c: Cluster) -> None:
        async with Proxy(etcd.url) as proxy:
            one = session(c, "boot-1", "s1", url=proxy.url)
            await one.open()
            before = one.deadline_ns
            proxy.fate, proxy.wanted = "delay", lambda request: b"/v3/kv/txn" in request
            begun = time.monotonic()
            with pytest.raises(StoreUnavailable, match=r"did not answer: .*no answer within"):
                await one.renew(budget_s=0.5)
            assert time.monotonic() - begun < 0.8
            assert one.deadline_ns == before, "a keep-alive alone is no renewal"

    play(etcd_cluster, scenario)


def test_the_keepers_imports_stay_small() -> None:
    program = (
        "import sys; sys.modules['ssl'] = None\n"  # as the keeper does without TLS
        "import enforcer.keeper.duties\n"
        "heavy = ('http.client', 'sqlite3', 'hashlib', 'enforcer.cluster.conflicts')\n"
        "print([m for m in heavy if m in sys.modules])\n"
        "print(next(l.split()[1] for l in open('/proc/self/status') if l.startswith('VmRSS')))\n"
    )
    heavy, rss_kib = subprocess.check_output([sys.executable, "-c", program], text=True).splitlines()
    assert heavy == "[]"
    assert int(rss_kib) < 22 * 1024
