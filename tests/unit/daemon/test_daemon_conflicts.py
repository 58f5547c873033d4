# SPDX-License-Identifier: GPL-2.0-or-later
"""In use here and leased elsewhere: told to the other node through the store, shouted on both, refused on both."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from lab_node import ME, OTHER, SECOND, B, Node, run

from enforcer.cluster.board import DoubleUse
from enforcer.daemon.reconcile import Reconciler
from enforcer.kernel.abi import State
from enforcer.model.errors import StoreUnavailable
from enforcer.model.lease import Denied, Standing
from enforcer.storage.usage import Usage

MOUNTED = Usage(mounted_at=["/srv"])
NEIGHBOURS = DoubleUse(OTHER.node, OTHER.boot_id, B, "sdz is mounted at /mnt", ("node-1",))


@dataclass
class Wall:
    """A board whose other side is the test's."""

    theirs: tuple[DoubleUse, ...] = ()
    mine: tuple[DoubleUse, ...] = ()
    posts: int = 0
    silent: bool = False

    async def post(self, mine: Sequence[DoubleUse]) -> None:
        self.mine, self.posts = tuple(mine), self.posts + 1

    async def read(self) -> tuple[DoubleUse, ...]:
        if self.silent:
            raise StoreUnavailable("the lease store did not answer")
        return (*self.mine, *self.theirs)


@dataclass
class Round:
    node: Node
    cache: Path
    wall: Wall = field(default_factory=Wall)
    notices: list[tuple[str, str]] = field(default_factory=list)
    made: Reconciler | None = None

    def start(self) -> None:
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
            session=None,
            cache=self.cache,
            board=self.wall,
        )

    def pending_on(self, _dev: object) -> int:
        return 0

    async def go(self, times: int = 1) -> None:
        assert self.made
        for _ in range(times):
            await self.made.once()

    @property
    def kinds(self) -> list[str]:
        return [kind for kind, _ in self.notices if kind.startswith("conflict")]


@pytest.fixture
def turn(node: Node, tmp_path: Path) -> Round:
    made = Round(node, tmp_path / "seen.json")
    made.start()
    return made


def test_a_use_of_what_another_holds_is_posted_and_shouted(turn: Round, caplog: pytest.LogCaptureFixture) -> None:
    turn.node.store.hold(B)
    turn.node.used[SECOND] = MOUNTED
    run(turn.go(3))
    assert turn.wall.mine == (DoubleUse("node-1", "boot-1", B, "sdb is mounted at /srv", ("node-2",)),)
    assert turn.wall.posts == 1 and turn.kinds == ["conflict"], "said once"
    (loud,) = [r for r in caplog.records if r.levelno == logging.CRITICAL]
    assert "IN USE ON TWO NODES: wwn-b: sdb is mounted at /srv here, and leased to node-2" in loud.getMessage()


def test_a_second_use_that_only_the_cluster_manager_knows_of_is_told(
    turn: Round, caplog: pytest.LogCaptureFixture
) -> None:
    """The store knows no holder of it, so there is nobody to tell through the board: here it is said all the same."""

    async def take(_leases: object, _device: object) -> Denied:
        return Denied(Standing.ELSEWHERE, "Pacemaker runs fs on node-2")

    assert turn.made is not None
    turn.made._consent = cast(Any, SimpleNamespace(take_in_use=take))
    turn.node.used[SECOND] = MOUNTED
    run(turn.go(3))
    said = "sdb is mounted at /srv here, and Pacemaker runs fs on node-2"
    assert turn.notices == [("conflict", said)] and turn.made.warnings == [said]
    assert f"IN USE WITHOUT A LEASE: {said}" in caplog.text


def test_a_counted_use_is_a_conflict_in_every_round(turn: Round) -> None:
    turn.node.store.hold(B)
    turn.node.count(SECOND, uses=1)
    run(turn.go(6))
    assert turn.wall.posts == 1 and turn.kinds == ["conflict"]


def test_the_holder_hears_of_it_and_shouts_too(turn: Round, caplog: pytest.LogCaptureFixture) -> None:
    turn.node.store.hold(B, ME)
    turn.node.count(SECOND, uses=1)
    turn.wall.theirs = (NEIGHBOURS,)
    run(turn.go(3))
    assert turn.kinds == ["conflict"] and turn.wall.posts == 0
    assert "wwn-b: sdz is mounted at /mnt on node-2, which has no lease of it" in caplog.text
    assert turn.made is not None and "IN USE ON TWO NODES" in turn.made.warnings[0], "status shows it"


def test_nothing_new_begins_on_the_holder(turn: Round) -> None:
    async def scenario() -> None:
        turn.node.store.hold(B, ME)
        turn.node.count(SECOND, uses=1)
        await turn.go()
        assert turn.node.state(SECOND) is State.LIVE
        turn.wall.theirs = (NEIGHBOURS,)
        await turn.go()
        assert turn.node.state(SECOND) is State.FREE, "so that whoever comes has to ask"
        assert turn.node.held()[B][1] == "live", "but the lease stays"
        turn.wall.theirs = ()
        await turn.go()
        assert turn.node.state(SECOND) is State.LIVE and turn.kinds == ["conflict", "conflict-over"]

    run(scenario())


def test_who_does_not_hold_it_does_not_shout_but_refuses(turn: Round) -> None:
    turn.wall.theirs = (NEIGHBOURS,)
    run(turn.go(2))
    assert turn.kinds == [] and "in use on two nodes" in turn.node.devices.double(turn.node.there[SECOND])


@pytest.mark.parametrize("counted", [False, True])
def test_it_is_over_when_the_use_ends(turn: Round, counted: bool) -> None:
    async def scenario() -> None:
        turn.node.store.hold(B)
        turn.node.count(SECOND, uses=int(counted))
        turn.node.used = {} if counted else {SECOND: MOUNTED}
        await turn.go(3)
        turn.node.count(SECOND, uses=0)
        turn.node.used = {}
        await turn.go(2)
        assert turn.wall.mine == () and turn.kinds == ["conflict", "conflict-over"]
        assert turn.made is not None and turn.made.warnings == []
        assert turn.node.devices.double(turn.node.there[SECOND]) == ""

    run(scenario())


def test_a_silent_store_ends_no_conflict(turn: Round) -> None:
    async def scenario() -> None:
        turn.node.store.hold(B, ME)
        turn.node.count(SECOND, uses=1)
        turn.wall.theirs = (NEIGHBOURS,)
        await turn.go(2)
        turn.wall.silent = True
        await turn.go(2)
        assert turn.node.state(SECOND) is State.FREE and turn.kinds == ["conflict"]

    run(scenario())


def test_an_acquire_without_an_answer_ends_no_conflict(turn: Round) -> None:
    async def scenario() -> None:
        turn.node.store.hold(B)
        turn.node.used[SECOND] = MOUNTED
        await turn.go(2)

        async def silence(call: str) -> None:
            if call == "acquire":
                raise StoreUnavailable("the lease store did not answer")

        turn.node.store.during = silence
        await turn.go(2)
        assert turn.wall.mine and "conflict-over" not in turn.kinds

    run(scenario())


def test_what_an_earlier_daemon_posted_is_taken_back(turn: Round) -> None:
    turn.wall.mine = (DoubleUse("node-1", "boot-0", B, "sdb is in use", ("node-2",)),)
    run(turn.go())
    assert not turn.wall.mine and turn.kinds == []
