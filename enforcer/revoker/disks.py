# SPDX-License-Identifier: GPL-2.0-or-later
"""One SCSI disk that can be cut off: its state set to offline, and the proof that nothing is on its way any more.

Files of sysfs are opened beforehand. They pin no filesystem and no device; of a disk that was removed they answer
ENODEV, and then its name is looked up once more, because the same way may be back under it.

After the state says offline, scsi_prep_state_check() fails every command before the driver sees it. What the driver
had by then still holds its budget, which ``device_busy`` counts (scsi_device_busy(), drivers/scsi): a command that
was looked at before the state changed holds one too. ``inflight`` is of the block layer, and does not count flushes.
Each must be zero once after that, not for ever: a swap that goes on to fail is counted as well.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")
OFFLINE = b"offline\n"  # store_state_field() wants the newline
COUNTS = ("device/device_busy", "inflight")
_GONE = frozenset({errno.ENODEV, errno.ENOENT, errno.ENXIO})


class Disk:
    """A disk by its kernel name. Methods may wait for the driver: not for the thread that keeps the time."""

    def __init__(self, name: str, root: Path = Path("/")) -> None:
        """Open what is there; OSError for a disk that is, and cannot be cut."""
        self.name = name
        self._block = root / "sys/block" / name
        self._files: dict[str, int] = {}
        self._open()

    def close(self) -> None:
        """Let go of the files."""
        for descriptor in self._files.values():
            os.close(descriptor)
        self._files = {}

    def _open(self) -> None:
        self.close()
        if not self._block.exists():
            return
        try:
            self._files["state"] = os.open(self._block / "device/state", os.O_RDWR | os.O_CLOEXEC)
            for name in COUNTS:
                self._files[name] = os.open(self._block / name, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            self.close()
            raise

    @property
    def gone(self) -> bool:
        """It is not there any more."""
        return not self._files

    def cut(self) -> None:
        """No command passes from now on. Raises OSError: EINVAL where the transport itself has stopped it."""
        self._return()
        for last in (False, True):
            try:
                if not self.gone:
                    os.pwrite(self._files["state"], OFFLINE, 0)
                return
            except OSError as error:
                if error.errno not in _GONE or last:
                    raise
                self._open()

    def off(self) -> bool:
        """True if its state says so, or it is not there any more. Raises OSError."""
        return self._look(lambda: self.gone or self._read("state") == OFFLINE.decode().strip())

    def _return(self) -> None:
        """What was gone may be back under its name, and is running then."""
        if self.gone:
            self._open()

    def busy(self) -> frozenset[str]:
        """Which of the counts COUNTS are not zero at this moment. Raises OSError."""
        return self._look(self._busy)

    def _busy(self) -> frozenset[str]:
        return frozenset(n for n in COUNTS if not self.gone and any(map(int, self._read(n).split())))

    def _look(self, look: Callable[[], T]) -> T:
        self._return()
        try:
            return look()
        except OSError as error:
            if error.errno not in _GONE:
                raise
        self._open()
        return look()

    def _read(self, name: str) -> str:
        return os.pread(self._files[name], 128, 0).decode("ascii", "replace").strip()
