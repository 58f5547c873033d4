# SPDX-License-Identifier: GPL-2.0-or-later
"""When the watchdog is fed: a thread of its own, which waits for no store, no disk and no log.

It is fed before the last moment that ``model/deadlines.py`` allows, whatever is in use; after that only if nothing that
is guarded is in use here: a node that can write to nothing need not die for it.

**That look is sure.** It is taken after the kernel's deadline has passed, which is never later than the last meal. From
then on the guard lets nothing begin, and what it let through before was counted before it was judged (bpf/guard.h,
gate.h). So a count of zero stays zero until the deadline is moved, which only this process does, after a renewal. An
orderly end makes the deadline pass first, for the same reason.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

from enforcer.keeper.watchdog import NoWatchdog, Watchdog, programmed_s
from enforcer.kernel.abi import GuardFlag, State
from enforcer.kernel.tables import Tables
from enforcer.model.clock import boot_ns
from enforcer.model.resource import DevNum

MEALS = 5  # within the time-out that the device was told


def may_feed(now_ns: int, last_pet_ns: int, *, refused: bool, in_use: Callable[[], bool]) -> bool:
    """Whether a meal that begins now is right. ``refused``: what should have cut us off has failed."""
    return (now_ns < last_pet_ns and not refused) or not in_use()


def used(tables: Tables, cut: Callable[[], frozenset[DevNum]] = frozenset) -> bool:
    """True unless nothing that is guarded can be written to from here. ``cut()``: devices that are cut off for sure.

    A lease that is live counts although nothing is counted: what began before the kernel counted is not.
    """
    off = cut()
    for key in tables.guard.each_key():
        entry, counts = tables.guard.get(key), tables.ledger.get(key)
        if entry is None or entry.state == State.UNGUARDED or DevNum.from_kernel(int.from_bytes(key, "little")) in off:
            continue
        if entry.flags & GuardFlag.AUDIT:
            continue
        if entry.state == State.LIVE:
            return True
        if counts is not None and (counts.uses > 0 or counts.inflight > 0):
            return True
    return False


class Feeder:
    """Opens the device as soon as it may be fed, and feeds it. What it has to say is read from ``trouble``."""

    def __init__(
        self,
        path: str | Path,
        watchdog_s: float,
        *,
        in_use: Callable[[], bool],
        refused: Callable[[], bool],
        opens: Callable[..., Watchdog],
        clock_ns: Callable[[], int] = boot_ns,
    ) -> None:
        """``watchdog_s``: W. ``in_use()`` may raise OSError or EnforcerError, which counts as use."""
        self._path, self._watchdog_s, self._in_use, self._refused = path, watchdog_s, in_use, refused
        self._opens, self._clock_ns = opens, clock_ns
        self._device: Watchdog | None = None
        self._ends = threading.Event()
        self._thread: threading.Thread | None = None
        self.last_pet_ns = 0  # boot clock; written by the keeper after each renewal
        self.trouble = "it was not opened yet"

    @property
    def armed(self) -> bool:
        """True while the device is ours and is fed: only then it may be promised."""
        return self._device is not None and not self.trouble

    def start(self) -> None:
        """Begin; returns at once."""
        self._thread = threading.Thread(target=self._run, name="watchdog", daemon=True)
        self._thread.start()

    def once(self) -> None:
        """One look, and a meal if it is right. Raises nothing."""
        try:
            if not may_feed(self._clock_ns(), self.last_pet_ns, refused=self._refused(), in_use=self._busy):
                return
            if self._device is None:  # not before it may be fed: to set its time-out is a meal
                self._device = self._opens(self._path, self._watchdog_s, idle=not self._busy())
            self._device.feed()
            self.trouble = ""
        except NoWatchdog as error:
            self.trouble = f"{error}; {error.hint}" if error.hint else str(error)
        except OSError as error:
            self.trouble = f"{self._path} takes no keep-alive: {error.strerror}"

    def end(self) -> bool:
        """No more meals. It is stopped if nothing is in use: the kernel's deadline must have passed already.

        True if it does not run on.
        """
        self._ends.set()
        if self._thread is not None:
            self._thread.join()
        device, self._device = self._device, None
        if device is None:
            return False
        if self._busy():
            device.leave()
            return False
        try:
            device.stop()
        except OSError as error:
            self.trouble = f"{self._path}: {error.strerror}"
            return False
        return True

    def _busy(self) -> bool:
        try:
            return self._in_use()
        except Exception:  # a doubt is a use
            return True

    def _run(self) -> None:
        while not self._ends.wait(programmed_s(self._watchdog_s) / MEALS):
            self.once()


__all__ = ["Feeder", "may_feed", "used"]
