# SPDX-License-Identifier: GPL-2.0-or-later
"""Which of the active swap was switched on on a device that was guarded then: a use like any other, under a lease.

All other swap is the node's own, and unguards what it lies on with everything below. The guard's table tells both apart
at first. But an entry there ends with the rule that it comes from, and the table with ``enforcerd --detach``, while the
swap goes on. So what was seen guarded once is remembered until it is switched off: in the run directory, which no boot
survives and a daemon does.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

from enforcer.model.resource import DevNum

log = logging.getLogger(__name__)
FILE = "guarded-swap"  # a line each: MAJOR:MINOR


class GuardedSwap:
    """Remembers it. ``in_table(dev)``: whether the guard's table has the device as guarded now."""

    def __init__(self, in_table: Callable[[DevNum], bool], run_dir: Path | None = None) -> None:
        """Without ``run_dir`` it is remembered as long as this object."""
        self._in_table, self._file = in_table, run_dir / FILE if run_dir else None
        self._known: frozenset[DevNum] | None = None
        self._all = False  # what was remembered cannot be read
        self._seen: set[DevNum] = set()

    def was_guarded(self, dev: DevNum) -> bool:
        """True if active swap on this device is none of the node's own."""
        before = self._read()
        if dev in before or self._all or self._in_table(dev):
            self._seen.add(dev)
        return dev in self._seen

    def looked(self, *, at_everything: bool) -> None:
        """The look at all active swap is over: what was not asked about is off now, if nothing was left out."""
        before, seen = self._read(), frozenset(self._seen)
        self._seen.clear()
        now = seen if at_everything else seen | before
        if now != before:
            self._write(now)

    def _read(self) -> frozenset[DevNum]:
        if self._known is None:
            try:
                words = self._file.read_text().split() if self._file else []
                self._known = frozenset(DevNum.parse(word) for word in words)
            except FileNotFoundError:
                self._known = frozenset()
            except (OSError, ValueError) as error:
                log.error("%s cannot be read (%s): no swap is taken for the node's own", self._file, error)
                self._known, self._all = frozenset(), True
        return self._known

    def _write(self, seen: frozenset[DevNum]) -> None:
        self._known = seen
        if self._file is None:
            return
        try:
            draft = self._file.with_suffix(".new")
            draft.write_text("".join(f"{dev}\n" for dev in sorted(seen)))
            draft.rename(self._file)
        except OSError as error:
            log.error("%s cannot be written (%s): swap may unguard its disk after a restart", self._file, error)
