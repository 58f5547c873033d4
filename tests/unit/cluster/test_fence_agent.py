# SPDX-License-Identifier: GPL-2.0-or-later
"""A node is off if its agent did it and saw it, and in no other case. The agents here are programs that really run."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from enforcer.cluster import fence_agent
from enforcer.cluster.fence_agent import NotOff, WasOff, switch_off
from enforcer.model.errors import EnforcerError
from enforcer.settings import FenceAgent

# What an agent is: options from standard input, an exit code. It is asked for status before off and after it.
AGENT = """#!/bin/sh
while read -r line; do
  [ "$line" = action=metadata ] && {metadata}
  echo "$line" >> {log}; case "$line" in action=*) action="${{line#action=}}";; esac
done
was=$([ "$(grep -c ^action=status {log})" = 1 ] && echo was)
case "$was$action" in wasstatus) {was};; *off) {off};; status) {status};; *) exit 1;; esac
"""
CAN = '<actions><action name="on" automatic="0"/><action name="off" /><action name="status" /></actions>'
OFF, IS_ON, IS_OFF = "exit 0", "exit 0", "exit 2"
Make = Callable[..., FenceAgent]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    def write(
        off: str = OFF,
        status: str = IS_OFF,
        was: str = IS_ON,
        metadata: str = f"echo '{CAN}' && exit 0",
        timeout_s: float = 5.0,
        **options: str,
    ) -> FenceAgent:
        program = tmp_path / "fence_test"
        program.write_text(AGENT.format(log=tmp_path / "log", metadata=metadata, off=off, status=status, was=was))
        program.chmod(0o755)
        return FenceAgent(str(program), options, timeout_s)

    return write


def run(agent: FenceAgent, *, was_off: bool = False) -> bool:
    return asyncio.run(asyncio.wait_for(switch_off(agent, "node-9", was_off, at_once), 20))


async def at_once() -> None:
    """Nothing keeps the power on."""


def refused(agent: FenceAgent) -> str:
    with pytest.raises(NotOff) as caught:
        run(agent)
    assert "[fencing.node-9]" in caught.value.hint or isinstance(caught.value, WasOff)
    return str(caught.value)


def actions(tmp_path: Path) -> list[str]:
    lines = (tmp_path / "log").read_text().splitlines()
    return [line.removeprefix("action=") for line in lines if line.startswith("action=")]


def test_it_is_seen_going_off_with_the_options_on_standard_input(make: Make, tmp_path: Path) -> None:
    assert run(make(ip="192.0.2.1", plug="a b=c"))
    told = ["ip=192.0.2.1", "plug=a b=c", "nodename=node-9"]
    log = (tmp_path / "log").read_text().splitlines()
    assert log == [*told, "action=status", *told, "action=off", *told, "action=status"]


def test_just_before_the_power_goes_it_may_be_kept_on(make: Make, tmp_path: Path) -> None:
    """The agent was asked for minutes, say, and the node is back."""

    async def back() -> None:
        raise EnforcerError("node-9 is live")

    with pytest.raises(EnforcerError, match="is live"):
        asyncio.run(switch_off(make(), "node-9", False, back))
    asked = (tmp_path / "log").read_text().splitlines()
    assert "action=status" in asked and "action=off" not in asked


@pytest.mark.parametrize(
    ("metadata", "why"),
    [
        (f"echo '{CAN.replace(chr(34) + '0', chr(34) + '1')}' && exit 0", "leaves the node on"),  # fence_scsi
        ("printf \"<action\nautomatic = 'yes' name='on'><action name='off'>\" && exit 0", "leaves the node on"),
        (f"echo '{CAN}' && exit 1", "does not tell its metadata (exit status 1)"),
        ("kill -9 $$", "does not tell its metadata (ended by signal 9)"),
        ("exit 0", "does not say that it can switch off"),
        ("""echo '<action name="on" automatic="0"/>' && exit 0""", "does not say that it can switch off"),
        (f"echo '{CAN}' && seq 40000 && exit 0", "says more than can be read"),
        ("sleep 77", "did not end its metadata within 0.5 s"),
    ],
)
def test_who_leaves_the_node_on_or_tells_not_what_it_does_is_not_run(
    make: Make, tmp_path: Path, metadata: str, why: str
) -> None:
    assert why in refused(make(metadata=metadata, timeout_s=0.5 if "77" in metadata else 5.0))
    assert not (tmp_path / "log").exists()


def test_metadata_is_asked_for_without_the_options(make: Make, tmp_path: Path) -> None:
    assert run(make(password="hunter2", metadata=f"test ! -e {tmp_path}/log && echo '{CAN}' && exit 0"))


def test_who_was_off_before_may_be_suspended_only_and_is_for_an_administrator(make: Make, tmp_path: Path) -> None:
    with pytest.raises(WasOff, match=r"was off already: suspended\? another machine's plug\?") as caught:
        run(make(was=IS_OFF))
    assert "fence run node-9 --was-off" in caught.value.hint and "fence confirm" in caught.value.hint
    assert actions(tmp_path) == ["status"]
    (tmp_path / "log").unlink()
    assert run(make(was=IS_OFF), was_off=True) is False
    (tmp_path / "log").unlink()
    assert run(make(was=IS_ON), was_off=True) is True, "who is on is switched off all the same"


@pytest.mark.parametrize("code", [1, 3, 127, 255])
def test_of_whom_it_cannot_be_told_whether_it_is_on_nothing_is_tried(make: Make, tmp_path: Path, code: int) -> None:
    assert f"cannot tell whether node-9 is on (exit status {code})" in refused(make(was=f"exit {code}"))
    assert actions(tmp_path) == ["status"]


@pytest.mark.parametrize("code", [1, 2, 3, 127, 255])
def test_an_off_that_does_not_end_with_0_is_none(make: Make, code: int) -> None:
    assert f"could not switch node-9 off (exit status {code})" in refused(make(off=f"exit {code}"))


@pytest.mark.parametrize(
    ("status", "why"),
    [("exit 0", "says that node-9 is on"), *((f"exit {code}", "cannot tell whether") for code in (1, 3, 127, 255))],
)
def test_without_a_status_of_2_it_is_not_off_whatever_off_said(make: Make, status: str, why: str) -> None:
    assert why in refused(make(status=status))


@pytest.mark.parametrize("steps", [{"off": "kill -9 $$"}, {"status": "kill -15 $$"}])
def test_an_agent_that_dies_proves_nothing(make: Make, steps: dict[str, str]) -> None:
    assert "ended by signal" in refused(make(**steps))


@pytest.mark.parametrize("step", ["off", "status"])
def test_one_that_hangs_proves_nothing_and_is_ended_with_what_it_started(make: Make, tmp_path: Path, step: str) -> None:
    began = time.monotonic()
    hang = f"trap '' TERM; sleep 77 & echo $! > {tmp_path}/pid; wait"
    assert f"did not end its {step} within 0.3 s" in refused(make(**{step: hang}, timeout_s=0.3))
    assert time.monotonic() - began < 5
    assert ended(int((tmp_path / "pid").read_text()))


@pytest.mark.parametrize(
    ("off", "why"),
    [("sleep 5", "did not end its off within 1.5 s"), ("yes & sleep 5", "is still there after SIGKILL")],
)
def test_one_that_outlives_its_end_is_not_waited_for(
    make: Make, monkeypatch: pytest.MonkeyPatch, off: str, why: str
) -> None:
    """As who waits for a dead disk in state D does."""
    alive: list[int] = []
    monkeypatch.setattr(fence_agent, "MOST_BYTES", 100_000)
    monkeypatch.setattr(fence_agent, "END_S", 0.2)
    kill = os.killpg
    monkeypatch.setattr(fence_agent.os, "killpg", lambda pid, _: alive.append(pid))

    async def scenario() -> None:
        with pytest.raises(NotOff, match=why):
            await switch_off(make(off, timeout_s=1.5), "node-9", False, at_once)
        assert len(fence_agent._LASTING) == 1
        kill(alive[-1], signal.SIGKILL)
        assert await next(iter(fence_agent._LASTING)) == -signal.SIGKILL, "it is reaped behind"

    asyncio.run(scenario())
    assert not fence_agent._LASTING


def test_who_leaves_a_child_behind_is_not_waited_for_and_the_child_is_ended(make: Make, tmp_path: Path) -> None:
    began = time.monotonic()
    run(make(off=f"sleep 77 & echo $! > {tmp_path}/pid; exit 0"))
    assert time.monotonic() - began < 5
    assert ended(int((tmp_path / "pid").read_text()))


def test_one_that_talks_without_end_is_ended(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fence_agent, "MOST_BYTES", 100_000)
    assert "says more than can be read" in refused(make(off="yes"))


def test_what_it_says_is_told_in_one_line_without_the_value_of_any_option(make: Make) -> None:
    said = 'printf "first\\n\\033[31mignoring \\"password=hunter2\\" at 192.0.2.1\\n\\n" >&2; exit 1'
    told = refused(make(off=said, password='"hunter2"', ip="192.0.2.1"))
    assert told.endswith(r'(exit status 1): \x1b[31mignoring "password=..." at ...')
    assert "hunter2" not in told + repr(make(password="hunter2"))


def test_an_option_of_one_digit_does_not_make_what_it_says_unreadable(make: Make) -> None:
    said = 'echo "2026-11-23 ERROR: port 1 of 11 (1) /xhunter2x"; exit 1'
    told = refused(make(status=said, lanplus="1", password="hunter2"))
    assert told.endswith("2026-11-23 ERROR: port ... of 11 (...) /x...x")


def test_a_program_that_others_can_change_is_not_run(make: Make, tmp_path: Path) -> None:
    agent = make()
    (tmp_path / "fence_test").chmod(0o775)
    assert "can be changed by others" in refused(agent)
    (tmp_path / "fence_test").chmod(0o644)
    assert "is no program" in refused(agent)
    assert "cannot be found" in refused(FenceAgent(str(tmp_path / "none")))
    assert not (tmp_path / "log").exists()


def test_one_that_is_no_program_at_all(make: Make, tmp_path: Path) -> None:
    agent = make()
    (tmp_path / "fence_test").write_bytes(b"\x7fELF nonsense")
    assert "cannot be started" in refused(agent)


@pytest.mark.parametrize("call", ["pipe2", "memfd_create"])
def test_without_a_file_descriptor_left_it_is_not_off(make: Make, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(fence_agent.os, call, full)
    found: BaseException | None = None
    try:
        run(make())
    except BaseException as error:
        found = error
    assert isinstance(found, NotOff) and "cannot be started: Too many open files" in str(found)


def test_nothing_of_the_daemons_environment_reaches_it(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", "/run/secret")
    fds = len(list(Path("/proc/self/fd").iterdir()))
    agent = make(off=f"env > {tmp_path}/env; ls /proc/self/fd > {tmp_path}/fds; exit 0", password="hunter2")
    run(agent)
    found = (tmp_path / "env").read_text()
    assert "NOTIFY_SOCKET" not in found and "hunter2" not in found and json.dumps(found).count("PATH=")
    assert set((tmp_path / "fds").read_text().split()) <= {"0", "1", "2", "3"}  # the last one is ls's own
    assert len(list(Path("/proc/self/fd").iterdir())) == fds


def ended(pid: int) -> bool:
    for _ in range(100):
        try:
            if "Z" in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]:
                return True
        except FileNotFoundError:
            return True
        time.sleep(0.02)
    return False
