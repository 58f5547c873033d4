# SPDX-License-Identifier: GPL-2.0-or-later
"""The cluster manager beside the lease store: both must agree, its word for its own agent goes no further than that
agent, and of its fencings only those count that certainly struck the boot that holds the leases."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from lab_court import Court, mount, question, refuses
from lab_node import DISK, ME, OTHER, SECOND, A, B, Node, run

from enforcer.cluster.sqlite_store import SqliteStore
from enforcer.cluster.view import Fencing, Health, NoCluster, Opinion, Quorum, Stance, Use
from enforcer.kernel.abi import Op
from enforcer.model.errors import EnforcerError, StoreUnavailable
from enforcer.model.intent import Effect, Intent, Source, Verdict
from enforcer.model.lease import Claim, Denied, Granted, HeldLease, Liveness
from enforcer.model.resource import Device, DevNum, UseKind
from enforcer.workflow import consent as module
from enforcer.workflow import judge as judge_module
from enforcer.workflow.consent import Consent, locate, vouched, vouching
from enforcer.workflow.judge import Judge

NO_OBJECTION = Opinion(Stance.NO_OBJECTION, "not managed")
VOUCHES = Opinion(Stance.VOUCHES, "fs is starting here by the cluster")
OBJECTS = Opinion(Stance.OBJECTS, "fs is active on ha2", "crm_mon -1", "ha2")


@dataclass
class View:
    """Says what it is told to; the last word stands."""

    opinions: list[Opinion] = field(default_factory=lambda: [NO_OBJECTION])
    told: tuple[Fencing, ...] | EnforcerError = ()
    asked: list[Use] = field(default_factory=list)
    name: str = "fake"

    async def opinion(self, use: Use) -> Opinion:
        self.asked.append(use)
        return self.opinions.pop(0) if len(self.opinions) > 1 else self.opinions[0]

    async def fencings(self) -> tuple[Fencing, ...]:
        if isinstance(self.told, EnforcerError):
            raise self.told
        return self.told

    async def quorum(self) -> Quorum:
        return Quorum.HELD

    async def health(self) -> Health:
        return Health(Quorum.HELD, "")

    async def close(self) -> None: ...


@dataclass
class Both:
    court: Court
    view: View = field(default_factory=View)

    def judge(self, asked: Any = None) -> Verdict:
        node = self.court.node
        consent = Consent(self.view, node.store, ME.node)
        judge = Judge(ME.node, lambda: node.policy, node.devices, node.leases, "fake", node.tables, node.sysfs, consent)
        self.court.real = lambda: judge
        return self.court.judge(asked or mount())[1]


@pytest.fixture
def both(court: Court) -> Both:
    return Both(court)


def test_an_objection_refuses_and_costs_no_lease(both: Both) -> None:
    both.view.opinions = [OBJECTS]
    verdict = both.judge()
    assert refuses(verdict)
    assert (verdict.source, verdict.veto, verdict.reason) == (Source.VIEW, "fake", "fs is active on ha2")
    assert verdict.remedy == "crm_mon -1" and both.court.node.store.calls == []


@pytest.mark.parametrize("opinion", [NO_OBJECTION, VOUCHES])
def test_what_the_store_refuses_no_view_permits(both: Both, opinion: Opinion) -> None:
    both.view.opinions = [opinion]
    both.court.node.store.hold(B)
    verdict = both.judge()
    assert refuses(verdict) and verdict.source is Source.STORE


def test_both_agree_and_it_is_permitted(both: Both) -> None:
    both.view.opinions = [VOUCHES]
    verdict = both.judge()
    assert (verdict.effect, verdict.source) == (Effect.PERMIT, Source.STORE)
    assert "starting here by the cluster" in verdict.reason
    assert (both.view.asked[0].dev, both.view.asked[0].resources) == (SECOND, (B,))


def test_a_view_that_changes_its_mind_while_the_store_is_slow_is_heard(
    both: Both, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(judge_module, "STALE_S", 0.0)
    both.view.opinions = [NO_OBJECTION, OBJECTS]
    assert refuses(both.judge()) and not both.court.node.leases._held[B].permits


def test_the_end_of_swap_is_not_refused(both: Both) -> None:
    off = question(Op.FILE_OPEN, syscall_nr=168)
    both.view.opinions = [OBJECTS]
    assert both.judge(off).source is Source.VIEW  # it is not leased here, so it cannot be its end
    both.view.opinions = [NO_OBJECTION]
    assert both.judge().effect is Effect.PERMIT
    both.view.opinions = [OBJECTS]
    assert both.judge(off).effect is Effect.PERMIT


def test_the_managers_word_stands_for_a_store_only_within_its_own_task(tmp_path: Path) -> None:
    """The store of one node denies a multi-attached LUN, but to the cluster's own agent."""
    device = Device(DISK, "sda", (A,), ())

    async def take(opinion: Opinion, between: Callable[[], Any]) -> Granted | Denied:
        with vouching(opinion, device):
            await between()
            return await store.acquire(frozenset({Claim(A)}), {}, budget_s=5)

    async def scenario() -> None:
        await store.open()
        inside, go = asyncio.Event(), asyncio.Event()

        async def wait() -> None:
            inside.set()
            await go.wait()

        agent = asyncio.create_task(take(VOUCHES, wait))
        await inside.wait()
        stranger = await take(NO_OBJECTION, lambda: asyncio.sleep(0))
        assert isinstance(stranger, Denied) and stranger.reason == "no lease store for a multi-attached device"
        go.set()
        assert isinstance(await agent, Granted)
        await store.close()

    store = SqliteStore(ME, tmp_path / "db", multi_attached=lambda lun: not vouched(lun))
    run(scenario())
    assert not vouched("wwn-a")


def test_what_runs_here_already_is_leased_and_a_double_use_is_told(node: Node) -> None:
    view = View([Opinion(Stance.OBJECTS, "fs is active on node-9", holder="node-9")])
    device = node.devices.known[SECOND].device

    async def scenario() -> None:
        denied = await Consent(view, node.store, ME.node).take_in_use(node.leases, device)
        assert denied is not None and denied.reason == "fs is active on node-9"
        assert B in node.store.ours() and view.asked[0].running
        view.opinions = [Opinion(Stance.OBJECTS, "the cluster's state is unknown: corosync is not running")]
        assert await Consent(view, node.store, ME.node).take_in_use(node.leases, device) is None

    run(scenario())


def done(key: str, node: str = OTHER.node) -> Fencing:
    return Fencing(node, key, done=True)


def fences(
    node: Node, *looks: tuple[Fencing, ...] | EnforcerError, held: bool = True, settle_s: float = 0.0
) -> list[tuple[str, str, bool]]:
    """What is recorded when these fencings are seen, one look after the other."""
    view, confirmed = View(), list[tuple[str, str, bool]]()

    async def confirm(name: str, boot_id: str, by: str, *, force: bool = False) -> None:
        assert by == "fake on node-1"
        confirmed.append((name, boot_id, force))

    node.store.fence_confirm = confirm
    if held:
        node.store.hold(B)

    async def scenario() -> None:
        consent = Consent(view, node.store, ME.node)
        for look in looks:
            view.told = look
            await consent.look()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "SETTLE_S", settle_s)
        run(scenario())
    return confirmed


def test_a_fencing_that_began_after_the_boot_was_known_is_a_fencing_fact(node: Node) -> None:
    under_way = Fencing(OTHER.node, "p", done=False)
    assert fences(node, (), (under_way,), (done("k"),), (done("k"),)) == [(OTHER.node, OTHER.boot_id, False)]


@pytest.mark.parametrize(
    "looks",
    [
        ((done("k"),), (done("k"),)),  # it was there before: the boot may be the one after it
        (
            (Fencing(OTHER.node, "p", done=False),),
            (done("k"),),
            (done("k"),),
        ),  # it was under way when the boot was seen
        ((), (Fencing(OTHER.node, "p", done=False),)),  # it is not over
        ((), (done("k", "node-3"),)),  # it is another node's
        ((),),
    ],
)
def test_any_other_fencing_is_none(node: Node, looks: tuple[tuple[Fencing, ...], ...]) -> None:
    assert fences(node, *looks) == []


@pytest.mark.parametrize("before", [(), ((),), ((), (), StoreUnavailable("crm_mon does not answer"))])
def test_the_history_that_a_manager_learns_when_it_starts_is_old(node: Node, before: tuple[Any, ...]) -> None:
    """The boot that it is about is stranded, so nothing else would say that it was not this one."""
    assert fences(node, (), *before, (done("yesterday"),), (done("yesterday"),), settle_s=5.0) == []


def looks_at(
    node: Node, monkeypatch: pytest.MonkeyPatch, *, gone_after_s: float, live_until_s: float
) -> tuple[Callable[..., Awaitable[list[frozenset[str]]]], list[str]]:
    """Looks, each at a time, at a fencing of whom the store calls live until then; and the boots that were tried."""
    now_s, tried = [0.0], list[str]()

    async def confirm(name: str, boot_id: str, by: str, *, force: bool = False) -> None:
        tried.append(boot_id)
        if now_s[0] < live_until_s:
            raise EnforcerError(f"{name} is live: it renews its session, so it is not fenced")

    async def looks(fencing: Fencing, *times_s: float) -> list[frozenset[str]]:
        view = View()
        consent = Consent(view, node.store, ME.node)
        view.told = ()
        await consent.look()
        view.told, found = (fencing,), []
        for now_s[0] in times_s:
            found.append(await consent.look())
        return found

    monkeypatch.setattr(module.time, "monotonic", lambda: now_s[0])
    node.store.fence_confirm = confirm
    node.store.gone_after_s = gone_after_s
    node.store.hold(B)
    return looks, tried


def test_an_old_fencing_that_is_heard_of_late_takes_nothing_from_who_lives(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The history of fencings comes to a node that joins a while after the rest."""
    looks, tried = looks_at(node, monkeypatch, gone_after_s=60, live_until_s=1000)

    async def scenario() -> None:
        assert not any(await looks(done("yesterday"), 40, 80, 230, 2000))
        assert len(tried) == 3, "it lived for longer than a session lasts: the fencing was not of this boot"

    run(scenario())


def test_a_fencing_is_waited_with_until_its_store_calls_the_node_gone(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    """sanlock says so after 140 s by default: who gave up before would never record what was true."""
    looks, _ = looks_at(node, monkeypatch, gone_after_s=140, live_until_s=150)

    async def scenario() -> None:
        found = await looks(done("now"), 40, 90, 149, 151)
        assert found == [frozenset(), frozenset(), frozenset(), frozenset({OTHER.node})]

    run(scenario())


def test_who_has_no_lease_needs_no_fencing_fact(node: Node) -> None:
    node.store.hold(A, replace(ME, session="earlier"))
    assert fences(node, (), (done("k", ME.node),), held=False) == []


def test_a_manager_that_is_silent_proves_nothing_and_ends_nothing(node: Node) -> None:
    node.store.hold(B)
    view = View(told=StoreUnavailable("crm_mon does not answer"))
    assert run(Consent(view, node.store, ME.node).look()) == frozenset()


def test_a_holder_that_was_fenced_meanwhile_is_no_longer_waited_for(
    both: Both, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The cluster starts its resource the moment the fencing is done: its agent cannot wait for the next round."""
    store = both.court.node.store
    store.hold(B)
    held = run(store.leases())

    async def freed(self: Consent, blocking: tuple[HeldLease, ...]) -> bool:
        assert blocking == held
        store.records.clear()
        return True

    monkeypatch.setattr(Consent, "freed", freed)
    assert both.judge().effect is Effect.PERMIT


def test_only_who_is_in_the_way_is_looked_for(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SETTLE_S", 0.0)
    held = HeldLease(node.store.hold(B), Liveness.LIVE)
    view = View()

    async def scenario() -> None:
        consent = Consent(view, node.store, ME.node)
        assert not await consent.freed((held,))  # seen for the first time
        view.told = (done("k"),)
        assert await consent.freed((held,)) and not await consent.freed(())
        assert not await Consent(NoCluster(), node.store, ME.node).freed((held,))

    run(scenario())


def test_a_path_means_what_it_is_now(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    device = Device(DISK, "sda", (A,), ())
    monkeypatch.setattr(module, "number_of", lambda status: DISK if status.st_size == 1 else None)
    (tmp_path / "disk").write_bytes(b"x")
    (tmp_path / "file").write_bytes(b"xx")

    def resolve(dev: DevNum) -> Device:
        assert dev == DISK
        return device

    found = locate(str(tmp_path / "disk"), resolve)
    assert found is not None and (found.dev, found.resources) == (DISK, (A,))
    assert locate(str(tmp_path / "file"), resolve) is None and locate(str(tmp_path / "none"), resolve) is None


def test_without_a_device_there_is_nothing_to_ask(node: Node) -> None:
    view = View([OBJECTS])
    intent = Intent(1, UseKind.MOUNT, question().caller())
    assert not run(Consent(view, node.store, ME.node).of(intent, covered=False)).objects and view.asked == []
