# SPDX-License-Identifier: GPL-2.0-or-later
"""Two nodes with enforcerd and enforcer-keeper on them, one LUN with two partitions and two plain ones, an etcd of
three members: what the story and the tests in virtual machines stand on.

The programs run from the checkout by the very interpreter that runs the lab, seen by the guests through their root
file system; nothing is installed in them.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from tools.lab import ways
from tools.lab.disk import SharedDisk
from tools.lab.lab import Lab
from tools.lab.vm import CommandFailed, Node, Spawned

CHECKOUT = Path(__file__).resolve().parents[2]
WWN = 0x5000C50015EA71AC
NAME = f"wwn-0x{WWN:016x}"
HOSTILE_SERIAL = "OWN\x1b[2J\n\"',\u202e"  # what a disk may say of itself; a serial has at most 36 bytes in QEMU
EXPORT = "export"  # mount tag of a directory of the host that every node can mount: 9p, a source without a device

POLICY = """
[defaults]
deadline = "15s"

[[rule]]
id      = "other-errno"
mode    = "enforce"
on      = ["mount", "swap", "write-open", "dm-load", "loop"]
match   = { device = ["wwn-0x5000c50015ea71ad*"] }
errno   = "EPERM"

[[rule]]
id      = "patient"
mode    = "enforce"
on      = ["mount", "swap", "write-open", "dm-load", "loop"]
match   = { device = ["wwn-0x5000c50015ea71ae*"] }
wait    = "12s"

[[rule]]
id      = "san"
mode    = "enforce"
on      = ["mount", "swap", "write-open", "dm-load", "loop"]
match   = { device = ["wwn-0x5000c5*", "wwn-0x6001405*"] }
message = "{device} is in use on {holder} since {since}"
"""

SETTINGS = """
[node]
name = "{name}"
[store]
kind = "{kind}"
cluster = "lab"
{endpoints}
ttl = "{ttl_s}s"
renew = "2s"
[paths]
policy_dirs = ["/run/policy.d"]
[keeper]
restart = ["/bin/bash", "/run/start-enforcerd"]
progress_timeout = "8s"
"""
LOST = '[lost]\nreservation = ["wwn-0x6001405*"]\n'  # refused with any store but etcd


class NotFree(CommandFailed):
    """A node has not given a lease back in time."""


class NotOneRecord(CommandFailed):
    """One thing was asked, and none or several were recorded."""


class Cluster:
    """A lab whose nodes enforce. ``store``: etcd or sqlite; ``members`` of etcd."""

    def __init__(
        self,
        kernel: str = "6.12",
        *,
        nodes: int = 2,
        store: str = "etcd",
        policy: str = POLICY,
        disks: Sequence[SharedDisk] = (),
        ttl_s: int = 20,
        members: int = 3,
        say: Callable[[str], None] | None = None,
        workdir: Path | None = None,
    ) -> None:
        self.store, self.policy, self.ttl_s = store, policy, ttl_s
        self.disk = SharedDisk("lun", 256 << 20, wwn=WWN, serial="LUN1", partitions="2048,262144\n,131072\n")
        self.ext4 = SharedDisk("ext4", 64 << 20, wwn=WWN + 1, serial="LUN2")
        self.xfs = SharedDisk("xfs", 320 << 20, wwn=WWN + 2, serial="LUN3")
        # two paths, and slow enough to look at a write while it goes on: 6 MB a second
        self.twin = SharedDisk("twin", 96 << 20, wwn=WWN + 3, serial="LUN4", paths=2, filters=("rate", "rate=48M"))
        self.private = SharedDisk("private", 32 << 20, wwn=0x5000D1000000000A, serial=HOSTILE_SERIAL, nodes=(2,))
        self.forgotten = SharedDisk("forgotten", 32 << 20, wwn=0x5000D2000000000A, serial="FORGOTTEN")
        everything = [self.disk, self.ext4, self.xfs, self.twin, self.private, self.forgotten, *disks]
        self.lab = Lab(
            kernel, nodes, everything, workdir, etcd=members if store == "etcd" else 0, peer_network=nodes == 2, say=say
        )
        self.nodes = self.lab.nodes
        shared = self.lab.workdir / EXPORT
        shared.mkdir(exist_ok=True)
        for node in self.nodes:
            node.qemu += ("-virtfs", f"local,path={shared},mount_tag={EXPORT},security_model=none,readonly=on")

    def __enter__(self) -> Cluster:
        self.lab.__enter__()
        try:
            self._attempt = ways.build(self.lab.workdir)
            self._begin()
        except BaseException:
            self.lab.__exit__(*sys.exc_info())
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.lab.__exit__(kind, error, trace)

    def _begin(self) -> None:
        for node in self.nodes:
            self.furnish(node)
        for number, node in enumerate(self.nodes, 1):
            self.ready(node)
            self.lab.say(f"node {number}: the daemons are ready")

    def boot_anew(self) -> None:
        """Power off and on: nothing is left of what was done in the nodes. Raises CommandFailed and LostVM.

        What the boots before held is taken over from them, as after any power failure.
        """
        for node in self.nodes:
            node.kill()
        for node in self.nodes:
            node.start(wait=False)
        for node in self.nodes:
            node.wait_up()
        self._begin()

    def furnish(self, node: Node) -> None:
        """Give a node that has booted all it needs, and start keeper and daemon; returns at once."""
        self.configure(node)
        ways.bring(node, self._attempt)
        self.start(node)

    def configure(self, node: Node) -> None:
        """Write settings, policy and start scripts of one node."""
        endpoints = f"endpoints = {json.dumps(self.lab.etcd_urls)}" if self.store == "etcd" else ""
        name = node.name.replace("node", "node-")
        settings = SETTINGS.format(name=name, kind=self.store, endpoints=endpoints, ttl_s=self.ttl_s)
        node.put("/etc/enforcer/enforcer.toml", settings + (LOST if self.store == "etcd" else ""), 0o644)
        node.put("/run/policy.d/10-san.toml", self.policy, 0o644)
        for program, part, nice in (("enforcerd", "daemon", 0), ("keeper", "keeper", -10), ("revoker", "revoker", -15)):
            node.put(  # nice as in their units
                f"/run/start-{program}",
                f"renice -n {nice} $$ >/dev/null; cd {CHECKOUT}\n"
                f"exec {sys.executable} -m enforcer.{part}.main >>/run/{program}.log 2>&1 </dev/null\n",
                0o755,
            )
        node.run("modprobe -a ext4 xfs loop dm_mod fuse 2>/dev/null; mkdir -p /run/m", check=True)

    def start(self, node: Node) -> None:
        """Start keeper and daemon; returns at once."""
        if self.store == "etcd":
            node.spawn("exec /bin/bash /run/start-keeper")
        self.start_daemon(node)

    def start_daemon(self, node: Node) -> Spawned:
        """Start enforcerd alone; returns at once."""
        return node.spawn("exec /bin/bash /run/start-enforcerd")

    def ready(self, node: Node, timeout_s: float = 120) -> float:
        """Wait until the daemon answers and its store is reached; seconds waited. Raises CommandFailed."""
        began, status = time.monotonic(), dict[str, Any]()
        while time.monotonic() - began < timeout_s:
            status = self.ask(node, "status")
            if status and status.get("enforcing") and status["store"]["reachable"]:
                return time.monotonic() - began
            time.sleep(0.3)
        log = node.run("for f in /run/enforcerd.log /run/keeper.log; do echo == $f; tail -n 30 $f; done 2>&1").out
        raise CommandFailed(f"{node.name}: enforcerd is not ready after {timeout_s:.0f} s: {status}\n{log}")

    def ask(self, node: Node, verb: str, /, **fields: object) -> dict[str, Any]:
        """One request to the daemon's control socket, without the cost of starting the CLI; {} if it is not there."""
        source = """
import json, socket
result = {}
try:
    with socket.socket(socket.AF_UNIX) as s:
        s.settimeout(20)
        s.connect("/run/enforcer/control.sock")
        s.sendall(request.encode() + b"\\n")
        result = json.loads(s.makefile("rb").readline() or b"{}")
except OSError:
    pass
"""
        reply = node.py(source, timeout_s=30, request=json.dumps({"schema": 1, "verb": verb, **fields}))
        found: dict[str, Any] = reply.get("data") or {}
        if reply and not reply.get("ok"):
            found = {"error": reply.get("error"), "hint": reply.get("hint"), "exit": reply.get("exit")}
        return found

    def records(self, node: Node) -> list[dict[str, Any]]:
        """The audit log of a node as it is now."""
        return [json.loads(line) for line in node.get("/var/log/enforcer/audit.jsonl").decode().splitlines()]

    def now_ns(self, node: Node) -> int:
        """The node's boot clock."""
        return int(node.py("import time\nresult = time.clock_gettime_ns(time.CLOCK_BOOTTIME)"))

    def new_records(self, node: Node, since_ns: int, *, least: int = 1, timeout_s: float = 5.0) -> list[dict[str, Any]]:
        """Records of what was asked since then, by the node's boot clock; waits until there are ``least`` of them.

        By when it was asked, for a record of what came before may be written late.
        """
        end = time.monotonic() + timeout_s
        while True:
            intents = [r for r in self.records(node) if r.get("effect")]
            found = [r for r in intents if r["boot_ns"] - 1000 * r["latency_us"]["total"] >= since_ns]
            if len(found) >= least or time.monotonic() > end:
                return found
            time.sleep(0.2)

    def only_record(self, node: Node, since_ns: int, *, timeout_s: float = 5.0) -> dict[str, Any]:
        """The record of the only thing that was asked since then. Raises NotOneRecord with all of them."""
        self.new_records(node, since_ns, timeout_s=timeout_s)
        time.sleep(0.3)  # another one would come at once
        found = self.new_records(node, since_ns)
        if len(found) != 1:
            told = "\n".join(json.dumps(record) for record in found)
            raise NotOneRecord(f"{node.name}: {len(found)} records since {since_ns} ns, not one:\n{told}")
        return found[0]

    def state_of(self, node: Node, device: str) -> dict[str, Any]:
        """What ``who`` says of one device of a node."""
        name = device.removeprefix("/dev/")
        for found in self.ask(node, "who").get("devices", []):
            if found["name"] == name:
                return dict(found)
        return {}

    def wait_free(self, node: Node, device: str, timeout_s: float = 30) -> None:
        """Wait until a node has given the lease of a device back. Raises NotFree."""
        end = time.monotonic() + timeout_s
        while time.monotonic() < end:
            if self.state_of(node, device).get("state") in ("free", "elsewhere"):
                return
            time.sleep(0.3)
        raise NotFree(f"{node.name} still has {device} after {timeout_s:.0f} s: {self.state_of(node, device)}")

    @staticmethod
    def cli(arguments: str) -> str:
        """The command that runs ``enforcer ARGUMENTS`` in a guest."""
        return f"cd {CHECKOUT}; COLUMNS=110 {sys.executable} -m enforcer.cli.main {arguments}"
