# SPDX-License-Identifier: GPL-2.0-or-later
"""``python -m tools.test [SUITE]...``: the suites in the order in which a failure is cheapest to see.

Lint and the unit tests keep every CPU busy and run alone. A lab of virtual machines mostly keeps one busy, so the
suites after them run two at a time, those that take longest first. What failed is told once more at the end, for it
was said among the lines of others long ago. The last line is the whole outcome, alone: ``N passed, N failed``.
"""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

from tools.children import Children, Terminal
from tools.lab import kernels

WORKERS = "6"  # these tests mostly wait: for servers that start, fall silent and come back
AT_A_TIME = 2
AT_THE_END = 3600  # characters for the failures, all together: logs are cut at their beginning; all stands above too
WHY_LENGTHS = (300, 200, 120, 80, 50, 20)  # of a failure's words: as many as there is room for
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
    failed: tuple[str, ...]  # what, and in a few words why
    skipped: int
    seconds: float


Counts = tuple[int, tuple[str, ...], int]  # passed, failed, skipped
Suite = Callable[[Terminal, Sequence[str]], Counts]


def lint(terminal: Terminal, _more: Sequence[str]) -> Counts:
    """The suite is one test."""
    failed = []
    for name, command in LINT.items():
        terminal.say(f"  {name}")
        if terminal.run(command):
            failed.append(name)
    return (0, (", ".join(failed),), 0) if failed else (1, (), 0)


def counted(report: bytes) -> Counts:
    """Those of a JUnit report; an error in a fixture is a failure."""
    passed, failed, skipped = 0, list[str](), 0
    for case in ElementTree.fromstring(report).iter("testcase"):
        wrong = [*case.iterfind("failure"), *case.iterfind("error")]
        left = case.find("skipped") is not None
        why = " ".join(wrong[0].get("message", "").split()) if wrong else ""
        failed += [f"{case.get('classname')}::{case.get('name')}: {why}"] if wrong else []
        skipped, passed = skipped + left, passed + (not wrong and not left)
    return passed, tuple(failed), skipped


def pytest(*what: str) -> Suite:
    """A suite that pytest runs. One that could not run, or holds no test at all, has failed."""

    def suite(terminal: Terminal, more: Sequence[str]) -> Counts:
        with tempfile.TemporaryDirectory() as place:
            report = Path(place) / "report.xml"
            code = terminal.run(["-m", "pytest", *what, f"--junitxml={report}", *more])
            ended = (f"pytest {' '.join(what)} ended with exit code {code}",)
            try:
                passed, failed, skipped = counted(report.read_bytes())
            except (OSError, ElementTree.ParseError):
                return 0, ended, 0
        return passed, failed or ended if code else failed, skipped

    return suite


def model(terminal: Terminal, more: Sequence[str]) -> Counts:
    """Short searches that the mutants are held against, and one more test: the whole. One CPU is enough."""
    passed, failed, skipped = pytest("tests/model")(terminal, more)
    wrong = terminal.run(["-m", "tools.model", "--jobs", "1"]) != 0
    return passed + (not wrong), (*failed, "python -m tools.model") if wrong else failed, skipped


def in_machines(series: str, which: str = "not own_lab") -> Suite:
    """The suite that runs in virtual machines with one kernel series; its kernel is fetched first."""

    def suite(terminal: Terminal, more: Sequence[str]) -> Counts:
        try:
            terminal.say(f"  Linux {kernels.newest(series).version}")
        except (kernels.KernelError, OSError) as error:
            terminal.say(f"  no kernel: {error}")
            return 0, (f"no kernel: {error}",), 0
        return pytest("tests/vm", "--kernel", series, "-m", which)(terminal, more)

    return suite


MAIN, *OTHERS = kernels.SERIES
ALONE: dict[str, Suite] = {
    "lint": lint,
    "unit": pytest("tests/unit", "-m", "not sanlock", "-n", WORKERS, "--dist", "loadfile", "--no-loadscope-reorder"),
}
SIDE_BY_SIDE: dict[str, Suite] = {
    f"vm-{MAIN}": in_machines(MAIN),
    "labs": in_machines(MAIN, "own_lab"),
    "chaos": pytest("tests/chaos"),
    **{f"vm-{series}": in_machines(series) for series in OTHERS},
    "cluster": pytest("tests/cluster"),
    "model": model,
    "sanlock": pytest("tests/unit/cluster", "-m", "sanlock", "-n", WORKERS, "--dist", "worksteal"),
}
SUITES: dict[str, Suite] = ALONE | SIDE_BY_SIDE


def chosen(words: Sequence[str]) -> list[str]:
    """Names of suites, ``vm`` standing for those of every kernel. Raises ValueError."""
    names: list[str] = []
    for word in words or SUITES:
        found = [name for name in SUITES if name == word or (word == "vm" and name.startswith("vm-"))]
        if not found:
            raise ValueError(f"there is no suite {word!r}: {', '.join(SUITES)}, or vm for all that need machines")
        names += [name for name in found if name not in names]
    return names


def table(outcomes: Sequence[Outcome], wall_s: float) -> str:
    """One line a suite, and one for all of them: ``wall_s`` is less than their sum, for some run side by side."""
    lines = [f"{'suite':<12}{'passed':>8}{'failed':>8}{'skipped':>9}{'seconds':>9}  result"]
    for o in outcomes:
        result = "FAILED" if o.failed else "ok"
        lines.append(f"{o.suite:<12}{o.passed:>8}{len(o.failed):>8}{o.skipped:>9}{o.seconds:>9.1f}  {result}")
    lines.append(f"{'wall time':<38}{wall_s:>8.1f}  {wall_s / 60:.0f} min")
    return "\n".join(lines)


def told(failed: Sequence[str]) -> str:
    """What failed, a line each, the first ones first; cut so that the first one is in every end of a log."""
    parts = [line.partition(": ") for line in failed]
    for length in WHY_LENGTHS:
        lines = [name + colon + (why if len(why) <= length else why[:length] + "…") for name, colon, why in parts]
        if sum(map(len, lines)) <= AT_THE_END:
            break
    while sum(map(len, lines)) > AT_THE_END:
        lines.pop()
    more = [f"and {len(failed) - len(lines)} more"] if len(lines) < len(failed) else []
    return "\n\nfailed:\n" + "\n".join(lines + more) if failed else ""


def outcome(name: str, terminal: Terminal, more: Sequence[str]) -> Outcome:
    """Run one suite. Raises Interrupted."""
    terminal.say(f"=== {name}")
    began = time.monotonic()
    passed, failed, skipped = SUITES[name](terminal, more)
    made = Outcome(name, passed, failed, skipped, time.monotonic() - began)
    if terminal.label:
        terminal.say(f"=== {'FAILED' if failed else 'ok'}, {made.seconds:.0f} s")
    return made


def run(names: Sequence[str], more: Sequence[str], done: list[Outcome]) -> None:
    """Run the suites; ``done`` grows as they end. Raises KeyboardInterrupt, and what a suite raises."""
    beside = [name for name in SIDE_BY_SIDE if name in names]
    stages = [[name] for name in names if name not in beside] + [beside]
    children = Children()
    with ThreadPoolExecutor(AT_A_TIME) as pool:
        for stage in stages:
            label = len(stage) > 1
            begun = list[Future[Outcome]]()
            try:
                for name in stage:
                    begun.append(pool.submit(outcome, name, Terminal(children, name if label else ""), more))
                done.extend(future.result() for future in as_completed(begun))
            except BaseException:
                for future in begun:
                    future.cancel()
                children.interrupt()
                raise


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
    outcomes, began = list[Outcome](), time.monotonic()
    try:
        run(names, more, outcomes)
    except KeyboardInterrupt:
        ended = {o.suite for o in outcomes}
        print(f"\ninterrupted; not finished: {', '.join(n for n in names if n not in ended)}", file=sys.stderr)
        return 130
    outcomes.sort(key=lambda o: names.index(o.suite))
    failed = [f"{o.suite:<10}  {what}" for o in outcomes for what in o.failed]
    passed = sum(o.passed for o in outcomes)
    rows = table(outcomes, time.monotonic() - began)
    print(f"\n{rows}{told(failed)}\n\n{passed} passed, {len(failed)} failed", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
