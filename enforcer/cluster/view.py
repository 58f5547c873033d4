# SPDX-License-Identifier: GPL-2.0-or-later
"""What a cluster manager knows, as far as a verdict may lean on it.

A view is no lease store: it cannot compare and set, so it never permits a multi-attached device alone. It may
object (no quorum, the resource runs elsewhere), and it may bear witness that a node was fenced.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Protocol


class Quorum(StrEnum):
    """Whether this node's side of the cluster may act."""

    HELD = "held"
    LOST = "lost"
    UNKNOWN = "unknown"  # there is a cluster manager and it does not say: object
    NONE = "none"  # there is no cluster manager: no objection


class ClusterView(Protocol):
    """One cluster manager, read only."""

    name: str

    async def quorum(self) -> Quorum:
        """Never raises for a silent cluster manager: that is UNKNOWN."""

    async def runs_on(self, resource: str) -> tuple[str, ...] | None:
        """The nodes on which the manager runs this resource; None if it does not manage it.

        Raises StoreUnavailable if the manager does not answer.
        """

    async def fenced(self, node: str, boot_id: str) -> bool:
        """True only if the manager proves that this very boot of ``node`` was fenced. Doubt is False."""


class NoCluster:
    """No cluster manager: permits nothing by itself and objects to nothing."""

    name = "none"

    async def quorum(self) -> Quorum:
        return Quorum.NONE

    async def runs_on(self, resource: str) -> tuple[str, ...] | None:
        return None

    async def fenced(self, node: str, boot_id: str) -> bool:
        return False
