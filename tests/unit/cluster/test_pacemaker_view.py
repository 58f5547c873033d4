# SPDX-License-Identifier: GPL-2.0-or-later
"""How Pacemaker and corosync are asked: anew for every use, never longer than a limit, and no answer is unknown."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from test_pacemaker_state import STATE

from enforcer.cluster import corosync, pacemaker
from enforcer.cluster.corosync import Corosync, Votes
from enforcer.cluster.pacemaker import PacemakerView
from enforcer.cluster.view import Opinion, Quorum, Site, Stance, Use
from enforcer.model.errors import StoreUnavailable
from enforcer.model.resource import DevNum, ResourceId

CONFIGURATION = """<configuration><resources><primitive id="fs"><instance_attributes id="a">
<nvpair id="b" name="device" value="/dev/sdb1"/></instance_attributes></primitive></resources></configuration>"""
DEV = DevNum(8, 17)
USE = Use(DEV, (ResourceId("wwn-b", ("p1",)),))
WHOLE = Votes(2, quorate=True, two_node=False, total=3, expected=3)
HEALTHY = STATE[: STATE.index("<fence_history>")] + STATE[STATE.index("</fence_history>") + len("</fence_history>") :]


def locate(path: str) -> Site | None:
    return Site(DEV, USE.resources) if path == "/dev/sdb1" else None


class Cluster:
    """Programs that say what a test gives them, and a corosync that is whole unless told otherwise."""

    def __init__(self, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.place = place
        self.votes: Votes | StoreUnavailable = WHOLE
        self.says("crm_mon", HEALTHY)
        self.says("cibadmin", CONFIGURATION)
        monkeypatch.setattr(pacemaker, "PLACES", str(place))

    def says(self, program: str, text: str, *, first: str = ":", last: str = ":") -> None:
        (self.place / f"{program}.xml").write_text(text)
        script = self.place / program
        script.write_text(f"#!/bin/sh\n{first}\n/bin/cat {self.place}/{program}.xml\n{last}\n")
        script.chmod(0o755)

    def view(self) -> PacemakerView:
        view = PacemakerView(locate, lease_store=True)

        async def votes() -> Votes:
            if isinstance(self.votes, StoreUnavailable):
                raise self.votes
            return self.votes

        view._corosync.votes = votes
        return view

    def opinion(self) -> Opinion:
        async def scenario() -> Opinion:
            view = self.view()
            try:
                return await view.opinion(USE)
            finally:
                await view.close()

        return asyncio.run(scenario())


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cluster:
    return Cluster(tmp_path, monkeypatch)


def test_what_the_programs_say_is_judged(cluster: Cluster) -> None:
    assert cluster.opinion().reason == "fs is active on ha1"
    cluster.says(
        "crm_mon",
        HEALTHY.replace('role="Started"', 'role="Starting"').replace('name="ha1" id="1"/>', 'name="ha2" id="2"/>'),
    )
    assert cluster.opinion().stance is Stance.VOUCHES


@pytest.mark.parametrize("program", ["crm_mon", "cibadmin"])
@pytest.mark.parametrize(
    ("first", "last", "text", "why"),
    [
        ("exec /bin/sleep 60", ":", "", "does not answer within"),
        (":", "exec /bin/sleep 60", HEALTHY, "does not answer within"),
        ("exit 1", ":", "", "says nothing"),
        ("kill -9 $$", ":", "", "says nothing"),
        (":", ":", "<a/>", "something else"),
        (":", ":", "crm_mon: Error", "no XML"),
        ("exec /usr/bin/yes", ":", "", "more than can be read"),
    ],
)
def test_a_program_that_hangs_dies_or_talks_nonsense_is_unknown_in_its_time(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch, program: str, first: str, last: str, text: str, why: str
) -> None:
    monkeypatch.setattr(pacemaker, "ANSWER_S", 1.0)
    monkeypatch.setattr(pacemaker, "MOST_BYTES", 1 << 20)
    cluster.says(program, text, first=first, last=last)
    began = time.monotonic()
    opinion = cluster.opinion()
    assert opinion.objects and opinion.reason.startswith("the cluster's state is unknown")
    assert why in opinion.reason and time.monotonic() - began < 10


def test_a_program_that_is_not_there_is_unknown(cluster: Cluster) -> None:
    (cluster.place / "crm_mon").unlink()
    assert cluster.opinion().objects


def test_without_corosync_it_is_unknown_whatever_pacemaker_says(cluster: Cluster) -> None:
    cluster.votes = StoreUnavailable("corosync is not running")
    opinion = cluster.opinion()
    assert opinion.objects and "corosync is not running" in opinion.reason


def test_an_answer_that_cannot_be_judged_is_unknown(cluster: Cluster) -> None:
    async def scenario() -> None:
        view = cluster.view()

        def fail(_path: str) -> Site | None:
            raise RuntimeError("a mistake of ours")

        view._locate = fail
        assert (await view.opinion(USE)).objects

    asyncio.run(scenario())


def test_no_use_stands_on_an_answer_that_was_asked_for_before_it_came(cluster: Cluster) -> None:
    """Uses that come together share one look; one that comes while it is under way waits for the next."""
    count = cluster.place / "count"
    cluster.says("crm_mon", HEALTHY, first=f"echo x >>{count}; /bin/sleep 0.5")

    async def scenario() -> None:
        view = cluster.view()
        together = [asyncio.create_task(view.opinion(USE)) for _ in range(5)]
        await asyncio.to_thread(until, count.exists)
        cluster.says(
            "crm_mon",
            HEALTHY.replace('expected_up="true"', 'expected_up="false"').replace('online="true"', 'online="false"'),
            first=f"echo x >>{count}",
        )
        late = [asyncio.create_task(view.opinion(USE)) for _ in range(5)]
        assert {(await task).reason for task in late} == {"this node has not joined the cluster yet"}
        assert len({(await task).reason for task in together}) == 1
        await view.close()

    asyncio.run(scenario())
    assert count.read_text().split() == ["x", "x"]


def test_the_line_for_people_says_what_is_wrong(cluster: Cluster) -> None:
    async def said() -> tuple[Quorum, str]:
        health = await cluster.view().health()
        return health.quorum, health.said

    assert (
        asyncio.run(said())[0] is Quorum.HELD
        and "quorate (3 of 3 votes), 2 of 2 nodes online" in asyncio.run(said())[1]
    )
    cluster.votes = Votes(2, quorate=False, two_node=False, total=1, expected=3)
    quorum, line = asyncio.run(said())
    assert quorum is Quorum.LOST and "guarded devices are refused: no quorum" in line
    cluster.votes = StoreUnavailable("corosync is not running")
    assert asyncio.run(said())[0] is Quorum.UNKNOWN


def until(true: Callable[[], bool]) -> None:
    while not true():
        time.sleep(0.02)


class Libraries:
    """What stands for both libraries: calls wait as long as ``stopped`` is set."""

    stopped = threading.Event()
    running = threading.Event()
    fails: Exception | None = None
    said = WHOLE
    closed = 0

    def __init__(self, heard: Callable[[bool], None]) -> None:
        self.fd, self.heard = -1, heard

    def votes(self) -> Votes:
        if self.stopped.is_set():
            self.running.wait(3)
        if self.fails:
            raise self.fails
        return self.said

    def close(self) -> None:
        type(self).closed += 1


@pytest.fixture
def libraries(monkeypatch: pytest.MonkeyPatch) -> type[Libraries]:
    class Own(Libraries):
        stopped, running = threading.Event(), threading.Event()

    monkeypatch.setattr(corosync, "_Libraries", Own)
    monkeypatch.setattr(Corosync, "_listen", lambda self, fd: None)
    return Own


def test_a_corosync_that_hangs_is_silent_for_everybody_and_comes_back(
    libraries: type[Libraries], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(corosync, "ANSWER_S", 0.3)

    async def scenario() -> None:
        asked = Corosync()
        assert await asked.votes() == WHOLE
        libraries.stopped.set()
        began = time.monotonic()
        answers: list[Any] = await asyncio.gather(*(asked.votes() for _ in range(4)), return_exceptions=True)
        assert [type(answer) for answer in answers] == [StoreUnavailable] * 4 and time.monotonic() - began < 2
        libraries.stopped.clear()
        libraries.running.set()
        assert await asked.votes() == WHOLE
        await asked.close()

    asyncio.run(scenario())


def test_a_corosync_that_died_is_silent_until_it_is_connected_to_anew(libraries: type[Libraries]) -> None:
    async def scenario() -> None:
        asked = Corosync()
        assert await asked.votes() == WHOLE
        libraries.fails = corosync._Silent("corosync has ended")
        with pytest.raises(StoreUnavailable, match="has ended"):
            await asked.votes()
        libraries.fails = None
        assert await asked.votes() == WHOLE
        await asked.close()

    asyncio.run(scenario())
    assert libraries.closed >= 1


def test_a_loss_of_quorum_that_was_pushed_counts_before_an_answer_that_was_slower(libraries: type[Libraries]) -> None:
    heard = list[bool]()

    async def scenario() -> None:
        asked = Corosync(heard.append)
        await asked.votes()
        asked._heard(False)
        asked._heard(False)
        with pytest.raises(StoreUnavailable, match="do not agree"):
            await asked.votes()
        asked._heard(True)
        assert (await asked.votes()).quorate
        await asked.close()

    asyncio.run(scenario())
    assert heard == [False, True]


def test_without_the_libraries_it_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(_heard: object) -> None:
        raise OSError("libvotequorum.so.8: cannot open shared object file")

    monkeypatch.setattr(corosync, "_Libraries", missing)
    view = PacemakerView(locate, lease_store=True)
    assert asyncio.run(view.quorum()) is Quorum.UNKNOWN
