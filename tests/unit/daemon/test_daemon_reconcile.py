# SPDX-License-Identifier: GPL-2.0-or-later
"""The loop that settles differences between the store, the kernel's counts and what we think we hold."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from lab_node import ME, OTHER, PART, SAN, SECOND, A, B, Node, disk, run

from enforcer.cluster.etcd_session import SessionFacts
from enforcer.daemon.reconcile import Reconciler
from enforcer.kernel.abi import State
from enforcer.model.errors import LeaseLost
from enforcer.model.lease import NodeRecord
from enforcer.model.resource import DevNum, ResourceId
from enforcer.policy.rules import Defaults, Policy
from enforcer.storage.usage import Usage

MOUNTED = Usage(mounted_at=["/srv"])
NEIGHBOUR = NodeRecord(OTHER, "digest", ("wwn-a", "wwn-z"), True)


@dataclass
class Round:
    node: Node
    cache: Path
    notices: list[tuple[str, str]] = field(default_factory=list)
    waiting: dict[DevNum, int] = field(default_factory=dict)
    session: SessionFacts | None = None
    made: Reconciler | None = None

    def start(self) -> Reconciler:
        """A daemon that begins, perhaps after another."""
        self.node.build()
        asks: Any = self
        self.made = Reconciler(
            store=self.node.store,
            devices=self.node.devices,
            leases=self.node.leases,
            asks=asks,
            me=ME,
            policy=lambda: self.node.policy,
            notice=lambda kind, text: self.notices.append((kind, text)),
            session=lambda: self.session,
            cache=self.cache,
        )
        return self.made

    def pending_on(self, dev: DevNum) -> int:
        return self.waiting.get(dev, 0)

    async def go(self, times: int = 1) -> None:
        for _ in range(times):
            await (self.made or self.start()).once()

    def guard(self, *rules: Any, **defaults: Any) -> None:
        self.node.policy = Policy(rules=rules, defaults=Defaults(**defaults), generation=8)
        self.node.devices.reclassify()
        assert self.made
        self.made.look_for_uses()


@pytest.fixture
def turn(node: Node, tmp_path: Path) -> Round:
    return Round(node, tmp_path / "seen.json")


# -- what a store hears ------------------------------------------------------------------------------------------


def test_a_store_that_wants_to_hears_of_leases_that_are_used(turn: Round, monkeypatch: pytest.MonkeyPatch) -> None:
    heard: list[frozenset[ResourceId]] = []

    async def in_use(resources: frozenset[ResourceId]) -> None:
        heard.append(resources)

    async def scenario() -> None:
        turn.node.store.hold(A, ME)
        turn.node.store.hold(B, ME)
        await turn.go()
        assert heard == [], "and no other store is asked"
        monkeypatch.setattr(turn.node.store, "in_use", in_use, raising=False)
        turn.node.count(SECOND, uses=1)
        await turn.go()

    run(scenario())
    assert heard == [frozenset({B})]


# -- uses without a lease ----------------------------------------------------------------------------------------


def test_what_was_in_use_before_is_leased_at_once(turn: Round) -> None:
    turn.node.used[SECOND] = MOUNTED
    run(turn.go())
    assert set(turn.node.store.ours()) == {B} and turn.node.state(SECOND) is State.LIVE
    assert turn.notices == [("adopt", "sdb, in use here, is leased now")]
    assert turn.node.store.facts == [{"use": "mounted at /srv"}]


def test_what_was_in_use_before_is_kept_until_a_scan_finds_nobody(turn: Round) -> None:
    async def scenario() -> None:
        turn.node.used[SECOND] = MOUNTED
        await turn.go()
        turn.node.pass_s(20)
        await turn.node.leases.release_unused()
        assert turn.node.store.ours() and turn.node.state(SECOND) is State.LIVE
        turn.node.used.clear()
        turn.node.pass_s(20)
        await turn.node.leases.release_unused()
        assert turn.node.store.ours() == {}
        await turn.go(3)
        assert turn.node.store.ours() == {} and len(turn.notices) == 1

    run(scenario())


def test_an_adopted_lease_is_kept_for_a_use_that_nobody_counted(turn: Round) -> None:
    async def scenario() -> None:
        turn.node.store.hold(B, ME)
        turn.node.used[SECOND] = MOUNTED
        await turn.go(2)
        await turn.node.leases.release_unused()
        assert turn.node.store.ours() and "acquire" not in turn.node.store.calls

    run(scenario())


@pytest.mark.parametrize("counts", [{"uses": 1}, {"inflight": 1}])
def test_a_counted_use_must_be_seen_twice(turn: Round, counts: dict[str, int]) -> None:
    async def scenario() -> None:
        await turn.go()
        turn.node.count(SECOND, **counts)
        await turn.go()
        assert turn.node.store.ours() == {}
        await turn.go()
        assert set(turn.node.store.ours()) == {B} and turn.node.state(SECOND) is State.LIVE

    run(scenario())


def test_a_use_that_comes_and_goes_is_not_seen_twice(turn: Round) -> None:
    async def scenario() -> None:
        for uses in (1, 0, 1, 0, 1):
            turn.node.count(SECOND, uses=uses)
            await turn.go()
        assert turn.node.store.ours() == {}

    run(scenario())


def test_who_waits_is_not_taken_for_a_use(turn: Round) -> None:
    async def scenario() -> None:
        turn.node.count(SECOND, uses=1)
        turn.waiting[SECOND] = 1
        await turn.go(4)
        assert turn.node.store.ours() == {}
        turn.node.count(SECOND, uses=2)  # one more than waits
        await turn.go(2)
        assert set(turn.node.store.ours()) == {B}

    run(scenario())


def test_a_device_that_comes_to_be_guarded_while_in_use(turn: Round) -> None:
    async def scenario() -> None:
        turn.node.policy = Policy()
        turn.node.used[SECOND] = MOUNTED
        turn.node.count(PART, uses=1)
        await turn.go(3)
        assert turn.node.store.ours() == {} and turn.node.state(SECOND) is State.UNGUARDED
        turn.guard(SAN)
        await turn.go()
        assert set(turn.node.store.ours()) == {B}
        await turn.go()
        assert set(turn.node.store.ours()) == {B, ResourceId("wwn-a", ("p1",))}

    run(scenario())


def test_a_lun_that_another_node_comes_to_see_while_in_use(turn: Round) -> None:
    async def scenario() -> None:
        turn.node.policy = Policy()
        turn.node.used[PART] = MOUNTED
        await turn.go(2)
        turn.node.store.seen = (NEIGHBOUR,)
        await turn.go(2)
        assert set(turn.node.store.ours()) == {ResourceId("wwn-a", ("p1",))} and turn.node.state(PART) is State.LIVE

    run(scenario())


def test_what_is_not_guarded_needs_no_lease(turn: Round) -> None:
    turn.node.add(disk(DevNum(8, 32), "vda", ResourceId("local-1")))
    turn.node.used[DevNum(8, 32)] = MOUNTED
    run(turn.go(3))
    assert turn.node.store.ours() == {}


def test_a_conflict_is_said_once(turn: Round) -> None:
    async def scenario() -> None:
        turn.node.store.hold(B)
        turn.node.used[SECOND] = MOUNTED
        await turn.go(4)
        ((kind, text),) = turn.notices
        assert kind == "conflict" and "sdb is mounted at /srv here" in text and "node-2" in text
        assert turn.made is not None and turn.made.warnings == [text]
        assert turn.node.store.calls.count("acquire") == 4  # but tried again and again
        turn.node.store.records.clear()
        await turn.go()
        assert set(turn.node.store.ours()) == {B}

    run(scenario())


def test_a_conflict_reaches_whoever_shows_it(turn: Round) -> None:
    async def scenario() -> None:
        shown = turn.start().warnings  # as service.py hands it to the verbs
        turn.node.store.hold(B)
        turn.node.used[SECOND] = MOUNTED
        await turn.go()
        assert len(shown) == 1

    run(scenario())


def test_a_use_that_is_over_is_no_conflict(turn: Round) -> None:
    async def scenario() -> None:
        turn.node.policy = Policy()
        turn.node.used[SECOND] = MOUNTED
        await turn.go()
        turn.node.used.clear()
        turn.node.store.hold(B)
        turn.guard(SAN)
        await turn.go(2)
        assert turn.notices == []

    run(scenario())


# -- what others see ---------------------------------------------------------------------------------------------


def test_without_store_and_cache_every_named_lun_may_be_somebody_elses(turn: Round) -> None:
    turn.node.policy, turn.node.sessions, turn.node.store.out_of_reach = Policy(), True, True
    turn.node.add(disk(DevNum(8, 32), "vda", ResourceId("node-node-1:vda")))
    run(turn.go(2))
    assert turn.node.state(SECOND) is turn.node.state(PART) is State.FREE  # guarded, and not ours
    assert turn.node.state(DevNum(8, 32)) is State.UNGUARDED  # a name that says nothing beyond this node


def test_what_others_see_is_guarded_and_remembered(turn: Round) -> None:
    async def scenario() -> None:
        turn.node.policy, turn.node.sessions = Policy(), True
        turn.node.store.seen = (NEIGHBOUR, NodeRecord(ME, "", ("wwn-a", "wwn-b"), True))
        await turn.go()
        assert turn.node.state(PART) is State.FREE and turn.node.state(SECOND) is State.UNGUARDED
        assert json.loads(turn.cache.read_text()) == {"wwn-a": ["node-2"], "wwn-z": ["node-2"]}
        turn.node.store.out_of_reach = True
        turn.start()  # another daemon, and the store is away
        await turn.go()
        assert turn.node.state(PART) is State.FREE and turn.node.state(SECOND) is State.UNGUARDED

    run(scenario())


def test_what_a_node_saw_outlives_it(turn: Round) -> None:
    async def scenario() -> None:
        turn.node.policy, turn.node.sessions = Policy(), True
        turn.node.store.seen = (NEIGHBOUR,)
        await turn.go()
        turn.node.store.seen = (replace(NEIGHBOUR, live=False),)
        await turn.go(2)
        assert turn.node.state(PART) is State.FREE

    run(scenario())


@pytest.mark.parametrize("content", ["", "{", "[]", "7", '{"wwn-a": 7}', "\0"])
def test_a_damaged_cache_makes_it_stricter(turn: Round, content: str) -> None:
    turn.cache.write_text(content)
    turn.node.policy, turn.node.sessions, turn.node.store.out_of_reach = Policy(), True, True
    run(turn.go())
    assert turn.node.state(SECOND) is State.FREE and turn.node.devices.seen_unknown()


# -- the store ---------------------------------------------------------------------------------------------------


def test_a_store_out_of_reach_raises_nothing_and_is_tried_again(turn: Round) -> None:
    async def scenario() -> None:
        turn.node.store.out_of_reach = True
        turn.node.used[SECOND] = MOUNTED
        await turn.go(2)
        assert turn.made is not None and turn.made.state() == ("the lease store did not answer", False)
        assert turn.node.state(SECOND) is State.FREE
        turn.node.store.out_of_reach = False
        await turn.go()
        assert turn.made.state() == ("", True)
        assert turn.node.state(SECOND) is State.LIVE and turn.node.store.published

    run(scenario())


def test_a_mistake_of_ours_ends_nothing(turn: Round, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        async def fail() -> None:
            raise RuntimeError("a mistake")

        reconciler = turn.start()
        with monkeypatch.context() as patched:
            patched.setattr(turn.node.store, "nodes", fail)
            await turn.go()
        turn.node.count(SECOND, uses=1)
        await turn.go(2)
        assert turn.node.store.ours() and reconciler.state() == ("", True)

    run(scenario())


def test_a_lease_that_was_lost_meanwhile_is_taken_again(turn: Round) -> None:
    """The store forgot it: nothing new may start until it is granted anew, which is tried while it is in use."""

    async def scenario() -> None:
        await turn.go()
        await turn.node.take(turn.node.there[SECOND])
        turn.node.count(SECOND, uses=1)
        turn.node.store.records.clear()
        await turn.go()
        assert turn.node.state(SECOND) is not State.LIVE
        await turn.go(3)
        assert turn.node.state(SECOND) is State.LIVE and turn.node.store.ours()

    run(scenario())


def test_a_node_without_a_session_hears_that_it_was_taken_over(turn: Round, monkeypatch: pytest.MonkeyPatch) -> None:
    """A boot that was confirmed fenced gets no session any more, so it can publish nothing; it reads what it lost."""

    async def scenario() -> None:
        async def no_session(*_: object) -> None:
            raise LeaseLost("this node has no live session in the lease store")

        await turn.go()
        await turn.node.take(turn.node.there[SECOND])
        turn.node.count(SECOND, uses=1)
        turn.session = SessionFacts(1, 2, 30)  # another than it published under
        monkeypatch.setattr(turn.node.store, "publish", no_session)
        turn.node.store.records.clear()
        await turn.go()
        assert turn.node.state(SECOND) is not State.LIVE

    run(scenario())


def test_what_is_seen_is_published_when_it_changes(turn: Round) -> None:
    async def scenario() -> None:
        await turn.go(3)
        assert turn.node.store.published == [(frozenset({"wwn-a", "wwn-b"}), turn.node.policy.digest)]
        turn.session = SessionFacts(1, 2, 30)  # the record hangs on the session
        await turn.go(2)
        turn.node.add(disk(DevNum(8, 32), "sdc", ResourceId("wwn-c")))
        await turn.go(2)
        turn.node.store.out_of_reach = True
        await turn.go()
        turn.node.store.out_of_reach = False
        await turn.go(2)
        assert [len(luns) for luns, _ in turn.node.store.published] == [2, 2, 3, 3]

    run(scenario())


def test_leases_of_before_are_taken_up_once(turn: Round) -> None:
    async def scenario() -> None:
        mine = turn.node.store.hold(A, ME)
        await turn.go(3)
        assert turn.node.held() == {A: (mine.token, "live")}
        assert turn.node.store.calls.count("adopt") == 1 and len(turn.notices) == 1

    run(scenario())


def test_what_the_system_lives_on_is_found_anew(turn: Round) -> None:
    async def scenario() -> None:
        await turn.go()
        assert turn.node.state(SECOND) is State.FREE
        turn.node.system = {SECOND: "holds /usr"}
        turn.node.add(disk(SECOND, "sdb", B, system="holds /usr"))
        turn.node.devices._write(turn.node.devices.known[SECOND])
        await turn.go()
        assert turn.node.state(SECOND) is State.UNGUARDED

    run(scenario())
