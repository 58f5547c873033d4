# SPDX-License-Identifier: GPL-2.0-or-later
"""The tier that holds against a node that is half dead: what it may write is decided by the storage.

Where the settings say so, and a LUN is leased as a whole, the holder of the lease makes itself the holder of a Write
Exclusive reservation after the grant and before the permit, before anything is read. So a lease that says
``reservation`` means: nothing was written under it before the storage knew whose it is. (What was in use before it was
leased gets no such promise.) Whoever comes after that holder needs no promise about its silence. Its session must be
gone; then the store's transaction comes *first* and the storage second: of two takers only the one that won the
transaction touches the storage, and a holder that comes back before it is not harmed. Until the reservation has moved
the successor permits nothing, and the one before may end its writes.

**No two writers, whatever the order.** The reservation has one holder. It changes only from a key that was read before
the store was asked whether the lease is ours, by naming that key (``preempt``), and every grant has a key of its own:
who was deposed meanwhile finds another key there, or, if nobody was there, is told by the second look at the store.
Nothing is permitted unless the store said "ours" *after* the storage said "yours". A node that was paused anywhere in
between fails at the storage, and its late writes are refused there. (Preempting before the transaction would need the
same look after it, and would let the loser of a race break the winner, or a node that has just come back.)

A reservation that is not one of ours, by its key or its type, is nobody's whom our store knows: it is left alone, with
every key that is registered there, and is a veto.

**Whoever was preempted may still have something to write**, and would write it once nobody has the reservation any
more. So from the first preemption on it is kept, by every holder after that, also while the LUN is free: the key says
so. Nodes that use no reservations are refused there until somebody who knows that the old holder is dead clears it. And
a node on which something still uses the LUN does not take it back: what that has in memory is older.

Otherwise it is given up after the devices were found unused and written back, and *before* the store is told: so the
storage refuses nobody what the store calls free. What there is to give up is asked of the storage, because the record
may have come to promise less since. If the store is not reached then, nothing is lost: only a new grant leads back to a
use, and that one reserves anew. It may be the same grant with the same key, which a command that nobody waits for any
more (``commands.py``) could end under a mount: so nothing is permitted before the storage has answered that one.
"""

from __future__ import annotations

import asyncio
import errno
import fnmatch
import logging
from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from pathlib import Path
from typing import TypeVar

from enforcer.cluster.store import LeaseStore
from enforcer.model.errors import EnforcerError
from enforcer.model.lease import Denied, Guarantee, Holder, Lease, Standing
from enforcer.model.resource import Device, DevNum, ResourceId
from enforcer.storage import reservations
from enforcer.storage.reservations import Move, Port, foreign, is_kept, key_for, key_of, key_of_node, move, same_node
from enforcer.storage.vetoes.reservation import Reservation
from enforcer.workflow.commands import Commands
from enforcer.workflow.devices import Devices
from enforcer.workflow.earlier import Earlier

T = TypeVar("T")

log = logging.getLogger(__name__)
LOOK_S = 4.0  # for the storage's answer whether it knows reservations
MOVE_S = 8.0  # for the storage to change the holder
TRIES = 8  # of a loop that only a race makes go round twice
LAYER = "scsi-pr"
UNANSWERED = "it has not answered an earlier command"
IN_USE = "it was in use here before it was leased"

_GONE = frozenset({errno.ENOENT, errno.ENXIO, errno.ENODEV})


class Reservations:
    """One node's. ``patterns``: names of LUNs, as ``wwn-0x5000c5*``; ``uses``: what the kernel counts of a device."""

    def __init__(
        self,
        devices: Devices,
        store: LeaseStore,
        me: Holder,
        *,
        patterns: Sequence[str],
        scratch: Path,
        uses: Callable[[DevNum], tuple[int, int]] = lambda _: (0, 0),
        port: Callable[..., AbstractContextManager[Port]] = reservations.opened,
    ) -> None:
        self._devices, self._store, self._me = devices, store, me
        self._patterns, self._scratch, self._uses, self._port = patterns, scratch, uses, port
        self._commands, self._earlier = Commands(), Earlier(scratch, me.boot_id)
        self._clean: set[str] = set()  # LUNs where nothing of this node is to be given up, until it is reserved again
        self._trouble: dict[str, str] = {}  # LUN -> why it is not used there, or ""

    def promised(self, resources: Iterable[ResourceId]) -> bool:
        """True if leases of these, granted now, will be reserved before they are used; as :meth:`look` found it."""
        wanted = list(resources)
        return bool(wanted) and all(not r.path and self._trouble.get(r.lun) == "" for r in wanted)

    async def look(self, resources: Iterable[ResourceId], *, in_use: bool = False) -> None:
        """Learn, before the store is asked, whether these LUNs can be reserved. Raises nothing.

        ``in_use``: something here used them before there was a lease. It may have written, so nothing is promised.
        """
        for lun in sorted({r.lun for r in resources if not r.path}):
            if self._named(lun):
                trouble = IN_USE if in_use else await self._cannot(lun)
                if trouble and trouble != self._trouble.get(lun):
                    log.warning("%s: no reservation is used: %s", lun, trouble)
                self._trouble[lun] = trouble

    async def take(self, leases: Iterable[Lease], *, counted: int = 0) -> Denied | None:
        """Before the first use under these leases. Why they cannot be used, or None. Raises nothing.

        ``counted``: files of the asker's own that the kernel counts as open already.
        """
        for lease in leases:
            if lease.guarantee is Guarantee.RESERVATION and (trouble := await self._taken(lease, counted)):
                reason = f"the storage does not reserve {lease.resource} for this node: {trouble}"
                return Denied(Standing.UNKNOWN, reason, remedy="sg_persist --in --read-full-status shows it")
        return None

    async def give_up(self, lease: Lease) -> None:
        """Nothing uses it any more. Raises OSError, TimeoutError: then the store must not be told.

        What is registered is asked of the storage, not of the record: that is written anew with a lower promise if the
        lease comes to be in a set that cannot be reserved, or the settings change. Where the record promises nothing, a
        storage that does not answer keeps no lease: what stays behind may refuse somebody, and lets nobody write.
        Where nothing was found, and nothing was promised since, it is not asked again; and not where the settings name
        no reservation and this boot has made none.
        """
        lun, promised = lease.resource.lun, lease.guarantee is Guarantee.RESERVATION
        perhaps = lun not in self._clean and (self._named(lun) or self._earlier.may_be_ours(lun))
        if lease.resource.path or not (promised or perhaps):
            return  # the reservation, if there is one, is that of the whole
        disks = self._disks(lun)
        clean = bool(disks)
        for disk in disks:
            try:
                async with asyncio.timeout(MOVE_S):
                    await self._leave(lun, disk.dev, key_of(lease))
            except OSError as error:
                clean = False
                if error.errno in _GONE:
                    continue
                if promised:
                    raise
                why = str(error) or "no answer"
                log.warning("%s: whether this node has reserved %s is not known: %s", lease.resource, disk.name, why)
                if self._commands.unanswered(lun):
                    break  # another path would wait for this one, and nothing is reserved on several
        if clean:
            self._clean.add(lun)

    def left_by_earlier_boots(self) -> set[ResourceId]:
        """LUNs on which only an earlier boot of this node can have left something: see :meth:`end_earlier`."""
        luns = self._devices.luns() if self._patterns else ()
        return {ResourceId(lun) for lun in luns if self._named(lun) and self._earlier.due(lun)}

    async def end_earlier(
        self, lun: str, turn: AbstractAsyncContextManager[None], held: Collection[ResourceId]
    ) -> None:
        """What earlier boots of this node reserved is in nobody's way any more, unless it is kept. Raises nothing.

        Once for each boot and LUN, when it is first seen and nothing of it is held (``held``: by this node) or used.
        """
        async with turn:
            used = self._in_use(lun, 0) or any(device.in_use for device in self._devices.on_lun(lun))
            if used or any(r.lun == lun for r in held) or not self._named(lun) or not self._earlier.due(lun):
                return
            try:
                for disk in self._disks(lun):
                    async with asyncio.timeout(MOVE_S):
                        await self._leave(lun, disk.dev, key_of_node(self._me.node))
                self._earlier.over(lun)
            except OSError as error:
                log.warning("%s: what an earlier boot has reserved is not known: %s", lun, str(error) or "no answer")
                self._earlier.later(lun)

    def _named(self, lun: str) -> bool:
        return any(fnmatch.fnmatchcase(lun, pattern) for pattern in self._patterns)

    async def _leave(self, lun: str, dev: DevNum, like: int) -> None:
        """End every registration of the node that made the key ``like``, under whichever grant, unless it is kept.

        Each is named in a call of its own: a thread that hangs, and comes back when nobody waits for it any more, ends
        nothing that was registered since. Of another initiator than this one the storage ends none.
        """
        for key in await self._at(lun, dev, _registered):
            if same_node(key, like) and not is_kept(key):
                await self._at(lun, dev, _unregister(key))

    async def _cannot(self, lun: str) -> str:
        disks = self._disks(lun)
        if len(disks) != 1:
            return f"it has {len(disks)} paths, and each would need a reservation of its own"
        if self._commands.unanswered(lun):
            return UNANSWERED
        try:
            async with asyncio.timeout(LOOK_S):
                await self._at(lun, disks[0].dev, _holder)
        except (OSError, TimeoutError) as error:
            return getattr(error, "strerror", None) or str(error) or "no answer"
        return ""

    async def _taken(self, lease: Lease, counted: int) -> str:
        """Make this node the holder. Why it is not, or ""."""
        disks = self._disks(lease.resource.lun)
        if len(disks) != 1:
            return f"it has {len(disks)} paths now"
        if self._commands.unanswered(lease.resource.lun):
            return UNANSWERED  # whatever is read now, and whatever is told, that one may come after it
        dev = disks[0].dev
        try:
            async with asyncio.timeout(MOVE_S):
                for _ in range(TRIES):
                    if (trouble := await self._round(dev, lease, counted)) is not None:
                        return trouble
        except (OSError, EnforcerError, TimeoutError) as error:
            return getattr(error, "strerror", None) or str(error) or "no answer"
        return "it changes hands again and again"

    async def _round(self, dev: DevNum, lease: Lease, counted: int) -> str | None:
        """One look and one step. "" if this node is the holder, a reason if it must not be, None to go on."""
        lun = lease.resource.lun
        self._earlier.over(lun)
        self._clean.discard(lun)
        before = await self._at(lun, dev, _holder)
        if before is not None and (stranger := foreign(before)):
            return stranger  # nothing is registered either: that might take the place of a key that another has set
        mine = key_for(lease, before.key if before else None)
        await self._at(lun, dev, lambda port: port.register(mine))
        found = await self._at(lun, dev, _holder)
        if found is not None and (stranger := foreign(found)):
            return stranger
        there = found.key if found else None
        # asked after the look, see above; a key that stays registered by one who is told no lets nobody write
        ours = await self._ours(lease)
        following = move(lease, mine, there, ours=ours, in_use=self._in_use(lun, counted))
        if isinstance(following, str):
            return following
        if following is Move.RESERVE:
            await self._at(lun, dev, lambda port: port.reserve(mine))
        elif following is Move.PREEMPT and there is not None:
            victim = there
            if await self._at(lun, dev, lambda port: port.preempt(mine, victim)):
                log.warning("%s: the reservation under key %#x was preempted", lease.resource, victim)
        return "" if following is Move.NOTHING else None

    async def _ours(self, lease: Lease) -> bool:
        """What the store says now, by a linearizable read. Raises StoreUnavailable."""
        return any(
            held.lease.resource == lease.resource
            and held.lease.token == lease.token
            and (held.lease.holder.node, held.lease.holder.boot_id) == (self._me.node, self._me.boot_id)
            for held in await self._store.leases(lease.resource.lun)
        )

    def _in_use(self, lun: str, counted: int) -> bool:
        """True if anything but who asks has any of it open: a mount counts one, as an open for writing does."""
        return sum(sum(self._uses(device.dev)) for device in self._devices.on_lun(lun)) > counted

    def _disks(self, lun: str) -> list[Device]:
        return [device for device in self._devices.on_lun(lun) if not device.below]

    async def _at(self, lun: str, dev: DevNum, what: Callable[[Port], T]) -> T:
        def command() -> T:
            with self._port(dev, scratch=self._scratch) as port:
                return what(port)

        return await self._commands.run(lun, command)


def _holder(port: Port) -> Reservation | None:
    return port.holder()


def _registered(port: Port) -> tuple[int, ...]:
    return port.registered()


def _unregister(key: int) -> Callable[[Port], None]:
    return lambda port: port.unregister(key)
