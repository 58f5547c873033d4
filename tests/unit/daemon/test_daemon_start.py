# SPDX-License-Identifier: GPL-2.0-or-later
"""The programs as processes, as far as they come without a kernel: what they say and the code they exit with."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from enforcer.daemon.main import kernel_switch
from enforcer.model.errors import Exit

ROOT = Path(__file__).resolve().parents[3]
MAIN = {
    "enforcerd": "enforcer.daemon.main",
    "enforcer-keeper": "enforcer.keeper.main",
    "enforcer-revoker": "enforcer.revoker.main",
    "enforcer": "enforcer.cli.main",
}
ABLE = "from enforcer.kernel import prerequisites; prerequisites.require = lambda: None"
UNABLE = (
    "from enforcer.kernel import prerequisites as p;"
    "p.check = lambda: [p.Prerequisite('fuse', False, '/dev/fuse is not there', 'modprobe fuse')]"
)
NOBODY = "os.setgroups([]); os.setgid(65534); os.setuid(65534)"  # after the imports: the checkout may be private
root_only = pytest.mark.skipif(os.geteuid() != 0, reason="what follows is only reached by root")


def run(program: str, *arguments: str, before: str = "", timeout: float = 20) -> subprocess.CompletedProcess[str]:
    code = f"import os, sys; from {MAIN[program]} import main\n{before}\nsys.exit(main({list(arguments)!r}))"
    return subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=timeout)


@pytest.fixture
def settings(tmp_path: Path) -> Path:
    """A settings file all of whose paths lie in the test's own directory."""
    (tmp_path / "policy.d").mkdir()
    (tmp_path / "policy.d/90-default.toml").write_text((ROOT / "policy/90-default.toml").read_text())
    names = {"state_dir": "state", "run_dir": "run", "log_dir": "log", "bpffs": "bpf/enforcer"}
    lines = [f"{key} = {json.dumps(str(tmp_path / name))}" for key, name in names.items()]
    lines.append(f"policy_dirs = [{json.dumps(str(tmp_path / 'policy.d'))}]")
    path = tmp_path / "enforcer.toml"
    path.write_text("[node]\nname = 'node-1'\n[paths]\n" + "\n".join(lines) + "\n")
    return path


@pytest.mark.parametrize("program", MAIN)
def test_help(program: str) -> None:
    done = run(program, "--help")
    assert done.returncode == 0 and done.stderr == ""
    assert done.stdout.startswith(f"usage: {program} ") and "example: " in done.stdout


@pytest.mark.parametrize("program", MAIN)
def test_usage(program: str) -> None:
    done = run(program, "--no-such-option")
    assert done.returncode == Exit.USAGE and "usage: " in done.stderr


@pytest.mark.parametrize(
    ("program", "hint"),
    [
        ("enforcerd", "sudo enforcerd, or systemctl start enforcerd"),
        ("enforcer-keeper", "systemctl start enforcer-keeper"),
        ("enforcer-revoker", "systemctl start enforcer-revoker"),
    ],
)
def test_not_root(program: str, hint: str) -> None:
    done = run(program, before=NOBODY if os.geteuid() == 0 else "")
    assert done.returncode == Exit.NO_PERMISSION
    said = done.stderr.splitlines()
    assert said[0] == f"{program}: {program} must be started by root"
    assert said[1].startswith(f"  hint: {hint}") and len(said) == 2


@root_only
@pytest.mark.parametrize("program", ["enforcerd", "enforcer-keeper", "enforcer-revoker"])
def test_bad_settings(program: str, settings: Path) -> None:
    settings.write_text(settings.read_text() + '[store]\nkind = "sqlight"\n')
    done = run(program, "--config", str(settings), before=ABLE)
    line = len(settings.read_text().splitlines())
    assert done.returncode == Exit.NOT_CONFIGURED
    assert f"{program}: {settings}:{line}: " in done.stderr and "Traceback" not in done.stderr


@root_only
@pytest.mark.parametrize("program", ["enforcerd", "enforcer-keeper", "enforcer-revoker"])
def test_no_such_settings(program: str, tmp_path: Path) -> None:
    done = run(program, "--config", str(tmp_path / "none.toml"), before=ABLE)
    assert done.returncode == Exit.NOT_CONFIGURED
    assert str(tmp_path / "none.toml") in done.stderr and "Traceback" not in done.stderr


@root_only
def test_bad_policy(settings: Path, tmp_path: Path) -> None:
    bad = tmp_path / "policy.d/10-san.toml"
    bad.write_text('[[rule]]\nid = "san"\nmode = "enforced"\non = ["mount"]\n')
    done = run("enforcerd", "--config", str(settings), before=ABLE)
    assert done.returncode == Exit.NOT_CONFIGURED
    assert f"enforcerd: {bad}:3: " in done.stderr and "Traceback" not in done.stderr
    assert not (tmp_path / "run/upcall").exists() and not (tmp_path / "bpf").exists()  # nothing was begun


@root_only
def test_missing_prerequisite(settings: Path) -> None:
    done = run("enforcerd", "--config", str(settings), before=UNABLE)
    assert done.returncode == Exit.NOT_INSTALLED
    assert done.stderr.splitlines() == ["enforcerd: cannot enforce: /dev/fuse is not there", "  hint: modprobe fuse"]


@root_only
@pytest.mark.parametrize(
    ("program", "lock", "sentence"),
    [
        ("enforcerd", "enforcerd.lock", "enforcerd: another enforcerd is running (pid 4711)"),
        ("enforcer-keeper", "keeper.lock", "enforcer-keeper: another enforcer-keeper is running"),
        ("enforcer-revoker", "revoker.lock", "enforcer-revoker: another enforcer-revoker is running"),
    ],
)
def test_a_second_one(program: str, lock: str, sentence: str, settings: Path, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    with (tmp_path / "run" / lock).open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        held.write("4711\n")
        held.flush()
        done = run(program, "--config", str(settings), before=ABLE)
    assert done.returncode == Exit.FAILURE
    assert done.stderr.splitlines() == [sentence, f"  hint: systemctl status {program}"]
    assert (tmp_path / "run" / lock).read_text() == "4711\n"


@root_only
def test_detach(settings: Path, tmp_path: Path) -> None:
    done = run("enforcerd", "--config", str(settings), "--detach")
    assert (done.returncode, done.stdout) == (0, "enforcerd: no gate was in force\n")
    (tmp_path / "bpf/enforcer/links").mkdir(parents=True)
    done = run("enforcerd", "--config", str(settings), "--detach")
    assert (done.returncode, done.stdout) == (0, "enforcerd: the gate is out of force\n")
    assert not (tmp_path / "bpf/enforcer").exists()


@pytest.mark.parametrize(
    ("cmdline", "switch"),
    [
        ("", ""),
        ("quiet enforcer=off", "off"),
        ("enforcer=audit quiet", "audit"),
        ("enforcer=audit enforcer=off", "off"),
        ("enforcer=on", ""),
        ("xenforcer=off enforcer", ""),
    ],
)
def test_kernel_switch(cmdline: str, switch: str) -> None:
    assert kernel_switch(cmdline) == switch


def test_the_unit_does_not_restart_what_was_switched_off() -> None:
    """With enforcer=off the daemon exits 0 at once: the unit's condition must say the same as the program."""
    for unit in ("enforcerd", "enforcer-keeper", "enforcer-revoker"):
        assert "\nConditionKernelCommandLine=!enforcer=off\n" in (ROOT / f"tools/systemd/{unit}.service").read_text()
