# SPDX-License-Identifier: GPL-2.0-or-later
"""The journal, the caller's terminal, and where the build id comes from."""

from __future__ import annotations

import os
import pty
import socket
import struct
import subprocess
import sys
import threading
import time
import tty
from datetime import UTC
from pathlib import Path

import pytest
from audit_samples import (
    GUARD_ONLY,
    ORIGIN,
    PERMITTED,
    REFUSED,
    STRANDED,
    WOULD_REFUSE,
    hostile,
    hostile_record,
    record,
    view,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from enforcer.audit import buildid, tell
from enforcer.audit.buildid import BuildIds
from enforcer.audit.journal import REFUSED as REFUSED_ID
from enforcer.audit.journal import Journal, encode, fields
from enforcer.audit.sentence import sentence
from enforcer.audit.view import Record
from enforcer.audit.writer import AuditLog


def test_the_caller_reads_who_has_it_and_what_to_type() -> None:
    assert tell.line(view(REFUSED), UTC) == (
        "enforcer: /dev/sdb1 is in use on node-1 since 12:03; not mounted (EBUSY). "
        "Event E-1a2b3c-17: enforcer explain E-1a2b3c-17"
    )
    assert "silent but not proven dead; not mounted (EBUSY)" in tell.line(view(STRANDED), UTC)
    assert "/dev/sdb1: the kernel's table holds no live lease; not mounted (EPERM)" in tell.line(view(GUARD_ONLY))


@given(hostile)
def test_a_hostile_name_never_reaches_the_callers_terminal_and_never_hides_the_event(name: str) -> None:
    text = tell.line(Record.of({**hostile_record(name), "id": "E-1a2b3c-17"}))
    assert text.isprintable() and len(text) <= 640
    assert text.endswith("enforcer explain E-1a2b3c-17")


def _child(**streams: int) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-S", "-c", "input()"], stdin=subprocess.PIPE, **streams)


def test_one_line_is_written_to_the_terminal_of_the_caller() -> None:
    master, slave = pty.openpty()
    tty.setraw(slave)
    child = _child(stderr=slave)
    try:
        began = tell.start_ticks(child.pid)
        assert tell.tell(child.pid, began, "enforcer: no\x1b[2J")
        assert os.read(master, 4096) == b"enforcer: no\\x1b[2J\r\n"
        assert not tell.tell(child.pid, began + 1, "another process has this pid now")
        assert not tell.tell(child.pid, 0, "nobody knows when it began")
    finally:
        child.kill()
        child.communicate()
        os.close(master)
        os.close(slave)
    assert not tell.tell(child.pid, began, "it is gone")


def test_what_is_no_terminal_is_not_even_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.open

    def reading_only(path: str | Path, flags: int, **more: int) -> int:
        assert not flags & os.O_WRONLY
        return real(path, flags, **more)

    monkeypatch.setattr(tell.os, "open", reading_only)
    file = tmp_path / "errors"
    with file.open("wb") as errors:
        child = _child(stderr=errors.fileno())
        try:
            assert not tell.tell(child.pid, tell.start_ticks(child.pid), "no")
        finally:
            child.kill()
            child.communicate()
    assert file.read_bytes() == b""
    assert not tell._is_terminal(Path("/dev/null").stat())


def test_a_terminal_that_takes_no_more_output_holds_nobody_up() -> None:
    master, slave = pty.openpty()
    tty.setraw(slave)
    os.set_blocking(slave, False)
    with pytest.raises(BlockingIOError):
        while True:
            os.write(slave, b"x" * 4096)
    child = _child(stderr=slave)
    try:
        began = time.monotonic()
        tell.tell(child.pid, tell.start_ticks(child.pid), "no")
        assert time.monotonic() - began < 1
    finally:
        child.kill()
        child.communicate()
        os.close(master)
        os.close(slave)


def test_the_start_time_is_found_behind_a_name_with_parentheses() -> None:
    stat = b"12 (evil) R 1 (x) S " + b" ".join(b"%d" % n for n in range(4, 60))
    assert tell._start_ticks(stat) == 22
    assert tell._start_ticks(b"") == 0


@pytest.fixture
def journald(tmp_path: Path) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    listener.bind(str(tmp_path / "journal"))
    listener.settimeout(5)
    return listener


def test_a_refusal_is_one_datagram_with_the_hash_of_its_line(tmp_path: Path, journald: socket.socket) -> None:
    log = AuditLog(tmp_path / "log", ORIGIN, journal=Journal(tmp_path / "journal"))
    log.submit(record(PERMITTED))
    log.submit(record(REFUSED))
    got = dict(line.split("=", 1) for line in journald.recv(65536).decode().splitlines())
    assert log.close()
    assert got["MESSAGE_ID"] == REFUSED_ID and got["PRIORITY"] == "4"
    assert got["MESSAGE"].startswith("/dev/sdb1 is in use on node-1")
    assert (got["ENFORCER_HOLDER"], got["ENFORCER_RULE"]) == ("node-1", "san")
    from enforcer.audit.chain import digest

    assert got["ENFORCER_LINE_SHA256"] == digest((tmp_path / "log").read_bytes().splitlines()[-1])
    journald.setblocking(False)
    with pytest.raises(BlockingIOError):
        journald.recv(1)
    assert log.counters()["journal_sent"] == 1


def test_event_types_have_their_own_message_ids() -> None:
    ids = {fields(view(verdict), "m").get("MESSAGE_ID") for verdict in (REFUSED, WOULD_REFUSE, PERMITTED)}
    assert len(ids) == 3 and None in ids


def test_an_absent_or_deaf_journal_is_counted(tmp_path: Path, journald: socket.socket) -> None:
    absent = Journal(tmp_path / "nobody")
    absent.send({"MESSAGE": "x"})
    assert (absent.sent, absent.lost) == (0, 1)
    deaf = Journal(tmp_path / "journal")
    began = time.monotonic()
    for _ in range(2000):
        deaf.send({"MESSAGE": "x" * 500})
    assert deaf.lost > 0 and time.monotonic() - began < 2


@given(hostile)
def test_no_name_can_add_a_field_to_the_journals_entry(name: str) -> None:
    made = Record.of(hostile_record(name))
    entry = fields(made, sentence(made))
    lines = encode(entry).decode().removesuffix("\n").split("\n")
    assert [line.partition("=")[0] for line in lines] == list(entry)


def _elf(note: bytes, *, wide: bool = True, offset: int = 0) -> bytes:
    head, program = (64, 56) if wide else (52, 32)
    at = offset or head + program
    ident = b"\x7fELF" + bytes([2 if wide else 1, 1, 1]) + bytes(9)
    if wide:
        header = struct.pack("<HHIQQQIHHHHHH", 2, 62, 1, 0, head, 1 << 20, 0, head, program, 1, 64, 30, 29)
        segment = struct.pack("<IIQQQQQQ", 4, 4, at, 0, 0, len(note), len(note), 4)
    else:
        header = struct.pack("<HHIIIIIHHHHHH", 2, 3, 1, 0, head, 1 << 20, 0, head, program, 1, 40, 30, 29)
        segment = struct.pack("<IIIIIIII", 4, at, 0, 0, len(note), len(note), 4, 4)
    return ident + header + segment + bytes(at - head - program) + note


NOTE = struct.pack("<III", 4, 20, 3) + b"GNU\0" + bytes(range(20))
ABI_TAG = struct.pack("<III", 4, 16, 1) + b"GNU\0" + bytes(16)


@pytest.mark.parametrize("wide", [True, False])
def test_the_build_id_is_found_without_the_section_table(wide: bool) -> None:
    assert buildid.parse(_elf(ABI_TAG + NOTE, wide=wide)) == bytes(range(20)).hex()


def test_the_build_id_of_a_running_program_is_what_readelf_says() -> None:
    ids = BuildIds(patience=5)
    child = _child()
    try:
        found = ids.request(child.pid).value()
        image = Path(f"/proc/{child.pid}/exe").read_bytes()
    finally:
        child.kill()
        child.communicate()
        ids.close()
    assert found == buildid.parse(image)
    if found:
        assert bytes.fromhex(found) in image


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_no_elf_file_is_hostile_enough(data: st.DataObject) -> None:
    image = bytearray(_elf(ABI_TAG + NOTE, wide=data.draw(st.booleans())))
    for _ in range(data.draw(st.integers(0, 12))):
        image[data.draw(st.integers(4, len(image) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(image)))
    for tried in (bytes(image), bytes(image[:cut]), b"\x7fELF" + data.draw(st.binary(max_size=80))):
        assert len(buildid.parse(tried)) <= 64


def test_a_crafted_file_costs_no_time() -> None:
    notes = struct.pack("<III", 0, 0, 5) * 5000
    image = bytearray(_elf(notes))
    image[0x38:0x3A] = b"\xff\xff"  # as many segments as can be said
    began = time.monotonic()
    assert buildid.parse(bytes(image)) == ""
    assert time.monotonic() - began < 1


def test_a_caller_that_is_gone_has_no_build_id_and_a_hung_disk_holds_nobody_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = BuildIds(patience=0.05, proc=tmp_path)
    assert ids.request(1).value() == ""
    stuck = threading.Event()
    monkeypatch.setattr(ids, "_read", lambda pid: str(stuck.wait(5)))
    began = time.monotonic()
    pending = [ids.request(pid) for pid in range(200)]
    assert {one.value() for one in pending} == {""}
    assert time.monotonic() - began < 1
    stuck.set()


def test_the_build_id_is_in_the_record_when_it_is_written(tmp_path: Path) -> None:
    pending = buildid.Pending(5)
    log = AuditLog(tmp_path / "log", ORIGIN)
    log.submit(record(REFUSED), pending)
    pending.settle("abcd")
    assert log.close()
    written = Record.parse((tmp_path / "log").read_bytes())
    assert written is not None and written.caller.build_id == "abcd"
