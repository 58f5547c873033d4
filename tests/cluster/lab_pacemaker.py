# SPDX-License-Identifier: GPL-2.0-or-later
"""A real corosync and pacemaker cluster on one machine.

Each node is a set of namespaces: network, mounts, processes, host name, IPC. libqb's sockets are abstract ones, so the
network namespace keeps the nodes' daemons apart; private tmpfs lie over their directories. A node dies when the first
process of its process namespace does, with everything in it: that is what the power switch does, and what clearing up
is. All of it hangs on the process that made it, so that nothing outlives a test run that was killed.

A fence agent of its own asks the power switch over a unix socket; the test says what the switch answers.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import threading
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from lab_pacemaker_files import Files

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).resolve().parent
PATIENCE_S = 60.0  # for whatever the cluster does by itself: the machine may be busy
POWER = "power.sock"

FIRST = "import os,time\nwhile True:\n try: os.wait()\n except ChildProcessError: time.sleep(.1)\n"


class LabError(AssertionError):
    """The cluster did not do what the test stands on."""


def wait_for(what: str, look: Callable[[], object], limit_s: float = PATIENCE_S) -> None:
    """Until ``look()`` is true. Raises LabError with ``what``."""
    end = time.monotonic() + limit_s
    while not look():
        if time.monotonic() > end:
            raise LabError(f"after {limit_s:g} s not yet: {what}")
        time.sleep(0.1)


def _run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=PATIENCE_S)
    if done.returncode:
        raise LabError(f"{' '.join(command)}: {done.returncode} {done.stderr.strip()[-500:]}")
    return done.stdout


class Space:
    """A set of namespaces with its first process."""

    def __init__(self, *flags: str) -> None:
        command = ["setpriv", "--pdeathsig", "KILL", "unshare", "-n", *flags, "--fork", "--kill-child=KILL"]
        first = [sys.executable, "-I", "-S", "-c", FIRST]
        self._outer = subprocess.Popen([*command, *first], stdin=subprocess.DEVNULL)
        children = Path(f"/proc/{self._outer.pid}/task/{self._outer.pid}/children")
        wait_for("namespaces", lambda: children.read_text().split(), 10)
        self.pid = int(children.read_text().split()[0])
        self.alive = True

    def end(self) -> None:
        """Everything in it dies, at once."""
        if self.alive:
            self.alive = False
            self._outer.kill()  # and with it the first process, and so all others
            self._outer.wait()


class Node:
    """One node of the cluster, powered on by ``boot()``."""

    def __init__(self, lab: Lab, number: int) -> None:
        self.lab, self.number, self.name = lab, number, f"ha{number}"
        self.space: Space | None = None

    def enter(self, *command: str) -> list[str]:
        """The command line that runs ``command`` inside."""
        assert self.space is not None
        return ["nsenter", "-t", str(self.space.pid), "-m", "-u", "-i", "-n", "-p", "--", *command]

    def run(self, *command: str) -> str:
        """Its standard output. Raises LabError if it fails."""
        return _run(*self.enter(*command))

    def start(self, *command: str, stdout: int | IO[bytes] = subprocess.DEVNULL) -> subprocess.Popen[bytes]:
        """Run ``command`` inside, beside the test; it ends with the test."""
        full = ["setpriv", "--pdeathsig", "KILL", *self.enter(*command)]
        child = subprocess.Popen(
            full, stdin=subprocess.DEVNULL, stdout=stdout, stderr=self.lab.log, cwd=ROOT, start_new_session=True
        )
        self.lab.children.append(child)
        return child

    def boot(self) -> None:
        """Namespaces, network, files; no daemon yet."""
        lab = self.lab
        self.space = Space("-m", "-u", "-i", "-p", "--mount-proc", "--propagation", "private")
        ip = ("nsenter", "-t", str(lab.switch.pid), "-n", "ip", "link")
        # its end goes with its network, which the kernel clears up when it likes
        subprocess.run([*ip, "del", self.name], capture_output=True, stdin=subprocess.DEVNULL)
        _run(*ip, "add", self.name, "type", "veth", "peer", "name", "eth0", "netns", str(self.space.pid))
        _run(*ip, "set", self.name, "master", "br0", "up")
        script = f"""
            set -e
            hostname {self.name}
            ip link set lo up; ip addr add 10.77.0.{self.number}/24 dev eth0; ip link set eth0 up
            for d in /etc/corosync /var/lib/corosync /var/log/corosync /var/log/pacemaker /run /dev/shm; do
              mount -t tmpfs -o mode=755 lab $d; done
            chmod 1777 /dev/shm
            mount -t tmpfs lab /var/lib/pacemaker
            mount -t overlay -o lowerdir={lab.place}/sbin:/usr/sbin lab /usr/sbin
            mount -t overlay -o lowerdir={lab.place}/ocf:/usr/lib/ocf/resource.d lab /usr/lib/ocf/resource.d
            mkdir -p /run/crm /run/lock /run/resource-agents /run/lun7 /run/second
            for d in blackbox cib cores pengine; do mkdir -m 750 /var/lib/pacemaker/$d; done
            cp {lab.place}/cib.xml /var/lib/pacemaker/cib/cib.xml; chmod 600 /var/lib/pacemaker/cib/cib.xml
            chown -R hacluster:haclient /var/lib/pacemaker /var/log/pacemaker /run/crm
            cp {lab.place}/authkey {lab.place}/corosync.conf /etc/corosync/
        """
        self.run("sh", "-c", script)

    def corosync(self) -> None:
        """Start corosync; it goes into the background when it is up."""
        self.run("corosync")

    def pacemaker(self) -> None:
        """Start pacemakerd."""
        self.start("setsid", "pacemakerd")

    def power_off(self) -> None:
        """Everything on it dies at once."""
        if self.space is not None:
            self.space.end()
        self.space = None

    def cut(self, *, up: bool = False) -> None:
        """Pull its network cable, or put it back."""
        switch = str(self.lab.switch.pid)
        _run("nsenter", "-t", switch, "-n", "ip", "link", "set", self.name, "up" if up else "down")

    def pids(self, comm: str) -> list[int]:
        """Processes of that name inside, by the numbers that they have outside."""
        assert self.space is not None
        ours = Path(f"/proc/{self.space.pid}/ns/pid").readlink()
        found = []
        for entry in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if (entry / "ns/pid").readlink() == ours and (entry / "comm").read_text().strip() == comm[:15]:
                    found.append(int(entry.name))
        return found

    def signal(self, comm: str, number: int) -> None:
        """To every process of that name inside."""
        found = self.pids(comm)
        if not found:
            raise LabError(f"{self.name} runs no {comm}")
        for pid in found:
            os.kill(pid, number)

    def ask(self, device: str, **more: object) -> dict[str, object]:
        """What the view on this node says now of a use of ``device``."""
        words = [f"{key}={value}" for key, value in more.items()]
        lines = self.run("env", *self.lab.python(), "once", device, *words).splitlines()
        answer: dict[str, object] = json.loads(lines[-1])
        return answer

    def watch(self, device: str) -> Watch:
        """Ask again and again, beside the test."""
        return Watch(self, device)


@dataclass
class Watch:
    """Opinions of one node about one device, as they come."""

    node: Node
    device: str
    lines: list[dict[str, object]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._child = self.node.start("env", *self.node.lab.python(), "watch", self.device, stdout=subprocess.PIPE)
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()
        wait_for(f"a first word of the view on {self.node.name}", lambda: self.said())

    def _read(self) -> None:
        assert self._child.stdout is not None
        for line in self._child.stdout:
            with contextlib.suppress(ValueError):
                self.lines.append({"at": time.monotonic()} | json.loads(line))

    def said(self, since: int = 0) -> list[str]:
        """The sentences without repetition, in order."""
        told: list[str] = []
        for line in self.lines[since:]:
            if "reason" in line and (not told or told[-1] != line["reason"]):
                told.append(str(line["reason"]))
        return told

    def until(self, text: str, limit_s: float = PATIENCE_S) -> float:
        """Wait for a sentence that holds ``text`` from now on; returns after how many seconds it came."""
        began, seen = time.monotonic(), len(self.lines)

        def there() -> bool:
            return any(text in str(line.get("reason", "")) for line in self.lines[seen:])

        try:
            wait_for(f"{text!r} on {self.node.name}", there, limit_s)
        except LabError as error:
            raise LabError(f"{error}; said: {self.said(max(0, seen - 1))}") from None
        return time.monotonic() - began

    def close(self) -> None:
        self._child.kill()
        self._child.wait()


class PowerSwitch:
    """What the fence agents ask. ``broken``: it says no and does nothing; ``hold_s``: how long it takes."""

    def __init__(self, lab: Lab, path: Path) -> None:
        self.lab, self.broken, self.hold_s, self.asked = lab, False, 0.0, list[str]()
        self._server = socket.socket(socket.AF_UNIX)
        path.unlink(missing_ok=True)
        self._server.bind(str(path))
        self._server.listen()
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                peer, _ = self._server.accept()
            except OSError:
                return
            with contextlib.suppress(OSError), peer, peer.makefile() as lines:
                name = lines.readline().strip()
                self.asked.append(name)
                time.sleep(self.hold_s)
                if not self.broken:
                    self.lab.node(name).power_off()
                peer.sendall(b"no\n" if self.broken else b"ok\n")

    def close(self) -> None:
        self._server.close()


class Lab:
    """A cluster of ``count`` nodes. Use as a context manager."""

    def __init__(self, place: Path, device: str, *, count: int = 3, stonith: bool = True) -> None:
        self.place, self.device, self.count, self.stonith = place, device, count, stonith
        self.children: list[subprocess.Popen[bytes]] = []
        self.nodes = [Node(self, number) for number in range(1, count + 1)]

    def python(self) -> list[str]:
        """The words that start the program which asks the view; in front of them, ``env``."""
        return [f"PYTHONPATH={ROOT}:{HERE}", sys.executable, str(HERE / "ask_view.py")]

    def node(self, name: str) -> Node:
        return next(node for node in self.nodes if node.name == name)

    def __enter__(self) -> Lab:
        self.place.mkdir(parents=True, exist_ok=True)
        self.log = (self.place / "stderr").open("ab")
        self.power = PowerSwitch(self, self.place / POWER)
        try:
            files = Files(self.place, [node.name for node in self.nodes], self.device, stonith=self.stonith)
            files.write(self.place / POWER, ["env", *self.python(), "agent", self.device])
            self.switch = Space()
            _run("nsenter", "-t", str(self.switch.pid), "-n", "ip", "link", "add", "br0", "type", "bridge")
            _run("nsenter", "-t", str(self.switch.pid), "-n", "ip", "link", "set", "br0", "up")
            for node in self.nodes:
                node.boot()
            self.up(self.nodes)
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def up(self, nodes: list[Node]) -> None:
        """Start corosync and pacemaker on these, and wait until the cluster is whole and has started its resource."""
        for node in nodes:
            node.corosync()
        for node in nodes:
            wait_for(f"{node.name} sees all votes", lambda node=node: self._votes(node) == self.count)
        for node in nodes:
            node.pacemaker()
        wait_for("all nodes online", lambda: self.whole(nodes[0]))
        wait_for("the resource is started", self.active)

    def _votes(self, node: Node) -> int:
        done = subprocess.run(node.enter("corosync-quorumtool", "-s"), capture_output=True, text=True)
        return next((int(x.split(":")[1]) for x in done.stdout.splitlines() if x.startswith("Total votes:")), 0)

    def mon(self, node: Node) -> ElementTree.Element | None:
        """What crm_mon says there, None if it does not."""
        done = subprocess.run(node.enter("crm_mon", "-1", "-r", "--output-as=xml"), capture_output=True)
        if done.returncode:
            return None
        return ElementTree.fromstring(done.stdout)

    def whole(self, node: Node) -> bool:
        """True if all nodes are members, as one of them sees it."""
        root = self.mon(node)
        found = [] if root is None else root.findall("nodes/node")
        return len(found) == self.count and all(
            n.get("online") == "true" and n.get("pending") == "false" and n.get("unclean") == "false" for n in found
        )

    def settled(self, node: Node) -> bool:
        """True if the cluster is whole and the controller wants nothing more of it: no fencing is under way either."""
        root = self.mon(node) if self.whole(node) else None
        leader = root.find("summary/current_dc") if root is not None else None
        if leader is None or not (name := leader.get("name")):
            return False
        return b"S_IDLE" in subprocess.run(node.enter("crmadmin", "--status", name), capture_output=True).stdout

    def refused(self) -> list[str]:
        """The nodes on which the view refused the cluster's own agent, one a try."""
        log = self.place / "refused"
        return log.read_text().split() if log.exists() else []

    def online(self, node: Node) -> bool:
        """True if another node takes it for a member, or for one that has to be fenced still."""
        other = next(each for each in self.nodes if each is not node and each.space is not None)
        root = self.mon(other)
        found = [] if root is None else [n for n in root.findall("nodes/node") if n.get("name") == node.name]
        return not found or any(n.get("online") == "true" or n.get("unclean") == "true" for n in found)

    def instance(self, seen_by: Node) -> tuple[str, str]:
        """(role, node) of the resource as one node sees it; empty words if it does not say."""
        root = self.mon(seen_by)
        for found in root.iter("resource") if root is not None else ():
            if found.get("id") == "fs_lun7":
                where = found.find("node")
                return str(found.get("role")), str(where.get("name")) if where is not None else ""
        return "", ""

    def active(self) -> str:
        """Where the resource is started, by the quorate nodes; empty if nowhere."""
        for node in self.nodes:
            root = self.mon(node) if node.space is not None else None
            controller = root.find("summary/current_dc") if root is not None else None
            if controller is not None and controller.get("with_quorum") == "true":
                role, where = self.instance(node)
                return where if role == "Started" else ""
        return ""

    def close(self) -> None:
        self.power.close()
        for child in self.children:
            child.kill()
            child.wait()
        for node in self.nodes:
            node.power_off()
        if hasattr(self, "switch"):
            self.switch.end()
        self.log.close()


@contextlib.contextmanager
def loop_device(place: Path) -> Iterator[str]:
    """A loop device with an empty ext4 on it."""
    place.mkdir(parents=True, exist_ok=True)
    image = place / "disk.img"
    with image.open("wb") as file:
        file.truncate(32 << 20)
    _run("mkfs.ext4", "-q", str(image))
    device = _run("losetup", "--show", "-f", str(image)).strip()
    try:
        yield device
    finally:
        end = time.monotonic() + 10
        while subprocess.run(["losetup", "-d", device], capture_output=True).returncode and time.monotonic() < end:
            time.sleep(0.2)
        image.unlink()
