# SPDX-License-Identifier: GPL-2.0-or-later
"""Cluster managers, as far as a test can hurt them: each declares what can be wrong with it.

A fault is there when ``hurt()`` is entered: something else than the view has said so. It is over some time after it was
left. Without a cluster manager nothing can be wrong with it, so that view declares no fault at all.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import ClassVar, Protocol

from lab_pacemaker import Lab, Watch, wait_for

from enforcer.cluster.view import NoCluster, Use
from enforcer.model.resource import ResourceId

NOT_MANAGED = "/dev/not-managed"
Answer = Mapping[str, object]  # an Opinion, and quorum, health, took (seconds)


class Fault(StrEnum):
    """What is wrong with a cluster."""

    NO_QUORUM = "no-quorum"
    UNCLEAN = "a-node-is-unclean"
    STATE_HANGS = "its-state-hangs"
    MASTER_HANGS = "its-master-hangs"


class Manager(Protocol):
    """One kind of cluster manager, and the views of it on its nodes."""

    faults: ClassVar[tuple[Fault, ...]]

    def ask(self) -> Sequence[Answer]:
        """What the view on each node says now about a device that nobody manages."""

    def watch(self, fault: Fault) -> dict[str, Watch]:
        """Views that the fault concerns, which are asked again and again, by a word of what they should say then."""

    def hurt(self, fault: Fault) -> contextlib.AbstractContextManager[None]:
        """The fault is there inside, and is taken away at the end."""


class Nothing:
    """No cluster manager."""

    faults = ()

    def ask(self) -> Sequence[Answer]:
        async def look() -> Answer:
            view, began = NoCluster(), time.monotonic()
            opinion, quorum = await view.opinion(Use(None, (ResourceId("lun"),))), await view.quorum()
            took, health = time.monotonic() - began, (await view.health()).said
            assert await view.fencings() == ()
            await view.close()
            return {**asdict(opinion), "quorum": quorum, "health": health, "took": took}

        return [asyncio.run(look())]

    def watch(self, fault: Fault) -> dict[str, Watch]:
        raise NotImplementedError

    def hurt(self, fault: Fault) -> contextlib.AbstractContextManager[None]:
        raise NotImplementedError


class Pacemaker:
    """Three nodes on corosync. The one that is hurt has no resource; another one that has none looks on."""

    faults = tuple(Fault)

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        active = lab.active()
        assert active
        self.victim, self.other = (node for node in lab.nodes if node.name != active)

    def ask(self) -> Sequence[Answer]:
        return [node.ask(NOT_MANAGED) for node in self.lab.nodes]

    def watch(self, fault: Fault) -> dict[str, Watch]:
        victim = self.victim.watch(NOT_MANAGED)
        if fault is Fault.NO_QUORUM:
            return {"no quorum": victim}
        if fault is Fault.UNCLEAN:
            confirm = f"fencing not confirmed for {self.victim.name}"
            return {"corosync does not answer": victim, confirm: self.other.watch(NOT_MANAGED)}
        return {"state is unknown": victim}

    @contextlib.contextmanager
    def hurt(self, fault: Fault) -> Iterator[None]:
        way = {
            Fault.NO_QUORUM: self._seven_votes,
            Fault.UNCLEAN: self._unclean,
            Fault.STATE_HANGS: lambda: self._stopped("pacemaker-based"),
            Fault.MASTER_HANGS: lambda: self._stopped("pacemakerd"),
        }
        with way[fault]():
            yield
        wait_for("all nodes online", lambda: self.lab.whole(self.other))
        wait_for("the resource is started", self.lab.active)

    @contextlib.contextmanager
    def _seven_votes(self) -> Iterator[None]:
        """As if four more nodes were expected: nobody is lost, so nobody is fenced."""
        self._expect(7)
        wait_for("no quorum", lambda: b"Activity blocked" in self._votes())
        try:
            yield
        finally:
            self._expect(self.lab.count)

    def _expect(self, votes: int) -> None:
        self.victim.run("corosync-cmapctl", "-s", "quorum.expected_votes", "u32", str(votes))

    def _votes(self) -> bytes:
        return subprocess.run(self.victim.enter("corosync-quorumtool", "-s"), capture_output=True).stdout

    @contextlib.contextmanager
    def _unclean(self) -> Iterator[None]:
        """Its corosync is stopped, and the power switch does not work until it is back and nobody wants it off."""
        self.lab.power.broken = True
        try:
            with self._stopped("corosync"):
                wait_for("an unclean node", self._seen_unclean)
                yield
            wait_for("all nodes online, no fencing under way", lambda: self.lab.settled(self.other))
        finally:
            self.lab.power.broken = False
            self.lab.power.asked.clear()

    def _seen_unclean(self) -> bool:
        root = self.lab.mon(self.other)
        nodes = [] if root is None else root.findall("nodes/node")
        return any(n.get("name") == self.victim.name and n.get("unclean") == "true" for n in nodes)

    @contextlib.contextmanager
    def _stopped(self, daemon: str) -> Iterator[None]:
        self.victim.signal(daemon, signal.SIGSTOP)
        wait_for(f"{daemon} to stop", lambda: all(_stopped(pid) for pid in self.victim.pids(daemon)))
        try:
            yield
        finally:
            self.victim.signal(daemon, signal.SIGCONT)


def _stopped(pid: int) -> bool:
    return all(b") T " in (task / "stat").read_bytes() for task in Path(f"/proc/{pid}/task").iterdir())


MANAGERS: dict[str, type[Nothing] | type[Pacemaker]] = {"none": Nothing, "pacemaker": Pacemaker}
