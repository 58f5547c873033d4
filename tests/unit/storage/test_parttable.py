# SPDX-License-Identifier: GPL-2.0-or-later
"""A partition that lies elsewhere than the table on the disk says is not the partition of that name."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from enforcer.model.resource import DevNum
from enforcer.storage import nodes, parttable


@pytest.fixture
def disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An image in the place of a disk; it has no table yet."""
    image = tmp_path / "image"
    image.write_bytes(bytes(16 << 20))
    monkeypatch.setattr(nodes, "number_of", lambda _info: DevNum(8, 0))
    monkeypatch.setattr(nodes, "devname", lambda _root, _dev: str(image))
    return image


@pytest.mark.parametrize("label", ["dos", "gpt"])
def test_the_table_on_the_disk_is_read(disk: Path, label: str) -> None:
    table = f"label: {label}\nstart=2048, size=8192\nsize=4096\n"
    subprocess.run(["sfdisk", "--quiet", disk], input=table.encode(), check=True)
    assert parttable.on_disk(DevNum(8, 0)) == {1: (2048, 8192), 2: (10240, 4096)}


def test_logical_partitions_are_read(disk: Path) -> None:
    table = b"label: dos\nstart=2048, size=20480, type=5\nstart=4096, size=2048\n"
    subprocess.run(["sfdisk", "--quiet", disk], input=table, check=True)
    found = parttable.on_disk(DevNum(8, 0))
    assert found[5] == (4096, 2048)
    assert parttable.agrees((1, 2048, 2), found), "the kernel lets an extended partition be two sectors"


def test_no_table_lists_nothing(disk: Path) -> None:
    assert parttable.on_disk(DevNum(8, 0)) == {}


@pytest.mark.parametrize("there", [(1, 2049, 8192), (1, 2048, 8191), (3, 2048, 8192)])
def test_another_place_another_size_another_number(there: tuple[int, int, int]) -> None:
    listed = {1: (2048, 8192), 2: (10240, 4096)}
    assert parttable.agrees((1, 2048, 8192), listed)
    assert not parttable.agrees(there, listed)


def test_what_is_no_line_of_a_listing_is_left_out() -> None:
    assert parttable.parse("1 2048 8192\nnonsense\n2 x 1\n\n3 4 5 6\n") == {1: (2048, 8192)}
