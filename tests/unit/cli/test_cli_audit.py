# SPDX-License-Identifier: GPL-2.0-or-later
"""audit and explain: the log filtered, followed, verified and told, and a file that is none is said to be none."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from cli_samples import ROOT, printed

from enforcer.cli.main import main
from enforcer.model.errors import Exit


def test_audit_shows_every_record_with_its_effect(log: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["audit", "--file", str(log)]) == 0
    text = printed(capsys)
    assert "Sunday, 2026-11-22" in text or "2026-11-2" in text
    assert all(f"E-1a2b3c-{number}" in text for number in range(17, 22))
    assert "in use on node-1" in text and "stranded" in text and "\x1b" not in text


@pytest.mark.parametrize(
    ("filters", "events"),
    [
        (["--effect", "permit"], [21]),
        (["--effect", "would-refuse"], [20]),
        (["--rule", "trial"], [20]),
        (["--rule", "multi_attached"], [19]),
        (["--device", "vg:data", "-n", "2"], [20, 21]),
        (["--device", "wwn-0x5000c500aa"], [17, 18, 19, 20, 21]),
        (["--device", "/dev/sdc*"], []),
        (["--node-pid", "4711", "--effect", "permit"], [21]),
        (["--node-pid", "1"], []),
        (["--since", "2026-11-22T12:00:00Z"], [17, 18, 19, 20, 21]),
        (["--since", "2027-01-01"], []),
    ],
)
def test_audit_keeps_what_was_asked_for(
    log: Path, filters: list[str], events: list[int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["audit", "--file", str(log), "--json", *filters]) == 0
    found = [json.loads(line) for line in printed(capsys).splitlines()]
    assert [made["id"] for made in found] == [f"E-1a2b3c-{number}" for number in events]


def test_audit_verify_finds_a_changed_line(log: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["audit", "--verify", "--file", str(log)]) == 0
    assert "5 lines, unbroken" in printed(capsys)
    log.write_bytes(log.read_bytes().replace(b"EPERM", b"EBUSY"))
    assert main(["audit", "--verify", "--file", str(log)]) == 1
    assert f"{log}:4: the line does not follow" in printed(capsys)
    assert main(["audit", "--verify", "--json", "--file", str(log)]) == 1
    assert json.loads(printed(capsys))["files"][0]["first_break"]["line"] == 4


@pytest.mark.parametrize(
    "content",
    [
        b"root:x:0:0:root:/root:/bin/bash\nbin:x:1:1::/bin:/bin/sh\n",
        bytes(range(256)) * 40,
        b"\x7fELF\x02\x01",
        b'{"a": 1}',
        b'{"schema": 1, "ok": true, "files": []}\n',
        b'{"schema": 1, "ok": true, "files": []}',
        b'[{\n  "seq": 1\n}]\n',
        b'{"id": "E-1a2b3c-17", "effect": "refuse"}\n' * 3,
    ],
)
def test_a_file_that_is_no_log_is_never_an_empty_answer(
    tmp_path: Path, content: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "other"
    path.write_bytes(content)
    for command in (
        ["audit"], ["audit", "--json"], ["audit", "--since", "2h"], ["audit", "--verify"], ["audit", "-f"],
        ["explain", "E-1a2b3c-17"], ["explain", "last"],
    ):  # grouped by meaning  # fmt: skip
        assert main([*command, "--file", str(path)]) == Exit.FAILURE, command
        out, err = capsys.readouterr()
        assert out == "" and f"{path}:1: is no record of enforcerd" in err, command
        assert "hint: the log of this node is /var/log/enforcer/audit.jsonl" in err


def test_a_log_may_be_empty_torn_or_damaged_and_have_any_neighbour(
    log: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = log.read_bytes()
    first = whole.splitlines(keepends=True)[0]
    log.with_name("audit.jsonl-notes").write_text("not a record\n")
    for content, records in (
        (b"", 0),
        (first[:1], 0),
        (first[:60], 0),
        (whole[:-30], 4),
        (b"\0" * 4096 + b"\n" + whole, 5),
        (b'{"a": 1}\n[]\n' + whole, 5),
    ):
        log.write_bytes(content)
        for more in ([], ["--since", "2020-01-01"]):
            assert main(["audit", "--json", "--file", str(log), *more]) == 0
            assert len(printed(capsys).splitlines()) == records


def test_audit_follows_the_file_without_a_daemon(log: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "enforcer.cli.main",
        "audit",
        "--json",
        "-f",
        "-n",
        "1",
        "--file",
        str(log),
    ]
    child = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert child.stdout is not None
    try:
        assert json.loads(child.stdout.readline())["id"] == "E-1a2b3c-21"
        with log.open("ab") as file:  # the child looks at the end of the file after it has printed
            import time

            time.sleep(0.3)
            file.write(b'{"schema": 1, "seq": 99, "id": "E-1a2b3c-99", "prev": ""}\n')
        assert json.loads(child.stdout.readline())["id"] == "E-1a2b3c-99"
        child.send_signal(2)
        _, err = child.communicate(timeout=5)
        assert (child.returncode, err) == (130, b"")
    finally:
        child.kill()
        child.communicate()


def test_explain_tells_one_event(log: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", "E-1a2b3c-17", "--file", str(log)]) == 0
    text = printed(capsys)
    assert text.startswith("E-1a2b3c-17: mount of /dev/sdb1 refused with EBUSY")
    assert "enforcer who wwn-0x5000c500aa/p1" in text and 8 <= len(text.splitlines()) <= 15
    assert main(["explain", "last", "--json", "--file", str(log)]) == 0
    assert json.loads(printed(capsys))["id"] == "E-1a2b3c-20"


def test_an_unreadable_log_and_a_missing_one_say_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["audit", "--file", str(tmp_path / "none")]) == Exit.FAILURE
    assert "there is no audit log" in capsys.readouterr().err
    monkeypatch.setattr(Path, "open", lambda *a: (_ for _ in ()).throw(PermissionError(13, "no")))
    assert main(["explain", "E-1", "--file", str(tmp_path)]) == Exit.NO_PERMISSION
    assert "hint: become root" in capsys.readouterr().err
