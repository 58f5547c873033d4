# SPDX-License-Identifier: GPL-2.0-or-later
"""The log is one unbroken chain, loses nothing silently, and never stands in a verdict's way."""

from __future__ import annotations

import errno
import json
import os
import stat
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest
from audit_samples import ORIGIN, PERMITTED, REFUSED, hostile, hostile_record, intent, record
from hypothesis import given, settings
from hypothesis import strategies as st

from enforcer.audit import writer
from enforcer.audit.reader import files, find, follow, lines, read
from enforcer.audit.verify import Verification, verify
from enforcer.audit.view import Record
from enforcer.audit.writer import AuditLog

Disk = Callable[[int, bytes], int]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "audit.jsonl"


def fill(path: Path, count: int = 5, **options: int) -> None:
    log = AuditLog(path, ORIGIN, **options)
    for number in range(1, count + 1):
        log.submit(record(REFUSED, intent(number)))
    assert log.close()


def checked(path: Path, prev: str | None = None) -> Verification:
    return verify(lines(path), prev)


def wait_for(truth: Callable[[], bool]) -> None:
    until = time.monotonic() + 5
    while not truth():
        assert time.monotonic() < until
        time.sleep(0.005)


class FakeDisk:
    """os.write that can be told to fail, as a full disk does."""

    def __init__(self) -> None:
        self.answer: Disk | None = None
        self._write = os.write

    def __call__(self, fd: int, text: bytes) -> int:
        return self.answer(fd, text) if self.answer else self._write(fd, text)

    def full(self, fd: int, text: bytes) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def short(self, fd: int, text: bytes) -> int:
        return self._write(fd, text[: len(text) // 2])


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> FakeDisk:
    fake = FakeDisk()
    monkeypatch.setattr(writer.os, "write", fake)
    monkeypatch.setattr(writer, "_RETRY_S", 0.02)
    return fake


def test_each_record_is_one_line_chained_to_the_one_before(path: Path) -> None:
    fill(path)
    found = checked(path)
    assert found.ok and (found.lines, found.gaps, found.first_prev) == (5, 0, "")
    assert [r.seq for r in read(path)] == [1, 2, 3, 4, 5]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_group_may_read_the_log_if_one_is_given(path: Path) -> None:
    fill(path, 1, group=os.getgid())
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


def test_one_record_is_one_write(path: Path, disk: FakeDisk) -> None:
    writes: list[bytes] = []

    def counted(fd: int, text: bytes) -> int:
        writes.append(text)
        return disk._write(fd, text)

    disk.answer = counted
    fill(path, 3)
    assert len(writes) == 3 and all(text.endswith(b"}\n") for text in writes)


def test_the_chain_goes_on_over_a_restart(path: Path) -> None:
    fill(path, 3)
    fill(path, 2)
    found = checked(path)
    assert found.ok and found.lines == 5
    assert [r.seq for r in read(path)] == [1, 2, 3, 4, 5]


def test_the_chain_goes_on_over_a_rotation(path: Path) -> None:
    log = AuditLog(path, ORIGIN)
    log.submit(record(REFUSED))
    wait_for(lambda: log.counters()["written"] == 1)
    path.rename(path.with_name("audit.jsonl.1"))
    log.submit(record(REFUSED, intent(18)))
    assert log.close()
    old, new = files(path)
    first = checked(old)
    second = checked(new, first.last_digest)
    assert first.ok and second.ok and second.first_prev == first.last_digest
    assert find(path, "E-1a2b3c-17") is not None and find(path, "E-1a2b3c-99") is None


def test_a_file_that_was_exchanged_under_a_running_log_shows_as_a_break(path: Path) -> None:
    log = AuditLog(path, ORIGIN)
    for number in (1, 2):
        log.submit(record(REFUSED, intent(number)))
    wait_for(lambda: log.counters()["written"] == 2)
    first = path.read_bytes().splitlines(keepends=True)[0]
    path.unlink()
    path.write_bytes(first)
    log.reopen()
    log.submit(record(REFUSED, intent(3)))
    assert log.close()
    found = checked(path)
    assert found.first_break is not None and found.first_break.line == 2


@pytest.mark.parametrize("keep", [0, 1, 40, -1])
def test_a_damaged_tail_stays_and_a_gap_record_accounts_for_it(path: Path, keep: int) -> None:
    fill(path, 3)
    text = path.read_bytes()
    last = text.splitlines(keepends=True)[-1]
    path.write_bytes(text[: len(text) - len(last)] + last[:keep])
    fill(path, 1)
    found = checked(path)
    assert found.ok, found
    kinds = [r.kind for r in read(path)]
    assert kinds[-1] == "mount" and ("gap" in kinds) is (keep in (1, 40))


def test_nothing_can_be_changed_under_cover_of_a_damaged_line(path: Path) -> None:
    fill(path, 3)
    path.write_bytes(path.read_bytes()[:-40])
    fill(path, 1)
    text = path.read_bytes().splitlines(keepends=True)
    assert verify(text).ok
    text[1] = text[1].replace(b"EBUSY", b"EPERM")
    found = verify(text)
    assert found.first_break is not None and found.first_break.line == 3


def test_a_full_disk_leaves_a_gap_record_and_the_verdicts_path_never_notices(path: Path, disk: FakeDisk) -> None:
    log = AuditLog(path, ORIGIN)
    log.submit(record(REFUSED, intent(1)))
    wait_for(lambda: log.counters()["written"] == 1)
    disk.answer = disk.full
    for number in (2, 3, 4):
        log.submit(record(REFUSED, intent(number)))
    wait_for(lambda: log.counters()["lost"] == 3)
    disk.answer = None
    wait_for(lambda: log.counters()["gaps"] == 1)  # without another record
    log.submit(record(REFUSED, intent(5)))
    assert log.close()
    seen = list(read(path))
    assert [r.kind for r in seen] == ["mount", "gap", "mount"]
    assert seen[1].lost == 3 and "No space left" in seen[1].why
    assert checked(path).ok and checked(path).lost == 3


def test_a_line_written_in_part_is_damage_that_the_log_admits(path: Path, disk: FakeDisk) -> None:
    log = AuditLog(path, ORIGIN)
    log.submit(record(REFUSED, intent(1)))
    wait_for(lambda: log.counters()["written"] == 1)
    disk.answer = disk.short
    log.submit(record(REFUSED, intent(2)))
    wait_for(lambda: log.counters()["write_errors"] >= 2)  # the gap record was cut short as well
    disk.answer = None
    log.submit(record(REFUSED, intent(3)))
    assert log.close()
    found = checked(path)
    assert found.ok and found.lost == 1
    assert [r.kind for r in read(path)] == ["mount", "gap", "mount"]


def test_a_full_queue_loses_records_and_says_how_many(path: Path, disk: FakeDisk) -> None:
    gate = threading.Event()

    def slow(fd: int, text: bytes) -> int:
        assert gate.wait(5)
        return disk._write(fd, text)

    disk.answer = slow
    log = AuditLog(path, ORIGIN, capacity=2)
    began = time.monotonic()
    for number in range(1, 21):
        log.submit(record(REFUSED, intent(number)))
    assert time.monotonic() - began < 1.0
    lost = log.counters()["lost"]
    assert lost >= 17
    gate.set()
    assert log.close()
    gaps = [r for r in read(path) if r.kind == "gap"]
    assert sum(gap.lost for gap in gaps) == lost and "queue was full" in gaps[0].why
    assert checked(path).ok


def test_a_log_that_cannot_be_opened_raises_nothing_and_catches_up_later(tmp_path: Path, disk: FakeDisk) -> None:
    path = tmp_path / "later" / "audit.jsonl"
    log = AuditLog(path, ORIGIN)
    log.submit(record(REFUSED))
    wait_for(lambda: log.counters()["lost"] == 1)
    path.parent.mkdir()
    wait_for(lambda: log.counters()["gaps"] == 1)
    assert log.close()
    assert [r.lost for r in read(path)] == [1]


def test_a_symlink_or_a_fifo_in_place_of_the_log_is_not_written_to(tmp_path: Path, disk: FakeDisk) -> None:
    target = tmp_path / "precious"
    target.write_text("as it was\n")
    (tmp_path / "link").symlink_to(target)
    os.mkfifo(tmp_path / "fifo")
    for name in ("link", "fifo"):
        log = AuditLog(tmp_path / name, ORIGIN)
        log.submit(record(REFUSED))
        wait_for(lambda log=log: log.counters()["lost"] == 1)
        assert log.close()
    assert target.read_text() == "as it was\n"


def test_a_record_that_is_no_json_is_counted_and_the_log_goes_on(path: Path) -> None:
    loop: dict[str, object] = {}
    loop["self"] = loop
    log = AuditLog(path, ORIGIN)
    log.submit(loop)
    log.submit(record(REFUSED))
    assert log.close()
    assert [r.kind for r in read(path)] == ["gap", "mount"]


def test_followers_get_every_record_and_one_that_raises_is_dropped(path: Path) -> None:
    got: list[Mapping[str, object]] = []

    def broken(made: Mapping[str, object]) -> None:
        raise RuntimeError("the event loop is closed")

    log = AuditLog(path, ORIGIN)
    log.subscribe(broken)
    end = log.subscribe(got.append)
    log.submit(record(REFUSED))
    wait_for(lambda: len(got) == 1)
    end()
    log.submit(record(PERMITTED))
    assert log.close()
    assert len(got) == 1 and got[0]["seq"] == 1
    assert log.counters()["followers_dropped"] == 1


def test_following_the_file_survives_rotation(path: Path) -> None:
    fill(path, 2)
    found = follow(path, poll_s=0.0, from_start=True)

    def upcoming(source: Iterator[Record | None]) -> int:
        while (seen := next(source)) is None:
            pass
        return seen.seq

    assert [upcoming(found), upcoming(found)] == [1, 2]
    path.rename(path.with_name("audit.jsonl.1"))
    assert next(found) is None
    fill(path, 1)
    assert upcoming(found) == 1


@settings(max_examples=80, deadline=None)
@given(data=st.data())
def test_the_chain_finds_each_change_of_a_single_line(data: st.DataObject) -> None:
    text = _chain()
    which = data.draw(st.integers(0, len(text) - 2))  # the last line is vouched for by the next to come
    kind = data.draw(st.sampled_from(["byte", "remove", "double", "swap", "retell"]))
    changed = list(text)
    if kind == "byte":
        place = data.draw(st.integers(0, len(text[which]) - 2))
        old = text[which][place]
        new = data.draw(st.integers(0, 255).filter(lambda b: b not in (old, 10)))
        changed[which] = text[which][:place] + bytes([new]) + text[which][place + 1 :]
    elif kind == "remove" and which > 0:  # without the first, it is a log that began elsewhere
        del changed[which]
    elif kind == "double":
        changed.insert(which, text[which])
    elif kind == "swap":
        changed[which], changed[which + 1] = changed[which + 1], changed[which]
    else:
        told = json.loads(text[which])
        told["effect"] = "permit"
        changed[which] = json.dumps(told).encode() + b"\n"
    found = verify(changed)
    assert found.first_break is not None
    assert which <= found.first_break.line - 1 <= which + 1


_CHAIN: list[bytes] = []


def _chain() -> list[bytes]:
    if not _CHAIN:
        import tempfile

        with tempfile.TemporaryDirectory() as directory:
            path = Path(directory) / "log"
            fill(path, 6)
            _CHAIN.extend(lines(path))
    return _CHAIN


def test_an_untouched_chain_is_whole() -> None:
    assert verify(_chain()).ok


@settings(max_examples=15, deadline=None)
@given(names=st.lists(hostile, min_size=1, max_size=4))
def test_hostile_names_reach_the_log_as_printable_ascii_lines(names: list[str]) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "log"
        log = AuditLog(path, ORIGIN)
        for name in names:
            log.submit(hostile_record(name))
        assert log.close()
        text = path.read_bytes()
        assert text.count(b"\n") == len(names)
        assert all(0x20 <= byte < 0x7F or byte == 10 for byte in text)
        assert checked(path).ok
