# SPDX-License-Identifier: GPL-2.0-or-later
"""An etcd on the host's loopback for the guests' leases; its ports are its own, its data the lab's.

A real server, because a store's answers under failure are what is tested: it can be stopped, killed, frozen
and started again on the same data and ports. ``members`` > 1 makes a cluster that can lose its quorum.
"""

from __future__ import annotations

import signal
import socket
import subprocess
import time
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path

from tools.lab import process


class EtcdError(Exception):
    """etcd does not answer."""


def free_ports(count: int) -> list[int]:
    """Loopback ports that nobody listens on at this moment."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for sock in sockets:
            sock.bind(("127.0.0.1", 0))
        return [int(sock.getsockname()[1]) for sock in sockets]
    finally:
        for sock in sockets:
            sock.close()


@dataclass(slots=True)
class Member:
    """One etcd process."""

    name: str
    client_port: int
    peer_port: int
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """As the host reaches it."""
        return f"http://127.0.0.1:{self.client_port}"

    @property
    def peer_url(self) -> str:
        return f"http://127.0.0.1:{self.peer_port}"


@dataclass(slots=True)
class EtcdServer:
    """One member, or several."""

    workdir: Path
    size: int = 1
    members: list[Member] = field(default_factory=list)

    def __post_init__(self) -> None:
        ports = free_ports(2 * self.size)
        for index in range(self.size):
            self.members.append(Member(f"etcd{index + 1}", ports[2 * index], ports[2 * index + 1]))

    @property
    def url(self) -> str:
        return self.members[0].url

    def start(self, *, wait_s: float = 20.0) -> None:
        """Start what does not run, and wait for a leader."""
        for member in self.members:
            if member.process is None or member.process.poll() is not None:
                self._start(member)
        end = time.monotonic() + wait_s
        for member in self.members:
            while not self._healthy(member):
                if time.monotonic() > end or (member.process is not None and member.process.poll() is not None):
                    raise EtcdError(f"{member.name} does not answer: {process.tail(self._log(member))}")
                time.sleep(0.05)

    def _log(self, member: Member) -> Path:
        return self.workdir / f"{member.name}.log"

    def _start(self, member: Member) -> None:
        command = [
            "etcd",
            f"--name={member.name}",
            f"--data-dir={self.workdir / member.name}",
            f"--listen-client-urls={member.url}",
            f"--advertise-client-urls={member.url}",
            f"--listen-peer-urls={member.peer_url}",
            f"--initial-advertise-peer-urls={member.peer_url}",
            "--initial-cluster=" + ",".join(f"{other.name}={other.peer_url}" for other in self.members),
            "--initial-cluster-token=" + self.workdir.name,
            "--logger=zap",
            "--log-level=warn",
        ]
        if _knows("--unsafe-no-fsync"):
            command.append("--unsafe-no-fsync")
        member.process = process.start(command, self._log(member))

    @staticmethod
    def _healthy(member: Member) -> bool:
        try:
            with urllib.request.urlopen(member.url + "/health", timeout=1) as answer:
                return b'"true"' in answer.read()
        except OSError:
            return False

    def _signal(self, number: signal.Signals, member: int | None) -> None:
        for index, one in enumerate(self.members):
            if member in (None, index) and one.process is not None and one.process.poll() is None:
                one.process.send_signal(number)

    def pause(self, member: int | None = None) -> None:
        """Freeze all members, or one: connections stay open and nothing answers."""
        self._signal(signal.SIGSTOP, member)

    def resume(self, member: int | None = None) -> None:
        self._signal(signal.SIGCONT, member)

    def kill(self, member: int | None = None) -> None:
        """End all members, or one, without a goodbye. ``start`` brings them back with their data."""
        self._signal(signal.SIGKILL, member)
        for index, one in enumerate(self.members):
            if member in (None, index) and one.process is not None:
                one.process.wait()

    def stop(self) -> None:
        self.resume()
        for one in self.members:
            if one.process is not None:
                process.stop(one.process)
                one.process = None


def _knows(option: str) -> bool:
    done = subprocess.run(["etcd", "--help"], capture_output=True, text=True)
    return option in done.stdout + done.stderr
