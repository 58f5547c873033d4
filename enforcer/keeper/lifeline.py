# SPDX-License-Identifier: GPL-2.0-or-later
"""The keeper's hold on its watchdog: what it is told of the session, the gate and the revoker, and its orderly end."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

from enforcer.keeper import watchdog
from enforcer.keeper.feeding import Feeder, used
from enforcer.kernel import abi
from enforcer.kernel.tables import Tables, open_pinned
from enforcer.lost.files import read_beat, read_deadline, read_promises, read_resets
from enforcer.model.clock import boot_ns
from enforcer.model.deadlines import SECOND_NS
from enforcer.model.errors import EnforcerError
from enforcer.model.guarantee import Tiers
from enforcer.model.resource import DevNum

log = logging.getLogger("enforcer-keeper")


class Sight:
    """What the watchdog's thread looks at: the kernel's tables and two files in memory. Nothing of it is shared."""

    def __init__(self, pins: Path, run_dir: Path) -> None:
        self._pins, self._run_dir = pins, run_dir
        self._tables: Tables | None = None
        self._pinned_as = 0

    def tables(self) -> Tables | None:
        """Those of the gate that is in force; None if there is none. Raises OSError, KernelError."""
        try:
            inode = (self._pins / "maps" / "guard").stat().st_ino
        except FileNotFoundError:
            return None
        if self._tables is None or inode != self._pinned_as:
            self._tables, self._pinned_as = open_pinned(self._pins), inode
        return self._tables

    def in_use(self) -> bool:
        """True unless nothing guarded is in use here. Raises OSError, EnforcerError.

        A gate that is gone may have left uses behind; where there never was one, nothing was ever permitted. What was
        promised to be reset may be in use whatever the tables say.
        """
        if read_resets(self._run_dir):
            return True
        tables = self.tables()
        return used(tables, self._cut) if tables is not None else self._tables is not None

    def refused(self) -> bool:
        """True if the revoker says that its cut could not be confirmed."""
        beat = read_beat(self._run_dir)
        return beat is not None and bool(beat.failed)

    def _cut(self) -> frozenset[DevNum]:
        """Devices below which every disk is cut off, as the revoker has confirmed. A doubt is none."""
        beat = read_beat(self._run_dir)
        if beat is None or not beat.cut or beat.trouble(boot_ns()):
            return frozenset()
        try:
            promises = read_promises(self._run_dir)
        except (OSError, ValueError):
            return frozenset()
        off = {p.dev for p in promises if p.lowest and set(p.lowest) <= set(beat.cut)}
        return frozenset(DevNum(*map(int, dev.split(":"))) for dev in off)


class Lifeline:
    """No watchdog is one as well: then nothing of it is promised."""

    def __init__(self, path: str, tiers: Tiers, *, pins: Path, run_dir: Path) -> None:
        self._tiers, self._path, self._told = tiers, path, ""
        self._sight = Sight(pins, run_dir)
        self._feeder: Feeder | None = None
        if path and tiers.watchdog_s:
            self._feeder = Feeder(
                path,
                tiers.watchdog_s,
                in_use=self._sight.in_use,
                refused=self._sight.refused,
                opens=watchdog.opened,
            )
            self._feeder.last_pet_ns = _of_keeper_before_us(run_dir)

    @property
    def tiers(self) -> Tiers:
        """What may be promised now: the watchdog only while it is fed."""
        armed = self._feeder is not None and self._feeder.armed
        return self._tiers if armed else replace(self._tiers, watchdog_s=0.0)

    def start(self) -> None:
        """Begin to feed it."""
        if self._feeder is not None:
            self._feeder.once()
            self._feeder.start()
        elif self._path:
            log.warning("%s is not used: this machine may be paused with its clock (hypervisor_pauses)", self._path)

    def until(self, last_pet_ns: int | None) -> None:
        """A renewal, or the loss of the session, has moved the last moment at which it may be fed; None leaves it."""
        if self._feeder is not None and last_pet_ns is not None:
            self._feeder.last_pet_ns = last_pet_ns

    def tell(self) -> None:
        """What is wrong with it goes to the log, once: not from its own thread."""
        trouble = self._feeder.trouble if self._feeder is not None else ""
        if trouble != self._told:
            self._told = trouble
            log.error("watchdog: %s", trouble) if trouble else log.info("watchdog: %s is fed", self._path)

    def end(self) -> None:
        """Let nothing begin any more, then stop it if nothing is in use; else it runs on and so does the deadline."""
        if self._feeder is None:
            return
        try:
            tables = self._sight.tables()
            before = tables.deadline.get(0) if tables is not None else None
            if tables is not None and before is not None:
                tables.deadline.put(0, abi.Deadline(deadline_ns=0, renewed_ns=before.renewed_ns))
            stopped = self._feeder.end()
            if tables is not None and before is not None and not stopped:
                tables.deadline.put(0, before)
        except (EnforcerError, OSError) as error:
            log.error("watchdog: it was not stopped: %s", error)
            return
        if stopped:
            log.info("watchdog: stopped, nothing guarded is in use")
        else:
            log.warning("watchdog: something guarded is in use, so it runs on: start the keeper again at once")


def _of_keeper_before_us(run_dir: Path) -> int:
    """Until when that one would have fed it; 0 if it said nothing."""
    try:
        said = read_deadline(run_dir)
    except (OSError, ValueError):
        return 0
    return said.stop_ns + int(said.cut_s * SECOND_NS) if said is not None and said.stop_ns else 0
