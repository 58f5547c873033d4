# SPDX-License-Identifier: GPL-2.0-or-later
"""How keeper and revoker begin and end: as root, each the only one, and every failure in one sentence on stderr."""

from __future__ import annotations

import fcntl
import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path

from enforcer.model.errors import EnforcerError, Exit, PermissionRefused


def run(program: str, serve: Callable[[], None]) -> int:
    """Log to stderr and serve; the exit code. ``program``: its name, which is that of its unit, too."""
    logging.basicConfig(level=logging.INFO, format=f"{program}: %(message)s", stream=sys.stderr)
    try:
        if os.geteuid() != 0:
            raise PermissionRefused(f"{program} must be started by root", hint=f"systemctl start {program}")
        serve()
    except EnforcerError as error:
        sys.stderr.write(f"{program}: {error}\n")
        if error.hint:
            sys.stderr.write(f"  hint: {error.hint}\n")
        return int(error.exit_code)
    except OSError as error:
        sys.stderr.write(f"{program}: {error}\n")
        return int(Exit.FAILURE)
    return Exit.OK


def lock(program: str, path: Path) -> None:
    """Hold the lock until this process ends (flock(2)). Raises EnforcerError if another one does; OSError."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise EnforcerError(f"another {program} is running", hint=f"systemctl status {program}") from None
