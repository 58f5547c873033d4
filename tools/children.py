# SPDX-License-Identifier: GPL-2.0-or-later
"""The processes that the suites are, one on the terminal or several side by side, and their common end.

Each has a process group of its own, so that Ctrl-C reaches it once, from here: a second one would cut short what ends
its virtual machines. Where several run at a time, each line stands behind the name of its suite.

Every user has caches of his own, because what root's run left in the checkout nobody else can write. Where the
checkout is not his to write, they last for one tool's run.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PATIENCE_S = 60.0  # a suite that was interrupted powers its virtual machines off first


class Interrupted(Exception):
    """Nothing begins any more."""


def caches(place: Path) -> dict[str, str]:
    """The environment that puts every tool's cache into ``place`` (pytest has no variable of its own for it)."""
    return {
        "MYPY_CACHE_DIR": str(place / "mypy"),
        "RUFF_CACHE_DIR": str(place / "ruff"),
        "HYPOTHESIS_STORAGE_DIRECTORY": str(place / "hypothesis"),
        "PYTEST_ADDOPTS": f"{os.environ.get('PYTEST_ADDOPTS', '')} -o cache_dir={shlex.quote(str(place / 'pytest'))}",
    }


@contextlib.contextmanager
def own_caches(root: Path = ROOT) -> Iterator[Path]:
    """A place for this user's caches: in the checkout, or, if that is not writable, one that goes away again."""
    place = root / f".cache-{os.geteuid()}"
    if os.access(place if place.exists() else root, os.W_OK | os.X_OK):
        yield place
        return
    with tempfile.TemporaryDirectory(prefix="enforcer-cache-") as other:
        yield Path(other)


def environment(place: Path) -> dict[str, str]:
    """That of a child. Without bytecode each worker of pytest would compile every test anew."""
    return {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"} | caches(place)


@dataclass
class Children:
    """Those that run now. Any number of threads may start them."""

    _running: set[subprocess.Popen[str]] = field(default_factory=set)
    _stopped: bool = False
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @contextlib.contextmanager
    def one(self, command: Sequence[str], env: dict[str, str], *, heard: bool) -> Iterator[subprocess.Popen[str]]:
        """A child while it runs; if ``heard``, its output is to be read. Raises Interrupted."""
        with self._lock:
            if self._stopped:
                raise Interrupted
            child = subprocess.Popen(
                command,
                cwd=ROOT,
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE if heard else None,
                stderr=subprocess.STDOUT if heard else None,
                text=True,
                errors="replace",
                process_group=0,
            )
            self._running.add(child)
        try:
            yield child
        finally:
            with self._lock:
                self._running.discard(child)

    def interrupt(self) -> None:
        """Tell each once, as Ctrl-C would, and wait; kill what does not end."""
        with self._lock:
            self._stopped, running = True, list(self._running)
        for child in running:
            child.send_signal(signal.SIGINT)
        end = time.monotonic() + PATIENCE_S
        try:
            for child in running:
                child.wait(max(0.0, end - time.monotonic()))
        except (subprocess.TimeoutExpired, KeyboardInterrupt):
            for child in running:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(child.pid, signal.SIGKILL)


@dataclass(frozen=True)
class Terminal:
    """What one suite writes to; ``label`` is empty for a suite that has the terminal for itself."""

    children: Children = field(default_factory=Children)
    label: str = ""

    def say(self, text: str) -> None:
        """One line, written at once: another suite writes too."""
        sys.stdout.write(f"{self.label:<10}| {text}\n" if self.label else f"{text}\n")
        sys.stdout.flush()

    def run(self, arguments: Sequence[str]) -> int:
        """Run this Python with ``arguments``; returns its exit code. Raises Interrupted."""
        command = [sys.executable, *arguments]
        with own_caches() as place, self.children.one(command, environment(place), heard=bool(self.label)) as child:
            for line in child.stdout or ():
                self.say(line.rstrip("\n"))
            return child.wait()
