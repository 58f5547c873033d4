# SPDX-License-Identifier: GPL-2.0-or-later
"""On which LUNs this boot may have reserved something, so that what is older there can be told from what is ours.

The storage keeps a registration for ever, also that of a boot that died with it; the store forgets such a boot's lease
without asking the storage, which may not even be there yet. What such a boot had under way died with it, so nothing is
lost with its registration. Of this boot that cannot be said: a daemon that starts anew may find that its leases went to
another node, and its late writes are still held back by what that node finds registered here. So what was once looked
at in this boot is written down, in a directory that no boot survives and a daemon does.
"""

from __future__ import annotations

import logging
import time
from pathlib import Path

log = logging.getLogger(__name__)
FILE = "reserved-luns"  # a line each: boot id, name of the LUN
AGAIN_S = 60.0  # until a storage is asked again that did not answer


class Earlier:
    """Which LUNs may have registrations of earlier boots, and nothing of this one. ``place``: a directory."""

    def __init__(self, place: Path, boot_id: str) -> None:
        self._file, self._boot_id = place / FILE, boot_id
        self._over: set[str] | None = None
        self._readable = True
        self._not_before: dict[str, float] = {}

    def due(self, lun: str) -> bool:
        """True if what is registered there by this node is of earlier boots, and should be ended now."""
        return lun not in self._known() and self._readable and time.monotonic() >= self._not_before.get(lun, 0.0)

    def may_be_ours(self, lun: str) -> bool:
        """True if this boot has registered something there, as far as is known."""
        return lun in self._known() or not self._readable

    def later(self, lun: str) -> None:
        """The storage did not answer."""
        self._not_before[lun] = time.monotonic() + AGAIN_S

    def over(self, lun: str) -> None:
        """From now on what is registered there may be ours. Raises OSError: then nothing may be registered."""
        if lun in self._known():
            return
        try:
            with self._file.open("a") as file:
                file.write(f"\n{self._boot_id} {lun}\n")  # whatever was left of a line that did not fit
        except OSError as error:
            what = f"that it is reserved cannot be written to {self._file}: {error.strerror}"
            raise OSError(error.errno, what) from None
        self._known().add(lun)

    def _known(self) -> set[str]:
        if self._over is None:
            try:
                lines = self._file.read_text().splitlines()
            except FileNotFoundError:
                lines = []
            except OSError as error:
                log.error("what earlier boots have reserved is left alone: %s", error)
                lines, self._readable = [], False
            words = (line.partition(" ") for line in lines)
            self._over = {lun for boot_id, _, lun in words if boot_id == self._boot_id}
        return self._over
