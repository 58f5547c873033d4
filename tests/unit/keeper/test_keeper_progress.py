# SPDX-License-Identifier: GPL-2.0-or-later
"""Whether the daemon makes progress, and what is done if not, without a daemon and without privilege."""

from __future__ import annotations

import errno
import fcntl
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from enforcer.keeper import progress
from enforcer.keeper.progress import Progress
from enforcer.kernel.upcall import PROBE

SLEEP = "import sys, time; print(flush=True); time.sleep(60)"


@pytest.fixture
def connections(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """/sys redirected; everything else is as it is."""
    redirected = tmp_path / "sys"

    def path(text: object) -> Path:
        return redirected / str(text)[5:] if str(text).startswith("/sys/") else Path(str(text))

    monkeypatch.setattr(progress, "Path", path)
    return redirected / "fs/fuse/connections"


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "sleep", lambda _seconds: None)


def process(*words: str) -> Iterator[subprocess.Popen[bytes]]:
    child = subprocess.Popen([sys.executable, "-c", SLEEP, *words], stdout=subprocess.PIPE)
    assert child.stdout is not None
    child.stdout.readline()  # it has been executed: /proc/PID/cmdline is its own
    yield child
    child.kill()
    child.wait()
    child.stdout.close()


@pytest.fixture
def daemon() -> Iterator[subprocess.Popen[bytes]]:
    yield from process("enforcerd")


@pytest.fixture
def stranger() -> Iterator[subprocess.Popen[bytes]]:
    yield from process("somebody")


def test_no_daemon_is_no_trouble(tmp_path: Path) -> None:
    began = time.monotonic()
    assert Progress(tmp_path, (), 5).check()
    assert time.monotonic() - began < 1


def test_a_probe_reads_the_attribute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[Path, bytes]] = []
    monkeypatch.setattr(os, "getxattr", lambda path, name: asked.append((path, name)))
    assert Progress(tmp_path, (), 5).check()
    assert asked == [(tmp_path / "upcall/anchor", PROBE)]


def test_a_hung_daemon_is_asked_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answer, asked = threading.Event(), []

    def hang(_path: Path, name: bytes) -> None:
        asked.append(name)
        answer.wait(10)

    monkeypatch.setattr(os, "getxattr", hang)
    lock = (tmp_path / "enforcerd.lock").open("w")
    fcntl.flock(lock, fcntl.LOCK_EX)  # somebody is there who should answer
    watch = Progress(tmp_path, (), 0.05)
    assert not watch.check() and not watch.check()
    assert len(asked) == 1  # threads do not pile up behind a hung daemon
    answer.set()
    limit = time.monotonic() + 5
    while not watch.check():
        assert time.monotonic() < limit
    assert watch.check() and len(asked) >= 2


@pytest.fixture
def lock(tmp_path: Path) -> Iterator[Path]:
    """The daemon's lock, held as by a daemon that runs."""
    path = tmp_path / "enforcerd.lock"
    path.write_text("123\n")
    with path.open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        yield path


def refuse(_path: Path, _name: bytes) -> None:
    raise OSError(errno.ENOTCONN, "Transport endpoint is not connected")


def answers(watch: Progress, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(os, "getxattr", lambda _path, _name: b"")
        assert watch.check()


def test_a_daemon_that_begins_need_not_answer_yet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lock: Path) -> None:
    monkeypatch.setattr(os, "getxattr", refuse)
    watch = Progress(tmp_path, (), 0.05)
    assert watch.check() and watch.check() and lock.exists()


def test_an_error_after_an_answer_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lock: Path) -> None:
    watch = Progress(tmp_path, (), 0.05)
    answers(watch, monkeypatch)
    monkeypatch.setattr(os, "getxattr", refuse)
    assert not watch.check() and not watch.check()
    lock.write_text("124\n")  # another one, that begins
    assert watch.check()
    answers(watch, monkeypatch)
    assert not watch.check()
    answers(watch, monkeypatch)  # it was only for a moment


@pytest.mark.parametrize("left", [True, False])
def test_a_daemon_that_has_ended_need_not_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, left: bool) -> None:
    lock = tmp_path / "enforcerd.lock"
    lock.write_text("123\n")  # held by nobody
    watch = Progress(tmp_path, (), 0.05)
    answers(watch, monkeypatch)
    monkeypatch.setattr(os, "getxattr", refuse)
    if not left:
        lock.unlink()
    assert watch.check()
    with lock.open("a") as other:
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)  # looking leaves no lock behind


@pytest.mark.parametrize(("content", "pid"), [("123\n", 123), ("", 0), ("x", 0), ("\n", 0)])
def test_pid(tmp_path: Path, content: str, pid: int) -> None:
    (tmp_path / "enforcerd.lock").write_text(content)
    assert Progress(tmp_path, (), 1).daemon_pid() == pid


def test_no_lock_file(tmp_path: Path) -> None:
    assert Progress(tmp_path, (), 1).daemon_pid() == 0


@pytest.mark.usefixtures("quick")
def test_rescue(
    tmp_path: Path, connections: Path, monkeypatch: pytest.MonkeyPatch, daemon: subprocess.Popen[bytes]
) -> None:
    (connections / "57").mkdir(parents=True)
    monkeypatch.setattr(progress, "_mount_device", lambda where: os.makedev(0, 57))
    (tmp_path / "enforcerd.lock").write_text(f"{daemon.pid}\n")
    started = tmp_path / "started"
    watch = Progress(tmp_path, ("touch", str(started)), 1)
    watch.rescue()
    assert (connections / "57/abort").read_text() == "1"
    assert daemon.wait(5) == -9
    assert watch.restarts == 1
    limit = time.monotonic() + 5
    while not started.exists():
        assert time.monotonic() < limit


@pytest.mark.usefixtures("quick", "connections")
def test_a_reused_pid_is_spared(tmp_path: Path, stranger: subprocess.Popen[bytes]) -> None:
    (tmp_path / "enforcerd.lock").write_text(f"{stranger.pid}\n")
    Progress(tmp_path, (), 1).rescue()
    with pytest.raises(subprocess.TimeoutExpired):
        stranger.wait(0.1)


@pytest.mark.usefixtures("quick", "connections")
def test_nothing_to_end_and_nothing_to_start(tmp_path: Path) -> None:
    """The pid is gone, the connection is gone, the command is missing: each is said and none raises."""
    (tmp_path / "enforcerd.lock").write_text("4194304\n")
    watch = Progress(tmp_path, ("/nonexistent/restart",), 1)
    watch.rescue()
    watch.rescue()
    assert watch.restarts == 2


def test_mount_device_asks_the_table_and_not_the_file_system(tmp_path: Path) -> None:
    assert progress._mount_device(tmp_path) is None
    assert progress._mount_device(Path("/proc")) == Path("/proc").stat().st_dev
