# SPDX-License-Identifier: GPL-2.0-or-later
"""Before a LUN is used that was out of our hands, what stands on the disk itself may object.

The store knows only nodes that ask it. One without mount-enforcer, one with ``enforcer=off``, one that mounted before
its daemon ran: none of them holds a lease, and all of them leave marks. So the marks are read after the lease was
granted, not instead of it: nothing here permits anything.

What excuses the mark of another node is that its lease on the same storage went away: the store deletes one only for a
clean release, or upon proof that its holder is silent. That is remembered here from what was last read of the store, as
long as the daemon runs; the store's fencing facts are asked for beside it, only when something objects.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import functools
import os
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path

from enforcer.cluster.store import LeaseStore
from enforcer.model.errors import EnforcerError
from enforcer.model.lease import Denied, HeldLease, Liveness, Standing
from enforcer.model.resource import Device, ResourceId
from enforcer.storage.vetoes import local, marks, medium, ocfs2
from enforcer.storage.vetoes.local import Local
from enforcer.storage.vetoes.look import look
from enforcer.storage.vetoes.marks import Facts, Mark, Objection, Silence
from enforcer.workflow.devices import Devices
from enforcer.workflow.patience import Patience
from enforcer.workflow.uses import Uses

LOOK_S = 4.0  # for all disks of one use, each time they are looked at
WATCH_S = 2.0  # between two looks, where there are two
UNREADABLE = "unreadable"  # stands in for the layer

_NOBODY_CAN = frozenset({errno.ENOENT, errno.ENXIO, errno.ENODEV, errno.ENOMEDIUM})  # whoever opens it fails as well

#: Device, so that one mark on two disks stays two -> its marks.
Looked = dict[Device, tuple[Mark, ...]]


class _Refused(Exception):
    def __init__(self, device: Device, objection: Objection) -> None:
        self.device, self.objection = device, objection


class Vetoes:
    """Looks at disks before they are used; remembers who has let go of what."""

    def __init__(self, store: LeaseStore, devices: Devices, uses: Uses, node: str, scratch: Path) -> None:
        self._store, self._devices, self._uses, self._node, self._scratch = store, devices, uses, node, scratch
        self._let_go: dict[ResourceId, dict[str, Silence]] = {}
        self._disks_asked = Patience()

    def heard(self, before: Mapping[ResourceId, HeldLease], now: Mapping[ResourceId, HeldLease]) -> None:
        """What others hold was read of the store anew: whose lease is gone, has let go or is proven silent."""
        for resource, held in before.items():
            after = now.get(resource)
            if after is None or after.lease.holder.node != held.lease.holder.node:
                self._note(resource, held)
        for resource, held in now.items():
            for known, silent in self._let_go.items():
                if known.meets(resource):
                    silent.pop(held.lease.holder.node, None)

    def granted(self, resources: Collection[ResourceId], others: Mapping[ResourceId, HeldLease]) -> None:
        """We were granted these: what others held of them, when the store was last read, they hold no more."""
        for resource, held in others.items():
            if any(resource.meets(mine) for mine in resources):
                self._note(resource, held)

    def _note(self, resource: ResourceId, held: HeldLease) -> None:
        how = "it gave its lease back" if held.liveness is Liveness.LIVE else "its lease was taken over"
        self._let_go.setdefault(resource, {})[held.lease.holder.node] = Silence(time.time(), how)

    async def against(self, wanted: Collection[ResourceId], *, shared: bool = False) -> Denied | None:
        """Why ``wanted``, whose leases are ours and which nobody uses here, cannot be used. Raises nothing.

        Takes one look; a second one, WATCH_S later, only if there is a mark that moves when its owner lives and that
        would be no objection otherwise. ``shared``: for a cluster filesystem, whose slot map is its stack's affair.
        """
        theirs = frozenset({ocfs2.LAYER}) if shared else frozenset[str]()
        try:
            here = functools.cache(lambda: local.learn(self._node))
            disks = self._disks(wanted)
            before = await self._look(disks, here, theirs)
            if not any(before.values()):
                return None
            facts = Facts((await asyncio.to_thread(here)).names, _latest(self._released(wanted)))
            if any(marks.objections(found, facts) for found in before.values()):
                facts = Facts(facts.own, _latest([*facts.silent.items(), *await self._fenced()]))
            self._judge(before, facts)
            if any(mark.pulse for found in before.values() for mark in found):
                await asyncio.sleep(WATCH_S)
                after = await self._look(disks, here, theirs)
                self._judge(after, facts)
                for device, found in after.items():
                    for objection in marks.moved(before.get(device, ()), found):
                        raise _Refused(device, objection)
        except _Refused as refused:
            said = refused.objection
            reason = f"{refused.device.name}: {said.sentence}"
            return Denied(Standing.UNKNOWN, reason, remedy=said.remedy, veto=said.layer)
        return None

    def _judge(self, looked: Looked, facts: Facts) -> None:
        for device, found in looked.items():
            for objection in marks.objections(found, facts):
                raise _Refused(device, objection)

    def _released(self, wanted: Collection[ResourceId]) -> list[tuple[str, Silence]]:
        known = [silent for r, silent in self._let_go.items() if any(r.meets(mine) for mine in wanted)]
        return [each for silent in known for each in silent.items()]

    async def _fenced(self) -> list[tuple[str, Silence]]:
        """The store's fencing facts; without an answer none, and so the objection stands."""
        found = []
        with contextlib.suppress(EnforcerError):
            for (node, _boot_id), text in (await self._store.fences()).items():
                with contextlib.suppress(ValueError):  # a time that is none
                    at = datetime.fromisoformat(text)
                    found.append((node, Silence(at.replace(tzinfo=at.tzinfo or UTC).timestamp(), "it was fenced")))
        return found

    def _disks(self, wanted: Collection[ResourceId]) -> list[list[Device]]:
        """What to look at: each entry is one medium, by all its paths; what is in use here leaves marks of our own."""
        media: dict[object, list[Device]] = {}
        for device in (d for lun in {r.lun for r in wanted} for d in reversed(self._devices.on_lun(lun))):
            if any(r.meets(mine) for r in device.resources for mine in wanted):
                known = self._devices.known
                on_same = any(b in known and known[b].device.resources == device.resources for b in device.below)
                media.setdefault(device.dev if on_same and not device.carrier else device.resources, []).append(device)
        return [paths for paths in media.values() if not any(self._in_use(each, wanted) for each in paths)]

    def _in_use(self, device: Device, wanted: Collection[ResourceId]) -> bool:
        """True for another part of the LUN that we use. All opens of what is wanted itself still wait for a verdict."""
        return self._uses.busy(device.dev) and not all(r in wanted for r in device.resources)

    async def _look(self, disks: list[list[Device]], here: Callable[[], Local], but: Collection[str] = ()) -> Looked:
        """Raises _Refused if what may stand on a disk cannot be known."""
        found: Looked = {}
        if not disks:
            return found
        last = disks[0][0]
        try:
            async with asyncio.timeout(LOOK_S):
                for paths in disks:
                    last, read = paths[0], functools.partial(self._read, paths, here)
                    device, seen = await self._disks_asked.ask(last.dev, read, LOOK_S)
                    found[device] = tuple(mark for mark in seen if mark.layer not in but)
        except TimeoutError:
            raise _Refused(last, _unread(f"no answer within {LOOK_S:g} s")) from None
        return found

    def _read(self, paths: list[Device], here: Callable[[], Local]) -> tuple[Device, tuple[Mark, ...]]:
        """By the first path that can be read. Raises _Refused."""
        trouble: OSError | None = None
        for device in paths:
            try:
                return device, _look(device, here, self._scratch)
            except OSError as error:
                if error.errno not in _NOBODY_CAN:
                    trouble = error
        if trouble is not None:
            raise _Refused(paths[0], _unread(trouble.strerror or os.strerror(trouble.errno or 0)))
        return paths[0], ()


def _latest(known: Iterable[tuple[str, Silence]]) -> dict[str, Silence]:
    found: dict[str, Silence] = {}
    for node, fact in known:
        found[node] = max(fact, found.get(node, fact))
    return found


def _look(device: Device, here: Callable[[], Local], scratch: Path) -> tuple[Mark, ...]:
    with medium.opened(device.dev, scratch=scratch) as disk:
        return look(disk, here)


def _unread(why: str) -> Objection:
    return Objection(
        UNREADABLE,
        f"what stands on it cannot be read ({why}), so a mark of another node cannot be ruled out",
        remedy="see the kernel's log for the disk",
    )
