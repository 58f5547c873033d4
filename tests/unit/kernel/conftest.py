# SPDX-License-Identifier: GPL-2.0-or-later
"""The kernel half compiled from the sources as they are now, and small C programs beside it."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tools import bpf

HEADERS = bpf.ROOT / "bpf"


@pytest.fixture(scope="session")
def object_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The whole object."""
    path = tmp_path_factory.mktemp("object") / "enforcer.bpf.o"
    bpf.compile_object(path)
    return path


@pytest.fixture(scope="session")
def gcc(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """``gcc(source, *flags, headers=...)`` compiles for the host; returns the file."""
    place = tmp_path_factory.mktemp("gcc")

    def build(source: str, *flags: str, headers: Path = HEADERS) -> Path:
        number = len(list(place.iterdir()))
        path = place / f"made{number}"
        command = ["gcc", "-O1", "-Wall", "-Werror", *flags, "-I", str(headers), "-x", "c", "-", "-o", str(path)]
        subprocess.run(command, input=source, text=True, check=True)
        return path

    return build
