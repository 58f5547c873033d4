# SPDX-License-Identifier: GPL-2.0-or-later
"""``python -m tools.test [SUITE]...``: the suites in the order in which a failure is cheapest to see.

Each suite is a process of its own and writes to the terminal itself. It also has a process group of its own, so
that Ctrl-C reaches it once, from here: a second one would cut short what ends its virtual machines. The last line is
the whole outcome, alone: ``N passed, N failed``.

Every user has caches of his own, because what root's run left in the checkout nobody else can write. Where the
checkout is not his to write, they last for one tool's run.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shlex
import signal
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tools.lab import kernels

ROOT = Path(__file__).resolve().parent.parent
WORKERS = "4"  # these tests mostly wait: for servers that start, fall silent and come back
PATIENCE_S = 60.0  # a suite that was interrupted powers its virtual machines off first
LINT: dict[str, tuple[str, ...]] = {
    "ruff check": ("-m", "ruff", "check", "--quiet"),
    "ruff format": ("-m", "ruff", "format", "--check", "--quiet"),
    "mypy --strict": ("-m", "mypy", "--strict"),
    "clang -Wall -Wextra -Werror": ("tools/bpf.py", "--check"),
}


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of one suite."""

    suite: str
    passed: int
    failed: int
    skipped: int
    seconds: float


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


def run(arguments: Sequence[str]) -> int:
    """Run this Python with ``arguments``; returns its exit code. Ends it on Ctrl-C or SIGTERM."""
    with own_caches() as place:
        child = subprocess.Popen(
            [sys.executable, *arguments],
            cwd=ROOT,
            env=os.environ | caches(place),
            stdin=subprocess.DEVNULL,
            process_group=0,
        )
        try:
            return child.wait()
        except KeyboardInterrupt:
            child.send_signal(signal.SIGINT)
            try:
                child.wait(PATIENCE_S)
            except (subprocess.TimeoutExpired, KeyboardInterrupt):
                os.killpg(child.pid, signal.SIGKILL)
            raise


def lint(_more: Sequence[str]) -> tuple[int, int, int]:
    """(passed, failed, skipped): the suite is one test."""
    failed = []
    for name, command in LINT.items():
        print(f"  {name}", flush=True)
        if run(command):
            failed.append(name)
    if failed:
        print(f"  failed: {', '.join(failed)}")
    return (0, 1, 0) if failed else (1, 0, 0)


def counted(report: bytes) -> tuple[int, int, int]:
    """(passed, failed, skipped) of a JUnit report; an error in a fixture is a failure."""
    passed = failed = skipped = 0
    for suite in ElementTree.fromstring(report).iter("testsuite"):
        wrong = int(suite.get("failures", 0)) + int(suite.get("errors", 0))
        left = int(suite.get("skipped", 0))
        failed, skipped = failed + wrong, skipped + left
        passed += max(0, int(suite.get("tests", 0)) - wrong - left)
    return passed, failed, skipped


def pytest(*what: str) -> Callable[[Sequence[str]], tuple[int, int, int]]:
    """A suite that pytest runs. One that could not run, or holds no test at all, has failed."""

    def suite(more: Sequence[str]) -> tuple[int, int, int]:
        with tempfile.TemporaryDirectory() as place:
            report = Path(place) / "report.xml"
            code = run(["-m", "pytest", *what, f"--junitxml={report}", *more])
            try:
                passed, failed, skipped = counted(report.read_bytes())
            except (OSError, ElementTree.ParseError):
                return 0, 1, 0
        return passed, max(failed, 1) if code else failed, skipped

    return suite


def in_machines(series: str, which: str = "not long") -> Callable[[Sequence[str]], tuple[int, int, int]]:
    """The suite that runs in virtual machines with one kernel series; its kernel is fetched first."""

    def suite(more: Sequence[str]) -> tuple[int, int, int]:
        try:
            print(f"  Linux {kernels.newest(series).version}", flush=True)
        except (kernels.KernelError, OSError) as error:
            print(f"  no kernel: {error}")
            return 0, 1, 0
        return pytest("tests/vm", "--kernel", series, "-m", which)(more)

    return suite


SUITES: dict[str, Callable[[Sequence[str]], tuple[int, int, int]]] = {
    "lint": lint,
    "unit": pytest("tests/unit", "-m", "not sanlock", "-n", WORKERS, "--dist", "loadfile"),
    **{f"vm-{series}": in_machines(series) for series in kernels.SERIES},
    "sanlock": pytest("tests/unit/cluster", "-m", "sanlock", "-n", WORKERS, "--dist", "worksteal"),
    "cluster": pytest("tests/cluster"),
    "long": in_machines(kernels.SERIES[0], "long"),
    "chaos": pytest("tests/chaos"),
}
LONG = ("sanlock", "cluster", "long", "chaos")  # of `make long`: with them a run would take more than 40 minutes


def chosen(words: Sequence[str]) -> list[str]:
    """Names of suites, ``vm`` standing for those of every kernel. Raises ValueError."""
    names: list[str] = []
    for word in words or [name for name in SUITES if name not in LONG]:
        found = [name for name in SUITES if name == word or (word == "vm" and name.startswith("vm-"))]
        if not found:
            raise ValueError(f"there is no suite {word!r}: {', '.join(SUITES)}, or vm for all that need machines")
        names += [name for name in found if name not in names]
    return names


def table(outcomes: Sequence[Outcome]) -> str:
    """One line a suite."""
    lines = [f"{'suite':<12}{'passed':>8}{'failed':>8}{'skipped':>9}{'seconds':>9}  result"]
    for o in outcomes:
        result = "FAILED" if o.failed else "ok"
        lines.append(f"{o.suite:<12}{o.passed:>8}{o.failed:>8}{o.skipped:>9}{o.seconds:>9.1f}  {result}")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.test",
        description="Run the test suites.",
        epilog="example: python -m tools.test unit vm-6.12 -- -k refused",
    )
    parser.add_argument("suites", nargs="*", metavar="SUITE", help=f"{', '.join(SUITES)}, vm; make test's if none")
    own, more = list(sys.argv[1:] if arguments is None else arguments), list[str]()
    if "--" in own:
        own, more = own[: own.index("--")], own[own.index("--") + 1 :]
    try:
        names = chosen(parser.parse_args(own).suites)
    except ValueError as error:
        parser.error(str(error))
    for number in (signal.SIGINT, signal.SIGTERM):  # a shell's background jobs begin with SIGINT ignored
        signal.signal(number, signal.default_int_handler)
    outcomes: list[Outcome] = []
    try:
        for name in names:
            print(f"=== {name}", flush=True)
            began = time.monotonic()
            passed, failed, skipped = SUITES[name](more)
            outcomes.append(Outcome(name, passed, failed, skipped, time.monotonic() - began))
    except KeyboardInterrupt:
        print(f"\ninterrupted; not finished: {', '.join(names[len(outcomes) :])}", file=sys.stderr)
        return 130
    failed = sum(o.failed for o in outcomes)
    print(f"\n{table(outcomes)}\n\n{sum(o.passed for o in outcomes)} passed, {failed} failed", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
