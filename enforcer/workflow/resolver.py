# SPDX-License-Identifier: GPL-2.0-or-later
"""Which devices an ask is about: the one that the gate named or whose path the caller gave, what else its filesystem
would open, or what a device-mapper table stands on. Read at decision time, because any of it may have changed.

A multipath map, and the pieces that kpartx puts on one, are carriers: they open what lies below for ever, on every
node, and write nothing by themselves. What is done through them is judged by their own device numbers.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from enforcer.kernel import abi
from enforcer.kernel.tables import Tables
from enforcer.model.escape import from_bytes
from enforcer.model.intent import Caller, Intent
from enforcer.model.resource import Device, DevNum, UseKind
from enforcer.storage import dmtable, names, sources
from enforcer.storage.companions import Companions, companions
from enforcer.workflow import callers
from enforcer.workflow.devices import Devices
from enforcer.workflow.leases import Leases
from enforcer.workflow.patience import Patience

READ_S = 60.0  # longer than asks wait, as a rule: a path may be slow to fail


@dataclass(frozen=True, slots=True)
class Question:
    """An ask of the kernel, copied out of its table."""

    op: abi.Op
    intent: int
    tid: int
    tgid: int
    uid: int
    start_ns: int
    asked_ns: int
    dev: DevNum | None
    arg: int
    cmd: int
    syscall_nr: int
    mount_ns: int
    flags: abi.AskFlag
    comm: bytes
    fstype: bytes
    source: bytes
    target: bytes
    options: bytes = b""

    @classmethod
    def of(cls, raw: abi.Ask) -> Question:
        """Copy one element of the ``asks`` table. Raises ValueError for an op that this version does not know."""
        return cls(
            abi.Op(raw.op),
            raw.intent,
            raw.tid,
            raw.tgid,
            raw.uid,
            raw.start_ns,
            raw.asked_ns,
            DevNum.from_kernel(raw.dev) if raw.dev else None,
            raw.arg,
            raw.cmd,
            raw.syscall_nr,
            raw.mount_ns,
            abi.AskFlag(raw.flags & 63),
            abi.c_text(raw.comm),
            abi.c_text(raw.fstype),
            abi.c_text(raw.source),
            abi.c_text(raw.target),
            abi.c_text(raw.options),
        )

    @property
    def key(self) -> tuple[object, ...]:
        """Equal for an ask and for the same system call restarted after a signal."""
        return (
            self.tid,
            self.start_ns,
            self.op,
            self.dev,
            self.arg,
            self.cmd,
            self.fstype,
            self.source,
            self.target,
            self.options,
        )

    def caller(self) -> Caller:
        """What /proc tells of the task that waits."""
        return callers.describe(
            self.tid, self.tgid, self.uid, self.comm, mount_ns=self.mount_ns, syscall_nr=self.syscall_nr
        )


@dataclass(frozen=True, slots=True)
class Resolved:
    """An intent with its device, why something could not be resolved, and the other devices of its set."""

    intent: Intent
    problem: str = ""
    others: tuple[Device, ...] = ()
    carrier: bool = False


class Resolver:
    """Looks at devices through ``Devices``; its own reads wait in threads."""

    def __init__(self, devices: Devices, leases: Leases, tables: Tables, scratch: Path) -> None:
        self._devices, self._leases, self._tables, self._scratch = devices, leases, tables, scratch
        self._superblocks = Patience(at_once=4)  # btrfs looks at every disk, and is mounted many times at once

    async def resolve(self, question: Question, intent: Intent) -> Resolved:
        """What the ask touches now. Raises nothing for the storage's sake."""
        if question.op is abi.Op.FILE_IOCTL:
            return await self._table(question, intent)
        dev = question.dev
        if dev is None and intent.kind is UseKind.MOUNT and abi.AskFlag.SOURCE_CUT not in question.flags:
            dev = await asyncio.to_thread(sources.resolve, question.tid, question.source)
        if dev is None:
            needs = abi.AskFlag.REQUIRES_DEV in question.flags
            # without a device that we can see, the superblock's own ask and the guard stand behind this one
            return Resolved(intent, "its block device could not be resolved" if needs else "")
        known = self._devices.classify(dev, await asyncio.to_thread(self._devices.resolve, dev))
        intent = replace(intent, dev=dev, device=known.device)
        if intent.kind is not UseKind.MOUNT or known.device.problem:
            return Resolved(intent, known.device.problem)
        try:
            found = await self._superblocks.ask(dev, partial(self._companions, question, dev), READ_S)
        except TimeoutError:
            return Resolved(intent, f"{known.device.name} did not answer within {READ_S:g} s")
        others = tuple(self._devices.classify(other).device for other in found.devices)
        return Resolved(intent, found.problem, others)

    def _companions(self, question: Question, dev: DevNum) -> Companions:
        """What else the mount would open; read from the disk and from the options."""
        if abi.AskFlag.OPTIONS_CUT in question.flags:
            return Companions((), "its mount options are too long to be read")
        options = self.options(question)
        if options is None:
            return Companions((), "its options name more devices than can be followed")
        return companions(
            dev,
            from_bytes(question.fstype),
            options,
            resolve=lambda path: sources.resolve(question.tid, path),
            all_devices=lambda: sorted(self._devices.known),
            scratch=self._scratch,
        )

    def options(self, question: Question) -> bytes | None:
        """The options of a mount, as far as they matter here; None if they are too many or too long."""
        if abi.AskFlag.OPTIONS_CUT in question.flags:
            return None
        if question.op is not abi.Op.SB_ALLOC:
            return question.options
        params = self._tables.params.get(question.arg)
        if params is not None and params.used > abi.PARAMS:
            return None
        slots = params.slots[: params.used] if params is not None else []
        return b",".join(abi.c_text(s.key) + b"=" + abi.c_text(s.value) for s in slots)

    async def _table(self, question: Question, intent: Intent) -> Resolved:
        """A device-mapper table that is about to be loaded: the devices that it stands on.

        The mapping takes them as they are, for the kernel opens them themselves. So two nodes never have volumes of
        one group active at once, which is what its metadata needs anyway.
        """
        try:
            table, device, found = await asyncio.to_thread(self._read_table, question)
        except (dmtable.DmTableError, OSError) as error:
            return Resolved(intent, f"the device-mapper table could not be read: {error}")
        self._devices.expect_table(device)
        kinds = {target.type for target in table.targets}
        intent = replace(intent, fstype=next(iter(kinds)) if len(kinds) == 1 else "dm")
        below: list[Device] = []
        for path, dev, device in found:
            known = (self._devices.known.get(dev) or self._devices.classify(dev, device)) if dev is not None else None
            if known is None or (known.device.problem and not known.device.resources):
                named = dev or from_bytes(path)
                return Resolved(
                    intent, f"{named}, below the table of {table.name or table.uuid}, could not be resolved"
                )
            below.append(known.device)
        if not below:
            return Resolved(intent)
        shown = ", ".join(device.name for device in below)
        problem = next((device.problem for device in below if device.problem), "")
        intent = replace(intent, dev=below[0].dev, device=below[0], source=shown)
        carrier = await asyncio.to_thread(self._carries, table, kinds, below)
        return Resolved(intent, problem, tuple(below[1:]), carrier)

    def _read_table(
        self, question: Question
    ) -> tuple[dmtable.DmTable, Device | None, list[tuple[bytes, DevNum | None, Device | None]]]:
        """The table, its map, and what is below, resolved if it was not known. Raises DmTableError, OSError."""
        table = dmtable.read_table(question.tid, question.arg)
        found = list[tuple[bytes, DevNum | None, Device | None]]()
        for each in dmtable.lower_devices(table):
            dev = each.dev or (sources.resolve(question.tid, each.path) if each.path else None)
            new = dev is not None and dev not in self._devices.known
            found.append((each.path, dev, self._devices.resolve(dev) if dev is not None and new else None))
        return table, self._devices.map_of(table), found

    def _same_lun(self, table: dmtable.DmTable, paths: list[Device]) -> bool:
        """True if all paths lead to one LUN, and to that of the map if it is there: open files must not come to lie
        elsewhere. A map that is in use and lost its lease needs it back before it gets a path to write by."""
        luns = {device.resources for device in paths}
        known = self._devices.map_of(table)
        if len(luns) != 1 or not next(iter(luns)):
            return False
        if known is None:
            return True
        used = self._leases.uses.busy(known.dev) or known.in_use
        if not known.resources:
            return not used  # what is open there may have been another LUN's
        return luns == {known.resources} and (not used or self._leases.covered(known))

    def _carries(self, table: dmtable.DmTable, kinds: set[str], below: list[Device]) -> bool:
        """True for the table of a multipath map, and for that of a piece of one (by the uuids of their makers)."""
        try:
            uuid = dmtable.uuid_of(table, scratch=self._scratch)
        except OSError:
            return False  # no such map: the kernel refuses the load itself
        if kinds == {"multipath"}:
            return names.is_multipath(uuid) and self._same_lun(table, below)
        part = names.kpartx_part(uuid)
        return (
            kinds == {"linear"}
            and part is not None
            and names.is_multipath(part[1])
            and all(device.carrier and device.below for device in below)
        )
