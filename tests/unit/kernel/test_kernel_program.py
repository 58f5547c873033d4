# SPDX-License-Identifier: GPL-2.0-or-later
"""What another version, or half of one, has left pinned is never taken over."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from enforcer.kernel import abi, program
from enforcer.kernel.program import MARKS, StalePins, load, object_digest, remove_pins
from tools import bpf


@pytest.fixture
def pins(tmp_path: Path, object_file: Path) -> Path:
    """Directories as ``_pin`` makes them, for the object as it is, with plain files for pins."""
    place = tmp_path / "enforcer"
    (place / f"object-{object_digest(object_file)[:32]}").mkdir(parents=True)
    for kind, names in {"maps": ("guard",), "links": (*MARKS, "x"), "programs": (*MARKS, "x")}.items():
        (place / kind).mkdir()
        for name in names:
            (place / kind / name).touch()
    return place


class Pinned:
    """Stands in for libbpf: opening a pin gives a descriptor of the file."""

    def check(self, name: str, path: bytes, what: str, hint: str) -> int:
        assert name == "bpf_obj_get" and hint == "end enforcement first: enforcerd --detach"
        return os.open(path, os.O_RDONLY)


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(program, "library", Pinned)


def stale(object_file: Path, pins: Path) -> StalePins:
    with pytest.raises(StalePins) as caught:
        load(object_file, pins)
    assert caught.value.hint == "end enforcement first: enforcerd --detach"
    return caught.value


def test_another_version(object_file: Path, pins: Path) -> None:
    (pins / f"object-{object_digest(object_file)[:32]}").rename(pins / f"object-{'0' * 32}")
    assert "another version" in str(stale(object_file, pins))
    assert pins.exists()  # it is the administrator who ends enforcement


def test_nothing_but_a_directory(object_file: Path, tmp_path: Path) -> None:
    (tmp_path / "enforcer").mkdir()
    assert "another version" in str(stale(object_file, tmp_path / "enforcer"))


@pytest.mark.parametrize("gone", ["links/x", f"links/{MARKS[0]}", "programs/x"])
@pytest.mark.usefixtures("opened")
def test_a_part_of_them(object_file: Path, pins: Path, gone: str) -> None:
    (pins / gone).unlink()
    assert "partial enforcement" in str(stale(object_file, pins))


@pytest.mark.usefixtures("opened")
def test_a_mark_that_is_in_neither(object_file: Path, pins: Path) -> None:
    for kind in ("links", "programs"):
        (pins / kind / MARKS[0]).unlink()
    assert "partial enforcement" in str(stale(object_file, pins))


@pytest.mark.usefixtures("opened")
def test_all_of_them_are_adopted(object_file: Path, pins: Path) -> None:
    attached = load(object_file, pins)
    assert attached.adopted and attached.pinned == pins
    assert set(attached.maps) == {"guard"} and set(attached.programs) == {*MARKS, "x"}
    held: list[Any] = [*attached.maps.values(), *attached.programs.values()]
    for descriptor in held:
        os.close(descriptor)


def test_what_is_no_pin_cannot_be_opened(object_file: Path, pins: Path) -> None:
    """Plain files where pins should be: the real library refuses, and the remedy is the same."""
    with pytest.raises(program.KernelError) as caught:
        load(object_file, pins)
    assert caught.value.errno in (errno.EACCES, errno.EINVAL, errno.EPERM)
    assert caught.value.hint == "end enforcement first: enforcerd --detach"


def test_remove(pins: Path) -> None:
    assert remove_pins(pins) and not pins.exists() and not remove_pins(pins)


def test_the_packaged_object_is_not_older_than_its_sources() -> None:
    packaged = program.object_path()
    assert packaged.exists(), "make build"
    newest = max(source.stat().st_mtime_ns for source in (bpf.ROOT / "bpf").iterdir())
    assert packaged.stat().st_mtime_ns >= newest, "make build"
    assert abi.mismatches(str(packaged)) == [], "make build"
