# SPDX-License-Identifier: GPL-2.0-or-later
"""What a script relies on: nothing that did nothing ends with 0, a closed pipe is quiet, one text has one time zone."""

from __future__ import annotations

import json
import subprocess
import sys
from datetime import timedelta, timezone
from pathlib import Path

import pytest
from cli_samples import ROOT, printed

from enforcer import __version__
from enforcer.audit.sentence import in_zone
from enforcer.cli.main import main
from enforcer.model.errors import Exit


def test_a_test_without_a_case_is_no_success(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["policy", "test", str(tmp_path)]) == Exit.USAGE
    (tmp_path / "cases.toml").write_text("")
    assert main(["policy", "test", str(tmp_path)]) == Exit.USAGE
    assert capsys.readouterr().err.count("nothing was tested") == 2


@pytest.mark.parametrize("seconds", ["-3", "0", "nan", "inf"])
def test_a_watch_of_no_time_is_a_mistake(seconds: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["witness", f"--seconds={seconds}"]) == Exit.USAGE
    assert "--seconds takes more than 0 seconds" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "code", "hint"),
    [
        (["--compare", "/none"], Exit.FAILURE, "--compare AUDITLOG names another"),
        (["--seen", "{log}"], Exit.USAGE, "enforcer witness --seen FILE --compare"),
        (["--seen", "/none", "--compare", "{log}"], Exit.FAILURE, "enforcer witness --json >FILE writes one"),
        (["--seen", "{log}", "--compare", "{log}", "--seconds=3"], Exit.USAGE, "--seen FILE --compare"),
    ],
)
def test_the_witness_says_what_to_type(
    words: list[str], code: Exit, hint: str, log: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["witness", *(word.format(log=log) for word in words)]) == code
    assert hint in capsys.readouterr().err


@pytest.mark.parametrize("more", ["", " --json"])
def test_a_log_that_is_only_begun_to_be_read(log: Path, more: str) -> None:
    log.write_bytes(log.read_bytes() * 600)
    command = f"{sys.executable} -m enforcer.cli.main audit{more} --file {log} | head -n1; exit ${{PIPESTATUS[0]}}"
    child = subprocess.run(["bash", "-c", command], cwd=ROOT, capture_output=True, timeout=30)
    assert (child.stderr, child.returncode) == (b"", 141) and child.stdout.count(b"\n") == 1


def test_the_version_is_told_as_everywhere(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["--version"])
    assert (end.value.code, capsys.readouterr().out) == (0, f"enforcer {__version__}\n")


def test_rules_are_shown_in_the_words_of_their_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "10-site.toml").write_text(
        '[[rule]]\nid = "san"\non = ["mount"]\nmatch = { device = ["wwn-*"], '
        'subject = { unit = "!backup.service", uid = 1000 } }\n'
        'multi_attached = false\nerrno = "EPERM"\nwait = "12s"\n'
    )
    assert main(["policy", "show", "san", "--dir", str(tmp_path)]) == 0
    rows = dict(line.split(None, 1) for line in printed(capsys).splitlines()[1:])
    assert {key: rows[key].strip() for key in ("multi_attached", "errno", "wait", "unit", "uid")} == {
        "unit": "!backup.service",
        "uid": "1000",
        "multi_attached": "false",
        "errno": "EPERM",
        "wait": "12s",
    }
    assert main(["policy", "show", "--dir", str(tmp_path)]) == 0
    text = printed(capsys)
    assert "unit=!backup.service uid=1000" in " ".join(text.split())
    assert "deadline 20s" in text and "True" not in text and "None" not in text


def test_one_text_has_one_time_zone() -> None:
    zone = timezone(timedelta(hours=9), "JST")
    assert in_zone("sda1 is in use on node-1 since 2026-11-22T14:53:13Z", zone).endswith("since 2026-11-22 23:53:13")
    assert in_zone("x 2026-11-22T14:53:13.250Z y", zone) == "x 2026-11-22 23:53:13 y"
    assert in_zone("2026-99-22T14:53:13Z and E-6151a2-2", zone) == "2026-99-22T14:53:13Z and E-6151a2-2"


def test_explain_converts_what_a_rule_wrote(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["explain", "E-6151a2-2", "--file", str(ROOT / "docs/refusal.jsonl")])
    assert "T14:53:13Z" not in printed(capsys)


def test_settings_are_checked_without_a_daemon(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "enforcer.toml"
    file.write_text('[node]\nname = "node-1"\n[store]\nkind = "etcd"\n')
    assert main(["config", "check", str(file)]) == Exit.NOT_CONFIGURED
    assert printed(capsys).startswith(f"{file}:4: the etcd store has no endpoints")
    assert main(["config", "check", str(file), "--json"]) == Exit.NOT_CONFIGURED
    assert json.loads(printed(capsys))["errors"][0]["line"] == 4
    file.write_text('[node]\nname = "node-1"\n')
    assert main(["config", "check", str(file)]) == 0
    assert printed(capsys) == f"{file}: in order; node node-1, store sqlite, cluster default\n"
    assert main(["config", "check", str(tmp_path / "none")]) == Exit.NOT_CONFIGURED
