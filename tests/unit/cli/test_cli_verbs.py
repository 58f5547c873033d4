# SPDX-License-Identifier: GPL-2.0-or-later
"""Every verb: its JSON, its text, its failures in one sentence, its exit code."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
from audit_samples import ALL, ORIGIN, OTHER_BOOT, hostile, hostile_record, intent, record
from conftest import Daemon
from hypothesis import HealthCheck, given, settings

from enforcer.audit.view import Record
from enforcer.audit.writer import AuditLog
from enforcer.cli import render, words
from enforcer.cli.main import main, parser
from enforcer.cli.output import Output
from enforcer.model.errors import Exit
from enforcer.model.escape import to_json

ROOT = Path(__file__).parents[3]

STATUS = {
    "node": "node-2", "boot_id": ORIGIN.boot_id, "session": "7f3a", "mode": "enforce", "generation": 7,
    "policy_digest": "ab" * 32, "enforcing": True, "devices": 3, "warnings": [],
    "store": {"kind": "etcd", "reachable": True, "detail": "3 members", "ttl_s": 30},
    "kernel": {"programs": 12, "misses": 0, "drops": 0}, "keeper": {"alive": True, "deadline_in_s": 21.4},
    "counters": {"asks": 40, "permits": 37, "refusals": 3, "would_refuse": 0},
}  # fmt: skip
LEASE = {
    "resource": "wwn-0x5000c500aa/p1", "mode": "EX", "token": 41, "since": "2026-11-22T12:03:00Z",
    "holder": {"node": "node-1", "boot_id": OTHER_BOOT, "session": "s1"}, "guarantee": "none",
    "liveness": "stranded", "facts": {"fstype": "ext4", "target": "/srv/db"},
}  # fmt: skip
WHO = {
    "leases": [LEASE, {**LEASE, "resource": "wwn-0x5000c500bb", "liveness": "live"}],
    "devices": [
        {"dev": "8:17", "name": "sdb1", "resources": ["wwn-0x5000c500aa/p1"], "aliases": ["vg:data"],
         "state": "elsewhere", "token": 41, "uses": 0, "rule": "san", "system": "", "problem": "",
         "seen_by": ["node-1"]},
        {"dev": "8:1", "name": "sda1", "resources": ["wwn-0x1"], "aliases": [], "state": "unguarded",
         "token": 0, "uses": 1, "rule": "", "system": "holds /", "problem": "", "seen_by": []},
    ],
    "nodes": [
        {"node": "node-1", "boot_id": OTHER_BOOT, "live": False, "policy_digest": "cd" * 32,
         "luns": ["wwn-0x5000c500aa"]},
        {"node": "node-2", "boot_id": ORIGIN.boot_id, "live": True, "policy_digest": "ab" * 32, "luns": []},
    ],
    "disagreements": ["wwn-0x5000c500aa: the store says node-1, the kernel table of node-2 says live"],
}  # fmt: skip


@pytest.fixture
def log(tmp_path: Path) -> Path:
    path = tmp_path / "audit.jsonl"
    made = AuditLog(path, ORIGIN)
    for number, verdict in enumerate(ALL, 17):
        made.submit(record(verdict, intent(number)))
    assert made.close()
    return path


@pytest.fixture
def policy(tmp_path: Path) -> Path:
    directory = tmp_path / "policy.d"
    directory.mkdir()
    (directory / "50-site.toml").write_text('[[rule]]\nid = "san"\non = ["mount"]\nmatch = { device = ["wwn-*"] }\n')
    return directory


def printed(capsys: pytest.CaptureFixture[str]) -> str:
    found = capsys.readouterr()
    assert found.err == ""
    return found.out


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
    ):  # fmt: skip
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
    }  # fmt: skip


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


def test_policy_check_names_file_and_line(policy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["policy", "check", str(policy)]) == 0
    assert "1 rules in 1 files" in printed(capsys)
    (policy / "60-bad.toml").write_text('[[rule]]\nid = "x"\non = ["mount"]\ncolour = "\\u001b[31m"\n')
    assert main(["policy", "check", str(policy)]) == Exit.NOT_CONFIGURED
    text = printed(capsys)
    assert "60-bad.toml:4: " in text and "\x1b" not in text
    assert main(["policy", "check", "--json", str(policy)]) == Exit.NOT_CONFIGURED
    assert json.loads(printed(capsys))["errors"][0]["line"] == 4
    assert main(["policy", "show", "--dir", str(policy)]) == Exit.NOT_CONFIGURED
    assert "60-bad.toml:4: " in capsys.readouterr().err


def test_a_place_without_a_policy_file_is_not_one_without_mistakes(
    policy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    empty, others, none = tmp_path / "empty", tmp_path / "others", tmp_path / "none"
    empty.mkdir()
    others.mkdir()
    for name in ("50-site.conf", "10-san.toml.example", "README.md", ".50-hidden.toml"):
        (others / name).write_text("[[rule]]\n")
    for place, said in (
        (empty, "holds no policy file. Only NN-name.toml is read"),
        (others, "holds no policy file. Only NN-name.toml is read"),
        (none, "does not exist. "),
    ):
        for places in ([place], [policy, place]):
            assert main(["policy", "check", *map(str, places)]) == Exit.NOT_CONFIGURED
            assert printed(capsys).startswith(f"{place}: {said}")
        assert main(["policy", "check", "--json", str(place)]) == Exit.NOT_CONFIGURED
        assert json.loads(printed(capsys))["errors"][0]["file"] == str(place)
        assert main(["policy", "show", "--dir", str(place)]) == Exit.NOT_CONFIGURED
        assert f"{place}: {said}" in capsys.readouterr().err


def test_policy_test_tells_what_came_out_otherwise(
    policy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cases = tmp_path / "cases.toml"
    head = '[[device]]\nname = "sdb"\nresources = ["wwn-1"]\n[[case]]\nname = "a LUN"\n'
    cases.write_text(
        head + 'intent = { kind = "mount", device = "sdb" }\nexpect = { action = "lease", rule = "san" }\n'
    )
    assert main(["policy", "test", str(cases), "--dir", str(policy)]) == 0
    assert "1 of 1 cases come out as expected" in printed(capsys)
    cases.write_text(head + 'intent = { kind = "mount", device = "sdb" }\nexpect = { action = "refuse" }\n')
    assert main(["policy", "test", str(cases), "--dir", str(policy)]) == 1
    assert "a LUN: action is" in printed(capsys)
    assert main(["policy", "test", "--json", str(cases), "--dir", str(policy)]) == 1
    assert json.loads(printed(capsys))["cases"][0]["passed"] is False


def test_policy_shows_rules_in_order_and_one_in_full(policy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["policy", "show", "--dir", str(policy)]) == 0
    text = printed(capsys)
    assert "san" in text and "device=wwn-*" in text and "50-site.toml:1" in text
    assert main(["policy", "show", "san", "--dir", str(policy)]) == 0
    assert "rule san" in printed(capsys)
    assert main(["policy", "show", "nope", "--dir", str(policy)]) == 1


@pytest.fixture
def prerequisites(monkeypatch: pytest.MonkeyPatch) -> list[SimpleNamespace]:
    found = [
        SimpleNamespace(name="BTF", ok=True, sentence="the kernel describes itself", remedy=""),
        SimpleNamespace(name="bpf LSM", ok=False, sentence="not in the list", remedy="add lsm=...,bpf"),
    ]
    module = ModuleType("enforcer.kernel.prerequisites")
    module.check = lambda: found  # type: ignore[attr-defined]
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


def test_an_unreadable_log_and_a_missing_one_say_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["audit", "--file", str(tmp_path / "none")]) == Exit.FAILURE
    assert "there is no audit log" in capsys.readouterr().err
    monkeypatch.setattr(Path, "open", lambda *a: (_ for _ in ()).throw(PermissionError(13, "no")))
    assert main(["explain", "E-1", "--file", str(tmp_path)]) == Exit.NO_PERMISSION
    assert "hint: become root" in capsys.readouterr().err


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


def drawn(*things: object, width: int = 100) -> str:
    stream = io.StringIO()
    Output(stream, width=width).draw(*things)  # type: ignore[arg-type]
    return stream.getvalue()


@pytest.mark.parametrize("width", [60, 80, 100, 200])
def test_the_audit_table_fits_the_terminal(width: int) -> None:
    rows = [Record.of(record(verdict)) for verdict in ALL]
    text = drawn(render.audit_table(rows, width), width=width)
    assert all(len(line) <= max(width, 80) for line in text.splitlines())


def test_colour_is_for_terminals_and_not_where_it_is_unwanted(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    row = Record.of(record(ALL[0]))
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    coloured = Terminal()
    Output(coloured, width=100).draw(render.audit_table([row], 100))
    assert "\x1b[1;31mrefuse" in coloured.getvalue()
    monkeypatch.setenv("NO_COLOR", "1")
    plain = Terminal()
    Output(plain, width=100).draw(render.audit_table([row], 100))
    assert "31m" not in plain.getvalue()


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(hostile)
def test_no_renderer_lets_a_hostile_name_through(name: str) -> None:
    rows = [Record.of(json.loads(to_json({**hostile_record(name, verdict), "why": name}))) for verdict in ALL]
    device = {**dict.fromkeys(WHO["devices"][0], name), "resources": [name], "seen_by": [name]}  # type: ignore[index]
    lease = {
        **dict.fromkeys(LEASE, name),
        "holder": {"node": name, "boot_id": name},
        "facts": {"fstype": name},
    }
    stranded = {**lease, "liveness": "stranded"}
    node = {"node": name, "boot_id": name, "live": True, "policy_digest": name, "luns": [name]}
    who = {"leases": [lease, stranded], "devices": [device], "nodes": [node], "disagreements": [name]}
    status = {
        **dict.fromkeys(STATUS, name), "warnings": [name], "counters": {name: name},
        "store": {"kind": name, "reachable": False, "detail": name, "ttl_s": name},
        "kernel": {"programs": [name], "misses": name, "drops": {name: name}},
        "keeper": {"deadline_in_s": name},
    }  # fmt: skip
    things = [
        render.audit_table(rows, 100),
        *(thing for row in rows for thing in render.explanation(words.explain(row), row.effect)),
        *render.who_tables(who),
        *render.status_grid(status),
        render.plain_table(("a",), [(name,)], {}),
    ]
    text = drawn(*things, width=100)
    assert all(char.isprintable() or char == "\n" for char in text)
