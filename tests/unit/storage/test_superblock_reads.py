# SPDX-License-Identifier: GPL-2.0-or-later
"""Superblocks are read from the device itself: aligned, bounded, whole, past the cache where that is possible."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from companion_disks import A, B

from enforcer.model.resource import DevNum
from enforcer.storage import nodes, superblocks
from enforcer.storage.companions import Companions, companions


@pytest.fixture
def file_as_device(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    path = tmp_path / "disk"
    path.write_bytes(bytes(range(256)) * 50 + b"end")

    @contextlib.contextmanager
    def opened(dev: DevNum, flags: int, *, root: Path, scratch: Path | None) -> Iterator[int]:
        assert (dev, root, scratch) == (A, tmp_path, tmp_path / "s")
        assert flags == os.O_RDONLY | os.O_DIRECT
        fd = os.open(path, os.O_RDONLY)
        try:
            yield fd
        finally:
            os.close(fd)

    monkeypatch.setattr(nodes, "opened", opened)
    return path


def read(offset: int, length: int, root: Path) -> bytes:
    return superblocks.read_device(A, offset, length, root=root, scratch=root / "s")


def test_reads_are_aligned_and_cut_at_the_end(
    file_as_device: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = file_as_device.read_bytes()
    real, asked = os.preadv, []

    def preadv(fd: int, buffers: Sequence[memoryview], offset: int) -> int:
        asked.append((offset % 4096, len(buffers[0]) % 4096) if offset < len(data) else (0, 0))
        return real(fd, buffers, offset)

    monkeypatch.setattr(os, "preadv", preadv)
    for offset, length in ((0, 1), (1024, 1024), (4000, 200), (4096, 4096), (12000, 4096), (20000, 10), (12803, 1)):
        assert read(offset, length, tmp_path) == data[offset : offset + length]
    assert set(asked) == {(0, 0)}


def test_a_read_that_comes_in_pieces_is_put_together(
    file_as_device: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.preadv
    monkeypatch.setattr(os, "preadv", lambda fd, buffers, at: real(fd, [buffers[0][:512]], at))
    assert read(100, 5000, tmp_path) == file_as_device.read_bytes()[100:5100]


@pytest.mark.parametrize(("code", "ends"), [(errno.EINVAL, False), (errno.EIO, True)])
def test_a_device_without_direct_reads_is_read_through_the_cache(
    file_as_device: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, ends: bool
) -> None:
    real, calls, cleared = os.preadv, [], []

    def preadv(fd: int, buffers: Sequence[memoryview], offset: int) -> int:
        calls.append(offset)
        if len(calls) == 1:
            raise OSError(code, "")
        return real(fd, buffers, offset)

    monkeypatch.setattr(os, "preadv", preadv)
    monkeypatch.setattr(superblocks.fcntl, "fcntl", lambda fd, what, flags=0: cleared.append(flags) or os.O_DIRECT)
    if ends:
        with pytest.raises(OSError):
            read(1024, 16, tmp_path)
    else:
        assert read(1024, 16, tmp_path) == bytes(range(16)) and cleared == [0, 0]


@pytest.mark.parametrize(("offset", "length"), [(0, superblocks.LIMIT + 1), (0, 0), (-1, 8), (0, -1)])
def test_reads_are_bounded(offset: int, length: int, tmp_path: Path) -> None:
    with pytest.raises(OSError) as raised:
        read(offset, length, tmp_path)
    assert raised.value.errno == errno.EINVAL


def test_the_reader_by_default_goes_through_the_nodes(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, xfs_pair: tuple[Path, Path]
) -> None:
    @contextlib.contextmanager
    def opened(dev: DevNum, flags: int, *, root: Path, scratch: Path | None) -> Iterator[int]:
        if dev != A:
            raise FileNotFoundError(errno.ENOENT, "no device node")
        with xfs_pair[0].open("rb") as file:
            yield file.fileno()

    monkeypatch.setattr(nodes, "opened", opened)

    def look(dev: DevNum) -> Companions:
        return companions(dev, "xfs", b"", resolve=lambda _: None, all_devices=lambda: (), root=tmp_path)

    assert look(A).problem == "8:0 has an external log and needs logdev="
    assert look(B).problem == "8:16 cannot be read: No such file or directory"
