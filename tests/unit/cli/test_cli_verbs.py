# SPDX-License-Identifier: GPL-2.0-or-later
"""Every verb: its JSON, its text, its failures in one sentence, its exit code."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
from audit_samples import OTHER_BOOT
from cli_samples import ROOT, STATUS, WHO, printed
from conftest import Daemon

from enforcer.cli.main import main, parser
from enforcer.model.errors import Exit


def test_who_status_and_fence_ask_the_daemon(daemon: Daemon, capsys: pytest.CaptureFixture[str]) -> None:
    daemon.replies = {"who": WHO, "status": STATUS, "fence-confirm": {"resources": ["wwn-0x5000c500aa/p1"]}}
    here = ["--socket", str(daemon.path)]
    assert main(["who", *here]) == 0
    text = printed(capsys)
    assert "node-1" in text and "! wwn-0x5000c500aa/p1 is stranded" in text and "system: holds /" in text
    assert "the kernel table of node-2 says live" in text
    assert main(["status", *here]) == 0
    assert "yes, mode enforce" in printed(capsys)
    assert main([*here, "fence", "confirm", "node-1", "--boot-id", OTHER_BOOT, "--force"]) == 0
    assert "may be taken over: wwn-0x5000c500aa/p1" in printed(capsys)
    assert daemon.requests[-1] == {
        "schema": 1, "verb": "fence-confirm", "node": "node-1", "boot_id": OTHER_BOOT, "force": True,
    }  # grouped by meaning  # fmt: skip


def test_fence_run_says_what_is_free_now_and_that_the_node_is_left_off(
    daemon: Daemon, capsys: pytest.CaptureFixture[str]
) -> None:
    fenced = {"agent": "fence_ipmilan", "boot_ids": [OTHER_BOOT], "resources": ["wwn-0x5000c500aa/p1"]}
    daemon.replies = {"fence-run": fenced}
    assert main(["fence", "--socket", str(daemon.path), "run", "node-1"]) == 0
    text = printed(capsys)
    assert f"switched off by fence_ipmilan; boot {OTHER_BOOT} is recorded as fenced" in text
    assert "may be taken over: wwn-0x5000c500aa/p1" in text and "node-1 is left off" in text
    asked = {"schema": 1, "verb": "fence-run", "node": "node-1", "alive": False, "was_off": False}
    assert daemon.requests[-1] == asked
    daemon.replies = {"fence-run": fenced | {"was_off": True}}
    assert main(["fence", "--socket", str(daemon.path), "run", "node-1", "--was-off"]) == 0
    assert "node-1: off already, says fence_ipmilan; boot" in printed(capsys)
    assert daemon.requests[-1] == asked | {"was_off": True}
    daemon.replies = {"fence-run": fenced}
    assert main(["fence", "--socket", str(daemon.path), "run", "node-1", "--alive", "--json"]) == 0
    assert json.loads(printed(capsys)) == {"schema": 1, **fenced}
    assert daemon.requests[-1]["alive"] is True


@pytest.mark.parametrize("name", ["/dev/sdb1", "sdb1", "vg:data", "wwn-0x5000c500aa", "wwn-0x5000c500aa/p1", "8:17"])
def test_who_finds_a_device_by_any_of_its_names(daemon: Daemon, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    daemon.replies = {"who": WHO}
    assert main(["who", name, "--json", "--socket", str(daemon.path)]) == 0
    found = json.loads(printed(capsys))
    assert [lease["resource"] for lease in found["leases"]] == ["wwn-0x5000c500aa/p1"]
    assert [device["name"] for device in found["devices"]] == ["sdb1"]
    assert [node["node"] for node in found["nodes"]] == ["node-1"]


def test_a_forgotten_boot_id_is_shown_but_never_guessed(daemon: Daemon, capsys: pytest.CaptureFixture[str]) -> None:
    daemon.replies = {"who": WHO}
    assert main(["fence", "--socket", str(daemon.path), "confirm", "node-1"]) == Exit.USAGE
    assert f"hint: enforcer fence confirm node-1 --boot-id {OTHER_BOOT}" in capsys.readouterr().err
    assert [request["verb"] for request in daemon.requests] == ["who"]


@pytest.fixture
def prerequisites(monkeypatch: pytest.MonkeyPatch) -> list[SimpleNamespace]:
    found = [
        SimpleNamespace(name="BTF", ok=True, sentence="the kernel describes itself", remedy=""),
        SimpleNamespace(name="bpf LSM", ok=False, sentence="not in the list", remedy="add lsm=...,bpf"),
    ]
    module = ModuleType("enforcer.kernel.prerequisites")
    monkeypatch.setattr(module, "check", lambda: found, raising=False)
    monkeypatch.setitem(sys.modules, "enforcer.kernel.prerequisites", module)
    return found


def test_doctor_says_what_is_missing_and_what_to_do(
    prerequisites: list[SimpleNamespace], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["doctor"]) == Exit.NOT_INSTALLED
    text = printed(capsys)
    assert "! bpf LSM: add lsm=...,bpf" in text and text.endswith("this machine cannot enforce\n")
    prerequisites.pop()
    assert main(["doctor"]) == 0


def test_the_json_of_every_verb_is_one_valid_object(
    daemon: Daemon, log: Path, policy: Path, prerequisites: object, capsys: pytest.CaptureFixture[str]
) -> None:
    daemon.replies = {"who": WHO, "status": STATUS, "policy-reload": {"generation": 8}}
    here = ["--socket", str(daemon.path)]
    commands = [
        ["audit", "-n", "1", "--file", str(log)],
        ["audit", "--verify", "--file", str(log)],
        ["explain", "E-1a2b3c-17", "--file", str(log)],
        ["who", *here],
        ["status", *here],
        ["fence", *here, "confirm", "node-1", "--boot-id", "x"],
        ["fence", *here, "run", "node-1"],
        ["policy", "check", str(policy)],
        ["policy", "show", "--dir", str(policy)],
        ["policy", *here, "reload"],
        ["doctor"],
        ["version"],
    ]
    for command in commands:
        main([*command, "--json"])
        text = printed(capsys)
        assert text.isascii() and text.count("\n") == 1, command
        assert json.loads(text)["schema"] == 1, command


def test_no_daemon_is_one_sentence_one_hint_and_exit_7(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status", "--socket", str(tmp_path / "none")]) == Exit.NOT_RUNNING
    assert capsys.readouterr().err == (
        f"enforcer: enforcerd is not running: nobody listens at {tmp_path}/none\n  hint: systemctl start enforcerd\n"
    )


def test_a_refusal_of_the_daemon_keeps_its_words_and_its_exit_code(
    daemon: Daemon, capsys: pytest.CaptureFixture[str]
) -> None:
    daemon.replies = {"status": {"ok": False, "error": "no\x1b[2J", "hint": "do\nthis", "exit": 4}}
    assert main(["status", "--socket", str(daemon.path)]) == Exit.NO_PERMISSION
    assert capsys.readouterr().err == "enforcer: no\\x1b[2J\n  hint: do\\x0athis\n"


@pytest.mark.parametrize("raw", [b"", b"\n", b"{", b"[]\n", b"\xff\n", b'{"ok": 1}\n'])
def test_an_answer_that_is_none_is_an_error_and_no_traceback(
    daemon: Daemon, raw: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    daemon.raw = raw
    assert main(["status", "--socket", str(daemon.path)]) in (Exit.FAILURE, Exit.NOT_RUNNING)
    assert "Traceback" not in capsys.readouterr().err


def test_an_unexpected_error_is_a_sentence_unless_a_traceback_is_asked_for(
    log: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("enforcer.audit.reader.read", lambda *a, **k: 1 / 0)
    assert main(["audit", "--file", str(log)]) == 1
    assert "ZeroDivisionError" in capsys.readouterr().err
    with pytest.raises(ZeroDivisionError):
        main(["--debug", "audit", "--file", str(log)])


def test_a_closed_pipe_is_quiet(log: Path) -> None:
    log.write_bytes(log.read_bytes() * 300)
    command = f"{sys.executable} -m enforcer.cli.main audit --json --file {log} | head -n1 >/dev/null"
    child = subprocess.run(["bash", "-c", command], cwd=ROOT, capture_output=True, timeout=20)
    assert child.stderr == b""


def test_every_verb_has_help_with_an_example(capsys: pytest.CaptureFixture[str]) -> None:
    for verb in (
        [],
        ["audit"],
        ["explain"],
        ["who"],
        ["status"],
        ["fence"],
        ["policy"],
        ["doctor"],
        ["version"],
    ):
        with pytest.raises(SystemExit) as end:
            parser().parse_args([*verb, "--help"])
        assert end.value.code == 0
        assert "example: " in printed(capsys)


def test_rich_is_not_imported_for_json_nor_by_anything_that_the_daemon_uses() -> None:
    program = (
        "import sys\nfrom enforcer.audit import buildid, tell, verify, writer\n"
        "from enforcer.cli.main import main\n"
        "main(['version', '--json'])\n"
        "sys.exit('rich' in sys.modules or 'elftools' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True).returncode == 0
