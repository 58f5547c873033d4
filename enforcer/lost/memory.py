# SPDX-License-Identifier: GPL-2.0-or-later
"""A process that must act while disks hang keeps all of itself in memory (mlockall(2))."""

from __future__ import annotations

import ctypes
import logging
import os

_MCL_CURRENT, _MCL_FUTURE = 1, 2
STACK_BYTES = 256 << 10  # of a thread; glibc's 8 MiB would be locked, and so taken, whole


def lock_memory(log: logging.Logger) -> None:
    """Lock what is there and what will be. Says so if it cannot."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mlockall(_MCL_CURRENT | _MCL_FUTURE):
        log.warning("memory could not be locked: %s", os.strerror(ctypes.get_errno()))
