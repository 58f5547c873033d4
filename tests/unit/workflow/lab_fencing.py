# SPDX-License-Identifier: GPL-2.0-or-later
"""A node that is gone, its leases, and a fence agent that does what a test says."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest
from lab_node import ME, OTHER, B, Store

from enforcer.cluster.conflicts import Witness, check_fence, refusal
from enforcer.cluster.fence_agent import NotOff, WasOff
from enforcer.cluster.view import NoCluster, Quorum
from enforcer.model.errors import EnforcerError
from enforcer.model.lease import Denied, HeldLease, Holder
from enforcer.settings import FenceAgent, Fencing
from enforcer.workflow import fencing as module
from enforcer.workflow.fencing import Fences

NEWER = Holder(OTHER.node, "boot-10", "session-10")
THIRD = Holder("node-3", "boot-3", "session-3")
AGENTS = {OTHER.node: FenceAgent("/usr/sbin/fence_x", {"plug": "2"}), ME.node: FenceAgent("/usr/sbin/fence_x")}


class FencedStore(Store):
    """One that keeps fencing facts, and lets them count."""

    def __init__(self) -> None:
        super().__init__()
        self.unable: EnforcerError | None = None
        self.gone: frozenset[tuple[str, str]] = frozenset()  # for so long that time or the storage may help

    def witness(self) -> Witness:
        return Witness(self.present, frozenset(self.fenced), self.gone)

    def _held(self, lun: str | None = None) -> list[HeldLease]:
        leases = [lease for lease in self.records.values() if lun in (None, lease.resource.lun)]
        return [HeldLease(lease, self.witness().liveness(lease.holder, lease.guarantee)) for lease in leases]

    async def fence_confirm(self, node: str, boot_id: str, by: str, *, force: bool = False) -> None:
        assert not force, "a fact is never forced"
        if self.unable:
            raise self.unable
        holders = [lease.holder for lease in self.records.values()]
        check_fence(self.witness(), holders, ME, node, boot_id, force=force)
        self.fenced[node, boot_id] = by


class View(NoCluster):
    def __init__(self, has: Callable[[], Quorum]) -> None:
        self.has = has

    async def quorum(self) -> Quorum:
        return self.has()


@dataclass
class Lab:
    """This node, one that is gone and has left a lease, and an agent that does what the test says."""

    store: FencedStore = field(default_factory=FencedStore)
    settings: Fencing = field(default_factory=lambda: Fencing(True, AGENTS))
    quorum: Quorum = Quorum.NONE
    runs: list[str] = field(default_factory=list)
    told: list[tuple[str, str]] = field(default_factory=list)
    meanwhile: Callable[[], None] | None = None  # while the agent is asked, before the power goes
    during: Callable[[], Coroutine[Any, Any, None]] | None = None
    fails: bool = False
    off_already: bool = False
    now_ns: int = 0

    def __post_init__(self) -> None:
        self.store.hold(B)
        self.gone()

    def gone(self) -> None:
        self.store.present.pop(OTHER.node, None)

    def fences(self) -> Fences:
        view = View(lambda: self.quorum)
        return Fences(self.settings, self.store, view, ME, self.notice, off=self.off, now_ns=lambda: self.now_ns)

    def notice(self, kind: str, sentence: str, facts: Mapping[str, object]) -> None:
        self.told.append((kind, sentence))

    async def off(self, agent: FenceAgent, node: str, was_off: bool, before: Callable[[], Awaitable[object]]) -> bool:
        assert agent is AGENTS[OTHER.node]
        if self.meanwhile:
            self.meanwhile()
        await before()
        self.runs.append(node)
        if self.during:
            await self.during()
        if self.fails:
            raise NotOff("fence_x could not switch node-2 off")
        if self.off_already and not was_off:
            raise WasOff("fence_x says that node-2 was off already")
        went_off, self.off_already = not self.off_already, True
        return went_off

    def facts(self) -> list[tuple[str, str]]:
        return sorted(self.store.fenced)


def make_lab(monkeypatch: pytest.MonkeyPatch) -> Lab:
    """In which nobody waits for long."""
    monkeypatch.setattr(module, "AGAIN_S", 0.01)
    monkeypatch.setattr(module, "SLACK_S", 0.0)
    return Lab()


def blocked(lab: Lab) -> Denied:
    """What who wants a lease of that node is told."""
    return refusal(tuple(lab.store._held()))
