# SPDX-License-Identifier: GPL-2.0-or-later
"""``enforcer witness``: watch the system calls themselves, and hold the audit log against them.

The witness is a program of its own (tools/witness; in an installed package it lies beside this one's modules) that
shares no code with the rest and runs under Debian's interpreter, where BCC is. Here it is only started, its lines are
drawn, and its judgement is passed on.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

import enforcer
from enforcer.audit import reader
from enforcer.audit.writer import LOG
from enforcer.cli.output import Output
from enforcer.model.errors import EnforcerError, Exit, NotRunning, PrerequisiteMissing, UsageError
from enforcer.model.escape import PATH_LIMIT, for_terminal

if TYPE_CHECKING:
    from types import FrameType

SUMMARY = "watch the mount family of system calls, and compare them with the audit log"
EXAMPLE = "enforcer witness --seconds 3600 --compare"
PYTHON: Final = Path("/usr/bin/python3")  # python3-bpfcc is made for this one
_SEEN: Final = "enforcer witness --json >FILE, and later: enforcer witness --seen FILE --compare"
WRITTEN_S = 1.5  # a record may follow its call by that much


def arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--seconds", type=float, metavar="N", help="end after so many seconds, not at Ctrl-C")
    parser.add_argument(
        "--compare", nargs="?", type=Path, const=LOG, metavar="AUDITLOG", help=f"hold this log against it, or {LOG}"
    )
    parser.add_argument("--seen", type=Path, metavar="FILE", help="compare these lines of --json; watch nothing")
    parser.add_argument("--json", action="store_true", help="one object for each system call")


def run(options: Namespace, output: Output) -> int:
    place = programs()
    if options.seconds is not None and not 0 < options.seconds < float("inf"):
        raise UsageError("--seconds takes more than 0 seconds", hint="without it, Ctrl-C ends the watch")
    if options.compare and not options.compare.exists():
        raise EnforcerError(
            f"there is no audit log at {for_terminal(str(options.compare))}",
            hint="is enforcerd running? (systemctl status enforcerd); --compare AUDITLOG names another",
        )
    if options.seen:
        if not options.compare:
            raise UsageError("--seen says what was watched, and not what to hold it against", hint=_SEEN)
        if options.seconds is not None:
            raise UsageError("--seen watches nothing, so --seconds is of no use with it", hint=_SEEN)
        if not options.seen.is_file():
            raise EnforcerError(
                f"there is no file {for_terminal(str(options.seen))}", hint="enforcer witness --json >FILE writes one"
            )
        return _compare(place, options.seen, options, output)
    if options.compare is None:
        return _watch(place, options, output, None)
    next(reader.lines(options.compare), None)  # a log that cannot be read is said now, not after an hour
    with tempfile.NamedTemporaryFile("w", prefix="witness-", suffix=".jsonl") as seen:
        code = _watch(place, options, output, Path(seen.name))
        if code != Exit.OK:
            return code
        time.sleep(WRITTEN_S)
        return _compare(place, Path(seen.name), options, output)


def programs() -> Path:
    """The directory of the witness: package data of an installed package, else of the checkout."""
    package = Path(enforcer.__file__).parent
    for place in (package / "witness", package.parent / "tools/witness"):
        if (place / "watch.py").exists():
            return place
    raise PrerequisiteMissing("the witness is not part of this installation", hint="reinstall mount-enforcer")


def _watch(place: Path, options: Namespace, output: Output, keep: Path | None) -> int:
    """Run the witness to its end, draw what it says, and keep its lines; returns its exit code."""
    command = [str(PYTHON), "-I", str(place / "watch.py")]
    if options.seconds is not None:
        command += ["--seconds", str(options.seconds)]
    show = _Json(output) if options.json else _Rows(output)
    try:
        child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)
    except FileNotFoundError as error:
        raise PrerequisiteMissing(f"there is no {PYTHON}", hint="apt-get install python3 python3-bpfcc") from error
    assert child.stdout is not None
    with child, _ending(child), (keep or Path(os.devnull)).open("w") as kept:
        for line in child.stdout:
            try:
                said = json.loads(line)
            except ValueError:  # a remark of BCC's
                sys.stderr.write(for_terminal(line.rstrip("\n"), PATH_LIMIT) + "\n")
                continue
            kept.write(line)
            show.line(said)
    if child.returncode < 0:
        raise NotRunning(f"the witness was ended by signal {-child.returncode}", hint="start it again")
    return child.returncode


@contextmanager
def _ending(child: subprocess.Popen[str]) -> Iterator[None]:
    """What would end us ends the witness, and its last lines are read."""

    def end(_number: int, _frame: FrameType | None) -> None:
        child.send_signal(signal.SIGINT)

    before = {number: signal.signal(number, end) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _compare(place: Path, seen: Path, options: Namespace, output: Output) -> int:
    """Hold a log with its rotated files against what was seen; 0 if they agree."""
    logs = [str(path) for path in reader.files(options.compare)]
    command = [str(PYTHON), "-I", str(place / "compare.py"), *(["--json"] if options.json else []), str(seen), *logs]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)
    for line in done.stdout.splitlines():
        output.line(line)
    return done.returncode


class _Json:
    def __init__(self, output: Output) -> None:
        self._output = output

    def line(self, line: dict[str, object]) -> None:
        self._output.json(line)


class _Rows:
    def __init__(self, output: Output) -> None:
        self._output = output

    def line(self, line: dict[str, object]) -> None:
        from enforcer.cli import sightings

        width = self._output.console.width
        self._output.draw(*sightings.row(line, width))
