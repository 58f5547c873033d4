# SPDX-License-Identifier: GPL-2.0-or-later
"""``enforcer drain``: what it ends, in which order, and that it never says "nothing" while it does not know."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import pytest
from cli_samples import LEASE, WHO
from conftest import Daemon

from enforcer.cli.main import main
from enforcer.cli.verbs import drain
from enforcer.model.errors import Exit

ME = {"node": "node-1", "boot_id": "b-1", "trouble": ""}
MINE = {**LEASE, "holder": {"node": "node-1", "boot_id": "b-1", "session": "s"}}
LIVE = {"dev": "8:17", "name": "sdb1", "state": "live"}
OTHERS = [{"dev": "8:1", "name": "sda1", "state": "unguarded"}, {"dev": "8:33", "name": "sdc1", "state": "elsewhere"}]


def go(daemon: Daemon, *more: str) -> int:
    return main(["drain", "--wait", "0", *more, "--socket", str(daemon.path)])


def test_nothing_held_is_the_end(daemon: Daemon, capsys: pytest.CaptureFixture[str]) -> None:
    daemon.replies = {"who": {**WHO, **ME}}  # others hold something
    assert go(daemon) == 0 and "nothing is held here" in capsys.readouterr().out


@pytest.mark.parametrize("left", [{"leases": [MINE], "devices": []}, {"leases": [], "devices": [LIVE]}])
def test_what_is_left_is_named(
    daemon: Daemon, left: dict[str, object], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(drain, "commands", lambda data: iter(()))
    daemon.replies = {"who": {**ME, **left}}
    assert go(daemon) == Exit.FAILURE
    said = capsys.readouterr().err
    assert "not given back within 0 s: " in said and ("wwn-0x5000c500aa/p1" in said or "sdb1" in said)
    assert go(daemon, "--json") == Exit.FAILURE
    assert json.loads(capsys.readouterr().out)["ok"] is False


def test_a_store_without_an_answer_is_not_nothing(daemon: Daemon, capsys: pytest.CaptureFixture[str]) -> None:
    daemon.replies = {"who": {**ME, "leases": [], "devices": [], "trouble": "it has no quorum"}}
    assert go(daemon) == Exit.FAILURE and "it has no quorum" in capsys.readouterr().err


@pytest.mark.parametrize("wait", ["-1", "nan"])
def test_a_wait_that_is_none_is_a_mistake(daemon: Daemon, wait: str) -> None:
    assert main(["drain", f"--wait={wait}", "--socket", str(daemon.path)]) == Exit.USAGE
    assert daemon.requests == []


def test_it_ends_our_uses_and_no_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of our devices in the order in which they were mounted, also where the number is the filesystem's own."""
    nodes = {"/dev/sdb1": (8, 17), "/dev/sda1": (8, 1), "/dev/sdc1": (8, 33)}

    def look(path: Path) -> os.stat_result:
        if str(path) not in nodes:
            raise FileNotFoundError(path)
        return os.stat_result((stat.S_IFBLK, *[0] * 9), {"st_rdev": os.makedev(*nodes[str(path)])})

    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/swaps").write_text(
        "Filename Type Size Used Priority\n"
        "/dev/sda1 partition 1 0 -2\n/dev/sdb1 partition 1 0 -2\n/swap\\040file file 1 0 -2\n"
    )
    (tmp_path / "proc/self/mountinfo").write_text(
        "21 1 8:1 / / rw - ext4 /dev/sda1 rw\n"
        "30 21 8:17 / /srv/a\\040b rw shared:1 - ext4 /dev/sdb1 rw\n"
        "31 21 0:44 / /srv/c rw - btrfs /dev/sdb1 rw\n"
        "32 21 0:45 / /proc rw - proc proc rw\n"
        "33 30 8:33 / /x rw - ext4 /dev/sdc1 rw\n"
    )
    monkeypatch.setattr(Path, "stat", look)
    assert list(drain.commands({"devices": [LIVE, *OTHERS]}, tmp_path)) == [
        ("swapoff", "/dev/sdb1"),
        ("umount", "--no-canonicalize", "/srv/a b"),
        ("umount", "--no-canonicalize", "/srv/c"),
    ]


def test_what_does_not_end_holds_up_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drain, "TRY_S", 0.1)
    running: dict[drain.Command, drain.subprocess.Popen[bytes]] = {}
    why: dict[drain.Command, str] = {}
    for command in (("sleep", "20"), ("sh", "-c", "echo target is busy; exit 32"), ("true",)):
        drain._advance(command, running, why)
    assert why == {
        ("sleep", "20"): "sleep 20 does not end",
        ("sh", "-c", "echo target is busy; exit 32"): "target is busy",
    }
    assert list(running) == [("sleep", "20")]
    drain._advance(("sleep", "20"), running, why)
    assert len(running) == 1, "it is not started again"
    running["sleep", "20"].kill()
    running["sleep", "20"].communicate()
