# SPDX-License-Identifier: GPL-2.0-or-later
"""The build id of a calling program: which build it was, whatever its name and path claim.

The program belongs to the caller, and so do its bytes and the filesystem they lie on. Therefore one worker
thread does the reading: it may hang on a dead NFS server, and then build ids are missing and nothing else.
At most 64 KiB are read. pyelftools parses the headers of what was read; its sections, dynamic tables and
note types are not asked for, because a crafted file can make them cost minutes. Any failure is an empty
build id.
"""

from __future__ import annotations

import contextlib
import io
import os
import queue
import struct
import threading
import time
from collections import OrderedDict
from pathlib import Path
from typing import Final

MOST_BYTES: Final = 64 * 1024
_MOST_SEGMENTS = 64
_MOST_NOTES = 256
_NT_GNU_BUILD_ID = 3
_CACHE = 512
_PROC = Path("/proc")


def parse(image: bytes) -> str:
    """The GNU build id in the first bytes of an ELF file, in hex, or ``""``. Never raises."""
    try:
        return _parse(image[:MOST_BYTES])
    except Exception:  # whatever pyelftools makes of a hostile file
        return ""


def _parse(image: bytes) -> str:
    if image[:4] != b"\x7fELF":
        return ""
    from elftools.common.utils import struct_parse
    from elftools.elf.elffile import ELFFile

    stream = io.BytesIO(_without_sections(image))
    elf = ELFFile(stream)
    order = "<" if elf.little_endian else ">"
    for index in range(min(int(elf.header["e_phnum"]), _MOST_SEGMENTS)):
        position = int(elf.header["e_phoff"]) + index * int(elf.header["e_phentsize"])
        segment = struct_parse(elf.structs.Elf_Phdr, stream, stream_pos=position)
        if segment["p_type"] == "PT_NOTE":
            start = int(segment["p_offset"])
            found = _build_id_note(image[start : start + int(segment["p_filesz"])], order)
            if found:
                return found
    return ""


def _without_sections(image: bytes) -> bytes:
    """The same file with one empty section: the true section table is mostly beyond what was read."""
    wide = image[4] == 2
    order = "<" if image[5] == 1 else ">"
    copy = bytearray(image)
    struct.pack_into(order + ("Q" if wide else "I"), copy, 0x28 if wide else 0x20, len(image))
    struct.pack_into(order + "HHH", copy, 0x3A if wide else 0x2E, 64 if wide else 40, 1, 0)
    return bytes(copy) + bytes(64)


def _build_id_note(notes: bytes, order: str) -> str:
    offset = 0
    for _ in range(_MOST_NOTES):
        if offset + 12 > len(notes):
            break
        name_size, size, kind = struct.unpack_from(order + "III", notes, offset)
        name_at = offset + 12
        value_at = name_at + (name_size + 3 & ~3)
        if kind == _NT_GNU_BUILD_ID and notes[name_at : name_at + name_size] == b"GNU\0" and size <= 32:
            value = notes[value_at : value_at + size]
            return value.hex() if len(value) == size else ""
        offset = value_at + (size + 3 & ~3)
    return ""


class Pending:
    """A build id that is being read. ``value()`` never waits longer than ``patience`` after the request."""

    def __init__(self, patience: float) -> None:
        self._until = time.monotonic() + patience
        self._done = threading.Event()
        self._value = ""

    def settle(self, value: str) -> None:
        """The worker's answer."""
        self._value = value
        self._done.set()

    def value(self) -> str:
        """The build id, or ``""`` if it could not be read in time."""
        self._done.wait(max(0.0, self._until - time.monotonic()))
        return self._value


class BuildIds:
    """Reads build ids of running programs in one worker thread, and remembers them by inode."""

    def __init__(self, *, patience: float = 0.25, capacity: int = 64, proc: Path = _PROC) -> None:
        self._patience = patience
        self._proc = proc
        self._queue: queue.Queue[tuple[int, Pending] | None] = queue.Queue(capacity)
        self._known: OrderedDict[tuple[int, ...], str] = OrderedDict()
        self._thread: threading.Thread | None = None

    def request(self, pid: int) -> Pending:
        """Begin to read, and return at once. Ask while the caller waits: after its verdict it may be gone."""
        pending = Pending(self._patience)
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="build-ids", daemon=True)
            self._thread.start()
        try:
            self._queue.put_nowait((pid, pending))
        except queue.Full:
            pending.settle("")
        return pending

    def close(self) -> None:
        """Let the worker end after what it is reading; it is not waited for, since it may hang."""
        with contextlib.suppress(queue.Full):
            self._queue.put_nowait(None)

    def _work(self) -> None:
        while (job := self._queue.get()) is not None:
            pid, pending = job
            try:
                pending.settle(self._read(pid))
            except Exception:  # the caller is gone, or its program cannot be read
                pending.settle("")

    def _read(self, pid: int) -> str:
        fd = os.open(self._proc / str(pid) / "exe", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
        try:
            stat = os.fstat(fd)
            key = (stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)
            if key not in self._known:
                self._known[key] = parse(os.pread(fd, MOST_BYTES, 0))
                if len(self._known) > _CACHE:
                    self._known.popitem(last=False)
            return self._known[key]
        finally:
            os.close(fd)
