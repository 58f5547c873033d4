# SPDX-License-Identifier: GPL-2.0-or-later
"""Disks in memory for the readers of superblocks, and the tools that make real filesystems for them."""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

from enforcer.model.resource import DevNum
from enforcer.storage import superblocks
from enforcer.storage.companions import Companions, companions

A, B, C, D = (DevNum(8, minor) for minor in (0, 16, 32, 48))
UUID = "11111111-2222-3333-4444-555555555555"
NEW = "99999999-2222-3333-4444-555555555555"
RAW = bytes.fromhex(UUID.replace("-", ""))
NONE = Companions(())


class Disks:
    """Block devices in memory: sparse pieces by offset. What is not there reads as zeros."""

    def __init__(self) -> None:
        self.pieces: dict[DevNum, dict[int, bytearray]] = {}
        self.broken: set[DevNum] = set()
        self.size = 1 << 40
        self.reads: list[DevNum] = []

    def put(self, dev: DevNum, offset: int, data: bytes) -> Disks:
        self.pieces.setdefault(dev, {})[offset] = bytearray(data)
        return self

    def image(self, dev: DevNum, path: Path) -> Disks:
        """The head of a real image: all superblocks that are read lie in it."""
        with path.open("rb") as file:
            return self.put(dev, 0, file.read(65536 + 4096))

    def poke(self, dev: DevNum, offset: int, data: bytes) -> Disks:
        for start, piece in self.pieces[dev].items():
            if start <= offset and offset + len(data) <= start + len(piece):
                piece[offset - start : offset - start + len(data)] = data
                return self
        raise AssertionError

    def read(self, dev: DevNum, offset: int, length: int) -> bytes:
        self.reads.append(dev)
        assert 0 < length <= superblocks.LIMIT
        if dev in self.broken or dev not in self.pieces:
            raise OSError(errno.EIO, "Input/output error")
        data = bytearray(length)
        for start, piece in self.pieces[dev].items():
            low, high = max(start, offset), min(start + len(piece), offset + length)
            if low < high:
                data[low - offset : high - offset] = piece[low - start : high - start]
        return bytes(data[: max(0, self.size - offset)])

    def look(
        self,
        fstype: str,
        options: bytes = b"",
        *,
        dev: DevNum = A,
        paths: dict[bytes, DevNum] | None = None,
        present: Sequence[DevNum] | None = None,
        root: Path = Path("/nonexistent"),
    ) -> Companions:
        return companions(
            dev,
            fstype,
            options,
            resolve=(paths or {}).get,
            all_devices=lambda: sorted(self.pieces) if present is None else present,
            read=self.read,
            root=root,
        )


def tool(*command: str | Path, input: bytes | None = None) -> bytes:
    path = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
    environment = os.environ | {"PATH": path, "LC_ALL": "C"}
    done = subprocess.run(command, input=input, capture_output=True, env=environment, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def sparse(path: Path, mebibytes: int) -> Path:
    with path.open("wb") as file:
        file.truncate(mebibytes << 20)
    return path
