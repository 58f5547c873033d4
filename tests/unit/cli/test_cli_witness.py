# SPDX-License-Identifier: GPL-2.0-or-later
"""``enforcer witness``: the program is found, started, drawn, and its judgement is passed on."""

from __future__ import annotations

import io
import json
import shutil
import sys
from pathlib import Path

import pytest
from audit_samples import hostile
from hypothesis import given, settings

from enforcer.cli import sightings
from enforcer.cli.main import main
from enforcer.cli.output import Output
from enforcer.cli.verbs import witness
from enforcer.model.errors import PrerequisiteMissing

BEGIN = {"schema": 1, "kind": "begin", "boot_ns": 1, "boot_id": "b", "node": "n"}
CALL = {
    "schema": 1, "kind": "call", "boot_ns": 9, "enter_ns": 5, "tid": 8, "tgid": 8, "uid": 0, "comm": "mount",
    "syscall": "mount", "compat": False, "source": "/dev/sda1", "target": "/mnt", "fstype": "ext4", "flags": 1,
    "needs_device": True, "return": -16, "errno": "EBUSY",
}  # grouped by meaning  # fmt: skip
END = {"schema": 1, "kind": "end", "boot_ns": 10, "calls": 1, "lost": 0}


@pytest.fixture
def interpreter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """In place of the interpreter that has BCC: says what the witness would say, and runs the comparison."""
    path = tmp_path / "python3"
    lines = "\n".join(json.dumps(line) for line in (BEGIN, CALL, END))
    path.write_text(f"#!/bin/sh\ncase $2 in */compare.py) exec {sys.executable} \"$@\";; esac\ncat <<'E'\n{lines}\nE\n")
    path.chmod(0o755)
    monkeypatch.setattr(witness, "PYTHON", path)
    monkeypatch.setattr(witness, "WRITTEN_S", 0)
    return path


def test_calls_are_drawn_or_passed_on(interpreter: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["witness", "--seconds", "1"]) == 0
    text = capsys.readouterr().out
    assert "ext4 /dev/sda1 on /mnt, ro" in text and "EBUSY" in text and "mount[8]" in text and "1 calls seen" in text
    assert main(["witness", "--json"]) == 0
    assert [json.loads(line) for line in capsys.readouterr().out.splitlines()] == [BEGIN, CALL, END]


def test_a_comparison_follows_the_watch_or_takes_what_was_seen(
    interpreter: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log, seen = tmp_path / "audit.jsonl", tmp_path / "seen"
    log.touch()
    assert main(["witness", "--compare", str(log)]) == 1
    assert "failed with EBUSY, and no record tells of it" in capsys.readouterr().out
    seen.write_text("".join(json.dumps(line) + "\n" for line in (BEGIN, END)))
    assert main(["witness", "--compare", str(log), "--seen", str(seen)]) == 0
    assert capsys.readouterr().out == "0 attempts seen, 0 records about mounts: they agree\n"
    assert main(["witness", "--compare", str(log), "--seen", str(seen), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["ok"] is True


def test_each_failure_is_said_with_its_exit_code(
    interpreter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["witness", "--seen", str(tmp_path)]) == 2
    assert "--compare" in capfd.readouterr().err
    for missing in ("none", "none/audit.jsonl"):
        assert main(["witness", "--compare", str(tmp_path / missing)]) == 1
        assert "there is no audit log" in capfd.readouterr().err
    interpreter.write_text("#!/bin/sh\necho 'witness: BCC is not installed' >&2\nexit 5\n")
    assert main(["witness"]) == 5
    assert capfd.readouterr().err == "witness: BCC is not installed\n"
    monkeypatch.setattr(witness, "PYTHON", tmp_path / "gone")
    assert main(["witness"]) == 5
    said = capfd.readouterr().err
    assert f"there is no {tmp_path}/gone" in said and "apt-get install python3 python3-bpfcc" in said


def test_the_package_carries_the_witness_and_a_checkout_has_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkout = witness.programs()
    assert checkout.parts[-2:] == ("tools", "witness")
    package = tmp_path / "enforcer"
    package.mkdir()
    monkeypatch.setattr("enforcer.__file__", str(package / "__init__.py"))
    with pytest.raises(PrerequisiteMissing):
        witness.programs()
    shutil.copytree(checkout, package / "witness")  # as pyproject.toml has the wheel do
    assert witness.programs() == package / "witness"


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (CALL, "ext4 /dev/sda1 on /mnt, ro"),
        ({"syscall": "umount2", "target": "/mnt", "flags": 2}, "/mnt"),
        (
            {"syscall": "fsconfig", "fd": 3, "command": 1, "key": "source", "value": "/dev/sda1"},
            "fd 3: source=/dev/sda1",
        ),
        ({"syscall": "fsconfig", "fd": 3, "command": 1, "key": "password"}, "fd 3: password"),
        ({"syscall": "fsconfig", "fd": 3, "command": 6, "key": ""}, "fd 3: create"),
        ({"syscall": "fsmount", "fd": 3, "flags": 0}, "fd 3"),
        ({}, ""),
    ],
)
def test_a_call_in_words(line: dict[str, object], words: str) -> None:
    assert sightings.what(line) == words


@settings(max_examples=15, deadline=None)
@given(hostile)
def test_no_hostile_name_gets_through(name: str) -> None:
    stream = io.StringIO()
    line = CALL | {"source": name, "target": name, "comm": name, "fstype": name, "syscall": name, "errno": name}
    Output(stream, width=100).draw(*sightings.row(line, 100))
    assert all(char == "\n" or char.isprintable() for char in stream.getvalue())
