# SPDX-License-Identifier: GPL-2.0-or-later
"""Read the log file itself: it must tell what happened also when the daemon is dead.

Rotated files belong to the log: logrotate names them ``audit.jsonl.1``, ``audit.jsonl.2.gz`` or
``audit.jsonl-20261122``. Following survives rotation and truncation, and needs nothing but the file.
"""

from __future__ import annotations

import gzip
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from enforcer.audit.view import Record
from enforcer.model.errors import EnforcerError, PermissionRefused

_POLL_S = 0.25
_MOST_LINE = 4 * 1024 * 1024


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
    except (OSError, EOFError) as error:
        raise _cannot_read(path, error) from error


def read(path: Path, *, rotated: bool = False) -> Iterator[Record]:
    """The records of a log, oldest first; damaged lines are left out (``verify`` counts them)."""
    for file in files(path) if rotated else [path]:
        for text in lines(file):
            record = Record.parse(text)
            if record is not None:
                yield record


def find(path: Path, event: str) -> Record | None:
    """The newest record of an event id, looked for in the log and then in its rotated files."""
    for file in reversed(files(path)):
        found = None
        for record in read(file):
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
                    record = Record.parse(rest)
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
