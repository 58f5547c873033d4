# SPDX-License-Identifier: GPL-2.0-or-later
"""When the session is not renewed in time: filesystems down, disks off, proof; or else the machine is reset.

The thread that keeps the time touches no device. What may hang is done by workers that exist from the start, so that
nothing has to be allocated when memory may have to be swapped to the very disk that is cut. Whatever a worker cannot
prove by the end of the budget is not proven, and then a reset keeps the promise.

From the deadline on the devices stay cut until a session is live again; whatever is promised meanwhile, or comes back
by itself, is cut too. Nothing is put back here: that is for enforcerd, once nothing uses the device.
"""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from enforcer.lost import files
from enforcer.lost.files import BEAT_NS, Beat, Deadline, Promise
from enforcer.model.clock import boot_ns
from enforcer.revoker import filesystems
from enforcer.revoker.disks import COUNTS, Disk

log = logging.getLogger("enforcer-revoker")
WORKERS = 8
TICK_S = 0.1
SETTLE_S = 0.01  # between looks at what is in flight
LATE_NS = 1_000_000_000  # what a cut that begins late, or is looked at again, gets at least
GRACE = 0.25  # part of the budget that filesystems get before the disks go
AGAIN_NS = 1_000_000_000  # how often a disk is looked at that was cut


class Workers:
    """Threads for what may hang. One that hangs is gone for good; the time keeper does not wait for it."""

    def __init__(self, count: int = WORKERS) -> None:
        self._jobs: queue.SimpleQueue[Callable[[], object]] = queue.SimpleQueue()
        for number in range(count):
            threading.Thread(target=self._work, name=f"cut-{number}", daemon=True).start()

    def _work(self) -> None:
        while True:
            job = self._jobs.get()
            try:
                job()
            except Exception as error:  # the proof is missing then, which is what counts
                log.error("%s", error)

    def start(self, job: Callable[[], object]) -> threading.Event:
        """Do it beside the caller; the event is set when it has ended without an error."""
        done = threading.Event()

        def run() -> None:
            job()
            done.set()

        self._jobs.put(run)
        return done


class Revoker:
    """``reset(why)`` must not return on a real machine. ``turn()`` is one look; the caller repeats it for ever."""

    def __init__(
        self,
        run_dir: Path,
        reset: Callable[[str], None],
        *,
        say: Callable[[str], None] = log.critical,
        root: Path = Path("/"),
    ) -> None:
        self._run_dir, self._reset, self._say, self._root = run_dir, reset, say, root
        self._workers, self._shutdowns = Workers(), Workers()  # a filesystem that hangs must not keep a disk on
        self._deadline: Deadline | None = None
        self._promises: tuple[Promise, ...] = ()
        self._disks: dict[str, Disk] = {}
        self._signs: dict[str, tuple[int, int, int]] = {}
        before = files.read_beat(run_dir)  # of the one before us in this boot
        # disk -> when it was last seen to be silent
        self._cut: dict[str, int] = dict.fromkeys(before.cut, 0) if before is not None else {}
        self._confirmed_ns = self._beat_ns = 0
        self._failed = self._unknown = ""

    @property
    def due_ns(self) -> int | None:
        """When the cut has to begin; None if nothing is promised. A promise without a deadline is overdue."""
        if not self._promises:
            return None
        return self._deadline.stop_ns if self._deadline is not None else 0

    def pause_s(self) -> float:
        """How long to wait before the next turn."""
        due_ns, now = self.due_ns, boot_ns()
        left_s = (due_ns - now) / 1e9 if due_ns is not None and due_ns > now else TICK_S
        return min(TICK_S, left_s)

    def turn(self) -> None:
        """Learn what has changed, give a sign of life, and cut if it is time."""
        self._learn()
        self._beat()
        due_ns = self.due_ns
        if due_ns is None or boot_ns() < due_ns:
            self._forget_what_is_back()
            return
        if self._unknown:
            self.give_up(self._unknown)
        missing = [disk for disk in self._disks.values() if boot_ns() - self._cut.get(disk.name, 0) > AGAIN_NS]
        if missing:
            self._silence(missing, due_ns)

    def may_end(self, *, keeper_runs: bool) -> bool:
        """True if nobody relies on this process: nothing is promised, all of it is cut, or the keeper goes on renewing.

        Then another one can be started in time. At shutdown the keeper has ended before, and what could not be
        unmounted may be written to for longer than the session lasts.
        """
        return keeper_runs or not self._promises or not self._disks.keys() - self._cut.keys()

    def overdue(self) -> bool:
        """True if the time for the cut is over and it is not proven."""
        due_ns = self.due_ns
        if due_ns is None or boot_ns() < due_ns + self._budget_ns:
            return False
        return bool(self._unknown or self._disks.keys() - self._cut.keys())

    def give_up(self, why: str) -> None:
        """The promise cannot be kept in any other way."""
        self._fail(f"it is not certain that nothing more is written ({why}): this machine is reset")
        self._reset(self._failed)

    @property
    def _budget_ns(self) -> int:
        return int((self._deadline.cut_s if self._deadline is not None else 0.0) * 1e9)

    def _learn(self) -> None:
        # what cannot be read ends the turn without a sign of life, and what was told last holds
        if sign := self._changed(files.DEADLINE):
            self._deadline = files.read_deadline(self._run_dir)
            self._signs[files.DEADLINE] = sign
        if sign := self._changed(files.PROMISED):
            self._promises = files.read_promises(self._run_dir)
            self._signs[files.PROMISED] = sign
        wanted = {name for promise in self._promises for name in promise.lowest}
        self._unknown = ""
        for name in sorted((wanted | self._cut.keys()) - self._disks.keys()):
            try:
                self._disks[name] = Disk(name, self._root)
            except OSError as error:
                self._unknown = f"{name}: {error}"
        for name in self._disks.keys() - wanted - self._cut.keys():
            self._disks.pop(name).close()

    def _changed(self, name: str) -> tuple[int, int, int] | None:
        """What tells the file of now from those before, or None if it is the one that was read."""
        try:
            found = (self._run_dir / name).stat()
        except FileNotFoundError:
            return None
        sign = (found.st_ino, found.st_mtime_ns, found.st_size)
        return sign if self._signs.get(name) != sign else None

    def _beat(self, *, now: bool = False) -> None:
        if not now and boot_ns() - self._beat_ns < BEAT_NS:
            return
        self._beat_ns = boot_ns()
        try:
            cut = tuple(sorted(self._cut))
            beat = Beat(self._beat_ns, os.getpid(), cut, self._confirmed_ns, self._failed, self._unknown)
            files.write_beat(self._run_dir, beat)
        except OSError as error:
            log.error("no sign of life could be given: %s", error)

    def _fail(self, why: str) -> None:
        if why != self._failed:
            self._failed = why
            self._say(why)
            self._beat(now=True)

    def _silence(self, disks: list[Disk], due_ns: int) -> None:
        """Cut these disks, prove it, or reset."""
        end_ns = max(due_ns + self._budget_ns, boot_ns() + LATE_NS)
        first = [disk.name for disk in disks if disk.name not in self._cut]
        if first:
            late_s = (boot_ns() - due_ns) / 1e9
            self._say(f"the session was not renewed: {' '.join(first)} are cut off, {late_s:.2f} s after the deadline")
            self._shut_down(first, boot_ns() + int(self._budget_ns * GRACE))
        proven = {disk.name: self._workers.start(partial(self._prove, disk, end_ns)) for disk in disks}
        for done in proven.values():
            self._await(done, end_ns)
        if open_ := [name for name, done in proven.items() if not done.is_set()]:
            self.give_up(f"{' '.join(open_)}: not silent within {self._budget_ns / 1e9:g} s")
            return
        self._cut.update(dict.fromkeys(proven, boot_ns()))
        if first:
            self._confirmed_ns = boot_ns()
            took_s = (self._confirmed_ns - due_ns) / 1e9
            self._say(f"{' '.join(first)}: nothing is written any more, {took_s:.2f} s after the deadline")
            self._beat(now=True)

    def _prove(self, disk: Disk, end_ns: int) -> None:
        """Off, and everything from before has ended. Ends with an error if the time is over."""
        if disk.name in self._cut and disk.off():
            return  # as it was proven
        disk.cut()
        waiting = frozenset(COUNTS)
        while waiting := waiting & disk.busy():
            if boot_ns() > end_ns:
                raise TimeoutError(f"{disk.name} has requests in flight")
            time.sleep(SETTLE_S)
        if not disk.off():
            raise TimeoutError(f"{disk.name} did not stay offline")

    def _shut_down(self, disks: list[str], end_ns: int) -> None:
        """Filesystems on these disks, as many as answer before ``end_ns``."""
        devs = [promise.dev for promise in self._promises if set(promise.lowest) & set(disks)]
        ended: queue.SimpleQueue[threading.Event] = queue.SimpleQueue()

        def each() -> None:
            for dev, path in filesystems.reachable(devs, self._root):
                ended.put(self._shutdowns.start(partial(filesystems.shut_down, dev, path)))

        looked = self._shutdowns.start(each)
        self._await(looked, end_ns)
        while not ended.empty():
            self._await(ended.get(), end_ns)

    def _await(self, done: threading.Event, end_ns: int) -> None:
        """The keeper ends a revoker that gives no sign of life: not in the middle of a cut."""
        while not done.is_set() and (left_ns := end_ns - boot_ns()) > 0:
            done.wait(min(TICK_S, left_ns / 1e9))
            self._beat()

    def _forget_what_is_back(self) -> None:
        """The session lives: what enforcerd has put back is not cut any more."""
        for name in list(self._cut):
            with contextlib.suppress(OSError):
                if self._disks[name].gone or not self._disks[name].off():
                    del self._cut[name]
