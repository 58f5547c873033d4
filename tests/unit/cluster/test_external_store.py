# SPDX-License-Identifier: GPL-2.0-or-later
"""The external store with a real peer, gfs_clusterd: the hand-shake, and a peer that dies, hangs or has forgotten."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from lab_cluster import Cluster, Node, external, kill, play, process_of
from lab_external import ME, LineProxy, behind_a_proxy, held, must_not_know, serve, soon

from enforcer.cluster import external_peer
from enforcer.cluster.external_store import ExternalStore
from enforcer.model.errors import EnforcerError, LeaseLost, StoreUnavailable
from enforcer.model.lease import Denied
from enforcer.model.resource import ResourceId


@pytest.fixture
def gfs(tmp_path: Path) -> Cluster:
    """Nodes with a gfs_clusterd each, started by their stores."""
    return Cluster("external", tmp_path)


def names(*lines: str) -> frozenset[ResourceId]:
    return frozenset(ResourceId.parse(line) for line in lines)


def test_the_hand_shake_of_two_nodes(tmp_path: Path) -> None:
    async def scenario(one: Node, two: Node, proxy: LineProxy) -> None:
        granted = await one.must_take("lun")
        refusal = await two.take("lun")
        assert isinstance(refusal, Denied)
        assert refusal.reason.startswith("in use on node-1 since ")
        assert isinstance(one.store, ExternalStore)
        for _ in range(2):  # every round of the daemon tells it, the peer hears it once
            await one.store.in_use(names("lun", "not-held"))
        (seen,) = await two.store.leases("lun")
        assert seen.lease.facts["mounted"] == "yes"
        await one.give(granted.token, "lun")
        with pytest.raises(LeaseLost):
            await one.give(granted.token, "lun")
        assert (await two.must_take("lun")).token > granted.token
        assert (await one.store.last_grants())["lun"][0] == "node-2"
        said = [(call["call"], call.get("resources"), call.get("token")) for call in proxy.calls]
        assert said[1:4] == [
            ("authorise", None, None),
            ("mounted", ["lun"], granted.token),
            ("gone", ["lun"], granted.token),
        ]

    behind_a_proxy(tmp_path, scenario)


def test_a_killed_peer_is_started_again_and_nothing_is_lost(gfs: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(external_peer, "PAUSE_S", 0.3)

    async def scenario(c: Cluster) -> None:
        one, two = await c.boot("node-1"), await c.boot("node-2")
        granted = await one.must_take("a")
        assert isinstance(one.store, ExternalStore)
        os.kill(process_of(one.store), signal.SIGSTOP)
        begun = time.monotonic()
        asking = asyncio.create_task(must_not_know(one, "b", budget_s=5))
        await asyncio.sleep(0.05)
        await kill(one.store)
        assert "ended" in await asking
        assert time.monotonic() - begun < 2, "who waits for a dead peer is told at once"
        assert isinstance(await two.take("a"), Denied), "its lease stays"
        again = await one.must_take("a", "b")
        assert again.token > granted.token
        await two.must_take("c")

    play(gfs, scenario)


def test_a_program_that_ends_at_once_is_not_started_over_and_over(tmp_path: Path) -> None:
    counted = tmp_path / "starts"
    code = f"open({str(counted)!r}, 'a').write('x')"

    async def scenario() -> None:
        store = external(ME, tmp_path, command=["/usr/bin/python3", "-I", "-S", "-c", code])
        await store.open()
        node = Node(ME, store)
        began = time.monotonic()
        while time.monotonic() < began + 0.6:
            await must_not_know(node, "a", budget_s=0.1)
        assert "before, it ended" in await must_not_know(node, "a", budget_s=0.1)
        assert counted.stat().st_size <= 2
        await store.close()

    asyncio.run(scenario())


def test_a_stopped_peer_denies_in_time_and_what_it_grants_late_is_given_back(gfs: Cluster) -> None:
    async def scenario(c: Cluster) -> None:
        one, two = await c.boot("node-1"), await c.boot("node-2")
        kept = await one.must_take("a")
        assert isinstance(one.store, ExternalStore)
        os.kill(process_of(one.store), signal.SIGSTOP)
        begun = time.monotonic()
        reasons = await asyncio.gather(*(must_not_know(one, name, budget_s=0.4) for name in ("a", "b", "c")))
        assert time.monotonic() - begun < 0.8
        assert all("did not answer within" in reason for reason in reasons)
        os.kill(process_of(one.store), signal.SIGCONT)

        async def only_a() -> bool:
            await one.store.leases()  # what was asked before is answered by then
            return {r: n for r, (n, _) in (await held(two)).items() if n == "node-1"} == {"a": "node-1"}

        assert await soon(only_a)
        assert (await one.must_take("a")).token == kept.token

    play(gfs, scenario)


def test_a_peer_that_hangs_for_long_is_replaced(gfs: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(external_peer, "HUNG_S", 0.3)
    monkeypatch.setattr(external_peer, "PAUSE_S", 0.0)

    async def scenario(c: Cluster) -> None:
        one = await c.boot("node-1")
        await one.store.leases()
        assert isinstance(one.store, ExternalStore)
        hung = process_of(one.store)
        os.kill(hung, signal.SIGSTOP)
        await must_not_know(one, "a", budget_s=0.4)
        await one.must_take("a")
        assert process_of(one.store) != hung
        assert await soon(lambda: asyncio.sleep(0, not Path(f"/proc/{hung}").exists()))

    play(gfs, scenario)


def test_a_peer_ends_with_the_store_even_if_it_is_stopped(gfs: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(external_peer, "END_S", 0.2)

    async def scenario(c: Cluster) -> None:
        for stop in (False, True):
            node = await c.boot("node-1")
            await node.store.leases()
            assert isinstance(node.store, ExternalStore)
            pid = process_of(node.store)
            if stop:
                os.kill(pid, signal.SIGSTOP)
            await node.store.close()
            left_over = Path(f"/proc/{pid}").exists()
            if left_over:
                os.kill(pid, signal.SIGKILL)
                await asyncio.sleep(0.2)
            assert not left_over
            assert "was closed" in await must_not_know(node, "a")

    play(gfs, scenario)


def test_a_peer_on_a_socket_may_be_restarted(tmp_path: Path) -> None:
    socket = tmp_path / "peer.sock"
    peers = [serve(tmp_path / "gfs", socket)]

    async def scenario() -> None:
        node = Node(ME, external(ME, tmp_path, path=str(socket)))
        await node.store.open()
        granted = await node.must_take("a")
        peers[0].kill()
        peers[0].wait()
        assert await soon(lambda: asyncio.sleep(0, node.store._peer._line is None))
        assert "cannot be reached: Connection refused" in await must_not_know(node, "b")
        socket.unlink()
        peers.append(serve(tmp_path / "gfs", socket))
        assert (await node.must_take("a")).token == granted.token
        await node.store.close()

    try:
        asyncio.run(scenario())
    finally:
        for peer in peers:
            peer.kill()
            peer.wait()


def test_a_store_that_was_set_back_is_not_believed(gfs: Cluster, tmp_path: Path) -> None:
    async def scenario(c: Cluster) -> None:
        one, two = await c.boot("node-1"), await c.boot("node-2")
        state = tmp_path / "gfs/state.json"
        first = await one.must_take("a")
        await one.give(first.token, "a")
        backup = state.read_bytes()
        again = await one.must_take("a")
        await one.give(again.token, "a")
        state.write_bytes(backup)  # as from yesterday's backup: it would grant the same token once more
        assert f"its token {again.token} of a is lower than {again.token + 1}" in await must_not_know(one, "a")

        async def given_back() -> bool:
            return "a" not in await held(two)

        assert await soon(given_back)
        with pytest.raises(StoreUnavailable, match="has forgotten grants") as told:
            await one.store.leases()
        file = tmp_path / "state-of-node-1/external-tokens.json"
        assert str(file) in told.value.hint
        await one.store.close()
        state.unlink()
        one = await c.boot("node-1", session="s2")
        assert "has forgotten grants" in await must_not_know(one, "a"), "nor after a restart"

    play(gfs, scenario)


def test_highest_tokens_that_cannot_be_kept_deny(gfs: Cluster, tmp_path: Path) -> None:
    async def scenario(c: Cluster) -> None:
        one, two = await c.boot("node-1"), await c.boot("node-2")
        await one.must_take("a")
        directory = tmp_path / "state-of-node-1"
        (directory / "external-tokens.json.new").mkdir()  # in the way of the draft
        answer = await one.take("b")
        assert isinstance(answer, Denied) and "cannot be written" in answer.reason and answer.remedy

        async def given_back() -> bool:
            return set(await held(two)) == {"a"}

        assert await soon(given_back)
        for damaged in ("", "[]", '{"version": 2}', '{"version": 1, "cluster": "test", "highest": {"a": true}}'):
            (directory / "external-tokens.json").write_text(damaged)
            with pytest.raises(StoreUnavailable, match="cannot be read") as told:
                await external(ME, tmp_path).open()
            assert "rm " in told.value.hint

    play(gfs, scenario)


def test_a_fenced_boot_gets_nothing_any_more(gfs: Cluster) -> None:
    async def scenario(c: Cluster) -> None:
        one, two = await c.boot("node-1"), await c.boot("node-2")
        await one.must_take("a")
        with pytest.raises(EnforcerError, match="is live"):
            await two.store.fence_confirm("node-1", "boot-of-node-1", "root")
        await two.store.fence_confirm("node-1", "boot-of-node-1", "root", force=True)
        await two.must_take("a")
        refusal = await one.take("b")
        assert isinstance(refusal, Denied)
        assert (refusal.reason, refusal.remedy) == ("this boot was confirmed fenced", "reboot this node")
        with pytest.raises(LeaseLost):
            await one.store.adopt()

    play(gfs, scenario)


def test_arguments_reach_the_program_as_they_are(tmp_path: Path) -> None:
    strange = tmp_path / "$(touch pwned); gfs"
    command = external(ME, tmp_path)._peer._command[:-1]

    async def scenario() -> None:
        store = external(ME, tmp_path, command=[*command, str(strange)])
        await store.open()
        await Node(ME, store).must_take("a")
        await store.close()

    asyncio.run(scenario())
    assert (strange / "state.json").exists()


@pytest.mark.parametrize(
    ("peer", "said"),
    [
        ({"command": ["/nonexistent/peer"]}, "cannot be started: No such file or directory"),
        ({"command": ["/"]}, "cannot be started: Permission denied"),
        ({"path": "/nonexistent/peer.sock"}, "cannot be reached: No such file or directory"),
    ],
)
def test_a_peer_that_is_not_there_denies_and_does_not_keep_the_daemon_from_starting(
    tmp_path: Path, peer: dict[str, Any], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(external_peer, "PAUSE_S", 0.05)

    async def scenario() -> None:
        store = external(ME, tmp_path, **peer)
        await store.open()
        assert said in await must_not_know(Node(ME, store), "a")
        with pytest.raises(StoreUnavailable):
            await store.leases()
        await store.close()

    asyncio.run(scenario())
