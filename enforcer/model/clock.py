# SPDX-License-Identifier: GPL-2.0-or-later
"""The one clock of deadlines: it counts suspend, as bpf_ktime_get_boot_ns() does, and nobody can set it."""

from __future__ import annotations

import time


def boot_ns() -> int:
    """Nanoseconds of CLOCK_BOOTTIME (clock_gettime(2))."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)
