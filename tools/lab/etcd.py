# SPDX-License-Identifier: GPL-2.0-or-later
"""An etcd on the host's loopback for the guests' leases; its ports are its own, its data the lab's.

A real server, because a store's answers under failure are what is tested: it can be stopped, killed, frozen
and started again on the same data and ports. ``size`` > 1 makes a cluster that can lose its leader or its quorum.
What it holds is read through the JSON gateway by a few lines of its own here, which share nothing with the product.
"""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import signal
import socket
import subprocess
import time
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

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


@dataclass(frozen=True, slots=True)
class Record:
    """One key as etcd holds it; ``lease`` is the id of the TTL lease that it hangs on, 0 for none."""

    value: Any  # JSON, read
    create_revision: int
    mod_revision: int
    lease: int


@dataclass(slots=True)
class EtcdServer:
    """One member, or several. An election takes one to two times ``election_ms``, ten heartbeats."""

    workdir: Path
    size: int = 1
    election_ms: int = 1000  # etcd's default
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
            f"--heartbeat-interval={self.election_ms // 10}",
            f"--election-timeout={self.election_ms}",
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

    def leader(self, *, wait_s: float = 20.0) -> int:
        """Which member leads, by what a member says that answers. Raises EtcdError if none is elected in time."""
        end = time.monotonic() + wait_s
        while time.monotonic() < end:
            for index, member in enumerate(self.members):
                try:
                    said = _post(member, "/maintenance/status", {})
                except OSError:
                    continue
                if said.get("leader", "0") != "0" and said["leader"] == said["header"]["member_id"]:
                    return index
            time.sleep(0.05)
        raise EtcdError(f"no member of {self.size} leads after {wait_s:.0f} s")

    def lead(self, member: int) -> None:
        """Hand the leadership to a member (MoveLeader, rpc.proto). Raises EtcdError, OSError."""
        end = time.monotonic() + 20
        while (leader := self.leader()) != member:
            if time.monotonic() > end:
                raise EtcdError(f"{self.members[member].name} does not become the leader")
            target = _post(self.members[member], "/maintenance/status", {})["header"]["member_id"]
            _post(self.members[leader], "/maintenance/transfer-leadership", {"targetID": target})

    def records(self, prefix: str, *, wait_s: float = 20.0) -> dict[str, Record]:
        """All keys below a prefix, by a linearizable read through any member. Raises EtcdError."""
        ask = {"key": _b64(prefix), "range_end": _b64(prefix[:-1] + chr(ord(prefix[-1]) + 1))}
        end, trouble = time.monotonic() + wait_s, OSError("not tried")
        while time.monotonic() < end:
            for member in self.members:
                try:
                    found = _post(member, "/kv/range", ask).get("kvs", [])
                except OSError as error:
                    trouble = error
                    continue
                return {
                    base64.b64decode(kv["key"]).decode(): Record(
                        json.loads(base64.b64decode(kv["value"])),
                        int(kv["create_revision"]),
                        int(kv["mod_revision"]),
                        int(kv.get("lease", 0)),
                    )
                    for kv in found
                }
        raise EtcdError(f"no member answers a read: {trouble}")

    def _signal(self, number: signal.Signals, member: int | None) -> None:
        for index, one in enumerate(self.members):
            if member in (None, index) and one.process is not None and one.process.poll() is None:
                one.process.send_signal(number)

    def pause(self, member: int | None = None) -> None:
        """Freeze all members, or one: connections stay open and nothing answers, from the return of this on."""
        self._signal(signal.SIGSTOP, member)
        for index, one in enumerate(self.members):
            if member in (None, index) and one.process is not None and one.process.poll() is None:
                _wait_stopped(one.process.pid)

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


def _wait_stopped(pid: int) -> None:
    """Until every thread of a process has stopped: the signal's return does not mean that it has arrived."""
    for task in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(FileNotFoundError):  # a thread that ended before it could stop
            while b") T " not in (task / "stat").read_bytes():
                time.sleep(0.001)


def _b64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def _post(member: Member, path: str, body: dict[str, str]) -> dict[str, Any]:
    """One request to a member's gateway. Raises OSError."""
    request = urllib.request.Request(member.url + "/v3" + path, json.dumps(body).encode())
    try:
        with urllib.request.urlopen(request, timeout=1) as answer:
            said: dict[str, Any] = json.load(answer)
    except (http.client.HTTPException, ValueError) as error:  # it ended in mid-answer
        raise OSError(f"{member.name}: {error}") from error
    return said


def _knows(option: str) -> bool:
    done = subprocess.run(["etcd", "--help"], capture_output=True, text=True)
    return option in done.stdout + done.stderr
