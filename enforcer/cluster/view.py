# SPDX-License-Identifier: GPL-2.0-or-later
"""What a cluster manager knows, as far as a verdict may lean on it.

A view is no lease store: it cannot compare and set. So beside a lease store it may only object (no quorum, the resource
runs elsewhere, a fencing is not confirmed), and bear witness that a node was fenced. One thing more it may do where
there is no store for several nodes: vouch for the use by which the manager itself starts a resource of its own, for
then the manager has seen to it that nobody else has it.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from enforcer.model.resource import DevNum, ResourceId, UseKind


class Quorum(StrEnum):
    """Whether this node's side of the cluster may act."""

    HELD = "held"
    LOST = "lost"
    UNKNOWN = "unknown"  # there is a cluster manager and it does not say: object
    NONE = "none"  # there is no cluster manager: no objection


class Stance(StrEnum):
    """What a view has to say about one use."""

    OBJECTS = "objects"
    NO_OBJECTION = "no objection"  # the lease store decides
    VOUCHES = "vouches"  # the manager's own agent is at work: a permit needs no store for several nodes


@dataclass(frozen=True, slots=True)
class Opinion:
    """A view's answer. ``reason`` is one clause, ``holder`` the node that has the resource, if the view knows."""

    stance: Stance
    reason: str
    remedy: str = ""
    holder: str = ""
    resource: str = ""  # what the manager calls it

    @property
    def objects(self) -> bool:
        """True if the use must be refused."""
        return self.stance is Stance.OBJECTS


@dataclass(frozen=True, slots=True)
class Use:
    """What somebody wants to use. ``running``: it is in use on this node already, since before anybody asked."""

    dev: DevNum | None
    resources: tuple[ResourceId, ...]
    aliases: tuple[str, ...] = ()
    kind: UseKind = UseKind.MOUNT
    running: bool = False


@dataclass(frozen=True, slots=True)
class Site:
    """What a device path in the manager's configuration means on this node now."""

    dev: DevNum
    resources: tuple[ResourceId, ...]


@dataclass(frozen=True, slots=True)
class Fencing:
    """One fencing that the manager tells of. ``key`` stays the same from one look to the next."""

    node: str
    key: str
    done: bool  # confirmed; a failed one is told by nobody


@dataclass(frozen=True, slots=True)
class Health:
    """How the cluster looks from here, for people."""

    quorum: Quorum
    said: str  # one line


class ClusterView(Protocol):
    """One cluster manager, read only. Whatever it does not answer in its time is UNKNOWN, which objects."""

    name: str

    async def close(self) -> None:
        """Let go of connections and children."""

    async def quorum(self) -> Quorum:
        """Never raises for a silent cluster manager: that is UNKNOWN."""

    async def opinion(self, use: Use) -> Opinion:
        """By what the manager says after this call began. Raises nothing for the manager's sake."""

    async def fencings(self) -> tuple[Fencing, ...]:
        """Those that are under way or confirmed. Raises StoreUnavailable if the manager does not answer."""

    async def health(self) -> Health:
        """For ``enforcer status``. Raises nothing."""


class NoCluster:
    """No cluster manager: permits nothing by itself and objects to nothing."""

    name = "none"

    async def close(self) -> None:
        return None

    async def quorum(self) -> Quorum:
        return Quorum.NONE

    async def opinion(self, use: Use) -> Opinion:
        return Opinion(Stance.NO_OBJECTION, "there is no cluster manager")

    async def fencings(self) -> tuple[Fencing, ...]:
        return ()

    async def health(self) -> Health:
        return Health(Quorum.NONE, "none configured")
