# SPDX-License-Identifier: GPL-2.0-or-later
"""Is enforcerd making progress? Read the probe attribute through its own upcall mount: the very loop that answers
asks must answer it. If it does not, callers sleep in the kernel; so the connection is aborted, which gives each of
them the fail-mode answer, and the daemon is ended and started again.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import re
import signal
import subprocess
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from enforcer.kernel.upcall import PROBE

log = logging.getLogger(__name__)


class Progress:
    """Probes in a thread of its own, because a probe of a hung daemon hangs too."""

    def __init__(self, run_dir: Path, restart: Sequence[str], timeout_s: float) -> None:
        self._run_dir, self._restart, self._timeout_s = run_dir, list(restart), timeout_s
        self._answered = threading.Event()
        self._asking: threading.Thread | None = None
        self.restarts = 0
        self._served_by = 0  # pid of the daemon that has answered before

    def check(self) -> bool:
        """One probe; True if it was answered in time or there is no daemon to ask. Blocks up to the time-out."""
        pid = self.daemon_pid()
        if self._asking is None or not self._asking.is_alive():
            self._answered.clear()
            self._asking = threading.Thread(target=self._ask, name="probe", daemon=True)
            self._asking.start()
        if self._answered.wait(self._timeout_s):
            return True
        return pid != self.daemon_pid() or not self._running()  # it was stopped, or another one has begun

    def _ask(self) -> None:
        """An error is no answer once this daemon has given one: its connection is gone, and it serves nobody."""
        pid = self.daemon_pid()
        try:
            os.getxattr(self._run_dir / "upcall" / "anchor", PROBE)
            self._served_by = pid
        except OSError:
            if pid and pid == self._served_by and self._running():
                return
        self._answered.set()

    def _running(self) -> bool:
        """True if somebody holds the daemon's lock (flock(2))."""
        try:
            descriptor = os.open(self._run_dir / "enforcerd.lock", os.O_RDWR | os.O_CLOEXEC)
        except OSError:
            return False
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        else:
            return False
        finally:
            os.close(descriptor)

    def daemon_pid(self) -> int:
        """The pid in enforcerd's lock file, 0 if there is none."""
        try:
            return int((self._run_dir / "enforcerd.lock").read_text().strip() or 0)
        except (OSError, ValueError):
            return 0

    def rescue(self) -> None:
        """Abort the upcall connection, end the daemon, start it again."""
        pid = self.daemon_pid()
        log.critical("enforcerd (pid %d) makes no progress: its upcall connection is aborted and it is restarted", pid)
        device = _mount_device(self._run_dir / "upcall")
        if device is not None:
            abort = Path(f"/sys/fs/fuse/connections/{os.minor(device)}/abort")
            try:
                abort.write_text("1")
            except OSError as error:
                log.error("%s: %s", abort, error)
        if pid:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                descriptor = os.pidfd_open(pid)
                try:
                    if (
                        b"enforcerd" in Path(f"/proc/{pid}/cmdline").read_bytes()
                        or b"enforcer.daemon" in Path(f"/proc/{pid}/cmdline").read_bytes()
                    ):
                        signal.pidfd_send_signal(descriptor, signal.SIGKILL)
                except FileNotFoundError:
                    pass
                finally:
                    os.close(descriptor)
        time.sleep(0.2)
        self.restarts += 1
        if self._restart:
            try:
                subprocess.Popen(self._restart, stdin=subprocess.DEVNULL, start_new_session=True)
            except OSError as error:
                log.error("enforcerd cannot be restarted: %s: %s", self._restart[0], error)


def _unescaped(field: bytes) -> bytes:
    """Spaces and the like stand as ``\\040`` in mountinfo (show_mnt_opts, fs/proc_namespace.c)."""
    return re.sub(rb"\\([0-7]{3})", lambda octal: bytes([int(octal[1], 8) & 0xFF]), field)


def _mount_device(where: Path) -> int | None:
    """Device number of the mount at ``where`` without asking the file system itself (proc_pid_mountinfo(5))."""
    wanted = os.fsencode(where)
    found = None
    for line in Path("/proc/self/mountinfo").read_bytes().splitlines():
        fields = line.split()
        if len(fields) > 4 and _unescaped(fields[4]) == wanted:
            major, _, minor = fields[2].partition(b":")
            found = os.makedev(int(major), int(minor))
    return found
