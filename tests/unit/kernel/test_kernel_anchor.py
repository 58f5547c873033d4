# SPDX-License-Identifier: GPL-2.0-or-later
"""The smallest program there is: a whole ELF file that starts, sleeps, survives a stop and can be killed."""

from __future__ import annotations

import io
import os
import platform
import signal
import time
from pathlib import Path

from elftools.elf.elffile import ELFFile

from enforcer.kernel import anchor


def state_of(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def wait_for(pid: int, wanted: str) -> None:
    limit = time.monotonic() + 5
    while state_of(pid) != wanted:
        assert time.monotonic() < limit, state_of(pid)
        time.sleep(0.005)


def test_image() -> None:
    elf = ELFFile(io.BytesIO(anchor.image()))
    assert elf["e_type"] == "ET_EXEC"
    assert elf["e_machine"] == {"x86_64": "EM_X86_64", "aarch64": "EM_AARCH64"}[platform.machine()]
    (segment,) = elf.iter_segments()
    assert segment["p_type"] == "PT_LOAD" and segment["p_flags"] == 5  # read and execute, never write
    start = segment["p_vaddr"]
    assert start <= elf["e_entry"] < start + segment["p_filesz"] == start + len(anchor.image())


def test_both_architectures_have_code() -> None:
    assert set(anchor._CODE) == {"x86_64", "aarch64"}
    assert len(anchor._CODE["aarch64"][1]) % 4 == 0


def test_it_runs_and_sleeps(tmp_path: Path) -> None:
    path = tmp_path / "anchor"
    path.write_bytes(anchor.image())
    path.chmod(0o755)
    pid = anchor.start(str(path))
    try:
        limit = time.monotonic() + 5
        while Path(f"/proc/{pid}/exe").readlink() != path:
            assert time.monotonic() < limit
            time.sleep(0.005)
        wait_for(pid, "S")
        assert Path(f"/proc/{pid}/cmdline").read_bytes() == b"enforcer-anchor\0"
        assert len(list(Path(f"/proc/{pid}/fd").iterdir())) <= 3
        os.kill(pid, signal.SIGSTOP)
        wait_for(pid, "T")
        os.kill(pid, signal.SIGCONT)
        wait_for(pid, "S")
    finally:
        os.kill(pid, signal.SIGKILL)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL


def test_a_file_that_cannot_run_ends_the_child(tmp_path: Path) -> None:
    path = tmp_path / "empty"
    path.touch(0o755)
    pid = anchor.start(str(path))
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 127
