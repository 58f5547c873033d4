# SPDX-License-Identifier: GPL-2.0-or-later
"""The hash chain of the log: every line names the SHA-256 of the line before it.

Whoever changes, removes or inserts a line breaks the chain at that place, and must rewrite everything after
it. The chain goes on over restarts and over rotated files, and so the end of an existing log has to be read
when it is opened. A crash or a full disk may leave a torn last line: it stays where it is, the next record
(a ``gap``) is chained to its very bytes, and names the hash of the last good line, so that nothing can be
changed under cover of the damage.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass

from enforcer.audit.view import Record

_STEP = 64 * 1024
_MOST = 1024 * 1024  # no record is longer; a longer last line is damage


def digest(line: bytes) -> str:
    """What the next line says in ``prev``. The newline is not part of it."""
    return hashlib.sha256(line).hexdigest()


@dataclass(frozen=True, slots=True)
class Tail:
    """Where a log ends: what to chain to."""

    prev: str = ""  # digest of the last line, empty in a new log
    seq: int = 0  # of the last good record
    damaged: bool = False  # the last line is no record
    torn: bool = False  # the last line lacks its newline
    after: str = ""  # digest of the last good line, if the last one is damaged


def read_tail(fd: int) -> Tail:
    """The end of the log behind ``fd``. Raises OSError."""
    text = _last_bytes(fd)
    if not text:
        return Tail()
    torn = not text.endswith(b"\n")
    lines = text.split(b"\n") if torn else text[:-1].split(b"\n")
    last = Record.parse(lines[-1])
    if last is not None:
        return Tail(digest(lines[-1]), last.seq, torn=torn)
    for line in reversed(lines[:-1]):
        good = Record.parse(line)
        if good is not None:
            return Tail(digest(lines[-1]), good.seq, damaged=True, torn=torn, after=digest(line))
    return Tail(digest(lines[-1]), damaged=True, torn=torn)


def _last_bytes(fd: int) -> bytes:
    """Enough of the end to hold at least two whole lines, if the file has them within the bound."""
    end = os.fstat(fd).st_size
    start = end
    text = b""
    while start > 0 and text.count(b"\n") < 4 and len(text) < _MOST:
        step = min(_STEP, start)
        start -= step
        text = os.pread(fd, step, start) + text
    if start > 0:
        text = text.partition(b"\n")[2] or text
    return text
