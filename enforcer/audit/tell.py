# SPDX-License-Identifier: GPL-2.0-or-later
"""Tell the refused caller why, in one line on its own terminal.

mount(8) can only print what errno says, and EBUSY says "already mounted or mount point busy". So the line
goes to the caller's standard error, if that is a terminal. The process belongs to somebody else: it is held
by a descriptor of its /proc directory (a pid that was reused meanwhile gives ESRCH), its start time is
compared, and its fd 2 is looked at through O_PATH before it is opened: opening anything but a terminal
could arm a watchdog or wake a tape drive. The result is ignored: whoever does not read it can ask
``enforcer explain``.
"""

from __future__ import annotations

import os
import stat
from datetime import tzinfo
from pathlib import Path
from typing import Final

from enforcer.audit.sentence import sentence
from enforcer.audit.view import Record
from enforcer.model.escape import for_terminal

_PROC = Path("/proc")
_LIMIT = 640
# Documentation/admin-guide/devices.txt: tty and ttyS, USB ACM, pseudo terminals, USB and on-chip serial, hvc.
_TTY_MAJORS: Final = frozenset({4, 166, 188, 204, 229, *range(136, 144)})
_CONSOLE: Final = (5, 1)  # not the rest of major 5: /dev/ptmx would open a new terminal


def line(record: Record, zone: tzinfo | None = None) -> str:
    """What the caller reads: one line, escaped, ending in the command that tells more."""
    text = f"enforcer: {sentence(record, zone)}."
    if record.id:
        text += f" Event {record.id}: enforcer explain {record.id}"
    return for_terminal(text, _LIMIT)


def start_ticks(task: int, proc: Path = _PROC) -> int:
    """When a task began (field 22 of its stat), to be asked while it waits; 0 if it is gone."""
    try:
        return _start_ticks((proc / str(task) / "stat").read_bytes())
    except OSError:
        return 0


def tell(task: int, began: int, text: str, *, proc: Path = _PROC) -> bool:
    """Write one line to fd 2 of ``task`` (a pid or tid) if it is a terminal and the task began at ``began``.

    Never raises and never waits for output to drain; True if something was written. Opening a serial line
    may wait for its lock: call it from a worker thread.
    """
    try:
        directory = os.open(proc / str(task), os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        return _tell(directory, began, text)
    except OSError:
        return False
    finally:
        os.close(directory)


def _tell(directory: int, began: int, text: str) -> bool:
    fd = os.open("stat", os.O_RDONLY | os.O_CLOEXEC, dir_fd=directory)
    try:
        if not began or _start_ticks(os.read(fd, 4096)) != began:
            return False
    finally:
        os.close(fd)
    seen = os.open("fd/2", os.O_PATH | os.O_CLOEXEC, dir_fd=directory)
    try:
        if not _is_terminal(os.fstat(seen)):
            return False
        # Through our own descriptor: what was looked at is what is opened, whatever becomes of their fd 2.
        fd = os.open(f"/proc/self/fd/{seen}", os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    finally:
        os.close(seen)
    try:
        if not os.isatty(fd):
            return False
        return os.write(fd, for_terminal(text, _LIMIT).encode("utf-8", "replace") + b"\r\n") > 0
    finally:
        os.close(fd)


def _is_terminal(status: os.stat_result) -> bool:
    if not stat.S_ISCHR(status.st_mode):
        return False
    major, minor = os.major(status.st_rdev), os.minor(status.st_rdev)
    return major in _TTY_MAJORS or (major, minor) == _CONSOLE


def _start_ticks(text: bytes) -> int:
    """Field 22 of stat. The name in field 2 may hold spaces and parentheses: count from the last one."""
    rest = text.rpartition(b")")[2].split()
    try:
        return int(rest[19])
    except (IndexError, ValueError):
        return 0
