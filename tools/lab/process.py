# SPDX-License-Identifier: GPL-2.0-or-later
"""Host processes that cannot outlive the lab.

``setpriv --pdeathsig KILL`` ends a process with its parent, however the parent ended. The kernel means by
"parent" the *thread* that forked (prctl(2)), so a node started from a short-lived thread would die with it:
everything is started by one thread that never ends.
"""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from pathlib import Path
from queue import SimpleQueue

_Job = tuple[list[str], Path, tuple[int, ...], "Future[subprocess.Popen[bytes]]"]
_jobs: SimpleQueue[_Job] = SimpleQueue()
_starter_lock = threading.Lock()
_starter: threading.Thread | None = None


def _serve() -> None:
    while True:
        command, log, fds, future = _jobs.get()
        try:
            with log.open("ab") as output:
                future.set_result(
                    subprocess.Popen(
                        ["setpriv", "--pdeathsig", "KILL", "--", *command],
                        stdin=subprocess.DEVNULL,
                        stdout=output,
                        stderr=subprocess.STDOUT,
                        start_new_session=True,  # Ctrl-C is for us: we end our children in order
                        pass_fds=fds,
                    )
                )
        except BaseException as error:
            future.set_exception(error)


def start(command: Sequence[str], log: Path, fds: tuple[int, ...] = ()) -> subprocess.Popen[bytes]:
    """Start a process whose output goes to ``log`` and that dies with this process."""
    global _starter
    with _starter_lock:
        if _starter is None:
            _starter = threading.Thread(target=_serve, name="lab-starter", daemon=True)
            _starter.start()
    future: Future[subprocess.Popen[bytes]] = Future()
    _jobs.put((list(command), log, fds, future))
    return future.result()


def stop(process: subprocess.Popen[bytes], *, patience_s: float = 2.0) -> None:
    """End a process of ours: SIGTERM, then SIGKILL."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(patience_s)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def tail(path: Path, lines: int = 25) -> str:
    """The last lines of a log, for an error message."""
    try:
        text = path.read_text(errors="replace")
    except FileNotFoundError:
        return ""
    return "\n".join(text.splitlines()[-lines:])
