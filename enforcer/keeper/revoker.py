# SPDX-License-Identifier: GPL-2.0-or-later
"""Is enforcer-revoker at work? One that hangs is ended, so that its unit starts another; one that is dead, its unit
starts by itself. Meanwhile nothing more is promised, because the daemon reads the same sign of life."""

from __future__ import annotations

import logging
import os
import signal
from pathlib import Path

from enforcer.lost.files import read_beat
from enforcer.model.clock import boot_ns

log = logging.getLogger(__name__)


def end_if_hung(run_dir: Path, proc: Path = Path("/proc")) -> bool:
    """SIGKILL to the revoker that gave the last sign of life, if that is too old; True if it was sent."""
    beat = read_beat(run_dir)
    if beat is None or not beat.silent(boot_ns()):
        return False
    try:
        descriptor = os.pidfd_open(beat.pid)
    except OSError:
        return False  # it is dead
    try:
        if b"enforcer.revoker" not in (proc / str(beat.pid) / "cmdline").read_bytes().replace(b"-", b"."):
            return False  # the number is another process's by now
        log.critical("enforcer-revoker (pid %d) gives no sign of life: it is ended", beat.pid)
        signal.pidfd_send_signal(descriptor, signal.SIGKILL)
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return True
