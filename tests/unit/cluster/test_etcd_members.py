# SPDX-License-Identifier: GPL-2.0-or-later
"""Three real members: what a node keeps while they lose a leader, their quorum, their speed or their processes.

The keeper is the real one, on directories of the test; the store reads the session where the daemon reads it.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from enforcer import settings
from enforcer.cluster.etcd_api import Etcd
from enforcer.cluster.etcd_http import EtcdClient
from enforcer.cluster.etcd_session import EtcdSession, SessionFacts
from enforcer.cluster.etcd_store import EtcdStore
from enforcer.cluster.identity import holder, read_session
from enforcer.keeper import duties
from enforcer.keeper.duties import Keeper
from enforcer.model.clock import boot_ns
from enforcer.model.errors import StoreUnavailable
from enforcer.model.lease import Claim, Denied, Granted, Holder, Standing
from enforcer.model.resource import ResourceId
from tools.lab.etcd import EtcdServer

TTL_S = 20  # longer than a member hangs here: see the test of issue 15247
RENEW_S = 0.2


@dataclass
class Kept:
    """A node whose session the real keeper renews."""

    store: EtcdStore
    run_dir: Path
    deadlines: list[tuple[int, int]] = field(default_factory=list)  # (when it was told, deadline), boot clock ns

    @property
    def session(self) -> SessionFacts | None:
        return read_session(self.run_dir)[0]

    async def take(self, name: str, *, budget_s: float = 5.0) -> Granted | Denied:
        return await self.store.acquire(frozenset({Claim(ResourceId.parse(name))}), {}, budget_s=budget_s)

    async def must_take(self, name: str, *, budget_s: float = 5.0) -> Granted:
        answer = await self.take(name, budget_s=budget_s)
        assert isinstance(answer, Granted), answer
        return answer

    async def renewals(self, count: int, *, patience_s: float = 20.0) -> None:
        """Wait for so many renewals that begin from now on."""
        begun = boot_ns()
        async with asyncio.timeout(patience_s):
            while len({deadline for told, deadline in self.deadlines if told > begun}) <= count:  # noqa: ASYNC110, there is no event to wait for
                await asyncio.sleep(0.05)


@dataclass
class Nodes:
    """Boots nodes of one cluster on these members."""

    urls: list[str]
    where: Path
    name: str = field(default_factory=lambda: f"test-{uuid.uuid4().hex}")

    def client(self) -> EtcdClient:
        return EtcdClient(self.urls)

    @contextlib.asynccontextmanager
    async def node(self, name: str) -> AsyncIterator[Kept]:
        run_dir = self.where / name
        text = f"""
            [node]
            name = "{name}"
            [store]
            kind = "etcd"
            cluster = "{self.name}"
            endpoints = {self.urls!r}
            ttl = "{TTL_S}s"
            renew = "{RENEW_S}s"
            [paths]
            run_dir = "{run_dir}"
            state_dir = "{run_dir}"
            bpffs = "{run_dir}/no-gate"
            """
        keeper = Keeper(settings.parse(text))
        me = holder(name, run_dir)
        store = EtcdStore(self.client(), self.name, me, session=lambda: read_session(run_dir)[0], ttl_s=TTL_S)
        kept = Kept(store, run_dir)
        keeper._write_deadline = lambda deadline: kept.deadlines.append((boot_ns(), deadline))
        keeping = asyncio.create_task(keeper.run())
        try:
            async with asyncio.timeout(10):
                while kept.session is None:  # noqa: ASYNC110, there is no event to wait for
                    await asyncio.sleep(0.02)
            yield kept
        finally:
            keeper.stop()
            await keeping
            await store.close()


@pytest.fixture
def nodes(members: EtcdServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Nodes:
    monkeypatch.setattr(duties, "RETRY_S", RENEW_S)
    return Nodes([member.url for member in members.members], tmp_path)


@pytest.mark.parametrize("how", ["killed", "hung"])
def test_a_lost_leader_costs_no_session_no_lease_and_no_deadline(nodes: Nodes, members: EtcdServer, how: str) -> None:
    async def scenario() -> None:
        leader = 0  # whom everybody asks first
        await asyncio.to_thread(members.lead, leader)
        async with nodes.node("node-1") as one, nodes.node("node-2") as two:
            held, session = await one.must_take("a"), one.session
            members.kill(leader) if how == "killed" else members.pause(leader)
            answer = await two.take("a")
            assert isinstance(answer, Denied) and answer.standing is Standing.ELSEWHERE, answer
            assert "in use on node-1" in answer.reason
            assert (await two.must_take("b")).fresh, "the majority serves on"
            await one.renewals(5)
            members.resume(leader)
            await asyncio.to_thread(members.start)
            await one.renewals(2)
            again = await one.must_take("a")
            assert (again.token, again.fresh, one.session) == (held.token, False, session)
            assert all(deadline > told for told, deadline in one.deadlines), "at no moment was it not ours"

    asyncio.run(scenario())


def test_a_session_that_the_store_ended_by_mistake_costs_no_lease(nodes: Nodes) -> None:
    """A leader that hung for longer than a TTL may revoke what others renewed meanwhile (etcd issue 15247)."""

    async def scenario() -> None:
        async with nodes.node("node-1") as one, nodes.node("node-2") as two:
            held, session = await one.must_take("a"), one.session
            assert session is not None
            await Etcd(nodes.client()).lease_revoke(session.lease_id, budget_s=2)
            answer = await two.take("a")
            assert isinstance(answer, Denied) and answer.standing is Standing.ELSEWHERE, answer
            await one.renewals(2)
            assert one.session is not None and one.session.create_revision > session.create_revision
            again = await one.must_take("a")
            assert (again.token, again.fresh) == (held.token, False)
            answer = await two.take("a")
            assert isinstance(answer, Denied) and "in use on node-1" in answer.reason

    asyncio.run(scenario())


def test_members_that_answer_now_and_then_deny_in_time_and_never_say_free(nodes: Nodes, members: EtcdServer) -> None:
    over = threading.Event()

    def pulse() -> None:
        while not over.is_set():
            members.pause()
            over.wait(0.5)
            members.resume()
            over.wait(0.15)

    async def scenario() -> None:
        async with nodes.node("node-1") as one, nodes.node("node-2") as two:
            held, session = await one.must_take("a"), one.session
            pulses = threading.Thread(target=pulse)
            pulses.start()
            try:
                answers = []
                for _ in range(8):
                    begun = time.monotonic()
                    answers.append(await two.take("a", budget_s=0.4))
                    assert time.monotonic() - begun < 0.7
                    await asyncio.sleep(0.05)
            finally:
                over.set()
                await asyncio.to_thread(pulses.join)
            assert all(isinstance(answer, Denied) for answer in answers), "a slow store is no free device"
            standings = {answer.standing for answer in answers if isinstance(answer, Denied)}
            assert Standing.UNKNOWN in standings, "the pulses were felt"
            assert standings <= {Standing.UNKNOWN, Standing.ELSEWHERE}
            await one.renewals(2)
            again = await one.must_take("a")
            assert (again.token, one.session) == (held.token, session)

    asyncio.run(scenario())


def test_a_restart_of_all_members_keeps_sessions_and_tokens(nodes: Nodes, members: EtcdServer) -> None:
    async def scenario() -> None:
        async with nodes.node("node-1") as one, nodes.node("node-2") as two:
            held, session = await one.must_take("a"), one.session
            members.kill()
            denied = await two.take("b", budget_s=0.8)
            assert isinstance(denied, Denied)
            assert denied.reason.startswith("the lease store did not answer: it is out of reach (3 tried,")
            await asyncio.to_thread(members.start)
            await one.renewals(2)
            again = await one.must_take("a")
            assert (again.token, again.fresh, one.session) == (held.token, False, session)
            assert (await two.must_take("b")).token > held.token

    asyncio.run(scenario())


@pytest.mark.parametrize("how", ["killed", "hung"])
def test_a_lost_quorum_is_told_as_such_and_moves_no_deadline(nodes: Nodes, members: EtcdServer, how: str) -> None:
    said = "the lease store did not answer: it has no quorum now (1 of 3 members answers and knows no leader)"
    starved = "the lease store did not answer: it is out of reach (3 tried,"

    async def scenario() -> None:
        async with nodes.node("node-1") as one:
            held, client = await one.must_take("a"), nodes.client()
            live = EtcdSession(client, nodes.name, Holder("node-3", "boot-3", "s3"), ttl_s=TTL_S)
            await live.open()
            deadline = live.deadline_ns
            for member in (0, 1):
                members.kill(member) if how == "killed" else members.pause(member)
            await asyncio.sleep(0.8)  # the third must find out that nobody leads any more
            for name in ("a", "b"):  # what is held already is no better off
                reasons = list[str]()
                while said not in reasons and len(reasons) < 5:  # a third that is starved is out of reach, too
                    begun = time.monotonic()
                    denied = await one.take(name, budget_s=1.0)
                    assert time.monotonic() - begun < 1.3
                    assert isinstance(denied, Denied)
                    assert denied == Denied(Standing.UNKNOWN, denied.reason, remedy="enforcer doctor")
                    assert denied.reason == said or denied.reason.startswith(starved), denied
                    reasons.append(denied.reason)
                assert reasons[-1] == said, reasons
            reasons = list[str]()
            while said not in reasons and len(reasons) < 5:
                begun = time.monotonic()
                with pytest.raises(StoreUnavailable) as silent:
                    await live.renew(budget_s=1.0)
                assert time.monotonic() - begun < 1.3
                reasons.append(str(silent.value))
                assert reasons[-1] == said or reasons[-1].startswith(starved), reasons
            assert reasons[-1] == said, reasons
            assert live.deadline_ns == deadline
            members.resume()
            await asyncio.to_thread(members.start)
            await one.renewals(2)
            again = await one.must_take("a")
            assert (again.token, again.fresh) == (held.token, False)
            await client.close()

    asyncio.run(scenario())
