# SPDX-License-Identifier: GPL-2.0-or-later
"""Every block device of the node, what it lies on, and its entry in the kernel's guard table.

The table is compiled from three truths: the policy says whether a device is guarded, the storage says which LUNs it
touches, the leases say whether they are ours. Whenever one of them changes, the entries are made anew here and
nowhere else, so the kernel and the daemon cannot come to disagree in two places.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path

from enforcer.kernel import abi
from enforcer.kernel.abi import GuardFlag, State
from enforcer.kernel.tables import Tables
from enforcer.model.resource import Device, DevNum, ResourceId
from enforcer.policy.engine import Facts, Guarding, guards
from enforcer.policy.rules import Policy
from enforcer.storage import sysfs
from enforcer.storage.dmtable import DmTable
from enforcer.storage.identity import Identities
from enforcer.storage.names import is_node_only
from enforcer.storage.system import system_devices
from enforcer.storage.usage import Usage
from enforcer.workflow.guarded_swap import GuardedSwap

log = logging.getLogger(__name__)


class Hold(StrEnum):
    """What this node has of one resource, as the guard table needs it."""

    LIVE = "live"
    CLOSING = "closing"


@dataclass(frozen=True, slots=True)
class Known:
    """One device, classified."""

    device: Device
    guarding: Guarding
    facts: Facts


@dataclass(frozen=True, slots=True)
class Grip:
    """A held resource as the guard table needs it."""

    hold: Hold
    token: int
    stale: bool = False  # cached blocks of it are not to be trusted yet: whoever comes must ask
    shared: bool = False  # other nodes may have it too: it covers a cluster filesystem alone


def covers(held: ResourceId, wanted: ResourceId) -> bool:
    """True if holding ``held`` is enough to use ``wanted``: the same, or the whole that it is a part of."""
    return held.lun == wanted.lun and wanted.path[: len(held.path)] == held.path


def most_specific(held: Iterable[ResourceId], wanted: ResourceId) -> ResourceId | None:
    """The narrowest held resource that covers ``wanted``: the one that its uses are counted for."""
    return max((h for h in held if covers(h, wanted)), key=lambda h: len(h.path), default=None)


class Devices:
    """Classifies devices and keeps the guard table equal to what is known of them."""

    def __init__(
        self,
        tables: Tables,
        node: str,
        *,
        policy: Callable[[], Policy],
        keep: Iterable[str],
        deadline: bool,
        root: Path = Path("/"),
        run_dir: Path | None = None,
    ) -> None:
        """``keep``: paths of the daemon's own that must never be guarded; ``deadline``: leases hang on a session."""
        self._tables, self._policy, self._keep, self._deadline, self._root = (
            tables,
            policy,
            list(keep),
            deadline,
            root,
        )
        self._identities = Identities(root, node=node)
        self._swap = GuardedSwap(self._guarded_by_table, run_dir)
        self._seen_by: Mapping[str, frozenset[str]] | None = None if deadline else {}
        self._grips: dict[ResourceId, Grip] = {}
        self._elsewhere: frozenset[ResourceId] = frozenset()
        self._double: dict[ResourceId, str] = {}  # in use on two nodes -> the sentence that says so
        self._adopted: dict[DevNum, str] = {}
        self._gone: set[DevNum] = set()  # not in sysfs any more, but still open
        self.known: dict[DevNum, Known] = {}

    def find_system(self) -> bool:
        """Compute anew what the system lives on; True if it changed. May wait for an automount: not for the loop."""
        found = system_devices(self._identities, self._keep, guarded=self._swap.was_guarded)
        self._swap.looked(at_everything=not found.unresolved)
        changed = dict(found.reasons) != dict(self._identities.system)
        if changed:
            for sentence in found.unresolved:
                log.warning("system devices: %s", sentence)
            self._identities.system = found.reasons
        return changed

    def rescan(self) -> None:
        """At start: system devices, every block device, the whole table."""
        self.find_system()
        self.reclassify()

    def reclassify(self) -> None:
        """Look at every block device anew, and write the whole table."""
        there = sysfs.all_devices(self._root)
        for dev in there:
            self.classify(dev)
        for dev in set(self.known) - set(there):
            self.forget(dev)
        for dev in self._tables.devices() - set(there):
            self._tables.guard.delete(dev.to_kernel())

    def resolve(self, dev: DevNum) -> Device:
        """What a device is now; may wait for a lock of its driver, so not for the loop."""
        return self._identities.resolve(dev)

    def classify(self, dev: DevNum, resolved: Device | None = None) -> Known:
        """Resolve one device now and write its entry. What cannot be resolved is guarded, never free."""
        self._gone.discard(dev)
        device = replace(resolved or self._identities.resolve(dev), in_use=self._adopted.get(dev, ""))
        before = self.known.get(dev)
        if before is not None and self._in_use(dev):  # what is used of it now was taken before it lost its paths
            resources = tuple(sorted({*device.resources, *before.device.resources}))
            device = replace(device, resources=resources, aliases=device.aliases or before.device.aliases)
        facts = Facts(self.seen_by(device), device.problem)
        known = Known(device, guards(self._policy(), device, facts), facts)
        self.known[dev] = known
        self._write(known)
        return known

    def forget(self, dev: DevNum) -> None:
        """The device is gone from sysfs. As long as something still has it open, its uses go on to count."""
        self._adopted.pop(dev, None)
        if not self._in_use(dev):
            self.known.pop(dev, None)
        else:
            self._gone.add(dev)
        self._tables.guard.delete(dev.to_kernel())

    def _guarded_by_table(self, dev: DevNum) -> bool:
        entry = self._tables.guard.get(dev.to_kernel())
        return entry is not None and entry.state != State.UNGUARDED

    def _in_use(self, dev: DevNum) -> bool:
        counts = self._tables.ledger.get(dev.to_kernel())
        return dev in self._adopted or (counts is not None and (counts.uses > 0 or counts.inflight > 0))

    def seen_by(self, device: Device) -> frozenset[str]:
        """The other nodes that see any LUN of the device."""
        if self._seen_by is None:  # never told: any LUN that has a name of its own may be somebody else's too
            return frozenset({"?"} if any(not is_node_only(r.lun) for r in device.resources) else ())
        return frozenset(node for r in device.resources for node in self._seen_by.get(r.lun, ()))

    def seen_unknown(self) -> bool:
        """True until it is known, from the store or from before, what the other nodes see."""
        return self._seen_by is None

    def seen(self) -> Mapping[str, frozenset[str]]:
        """LUN -> the other nodes that see it."""
        return self._seen_by or {}

    def set_seen_by(self, seen: Mapping[str, frozenset[str]]) -> bool:
        """What the other nodes publish; a LUN that turns out to be multi-attached is guarded. True if it changed."""
        if seen == self._seen_by:
            return False
        self._seen_by = dict(seen)
        for dev in list(self.known):
            self.classify(dev)
        return True

    def set_grips(self, grips: Mapping[ResourceId, Grip], elsewhere: frozenset[ResourceId]) -> None:
        """What this node holds and what it knows others hold; writes every entry that this changes."""
        if (dict(grips), elsewhere) == (self._grips, self._elsewhere):
            return
        changed = {r.lun for r in set(grips) | set(self._grips) | elsewhere | self._elsewhere}
        self._grips, self._elsewhere = dict(grips), elsewhere
        for known in self.known.values():
            if any(r.lun in changed for r in known.device.resources):
                self._write(known)

    def set_double(self, double: Mapping[ResourceId, str]) -> None:
        """What is in use on two nodes, and a sentence each: nothing new may begin on it, here neither."""
        changed = {r.lun for r in set(double) ^ set(self._double)}
        self._double = dict(double)
        for known in self.known.values():
            if any(r.lun in changed for r in known.device.resources):
                self._write(known)

    def double(self, device: Device) -> str:
        """Why nothing new may begin on a device that two nodes use, or ""."""
        return next((s for r, s in self._double.items() if any(r.meets(own) for own in device.resources)), "")

    def note_use(self, dev: DevNum, sentence: str) -> None:
        """Remember a use that began before enforcement did ("mounted at /srv"), or that it ended ("")."""
        if sentence:
            self._adopted[dev] = sentence
        else:
            self._adopted.pop(dev, None)
        if dev in self.known:
            self.classify(dev)

    def used_uncounted(self, devices: Iterable[DevNum]) -> bool:
        """True if one of them was in use, uncounted, when the whole machine was last looked at."""
        return any(dev in self.known and self.known[dev].device.in_use for dev in devices)

    def lost(self) -> list[DevNum]:
        """Multipath maps whose LUN nobody can tell: their paths had gone before this daemon began."""
        unknown = [dev for dev, k in self.known.items() if k.guarding.guarded and not k.device.resources]
        return [dev for dev in unknown if self._identities.is_multipath(dev)]

    def on_lun(self, lun: str) -> list[Device]:
        """All devices that lie on a LUN, whole disks first."""
        found = [k.device for k in self.known.values() if any(r.lun == lun for r in k.device.resources)]
        return sorted(found, key=lambda d: (len(d.below), d.dev))

    def counted_for(self, resource: ResourceId) -> list[DevNum]:
        """Devices whose uses keep the lease of ``resource``."""
        return [
            dev
            for dev, known in self.known.items()
            if any(most_specific(self._grips, r) == resource for r in known.device.resources)
        ]

    def carries(self, dev: DevNum) -> bool:
        """True if all that holds a device are multipath maps, or pieces of one: that is no use of it.

        Looked at now, for no event of a path tells that a map took it; so not for the loop.
        """
        return self._identities.carries(dev)

    def use_of(self, dev: DevNum, used: Usage) -> str:
        """What a look at the whole machine has found of a device, in one clause, or "". Not for the loop either."""
        return (replace(used, holders=()) if used.holders and self.carries(dev) else used).sentence()

    def map_of(self, table: DmTable) -> Device | None:
        """The map that a table is for, as it is known, or None if it is not there before its first table."""
        dev = table.dev or self._identities.dm_device(name=table.name, uuid=table.uuid)
        known = self.known.get(dev) if dev is not None else None
        return known.device if known is not None else None

    def expect_table(self, device: Device | None) -> None:
        """A table is about to be loaded: what its map was says nothing of what it will be."""
        known = self.known.get(device.dev) if device is not None else None
        if known is not None and not known.guarding.guarded and not known.device.system:
            self._tables.guard.delete(known.device.dev.to_kernel())

    def luns(self) -> frozenset[str]:
        """All LUNs that this node sees and that could be seen by another."""
        named = (r.lun for k in self.known.values() if not k.device.system for r in k.device.resources)
        return frozenset(lun for lun in named if not is_node_only(lun))

    def entry(self, known: Known) -> abi.Guard:
        """The guard table's entry of a device as everything stands now."""
        guarding = known.guarding
        if not guarding.guarded and not (known.device.system and self._closing(known)):
            return abi.Guard(state=State.UNGUARDED, generation=self._policy().generation)
        flags = (GuardFlag.AUDIT if guarding.audit else GuardFlag(0)) | (
            GuardFlag.DEADLINE if self._deadline else GuardFlag(0)
        )
        entry = abi.Guard(flags=flags, error=-(guarding.errno or 16), generation=self._policy().generation)
        wanted = known.device.resources
        held = [most_specific(self._grips, r) for r in wanted]
        grips = [self._grips[h] for h in held if h is not None]
        if any(mine.meets(other) for mine in wanted for other in self._elsewhere):
            entry.state = State.ELSEWHERE
        elif not wanted or known.device.problem or len(grips) < len(wanted) or any(g.stale for g in grips):
            entry.state = State.FREE
        elif any(grip.hold is Hold.CLOSING for grip in grips):
            entry.state = State.CLOSING
        elif self.double(known.device):
            entry.state = State.FREE  # so that whoever comes asks, and hears of it
        else:
            entry.state = State.LIVE
            entry.token = max(grip.token for grip in grips)
            entry.flags |= GuardFlag.CLUSTER if any(grip.shared for grip in grips) else 0
        return entry

    def _closing(self, known: Known) -> bool:
        """A lease of it is just being given back (swap that was guarded before it was used): nothing may start."""
        held = (most_specific(self._grips, r) for r in known.device.resources)
        return any(h is not None and self._grips[h].hold is Hold.CLOSING for h in held)

    def _write(self, known: Known) -> None:
        if known.device.dev in self._gone:
            return  # whatever gets this number next is another device: it is born unknown
        if known.device.name.startswith("dm-") and not known.device.size_bytes and not known.device.below:
            self._tables.guard.delete(known.device.dev.to_kernel())  # a map without a table is nothing yet
            return
        self._tables.guard.put(known.device.dev.to_kernel(), self.entry(known))
