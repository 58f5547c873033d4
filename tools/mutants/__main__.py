# SPDX-License-Identifier: GPL-2.0-or-later
"""``python -m tools.mutants [NAME]...``: break one thing, and watch the test that claims to prove it fail.

A test that never failed proves nothing, and a promise whose test was seen to fail once can lose that test to the next
change. So the breaks are kept, in the modules beside this one, one for each promise at
least. Each runs in a copy of the checkout with one text replaced, and counts as killed only if the very test that it
names failed on its own assertion. A fixture that broke, a virtual machine that was lost, a limit that passed, another
test that failed first: all that would hide a test that sees nothing, so none of it is a kill.

The copy has no environment of its own: this interpreter runs it with the copy first on its path, and the guests of
the lab import from the directory that their start scripts change to, which is derived from the lab's own file.
"""

from __future__ import annotations

import argparse
import compileall
import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from tools import bpf
from tools.mutants import (
    build,
    chaos,
    conform,
    cut,
    external,
    fencing,
    model,
    modes,
    pacemaker,
    sanlock,
    silence,
    story,
    stress,
    uncounted,
    vetoes,
    who,
)
from tools.mutants.row import Mutant, Suite

TABLES = (
    story,
    build,
    stress,
    model,
    chaos,
    conform,
    cut,
    external,
    fencing,
    modes,
    pacemaker,
    sanlock,
    silence,
    uncounted,
    vetoes,
    who,
)
MUTANTS = tuple(mutant for table in TABLES for mutant in table.MUTANTS)
ROOT = Path(__file__).resolve().parents[2]
PLACE = Path("/var/tmp")  # the guests have a /tmp of their own
LIMIT_S = {
    Suite.LINT: 300.0,
    Suite.UNIT: 300.0,
    Suite.MODEL: 300.0,
    Suite.CLUSTER: 600.0,
    Suite.VM: 1200.0,
    Suite.CHAOS: 1200.0,
}
# How pytest begins the message of an exception by which a test says that a claim does not hold.
SAID = (
    "assert ",
    "AssertionError",
    "Failed: DID NOT RAISE",
    "tools.lab.story.NotAsTold",
    "tools.lab.cluster.NotFree",
    "tools.lab.cluster.NotOneRecord",
)


class MutantError(Exception):
    """The mutant itself is no good: its text is not there, or it does not compile."""


class Fate(StrEnum):
    KILLED = "killed"
    SURVIVED = "SURVIVED"
    NOT_JUDGED = "NOT JUDGED"  # something failed, but not the test that should, or not for what it saw


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of one mutant. ``why``: the test that failed, and what it said."""

    mutant: str
    suite: Suite
    fate: Fate
    why: str
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Failure:
    """One test that did not pass, as a JUnit report has it."""

    test: str
    in_fixture: bool
    message: str


def broken(mutant: Mutant, text: str) -> str:
    """The text with the mutant in it. Raises MutantError if it does not hold the old text exactly once."""
    found = text.count(mutant.old)
    if found != 1:
        raise MutantError(f"{mutant.name} is stale: {mutant.file} holds the old text {found} times")
    return text.replace(mutant.old, mutant.new)


def failures(report: bytes) -> list[Failure]:
    """All tests of a JUnit report that did not pass, in order."""
    found = []
    for case in ElementTree.fromstring(report).iter("testcase"):
        test = f"{case.get('classname', '').replace('.', '/')}.py::{case.get('name', '')}"
        for wrong in case:
            if wrong.tag in ("failure", "error"):
                found.append(Failure(test, wrong.tag == "error", wrong.get("message", "")))
    return found


def judged(mutant: Mutant, code: int, found: Sequence[Failure]) -> tuple[Fate, str]:
    """The fate of a mutant, from pytest's exit code and from what did not pass."""
    for failure in found:
        named = failure.test == mutant.test or failure.test.startswith(mutant.test + "[")
        first = failure.message.strip().splitlines()[0] if failure.message.strip() else "no message"
        what = f"{failure.test.rpartition('/')[2]}: {first}"
        if failure.in_fixture:
            return Fate.NOT_JUDGED, f"a fixture broke: {what}"
        if not failure.message.startswith(SAID):
            return Fate.NOT_JUDGED, f"no assertion: {what}"
        return (Fate.KILLED, what) if named else (Fate.NOT_JUDGED, f"another test failed first: {what}")
    if code == 0:
        return Fate.SURVIVED, f"{mutant.test.rpartition('/')[2]} saw nothing"
    return Fate.NOT_JUDGED, f"pytest ended with {code} and no test failed"


def copy(destination: Path) -> None:
    """All files of the checkout that git knows or would take, as they are now."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        check=True,
    )
    for name in filter(None, listed.stdout.decode().split("\0")):
        if (ROOT / name).exists():  # a file may be deleted and still in the index
            (destination / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, destination / name, follow_symlinks=False)
    destination.chmod(0o755)


def prepare(place: Path, mutant: Mutant | None) -> None:
    """Fill ``place`` with a checkout that is ready to run, broken by the mutant. Raises MutantError."""
    copy(place)
    if mutant is not None:
        path = place / mutant.file
        if not path.exists():
            raise MutantError(f"{mutant.name} is stale: there is no {mutant.file}")
        path.write_text(broken(mutant, path.read_text()))
    try:
        bpf.compile_object(place / bpf.OBJECT.relative_to(bpf.ROOT), place)
    except bpf.CompileError as error:
        if mutant is None or mutant.suite is not Suite.LINT:
            raise MutantError(f"{mutant.name if mutant else 'the checkout'} does not compile: {error}") from error
    compileall.compile_dir(place / "enforcer", quiet=2)  # emulated guests should not have to, and cannot write here
    source = "import enforcer, tools.lab.cluster as c; print(enforcer.__file__); print(c.CHECKOUT / 'enforcer')"
    done = subprocess.run([sys.executable, "-c", source], cwd=place, env=_environment(place), stdout=subprocess.PIPE)
    ran = [Path(line) for line in done.stdout.decode().splitlines()]
    if done.returncode == 0 and ran != [place / "enforcer/__init__.py", place / "enforcer"]:
        raise MutantError(f"not the copy is what runs, but {ran}")


def _environment(place: Path) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(place)}


def watch(mutant: Mutant, kernel: str, *, control: bool = False) -> Outcome:
    """Run one mutant, or, as its control, the same tests with nothing broken. Raises MutantError."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory(dir=PLACE, prefix="mutant-") as name:
        place = Path(name).resolve()
        prepare(place, None if control else mutant)
        fate, why, said = _tested(place, mutant, kernel)
    if fate is not wanted(control):
        print("\n".join(f"    {line}" for line in said.splitlines()[-40:]), flush=True)
    return Outcome(mutant.name, mutant.suite, fate, why, time.monotonic() - began)


def wanted(control: bool) -> Fate:
    """What is well: a mutant dies, and where nothing was broken nothing dies."""
    return Fate.SURVIVED if control else Fate.KILLED


def _tested(place: Path, mutant: Mutant, kernel: str) -> tuple[Fate, str, str]:
    """Fate, reason and output of the mutant's tests in the copy at ``place``."""
    log, report = place / "log", place / "report.xml"
    if mutant.suite is Suite.LINT:
        command = ["-m", "tools.test", "lint"]
    else:
        command = ["-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", f"--junitxml={report}"]
        command += ["--kernel", kernel] if mutant.suite in (Suite.VM, Suite.CHAOS) else []
        command += mutant.select or (mutant.test,)
    code = None
    with log.open("wb") as output, contextlib.suppress(subprocess.TimeoutExpired):
        code = subprocess.run(
            [sys.executable, *command],
            cwd=place,
            env=_environment(place),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            timeout=LIMIT_S[mutant.suite],
        ).returncode
    said = log.read_text(errors="replace")
    if code is None:
        return Fate.NOT_JUDGED, f"no end within {LIMIT_S[mutant.suite]:.0f} s", said
    if mutant.suite is Suite.LINT:
        return *judged_by_lint(mutant, code, said), said
    return *judged(mutant, code, failures(report.read_bytes()) if report.exists() else []), said


def judged_by_lint(mutant: Mutant, code: int, said: str) -> tuple[Fate, str]:
    """The fate of a mutant that the named check of ``make lint`` should find."""
    failed = next((line.partition(":")[2] for line in said.splitlines() if line.startswith("  failed:")), "").strip()
    if failed == mutant.test:
        return Fate.KILLED, failed
    if code == 0:
        return Fate.SURVIVED, f"{mutant.test} saw nothing"
    return Fate.NOT_JUDGED, f"lint ended with {code}, failed: {failed or 'nothing'}"


def chosen(words: Sequence[str]) -> list[Mutant]:
    """Mutants by name or by suite; all of them if none is named. Raises ValueError."""
    for word in words:
        if word not in Suite.__members__.values() and word not in {m.name for m in MUTANTS}:
            raise ValueError(f"there is no mutant {word!r}; --list shows them")
    return [m for m in MUTANTS if not words or m.name in words or m.suite in words]


def table(outcomes: Sequence[Outcome]) -> str:
    """One line a mutant."""
    width = max((len(o.mutant) for o in outcomes), default=0) + 2
    lines = [f"{'mutant':<{width}}{'suite':<6}{'seconds':>8}  result"]
    lines += [f"{o.mutant:<{width}}{o.suite:<6}{o.seconds:>8.1f}  {o.fate}: {o.why[:200]}" for o in outcomes]
    return "\n".join(lines)


def run(mutants: Sequence[Mutant], kernel: str, *, control: bool = False) -> list[Outcome]:
    """All of them one after the other, telling each outcome as it comes."""
    outcomes = []
    for mutant in mutants:
        print(f"{mutant.name}: {mutant.claim}", flush=True)
        try:
            outcome = watch(mutant, kernel, control=control)
        except MutantError as error:
            outcome = Outcome(mutant.name, mutant.suite, Fate.NOT_JUDGED, str(error))
        print(f"    {outcome.fate} after {outcome.seconds:.1f} s: {outcome.why}", flush=True)
        outcomes.append(outcome)
    return outcomes


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit code: 0 only if every mutant was killed."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.mutants",
        description="Break one thing at a time, and watch the test that claims to prove it fail.",
        epilog="example: python -m tools.mutants unit guard-passes",
    )
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help="mutants, or lint, unit, vm, chaos, cluster; all of them if none"
    )
    parser.add_argument("--list", action="store_true", help="show them and run nothing")
    parser.add_argument("--control", action="store_true", help="break nothing: the tests of each mutant must pass")
    parser.add_argument("--kernel", default="6.12", help="series of the guests' kernel (default: 6.12)")
    options = parser.parse_args(arguments)
    try:
        mutants = chosen(options.names)
    except ValueError as error:
        parser.error(str(error))
    if options.list:
        for mutant in mutants:
            print(f"{mutant.name} ({mutant.suite})\n    {mutant.claim}\n    {mutant.file} -> {mutant.test}")
        return 0
    outcomes = run(mutants, options.kernel, control=options.control)
    well = wanted(options.control)
    others = sum(o.fate is not well for o in outcomes)
    print(f"\n{table(outcomes)}\n\n{len(outcomes) - others} {well.lower()}, {others} not")
    return 1 if others else 0


if __name__ == "__main__":
    sys.exit(main())
