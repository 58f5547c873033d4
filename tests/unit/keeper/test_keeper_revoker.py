# SPDX-License-Identifier: GPL-2.0-or-later
"""A revoker that hangs is ended, and nothing else is."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from enforcer import settings
from enforcer.keeper import duties
from enforcer.keeper.revoker import end_if_hung
from enforcer.lost import files
from enforcer.lost.files import Beat
from enforcer.model.clock import boot_ns


@pytest.fixture
def process() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)", "enforcer.revoker.main"]) as made:
        while b"enforcer.revoker" not in Path(f"/proc/{made.pid}/cmdline").read_bytes():
            time.sleep(0.01)  # execve(2) shows the new arguments a moment after Popen has returned
        yield made
        made.kill()


def test_the_look_at_it_holds_up_no_renewal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """/proc of a process that hangs may hang as well."""
    looked, let_go, in_time = threading.Event(), threading.Event(), list[bool]()

    def hang(_run_dir: Path) -> bool:
        looked.set()
        in_time.append(let_go.wait(3))
        return False

    async def side_by_side() -> None:
        watching = asyncio.ensure_future(keeper._watch_revoker())
        await asyncio.to_thread(looked.wait, 5)
        let_go.set()  # by the loop, which goes on
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)

    monkeypatch.setattr(duties, "end_if_hung", hang)
    places = "".join(f"{key} = '{tmp_path / key}'\n" for key in ("run_dir", "state_dir", "log_dir", "bpffs"))
    keeper = duties.Keeper(settings.parse(f"[node]\nname = 'node-1'\n[paths]\n{places}"))
    asyncio.run(side_by_side())
    assert in_time == [True]


@pytest.mark.parametrize(("age_ns", "named", "ended"), [(0, True, False), (9, True, True), (9, False, False)])
def test_a_revoker_that_hangs_is_ended(
    tmp_path: Path, process: subprocess.Popen[bytes], age_ns: int, named: bool, ended: bool
) -> None:
    files.write_beat(tmp_path, Beat(boot_ns() - age_ns * 1_000_000_000, process.pid))
    proc = Path("/proc") if named else tmp_path
    if not named:
        (tmp_path / str(process.pid)).mkdir()
        (tmp_path / str(process.pid) / "cmdline").write_bytes(b"/usr/bin/postgres\0")
    assert end_if_hung(tmp_path, proc) is ended
    if ended:
        assert process.wait(5) == -9
        assert not end_if_hung(tmp_path), "and the dead are left alone"
    else:
        assert process.poll() is None
