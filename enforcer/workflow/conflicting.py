# SPDX-License-Identifier: GPL-2.0-or-later
"""A filesystem in use on two nodes: said loudly on both, and nothing new begins on either as long as it lasts.

It happens to what was mounted before anybody asked: enforcerd off, the gate out of force, a rule that came later. A use
that goes on cannot be refused any more. So the node that lacks the lease writes it on the board (``cluster/board.py``),
whose other readers learn by that what no lease tells; whoever holds the resource shouts as well, and everybody refuses
what is new on it, the holder too: what it mounts may be destroyed already.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection

from enforcer.cluster.board import Board, DoubleUse
from enforcer.model.lease import Denied, Holder
from enforcer.model.resource import Device, ResourceId
from enforcer.workflow.devices import Devices

log = logging.getLogger(__name__)
MOST_WARNINGS = 20


class Conflicts:
    """What is in use on two nodes, as far as this one knows. All methods run on the daemon's loop."""

    def __init__(
        self,
        board: Board,
        devices: Devices,
        me: Holder,
        notice: Callable[[str, str], None],
        warnings: list[str],
    ) -> None:
        """``warnings`` is what status shows."""
        self._board, self._devices, self._me, self._notice = board, devices, me, notice
        self._warnings = warnings
        self._mine: dict[ResourceId, DoubleUse] = {}
        self._before: dict[ResourceId, DoubleUse] = {}
        self._told: dict[tuple[str, ResourceId], str] = {}  # what was shouted, and is not over
        self.known: tuple[DoubleUse, ...] = ()

    def found(self, device: Device, denied: Denied) -> None:
        """A use here of what others hold, found in this round."""
        for resource in device.resources:
            holders = tuple(
                dict.fromkeys(b.lease.holder.node for b in denied.blocking if b.lease.resource.meets(resource))
            )
            if holders:
                says = f"{device.name} is {device.in_use or 'in use'}"
                self._mine[resource] = DoubleUse(self._me.node, self._me.boot_id, resource, says, holders)

    def begin(self) -> None:
        """A round begins: what is not found again is over."""
        self._before, self._mine = self._mine, {}

    def still(self, device: Device) -> None:
        """The device is in use here, and the store did not say whose it is: what was so, is so still."""
        self._mine.update({r: use for r, use in self._before.items() if r in device.resources})

    async def settle(self, held: Collection[ResourceId]) -> None:
        """The round is over: tell the others, hear them, shout, refuse. ``held``: here. Raises StoreUnavailable."""
        mine = tuple(self._mine[resource] for resource in sorted(self._mine))
        # nothing new from now on, even if the store is silent
        self._refuse((*mine, *(use for use in self.known if use.node != self._me.node)))
        posted = await self._board.read()
        if tuple(sorted((u for u in posted if u.node == self._me.node), key=lambda u: u.resource)) != mine:
            await self._board.post(mine)
        self._refuse((*mine, *(use for use in posted if use.node != self._me.node)))
        for use in mine:
            self._shout(use, f"{use.says} here, and leased to {' and '.join(use.holders)}")
        for use in self.known:
            if use.node != self._me.node and any(use.resource.meets(own) for own in held):
                self._shout(use, f"{use.says} on {use.node}, which has no lease of it, and leased here")
        self._over()

    def _refuse(self, known: tuple[DoubleUse, ...]) -> None:
        self.known = known
        self._devices.set_double({use.resource: self._sentence(use) for use in known})

    def _sentence(self, use: DoubleUse) -> str:
        where = "here" if use.node == self._me.node else f"on {use.node}"
        return f"in use on two nodes: {use.says} {where} without a lease, which {' and '.join(use.holders)} has"

    def _shout(self, use: DoubleUse, what: str) -> None:
        sentence = f"IN USE ON TWO NODES: {use.resource}: {what}"
        before = self._told.get((use.node, use.resource))
        if before == sentence:
            return
        if before in self._warnings:
            self._warnings.remove(before)
        self._told[use.node, use.resource] = sentence
        log.critical("%s; nothing new on it is permitted. End one of the two uses, then check the filesystem", sentence)
        self._warnings.append(sentence)
        del self._warnings[:-MOST_WARNINGS]
        self._notice("conflict", sentence)

    def _over(self) -> None:
        still = {(use.node, use.resource) for use in self.known}
        for key in self._told.keys() - still:
            sentence = self._told.pop(key)
            if sentence in self._warnings:
                self._warnings.remove(sentence)
            log.warning("over: %s", sentence)
            self._notice("conflict-over", sentence)
