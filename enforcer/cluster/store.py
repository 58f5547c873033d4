# SPDX-License-Identifier: GPL-2.0-or-later
"""What every lease store promises, whichever engine is behind it.

The promises, which one conformance suite proves against every real engine:

- A set is taken as a whole or not at all, in one transaction, under one token.
- An answer is a fact, never a guess: an engine that is silent, damaged or talks nonsense gives ``Denied``
  with ``Standing.UNKNOWN``. No time-out ever becomes FREE, and no failure of the engine leaves ``acquire`` as
  an exception.
- Tokens only grow. A record is deleted only by whoever names its token, or by a takeover from a holder that
  is proven silent.

**The token rule.** A holder that wants only what it holds already, all of it under one token and in modes
that cover the wanted ones, gets that token again and nothing is written. In every other case all records of
the set are written anew under one new token, the kept ones too: the token by which the caller knew them is
then over, and ``Granted.leases`` tells the new one.

**When a grant is fresh.** ``Granted.fresh`` is false only if this very process was told the tokens of all
records of the set before, and no other node could write since. After a restart the first grant is fresh
although the records were ours all the time: the process before us may have died between its grant and the
dropping of its caches, and nobody can tell. The same holds for a grant whose answer was lost.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol, runtime_checkable

from enforcer.model.lease import Claim, Denied, Granted, HeldLease, Lease, NodeRecord
from enforcer.model.resource import ResourceId


class LeaseStore(Protocol):
    """One lease store, opened by one node in one boot and one session (its ``Holder``)."""

    name: str
    ttl_s: float | None  # seconds until a silent node counts as gone; None: this store knows no such thing
    gone_after_s: float  # seconds after which it calls nobody live who was switched off; to wait longer is no use

    async def open(self) -> None:
        """Make the store ready. Raises EnforcerError with a hint if it can never work as configured."""

    async def close(self) -> None:
        """Let go of files and connections. No lease ends by this."""

    async def acquire(self, claims: frozenset[Claim], facts: Mapping[str, str], *, budget_s: float) -> Granted | Denied:
        """Take the whole set or nothing, with an answer within ``budget_s`` seconds. Raises no EnforcerError.

        ``facts`` (fstype, target, comm ...) are kept for people and decide nothing.
        """

    async def release(self, resources: frozenset[ResourceId], token: int) -> None:
        """Give back what is held under ``token``.

        Raises LeaseLost if any record is gone or bears another token (what is ours is released nevertheless),
        StoreUnavailable if the store did not answer; to try again is then safe.
        """

    async def leases(self, lun: str | None = None) -> tuple[HeldLease, ...]:
        """All leases, or those on one LUN and its parts, by a linearizable read. Raises StoreUnavailable."""

    async def last_grants(self) -> Mapping[str, tuple[str, int]]:
        """By LUN, the node and the token of the last grant on it, whether that is still held or not.

        For a node to learn that another one has used a LUN while nobody looked. Raises StoreUnavailable.
        """

    async def fences(self) -> Mapping[tuple[str, str], str]:
        """(node, boot id) of each fencing fact -> when it was recorded, RFC 3339. Raises StoreUnavailable.

        Without those about a boot that still renews: whatever was confirmed, it is not silent.
        """

    async def nodes(self) -> tuple[NodeRecord, ...]:
        """All nodes of which the store knows anything, live or not. Raises StoreUnavailable."""

    async def publish(self, luns: frozenset[str], policy_digest: str) -> None:
        """Tell which LUNs this node sees, under which policy. Raises StoreUnavailable, LeaseLost."""

    async def fence_confirm(self, node: str, boot_id: str, by: str, *, force: bool = False) -> None:
        """Record that this boot of ``node`` is proven silent; its leases may then be taken over.

        ``by`` says who vouches. Raises EnforcerError if the store knows no such boot id of that node (it
        names those it knows), or if the node is still live and ``force`` is false. Forced, the live session
        is ended as well, so that the node learns of it.
        """

    async def adopt(self) -> tuple[Lease, ...]:
        """Take all leases of earlier sessions of this node in this boot into this session, tokens unchanged.

        Returns all leases that this node now holds. Raises StoreUnavailable, LeaseLost.
        """

    async def forget_old_boots(self) -> tuple[Lease, ...]:
        """Remove and return this node's leases of earlier boots: that kernel is gone, it writes no more.

        Raises StoreUnavailable, LeaseLost.
        """


@runtime_checkable
class HearsOfUses(Protocol):
    """A store that wants to hear, beside all that, when a lease is put to use."""

    async def in_use(self, resources: frozenset[ResourceId]) -> None:
        """These are held, and the kernel counts a use of each of them. Raises StoreUnavailable, LeaseLost."""
