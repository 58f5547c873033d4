# SPDX-License-Identifier: GPL-2.0-or-later
"""The audit log: one line per record, written by one thread that nobody waits for.

A verdict must not wait for a disk, and a disk that is full must not go unnoticed. So ``submit`` puts the
record into a bounded queue and returns; what cannot be queued or written is counted, and as soon as writing
works again a ``gap`` record says how many are missing and why. Followers and the journal get a record even
if the disk did not take it.
"""

from __future__ import annotations

import os
import queue
import stat
import threading
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Final

from enforcer.audit.buildid import Pending
from enforcer.audit.chain import Tail, digest, read_tail
from enforcer.audit.journal import Journal, fields
from enforcer.audit.record import GAP, Origin, notice
from enforcer.audit.sentence import sentence
from enforcer.audit.view import Record
from enforcer.model.escape import to_json

LOG: Final = Path("/var/log/enforcer/audit.jsonl")
_RETRY_S = 1.0  # how often a gap record is tried while nothing else is submitted
_FLAGS = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC

Follower = Callable[[Mapping[str, object]], None]
_Job = tuple[dict[str, object], Pending | None]


class AuditLog:
    """The log of one node. Every method may be called from any thread; none raises for a disk's sake."""

    def __init__(
        self,
        path: Path,
        origin: Origin,
        *,
        group: int | None = None,
        journal: Journal | None = None,
        capacity: int = 4096,
    ) -> None:
        self._path = path
        self._origin = origin
        self._group = group  # may read the log; without one it is for root alone
        self._journal = journal
        self._queue: queue.Queue[_Job | None] = queue.Queue(capacity)
        self._lock = threading.Lock()  # guards the three below
        self._lost = 0
        self._why: list[str] = []
        self._followers: list[Follower] = []
        self._counts = {"written": 0, "lost": 0, "write_errors": 0, "gaps": 0, "followers_dropped": 0}
        self._fd = -1
        self._tail: Tail | None = None  # what to chain to; None until the file was opened once
        self._reopen = False
        self._closing = False
        self._thread = threading.Thread(target=self._work, name="audit-log", daemon=True)
        self._thread.start()

    def submit(self, record: dict[str, object], build_id: Pending | None = None) -> None:
        """Hand over a record. The log owns it from now on; it fills in ``seq``, ``prev`` and the build id."""
        if self._closing:
            return
        try:
            self._queue.put_nowait((record, build_id))
        except queue.Full:
            self._lose(1, "the queue was full")

    def subscribe(self, follower: Follower) -> Callable[[], None]:
        """Call ``follower`` with every record from now on, in the log's thread; returns what ends it.

        A follower must hand the record on and return (``loop.call_soon_threadsafe``); one that raises is
        dropped.
        """
        with self._lock:
            self._followers.append(follower)

        def unsubscribe() -> None:
            with self._lock:
                self._followers = [other for other in self._followers if other is not follower]

        return unsubscribe

    def reopen(self) -> None:
        """Open the file anew before the next record (SIGHUP). A renamed file is noticed without it."""
        self._reopen = True

    def counters(self) -> dict[str, int]:
        """What was written and lost since the start."""
        with self._lock:
            counts = dict(self._counts)
        if self._journal:
            counts.update(journal_sent=self._journal.sent, journal_lost=self._journal.lost)
        return counts

    def close(self, timeout: float = 5.0) -> bool:
        """Write what is queued and end. False if it could not be done in time."""
        self._closing = True
        try:
            self._queue.put(None, timeout=timeout)
        except queue.Full:
            return False
        self._thread.join(timeout)
        return not self._thread.is_alive()

    # What follows runs in the log's own thread.

    def _work(self) -> None:
        while True:
            try:
                job = self._queue.get(timeout=_RETRY_S if self._lost else None)
            except queue.Empty:
                self._ready()
                continue
            if job is None:
                break
            try:
                self._handle(*job)
            except Exception as error:  # a record that cannot be encoded must not end the log
                self._lose(1, f"{type(error).__name__}: {error}")
        if self._lost:
            self._ready()
        self._close_file()
        if self._journal:
            self._journal.close()

    def _handle(self, record: dict[str, object], build_id: Pending | None) -> None:
        caller = record.get("caller")
        if build_id is not None and isinstance(caller, dict):
            caller["build_id"] = build_id.value()
        line_digest = self._append(record) if self._ready() else ""
        if not line_digest:
            self._lose(1, "")
        self._publish(record, line_digest)

    def _ready(self) -> bool:
        """Whether the log can be written, and everything lost so far has been said in it."""
        if self._tail is None or self._reopen or self._moved():
            try:
                self._open()
            except OSError as error:
                self._failed(error)
                return False
        tail = self._tail
        with self._lock:
            lost, why = self._lost, list(self._why)
        if tail is None or not (lost or tail.damaged):
            return tail is not None
        facts: dict[str, object] = {"lost": lost}
        if tail.damaged:
            facts["after"] = tail.after
            why.insert(0, "the line before was damaged")
        facts["why"] = "; ".join(why)
        gap = notice(self._origin, GAP, f"{lost} records lost: {facts['why']}", facts)
        line_digest = self._append(gap)
        if not line_digest:
            return False
        with self._lock:
            self._lost -= lost
            self._why = self._why if self._lost else []
            self._counts["gaps"] += 1
        self._publish(gap, line_digest)
        return True

    def _append(self, record: dict[str, object]) -> str:
        """One record, one write(2). Returns the digest of the line, or nothing if it is not in the log."""
        tail = self._tail or Tail()
        record["seq"] = tail.seq + 1
        record["prev"] = tail.prev
        line = to_json(record).encode("ascii")
        start = b"\n" if tail.torn else b""
        text = start + line + b"\n"
        try:
            written = os.write(self._fd, text)
        except OSError as error:
            self._failed(error)
            return ""
        if written < len(text) - 1:
            self._failed(OSError("a line was written in part"))
            self._tail = _after_part(tail, text[:written], start)
            return ""
        self._tail = Tail(digest(line), tail.seq + 1, torn=written < len(text))
        with self._lock:
            self._counts["written"] += 1
        return self._tail.prev

    def _publish(self, record: Mapping[str, object], line_digest: str) -> None:
        if self._journal:
            view = Record.of(record)
            self._journal.send(fields(view, sentence(view), line_digest))
        with self._lock:
            followers = list(self._followers)
        for follower in followers:
            try:
                follower(record)
            except Exception:  # somebody else's code, as when its event loop is closed
                with self._lock:
                    self._followers = [other for other in self._followers if other is not follower]
                    self._counts["followers_dropped"] += 1

    def _open(self) -> None:
        """Open the file and find what to chain to.

        Memory goes before the file: after a rotation the chain goes on, and a file that was exchanged under a
        running daemon shows as a break. Only a daemon that has just started has to believe what it finds.
        """
        fd = os.open(self._path, _FLAGS, 0o600)
        try:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                raise OSError(f"{self._path} is no regular file")
            if self._group is not None:
                os.fchown(fd, -1, self._group)
                os.fchmod(fd, 0o640)
            tail = read_tail(fd)
        except BaseException:
            os.close(fd)
            raise
        self._close_file()
        self._fd = fd
        self._reopen = False
        self._tail = tail if self._tail is None else replace(self._tail, torn=tail.torn)

    def _moved(self) -> bool:
        """Whether the path no longer leads to the open file, as after logrotate's rename."""
        try:
            there, here = self._path.lstat(), os.fstat(self._fd)
        except OSError:
            return True
        return (there.st_dev, there.st_ino) != (here.st_dev, here.st_ino)

    def _close_file(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _failed(self, error: OSError) -> None:
        with self._lock:
            self._counts["write_errors"] += 1
            self._note(error.strerror or str(error))

    def _lose(self, count: int, why: str) -> None:
        with self._lock:
            self._lost += count
            self._counts["lost"] += count
            self._note(why)

    def _note(self, why: str) -> None:
        if why and why not in self._why and len(self._why) < 8:
            self._why.append(why)


def _after_part(tail: Tail, part: bytes, start: bytes) -> Tail:
    """Where the log ends after a write that a full disk cut short."""
    line = part[len(start) :]
    if not line:
        return replace(tail, torn=tail.torn and not part)
    after = tail.after if tail.damaged else tail.prev
    return Tail(digest(line), tail.seq, damaged=True, torn=True, after=after)
