# SPDX-License-Identifier: GPL-2.0-or-later
"""Where a node tells the others that it uses what is leased to one of them.

A lease cannot say that: the store gave it to somebody else, and rightly so. But the holder must hear of it, because it
is the holder's filesystem that is being destroyed, and nobody can see a mount of another kernel. So what a node cannot
mend by itself it writes down, beside the leases.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from enforcer.model.resource import ResourceId


@dataclass(frozen=True, slots=True)
class DoubleUse:
    """A live use of a resource on ``node`` in this boot, while the lease is somebody else's."""

    node: str
    boot_id: str
    resource: ResourceId
    says: str  # one clause: "sda1 is mounted at /srv"; escaped by whoever shows it
    holders: tuple[str, ...]  # nodes that have the lease


class Board(Protocol):
    """What nodes have written down of themselves."""

    async def post(self, mine: Sequence[DoubleUse]) -> None:
        """This node's list, whole; an empty one takes the record away. Raises StoreUnavailable."""

    async def read(self) -> tuple[DoubleUse, ...]:
        """Everybody's, without those of boots that are proven over. Raises StoreUnavailable."""


class NoBoard:
    """For a store of one node, or one that has no such place: what we post is what there is."""

    def __init__(self) -> None:
        self._mine: tuple[DoubleUse, ...] = ()

    async def post(self, mine: Sequence[DoubleUse]) -> None:
        self._mine = tuple(mine)

    async def read(self) -> tuple[DoubleUse, ...]:
        return self._mine
