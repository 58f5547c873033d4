# SPDX-License-Identifier: GPL-2.0-or-later
"""fence_ipmilan of the fence-agents package over the network to a BMC: ipmi_sim of OpenIPMI, which speaks IPMI 2.0.

The machine below that BMC is a file, and a program that the BMC calls switches it: each case has another of these.
"""

from __future__ import annotations

import asyncio
import re
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from enforcer.cluster.fence_agent import NotOff, switch_off
from enforcer.settings import FenceAgent, load

PASSWORD, WRONG = "it's=4=four", "it's=5=four"
LAN = """
name "node-9"
set_working_mc 0x20
startlan 1
  addr 127.0.0.1 {port}
  priv_limit admin
  allowed_auths_admin md5
  guid a123456789abcdefa123456789abcdef
endlan
chassis_control "{place}/chassis"
user 2 true "fencer" "{password}" admin 10 md5
"""  # ipmi_lan(5)
CONTROLLER = "mc_setbmc 0x20\nmc_add 0x20 0 no-device-sdrs 0x23 9 8 0x9f 0x1291 0xf02 persist_sdr\nmc_enable 0x20\n"
CHASSIS = """#!/bin/sh
cd {place} && echo "$1" "$2" $3 >> asked
case "$1 $2" in
"get power") echo power:$(cat power); {looked};;
"set power") {switched};;
*) exit 1;;
esac
"""
OBEYS, STUCK, COMES_BACK = "echo $3 > power", "true", "! grep -q set asked || echo 1 > power"
SETTINGS = """
[fencing.node-9]
agent = "fence_ipmilan"
timeout = "{timeout}"
options = {{ ip = "127.0.0.1", ipport = "{port}", username = "fencer", {key} = "{secret}", lanplus = "1", \
cipher = "3", power_wait = "0", power_timeout = "5", stonith_status_sleep = "0" }}
"""
PING = bytes.fromhex("0600ff06000011be80000000")  # RMCP presence: ASF 2.0, 3.2.4.3


class Bmc:
    """One that answers, of a machine that is on."""

    def __init__(self, place: Path, switched: str, looked: str) -> None:
        self.place = place
        with closing(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as free:
            free.bind(("127.0.0.1", 0))
            self.port: int = free.getsockname()[1]
        self.power(True)
        (place / "state").mkdir()
        (place / "asked").touch()
        self._write("lan.conf", LAN.format(port=self.port, place=place, password=PASSWORD))
        self._write("controller", CONTROLLER)
        self._write("chassis", CHASSIS.format(place=place, switched=switched, looked=looked)).chmod(0o755)
        files: list[str | Path] = ["-c", place / "lan.conf", "-f", place / "controller", "-s", place / "state"]
        with (place / "log").open("wb") as log:
            self._process = subprocess.Popen(["ipmi_sim", "-n", *files], stdout=log, stderr=log)

    def _write(self, name: str, text: str) -> Path:
        (self.place / name).write_text(text)
        return self.place / name

    def wait(self) -> None:
        end = time.monotonic() + 10
        with closing(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as ours:
            ours.settimeout(0.1)
            ours.connect(("127.0.0.1", self.port))
            while self._process.poll() is None and time.monotonic() < end:
                try:
                    ours.send(PING)
                    ours.recv(100)
                    return
                except OSError:
                    time.sleep(0.02)
        pytest.fail(f"ipmi_sim: {(self.place / 'log').read_text()}")

    def hang(self) -> None:
        self._process.send_signal(signal.SIGSTOP)

    def end(self) -> None:
        self._process.kill()
        self._process.wait()

    def power(self, on: bool) -> None:
        self._write("power", f"{on:d}\n")

    @property
    def is_on(self) -> bool:
        return (self.place / "power").read_text() == "1\n"

    def asked(self) -> list[str]:
        """What the machine was told, by its BMC."""
        return [line for line in (self.place / "asked").read_text().splitlines() if line.startswith("set")]

    def agent(self, password: str = PASSWORD, timeout: str = "20s", *, by_script: bool = False) -> FenceAgent:
        """As enforcer.toml(5) has it."""
        secret = password
        if by_script:
            self._write("secret", f"{password}\n")
            secret = str(self._write("password", f"#!/bin/sh\ncat {self.place}/secret\n"))
            Path(secret).chmod(0o700)
        key = "password_script" if by_script else "password"
        text = SETTINGS.format(port=self.port, timeout=timeout, key=key, secret=secret)
        settings = self._write("enforcer.toml", text)
        settings.chmod(0o600)
        return load(settings).fencing.nodes["node-9"]


Make = Callable[..., Bmc]


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    with ExitStack() as stack:

        def start(switched: str = OBEYS, looked: str = "true") -> Bmc:
            bmc = Bmc(tmp_path, switched, looked)
            stack.callback(bmc.end)
            bmc.wait()
            return bmc

        yield start


def outcome(agent: FenceAgent) -> str:
    """What is told of the run."""
    try:
        assert asyncio.run(asyncio.wait_for(switch_off(agent, "node-9", False, lambda: asyncio.sleep(0)), 30))
    except NotOff as error:
        told = f"{error} {error.hint} {error!r}"
        assert PASSWORD not in told and WRONG not in told
        return str(error)
    return "off"


@pytest.mark.parametrize("by_script", [False, True], ids=["password", "password_script"])
def test_a_machine_that_is_on_is_off_then(make: Make, by_script: bool) -> None:
    bmc = make()
    assert outcome(bmc.agent(by_script=by_script)) == "off"
    assert not bmc.is_on and bmc.asked() == ["set power 0"]


def test_without_the_password_nothing_is_switched_or_proven(make: Make) -> None:
    bmc = make()
    assert re.search(r"\d{4}-\d\d-\d\d .* Unable to obtain correct plug status", outcome(bmc.agent(WRONG)))
    bmc.power(False)
    assert "Unable to obtain correct plug status" in outcome(bmc.agent(WRONG))
    assert bmc.asked() == []


def test_a_bmc_that_does_not_answer_proves_nothing_and_nothing_of_the_agent_is_left(make: Make) -> None:
    bmc = make()
    bmc.hang()
    began = time.monotonic()
    assert "within 1 s" in outcome(bmc.agent(timeout="1s"))
    assert time.monotonic() - began < 5
    assert not calling(bmc.port)
    assert bmc.is_on


def test_a_machine_that_does_not_go_off_is_not_off(make: Make) -> None:
    bmc = make(STUCK)
    assert "Timed out waiting to power OFF" in outcome(bmc.agent())
    assert bmc.asked() == ["set power 0"]


def test_one_that_is_on_again_once_its_agent_has_seen_it_off_is_not_off(make: Make) -> None:
    bmc = make(looked=COMES_BACK)
    assert "says that node-9 is on after it has switched it off" in outcome(bmc.agent())
    assert bmc.asked() == ["set power 0"]


def test_one_that_was_off_before_is_no_proof(make: Make) -> None:
    bmc = make()
    bmc.power(False)
    assert "was off already" in outcome(bmc.agent())
    assert bmc.asked() == []


def calling(port: int) -> list[bytes]:
    """The command lines of ipmitool to this BMC."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = entry.read_bytes().split(b"\0")
        except OSError:
            continue
        if words[0].endswith(b"ipmitool") and str(port).encode() in words:
            found.append(b" ".join(words))
    return found
