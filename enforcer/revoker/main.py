# SPDX-License-Identifier: GPL-2.0-or-later
"""``enforcer-revoker``: keeps the promise of a cut when neither keeper nor daemon can.

It is a process of its own, so that it acts when the others hang, are stopped or dead: it needs them only for the files
that they have left. It is locked into memory, speaks to no network, and holds nothing of a filesystem open. What it
needs for the worst case, /proc/sysrq-trigger, is opened at the start; without it no promise is made.
"""

from __future__ import annotations

import argparse
import fcntl
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from enforcer import settings
from enforcer.lost import alone
from enforcer.lost.memory import STACK_BYTES, lock_memory
from enforcer.model.errors import BadConfiguration
from enforcer.revoker.cut import Revoker

NAME = "enforcer-revoker"
log = logging.getLogger(NAME)
SYSRQ, KMSG = "/proc/sysrq-trigger", "/dev/kmsg"


def parser() -> argparse.ArgumentParser:
    """The command line, for ``main`` and for the tests of the manual page."""
    made = argparse.ArgumentParser(
        prog=NAME,
        description="Cuts this node off its leased devices when its session is lost.",
        epilog="example: enforcer-revoker --config /etc/enforcer/enforcer.toml",
    )
    made.add_argument("--config", type=Path, metavar="FILE", help="settings, if not /etc/enforcer/enforcer.toml")
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    """Run; returns the exit code."""
    options = parser().parse_args(arguments)
    return alone.run(NAME, lambda: _serve(options.config))


def _serve(config: Path | None) -> None:
    """Until SIGTERM or SIGINT. Raises EnforcerError, OSError."""
    run_dir = Path(settings.load(config, fencing=False).paths.run_dir)
    run_dir.mkdir(parents=True, exist_ok=True, mode=0o755)
    alone.lock(NAME, run_dir / "revoker.lock")
    trigger, kernel_log = (_opened(path) for path in (SYSRQ, KMSG))
    threading.stack_size(STACK_BYTES)

    def say(sentence: str) -> None:
        os.write(kernel_log, f"<2>enforcer-revoker: {sentence}\n".encode()[:900])
        log.critical("%s", sentence)

    def reset(_why: str) -> None:
        os.write(trigger, b"b")  # Documentation/admin-guide/sysrq.rst: at once, without syncing or unmounting

    def may_end() -> bool:
        if revoker.may_end(keeper_runs=_keeper_runs(run_dir)):
            return True
        if not told.is_set():
            say("told to end, but without a keeper what was promised has to be cut first: that is waited for")
            told.set()
        time.sleep(revoker.pause_s())
        return False

    revoker, told = Revoker(run_dir, reset, say=say), threading.Event()
    lock_memory(log)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    while not stop.wait(revoker.pause_s()) or not may_end():
        try:
            revoker.turn()
        except Exception as error:
            log.exception("a turn failed")
            if revoker.overdue():
                revoker.give_up(str(error))


def _opened(path: str) -> int:
    """Raises BadConfiguration if this kernel has no such file: then the unit is not started again. Any other OSError
    may pass, and what an earlier run has promised waits to be kept.
    """
    try:
        return os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    except FileNotFoundError as error:
        why = f"without {path} no cut can be promised: {error.strerror}"
        raise BadConfiguration(
            why, hint="systemctl disable enforcer-revoker, or a kernel with CONFIG_MAGIC_SYSRQ"
        ) from None


def _keeper_runs(run_dir: Path) -> bool:
    try:
        with (run_dir / "keeper.lock").open("rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


if __name__ == "__main__":
    sys.exit(main())
