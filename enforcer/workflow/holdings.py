# SPDX-License-Identifier: GPL-2.0-or-later
"""What this node holds, resource by resource, as ``model/lifecycle.py`` sees it: what happened goes in here, what is to
be done comes out. Nothing else changes the state of a lease, so what the model explores is all that it can become."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from enforcer.model.lease import Denied, Granted, Lease, Standing
from enforcer.model.lifecycle import Action, Event, Phase, State, step
from enforcer.model.resource import Mode, ResourceId
from enforcer.workflow.devices import Hold


@dataclass(slots=True)
class Held:
    """One lease, and what the daemon knows of its use."""

    lease: Lease
    life: State
    permits: dict[int, int] = field(default_factory=dict)  # intent -> boot clock ns when it is forgotten
    uncounted: bool = False  # in use before the kernel began to count
    readopted: bool = False  # what it was used for is told by what is in use now
    refused: bool = False  # whoever it was granted for was not permitted, so he has written nothing
    looked_ns: int = 0  # for uses that were not counted
    left_over_ns: int = 0  # for counts without a use

    @property
    def hold(self) -> Hold:
        """For the guard table."""
        return Hold.LIVE if self.life.live else Hold.CLOSING

    @property
    def stale(self) -> bool:
        """Another node may have written since: cached blocks must go before it is used."""
        return self.life.stale


class Holdings(dict[ResourceId, Held]):
    """Everything held now; written by :meth:`happened` alone."""

    def __init__(self) -> None:
        super().__init__()
        self._highest: dict[ResourceId, int] = {}  # token ever seen, held or not

    def happened(self, resource: ResourceId, event: Event, lease: Lease | None = None) -> tuple[Action, ...]:
        """Take note of an event; what has to be done now. ``lease``: as the store told it with the event."""
        held = self.get(resource)
        life, actions = step(held.life if held else State(highest=self._highest.get(resource, 0)), event)
        self._highest[resource] = life.highest
        if life.phase is Phase.FREE:
            self.pop(resource, None)
        elif held is not None:
            held.life = life
            if lease is not None:
                fresh = Action.FRESHEN in actions
                held.lease = replace(lease, mode=mode_known(held.lease.mode, lease.mode, fresh=fresh))
        elif lease is not None:
            self[resource] = Held(lease, life)
        return actions

    def refused(self, granted: Iterable[ResourceId]) -> None:
        """These were granted anew for somebody who is not permitted to use them."""
        for resource in granted:
            self[resource].refused = True


def mode_known(before: Mode, stored: Mode, *, fresh: bool) -> Mode:
    """What a lease that is held here covers, now that the store has it in this mode.

    What was shared stays so until its cached blocks go (``fresh``), because other nodes have written. A write to the
    store that was carried out late, or too late for who asked, drops none.
    """
    return before if before is Mode.CW and not fresh else stored


def forgetful(outcome: Granted) -> Denied:
    """The answer to a grant whose token is lower than one that was seen before."""
    return Denied(
        Standing.UNKNOWN,
        f"the lease store gave token {outcome.token} after a higher one: it forgot what it had granted",
        remedy="make sure that no other node uses it, then restart enforcerd",
    )
