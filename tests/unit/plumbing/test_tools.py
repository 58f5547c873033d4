# SPDX-License-Identifier: GPL-2.0-or-later
"""What stands around the package: the runner of the suites, make run's choice, the Makefile, the units."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace

import pytest

from enforcer import settings
from enforcer.kernel.prerequisites import Prerequisite
from enforcer.policy import parse
from tools import bench, children, figures, run
from tools import test as runner
from tools.lab import kernels, story
from tools.lab.story import NotAsTold
from tools.lab.vm import CommandFailed, LostVM

ROOT = Path(__file__).resolve().parents[3]
OK = Prerequisite("BTF", True, "there")


def test_suites_are_chosen_by_name() -> None:
    assert runner.chosen([]) == list(runner.SUITES)
    assert runner.chosen(["vm", "unit", "vm-6.18"]) == ["vm-6.12", "vm-6.18", "vm-newest", "unit"]
    with pytest.raises(ValueError, match="no suite 'vn'"):
        runner.chosen(["vn"])


def test_a_report_is_counted() -> None:
    report = b"""<testsuites><testsuite tests="5" failures="1" errors="1" skipped="1">
      <testcase classname="tests.test_a" name="one"/>
      <testcase classname="tests.test_a" name="two"/>
      <testcase classname="tests.test_a" name="three"><failure message="assert 1 == 2&#10;  +  where"/></testcase>
      <testcase classname="tests.test_b" name="four"><error message="no lab"/></testcase>
      <testcase classname="tests.test_b" name="five"><skipped message="no root"/></testcase>
    </testsuite></testsuites>"""
    assert runner.counted(report) == (
        2,
        ("tests.test_a::three: assert 1 == 2 + where", "tests.test_b::four: no lab"),
        1,
    )


@pytest.mark.parametrize(
    ("body", "passed", "failed", "skipped"),
    [
        (
            "import pytest\ndef test_a(): pass\ndef test_b(): assert 0, 'torn'\ndef test_c(): pytest.skip()\n",
            1,
            r"test_made::test_b: AssertionError: torn.*",
            1,
        ),
        ("", 0, "pytest .* ended with exit code 5", 0),  # nothing was tested
        ("import nothing_of_this_name\n", 0, "::test_made: collection failure", 0),
        ("import os\nos._exit(7)\n", 0, "pytest .* ended with exit code 7", 0),
    ],
)
def test_a_suite_of_pytest(tmp_path: Path, body: str, passed: int, failed: str, skipped: int) -> None:
    (tmp_path / "test_made.py").write_text(body)
    suite = runner.pytest("-q", "-p", "no:cacheprovider", f"--rootdir={tmp_path}", "-c", "/dev/null", str(tmp_path))
    good, (wrong,), left = suite(children.Terminal(), [])
    assert (good, left) == (passed, skipped)
    assert re.fullmatch(failed, wrong)


def test_a_model_that_finds_something_fails_its_suite(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "pytest", lambda *_: lambda *_: (7, (), 0))
    for code, outcome in ((0, (8, (), 0)), (1, (7, ("python -m tools.model",), 0))):
        monkeypatch.setattr(children.Terminal, "run", lambda _self, _arguments, code=code: code)
        assert runner.model(children.Terminal(), []) == outcome


def test_what_failed_is_told_at_the_end_and_the_last_line_is_the_whole_outcome(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(
        runner, "SUITES", {"lint": lambda *_: (1, (), 0), "unit": lambda *_: (41, ("a: no", "b: x"), 3)}
    )
    assert runner.main([]) == 1
    *_, first, second, _, last = capsys.readouterr().out.splitlines()
    assert (first.split(), second.split(), last) == (
        ["unit", "a:", "no"],
        ["unit", "b:", "x"],
        "42 passed, 2 failed",
    )
    assert runner.main(["lint"]) == 0
    *_, lint, wall, _, last = capsys.readouterr().out.splitlines()
    assert (lint.split()[:2], wall.split()) == (["lint", "1"], ["wall", "time", "0.0", "0", "min"])
    assert last == "1 passed, 0 failed"


def test_many_failures_are_told_in_few_words_each() -> None:
    """The first one is what matters: it must be in the end of the log that somebody is shown."""
    said = runner.told([f"vm-6.12     tests.vm.test_{n}::test_of_it: {'word ' * 100}" for n in range(50)])
    assert len(said) < 1.1 * runner.AT_THE_END and all(f"test_{n}::test_of_it: word" in said for n in range(50))
    said = runner.told([f"vm-6.12     tests.vm.test_{n}::test_of_it: no" for n in range(900)])
    assert len(said) < 1.1 * runner.AT_THE_END and "test_0::" in said and "\nand 8" in said
    assert "word " * 40 in runner.told([f"labs        tests.vm.test_89_cut::test_it: {'word ' * 100}"])


def test_each_user_has_caches_of_his_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with children.own_caches(tmp_path) as place:
        assert place == tmp_path / f".cache-{os.geteuid()}"
    monkeypatch.setattr(os, "access", lambda *_: False)  # root may write anywhere
    with children.own_caches(tmp_path) as place:
        (place / "mypy").mkdir()
        assert place.parent == Path(tempfile.gettempdir())
    assert not place.exists()


def test_every_tool_keeps_its_cache_where_it_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place, project = tmp_path / "caches of one", tmp_path / "project"
    project.mkdir()
    (project / "test_made.py").write_text(
        "from hypothesis import given, strategies as st\n@given(st.integers())\ndef test_a(n): assert n < 1000\n"
    )
    monkeypatch.chdir(project)
    for tool in (["ruff", "check"], ["mypy", "-c", "1"], ["pytest", "-q", "-c", "/dev/null", "--rootdir=."]):
        subprocess.run([sys.executable, "-m", *tool], env=os.environ | children.caches(place), capture_output=True)
    assert sorted(path.name for path in place.iterdir()) == ["hypothesis", "mypy", "pytest", "ruff"]
    left = {path.name for path in project.iterdir()} - {"__pycache__"}
    assert left == {"test_made.py"}


def test_ctrl_c_ends_what_runs_and_begins_nothing_more(tmp_path: Path) -> None:
    """Each child is told once, has time to clean up, and nothing of it is left."""
    (tmp_path / "child.py").write_text(
        "import os, sys, time\n"
        "open(sys.argv[1], 'w').write(str(os.getpid()))\n"
        "try:\n    time.sleep(60)\nexcept KeyboardInterrupt:\n    open(sys.argv[1] + '.told', 'w')\n"
    )
    code = (
        "import pathlib\n"
        "from tools import test\n"
        f"place = {str(tmp_path)!r}\n"
        "def suite(name):\n"
        "    def begun(terminal, _):\n"
        "        pathlib.Path(place, name + '.begun').touch()\n"
        "        return terminal.run([place + '/child.py', place + '/' + name]), (), 0\n"
        "    return begun\n"
        "test.SUITES = test.SIDE_BY_SIDE = {name: suite(name) for name in 'abc'}\n"
        "raise SystemExit(test.main([]))"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stderr=subprocess.PIPE, text=True)
    while not all((tmp_path / name).exists() and (tmp_path / name).read_text() for name in "ab"):
        assert parent.poll() is None
    parent.send_signal(2)
    assert parent.wait(20) == 130 and parent.stderr
    assert parent.stderr.read().splitlines()[-1] == "interrupted; not finished: a, b, c"
    for name in "ab":
        assert (tmp_path / f"{name}.told").exists() and not Path(f"/proc/{(tmp_path / name).read_text()}").exists()
    assert (tmp_path / "a.begun").exists() and not (tmp_path / "c.begun").exists()


@pytest.mark.parametrize("trouble", [None, NotAsTold("let through"), LostVM("gone"), CommandFailed("returned 32")])
def test_the_story_has_succeeded_only_if_every_step_was_as_told(
    trouble: Exception | None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lab = SimpleNamespace(kernel=SimpleNamespace(version="6.12.1"), workdir=tmp_path)
    stage = SimpleNamespace(lab=lab, nodes=(None, None), disk=None)
    shown: list[object] = []

    def tell(_self: story.Story) -> None:
        if trouble is not None:
            raise trouble

    monkeypatch.setattr(story, "Cluster", lambda *_, **__: contextlib.nullcontext(stage))
    monkeypatch.setattr(story.Story, "tell", tell)
    monkeypatch.setattr(story, "show_audit", lambda *given: shown.append(given))
    assert story.main() == (trouble is not None)
    told = capsys.readouterr()
    assert (len(shown), "every step was as told" in told.out) == ((0, False) if trouble else (1, True))
    assert str(trouble or "") in told.err


def test_side_by_side_each_line_names_its_suite(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def suite(name: str) -> runner.Suite:
        return lambda terminal, _: (int(terminal.run(["-c", f"print('I am {name}')"]) == 0), (), 0)

    both = {name: suite(name) for name in ("one", "two")}
    monkeypatch.setattr(runner, "SUITES", both)
    monkeypatch.setattr(runner, "SIDE_BY_SIDE", both)
    assert runner.main([]) == 0
    said = capfd.readouterr().out.splitlines()
    assert {"one       | I am one", "two       | I am two"} <= set(said) and said[-1] == "2 passed, 0 failed"
    assert runner.main(["two"]) == 0
    assert "I am two" in capfd.readouterr().out.splitlines()  # alone it has the terminal for itself


@pytest.mark.parametrize(
    ("found", "name"),
    [
        ([OK], None),
        ([OK, Prerequisite("fuse", False, "x"), Prerequisite(run.LOADING, False, "refused")], run.LOADING),
        ([Prerequisite("privileges", False, "x", privilege=True), Prerequisite("fuse", False, "x")], "fuse"),
        ([Prerequisite("privileges", False, "x", privilege=True)], "privileges"),
    ],
)
def test_the_reason_is_the_kernels_own(found: list[Prerequisite], name: str | None) -> None:
    reason = run.obstacle(found)
    assert (reason.name if reason else None) == name


def test_watching_writes_nowhere_but_in_its_own_place(tmp_path: Path) -> None:
    file = tmp_path / "enforcer.toml"
    file.write_text(run.settings_text(tmp_path))
    chosen = settings.load(file)
    assert {chosen.paths.state_dir, chosen.paths.run_dir, chosen.paths.log_dir} == {
        str(tmp_path / name) for name in ("state", "run", "log")
    }
    assert chosen.store.kind is settings.StoreKind.SQLITE and chosen.store.path.startswith(str(tmp_path))
    assert {"--audit-only", "--no-pin"} <= set(run.command(file))
    assert parse.load([str(run.POLICY)], generation=1).rules


def test_make_help_names_every_target() -> None:
    said = subprocess.run(["make", "-s", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    named = set(re.findall(r"make (\w+)", said))
    assert {
        "run",
        "test",
        "lint",
        "unit",
        "vm",
        "model",
        "mutants",
        "chaos",
        "bench",
        "build",
        "install",
        "clean",
        "help",
    } == named


def make_as_nobody(*words: str) -> subprocess.CompletedProcess[str]:
    who = {"user": 65534, "group": 65534, "extra_groups": []} if os.geteuid() == 0 else {}
    return subprocess.run(["make", "-s", *words], cwd=ROOT, capture_output=True, text=True, **who)


@pytest.mark.parametrize("series", ["9.99", "6.1", "6.12 6.18", "vm"])
def test_a_kernel_series_that_there_is_not_ends_before_anything_begins(series: str) -> None:
    done = make_as_nobody("vm", f"KERNEL={series}")
    assert done.returncode == 2 and done.stdout == "" and "Error 2" in done.stderr
    said = f"make vm: no kernel series '{series}': KERNEL= is one of {' '.join(kernels.SERIES)}, "
    assert done.stderr.startswith(said)


@pytest.mark.parametrize(
    "words", [["run"], ["test"], ["bench"], ["vm"], *(["vm", f"KERNEL={series}"] for series in kernels.SERIES)]
)
def test_not_root(words: list[str]) -> None:
    target, done = words[0], make_as_nobody(*words)
    assert done.returncode != 0 and done.stdout == ""
    assert done.stderr.splitlines()[0].startswith(f"make {target}: run it as root")
    assert "Error 4" in done.stderr


UNITS = ("enforcerd.service", "enforcer-keeper.service", "enforcer-revoker.service", "enforcer-drain.service")


def test_what_unmounts_at_shutdown_is_stopped_before_what_it_needs() -> None:
    """Stopped in the reverse of the order in which they are started: systemd.unit(5), After=."""
    text = (ROOT / "tools/systemd/enforcer-drain.service").read_text()
    after = {name for line in text.splitlines() if line.startswith("After=") for name in line[6:].split()}
    assert {"enforcerd.service", "enforcer-keeper.service", "network.target"} <= after
    assert (
        "DefaultDependencies" not in text and "\nRemainAfterExit=yes\n" in text and "\nRefuseManualStop=yes\n" in text
    )
    wait_s = int(text.partition(" drain --wait ")[2].split()[0])
    assert wait_s < int(text.partition("TimeoutStopSec=")[2].split()[0])


def test_units(tmp_path: Path) -> None:
    for unit in UNITS:
        text = (ROOT / "tools/systemd" / unit).read_text()
        # paths that are there on every machine; the interpreter is what it will be
        text = text.replace("@PREFIX@/bin/python", "/usr/bin/python3").replace("@PREFIX@", "/usr")
        (tmp_path / unit).write_text(text)
    (tmp_path / "enforcerd.service.d").mkdir()
    shutil.copy(ROOT / "tools/systemd/enforcerd-early.conf", tmp_path / "enforcerd.service.d/10-early.conf")
    units = [str(tmp_path / unit) for unit in UNITS]
    done = subprocess.run(["systemd-analyze", "verify", "--man=no", *units], capture_output=True, text=True)
    said = [line for line in done.stderr.splitlines() if "enforcer" in line]
    assert done.returncode == 0 and said == []


def test_the_unit_gives_the_directories_that_the_settings_name() -> None:
    text = (ROOT / "tools/systemd/enforcerd.service").read_text()
    paths = settings.Settings().paths
    assert f"RuntimeDirectory={Path(paths.run_dir).name}\n" in text and paths.run_dir.startswith("/run/")
    assert f"StateDirectory={Path(paths.state_dir).name}\n" in text and paths.state_dir.startswith("/var/lib/")
    tmpfiles = (ROOT / "tools/systemd/tmpfiles.conf").read_text()
    assert all(f"d {path} " in tmpfiles for path in (paths.run_dir, paths.state_dir, paths.log_dir))


def test_what_make_install_writes_first_changes_nothing(tmp_path: Path) -> None:
    file = tmp_path / "enforcer.toml"
    file.write_text(settings.listing())
    assert settings.parse(file.read_text()).as_dict() == settings.parse("").as_dict()


def test_bench_is_honest_about_its_numbers() -> None:
    for result in bench.measure(seconds=0.02):
        assert result.per_second > 0 and result.count >= 1 and result.what


def test_quantiles_are_values_that_were_seen() -> None:
    values = [float(n) for n in range(300, 0, -1)]
    assert figures.p99(values) == 297.0
    assert figures.p99([7.0]) == 7.0 and figures.p99([1.0, 9.0]) == 9.0
    assert figures.calm([9.0] * 400 + [2.0] * 200 + [9.0] * 400) == 2.0


def test_a_figure_stands_beside_its_counterpart() -> None:
    figure = figures.Figure("time to refuse", 0.05, "s", "ext4 MMP's refusal", 11.0, "one each")
    (row,) = figures.as_json([figure])
    assert row["ratio"] == pytest.approx(0.05 / 11) and row["source"] == "one each"
    assert figures.calls("1200 0\n900 16\n") == [figures.Call(1200, 0), figures.Call(900, 16)]
    assert "ext4 MMP's refusal" in {
        str(cell) for column in figures.table([figure], "").columns for cell in column.cells
    }
