# SPDX-License-Identifier: GPL-2.0-or-later
"""Read the log file itself: it must tell what happened also when the daemon is dead.

Rotated files belong to the log: logrotate names them ``audit.jsonl.1``, ``audit.jsonl.2.gz`` or
``audit.jsonl-20261122``. Following survives rotation and truncation, and needs nothing but the file.

A log may be damaged anywhere, so a line that is no record is passed over. But a file in which nothing is a record is
another file, and silence about it would read as "nothing was refused".
"""

from __future__ import annotations

import gzip
import os
import time
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

from enforcer.audit.view import Record
from enforcer.audit.writer import LOG
from enforcer.model.errors import EnforcerError, PermissionRefused

_POLL_S = 0.25
_MOST_LINE = 4 * 1024 * 1024
_BEGINS = b'{"schema":'  # so does every line that the writer makes, torn ones too


def files(path: Path) -> list[Path]:
    """The log with its rotated files, oldest first."""
    try:
        rotated = [p for p in path.parent.iterdir() if p.name.startswith((path.name + ".", path.name + "-"))]
        rotated.sort(key=lambda p: p.stat().st_mtime_ns)
    except OSError as error:
        raise _cannot_read(path, error) from error
    return [*rotated, path] if path.exists() or not rotated else rotated


def lines(path: Path) -> Iterator[bytes]:
    """The lines of one file, each with its newline if it has one."""
    try:
        with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as file:
            while text := file.readline(_MOST_LINE):
                yield text
    except (OSError, EOFError, zlib.error) as error:
        raise _cannot_read(path, error) from error


def own_lines(path: Path) -> Iterator[bytes]:
    """The lines of a file that was named as a log. Raises EnforcerError at its end if it is something else.

    An empty file is a log, and so is one with nothing but the beginning of its first record.
    """
    rest, number = lines(path), 0
    for number, text in enumerate(rest, 1):
        yield text
        if _record(text) is not None or (number == 1 and _torn(text)):
            yield from rest
            return
    if number:
        more = f", nor is any of the {number - 1} lines after it" if number > 1 else ""
        raise EnforcerError(
            f"{path}:1: is no record of enforcerd{more}: the file is no audit log",
            hint=f"the log of this node is {LOG}, and what logrotate made of it beside it; another is given by --file",
        )


def read(path: Path, *, rotated: bool = False) -> Iterator[Record]:
    """The records of a log, oldest first; damaged lines are left out (``verify`` counts them).

    What merely lies beside the log under such a name (an editor's copy) may be anything. Raises EnforcerError.
    """
    for file in files(path) if rotated else [path]:
        yield from _records(own_lines(file) if file == path else lines(file))


def find(path: Path, event: str) -> Record | None:
    """The newest record of an event id, looked for in the log and then in its rotated files."""
    for file in reversed(files(path)):
        found = None
        for record in _records(own_lines(file) if file == path else lines(file)):
            if record.id == event:
                found = record
        if found is not None:
            return found
    return None


def follow(path: Path, *, poll_s: float = _POLL_S, from_start: bool = False) -> Iterator[Record | None]:
    """New records as they are written, for ever; None whenever there is nothing new, so a caller can stop."""
    while not path.exists():
        yield None
        time.sleep(poll_s)
    file = _open(path)
    try:
        if not from_start:
            file.seek(0, os.SEEK_END)
        rest = b""
        while True:
            text = file.readline(_MOST_LINE)
            if text:
                rest += text
                if rest.endswith(b"\n") or len(rest) > _MOST_LINE:
                    record = _record(rest)
                    rest = b""
                    if record is not None:
                        yield record
                continue
            if _replaced(path, file.fileno(), file.tell()):
                file.close()
                file = _open(path)
                rest = b""
                continue
            yield None
            time.sleep(poll_s)
    finally:
        file.close()


def _torn(text: bytes) -> bool:
    """Whether it may be the beginning of a record, and not a whole one of something else."""
    return not text.endswith(b"\n") and text[: len(_BEGINS)] == _BEGINS[: len(text)] and Record.parse(text) is None


def _records(source: Iterable[bytes]) -> Iterator[Record]:
    for text in source:
        record = _record(text)
        if record is not None:
            yield record


def _record(text: bytes) -> Record | None:
    record = Record.parse(text)
    return record if record is not None and record.logged else None


def _open(path: Path) -> BinaryIO:
    try:
        return path.open("rb")
    except OSError as error:
        raise _cannot_read(path, error) from error


def _replaced(path: Path, fd: int, position: int) -> bool:
    """Whether the path now leads to another file, or to the same one made shorter."""
    try:
        there = path.stat()
    except OSError:
        return False  # between rename and create: wait
    here = os.fstat(fd)
    return (there.st_dev, there.st_ino) != (here.st_dev, here.st_ino) or there.st_size < position


def _cannot_read(path: Path, error: Exception) -> EnforcerError:
    if isinstance(error, PermissionError):
        return PermissionRefused(
            f"you may not read {path}", hint="become root, or join the group that may read it (enforcer)"
        )
    if isinstance(error, FileNotFoundError):
        return EnforcerError(
            f"there is no audit log at {path}",
            hint="is enforcerd running? (systemctl status enforcerd); another file is given by --file",
        )
    return EnforcerError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}")
