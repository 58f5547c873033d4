# SPDX-License-Identifier: GPL-2.0-or-later
"""What the product costs and what it saves, measured on a running lab, each figure beside a counterpart of the same
run: with emulated CPUs a time alone means nothing, the ratio of two does.

System calls are timed by a C program in the guest (``tools/lab/timed.c``), for an interpreter in the loop would be
most of what is seen. Node-2 is measured; node-1 only holds what node-2 shall be refused. Every function leaves the
LUNs free and the daemons running, and raises CommandFailed if something else happened than what it was to time: a
refusal must not pass for a fast mount.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from errno import EBUSY
from statistics import median
from typing import TYPE_CHECKING

from enforcer.daemon import probe
from tools.lab import ways
from tools.lab.cluster import CHECKOUT, Cluster
from tools.lab.ends import GATE_DOWN, KEEPER, KEEPER_KILLED
from tools.lab.vm import CommandFailed, Node

if TYPE_CHECKING:
    from rich.table import Table

STORM = 1000  # tmpfs mounts
CROWD = 32  # mounts at once, so that the daemon's memory is that of a busy one
VERDICTS, ROUNDS = 100, 3  # both sides take turns: a slow second of the machine hits both
FIRST_MOUNTS, REFUSALS, READS = 5, 10, 50
FS_MIB = 24  # the same filesystem on the LUN and on its unguarded counterpart
ANCHOR = "/run/enforcer/upcall/anchor"
PINS = "/sys/fs/bpf/enforcer"
RSS_LIMIT_MB = {"enforcerd": 60, "enforcer-keeper": 30}


_SPAWN = """
import os, time

def spawn(*words, **env):
    pid = os.fork()
    if not pid:
        os.setsid()
        os.environ.update(env)
        os.execv("/bin/bash", ["bash", *words])
    return pid

boot_ns = lambda: time.clock_gettime_ns(time.CLOCK_BOOTTIME)
"""
# sd_notify(3): the daemon says itself when it is ready
_DAEMON = """
import socket
with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ready:
    ready.bind("/run/lab/ready")
    ready.settimeout(60)
    began = boot_ns()
    spawn("/run/start-enforcerd", NOTIFY_SOCKET="/run/lab/ready")
    while b"READY=1" not in ready.recv(4096):
        pass
    result = boot_ns() - began
os.unlink("/run/lab/ready")
"""
_KEEPER = """
import sys
from pathlib import Path
sys.path.insert(0, checkout)
from enforcer.kernel.tables import open_pinned
table = open_pinned(Path(pins)).deadline
began, renewed = boot_ns(), 0
spawn("/run/start-keeper")
while renewed <= began and boot_ns() < began + 60_000_000_000:
    time.sleep(0.002)
    renewed = table.get(0).renewed_ns
result = renewed - began
"""
# an interpreter that imports nothing says that it runs, and how big it is
_BARE = """
code = "import time; print(time.clock_gettime_ns(time.CLOCK_BOOTTIME)); print(open('/proc/self/status').read())"
began = boot_ns()
os.waitpid(spawn("-c", f"cd {checkout}; exec {python} -c \\"{code}\\" >/run/lab/bare"), 0)
said = open("/run/lab/bare").read()
first, status = said.split("\\n", 1)
kib = next(line.split()[1] for line in status.splitlines() if line.startswith("VmRSS"))
result = [int(first) - began, int(kib)]
"""
_READS = """
import asyncio, sys, time
sys.path.insert(0, checkout)
from enforcer.cluster.etcd_api import Etcd, get
from enforcer.cluster.etcd_http import EtcdClient

async def reads():
    client, took = EtcdClient(urls), []
    for _ in range(count + 1):
        began = time.monotonic_ns()
        await Etcd(client).read([get("/enforcer/figures")], budget_s=5)
        took.append(time.monotonic_ns() - began)
    await client.close()
    return took[1:]  # the first one connects

result = asyncio.run(reads())
"""
_CROWD = """
import os
children = []
for _ in range(count):
    child = os.fork()
    if not child:
        os.dup2(os.open("/dev/null", os.O_WRONLY), 1)
        os.execv("/run/attempt", ["attempt", "mount", dev, where, "ext4"])
    children.append(child)
result = [os.WEXITSTATUS(os.waitpid(child, 0)[1]) for child in children]
"""
# two devices with one medium, and nobody's guard between them: what two nodes without this product are
_MMP = (
    "mkdir -p /run/mmp && mount -t tmpfs none /run/mmp && mkdir /run/mmp/m && truncate -s 32M /run/mmp/i "
    "&& mkfs.ext4 -qF -O mmp /run/mmp/i && losetup /dev/loop4 /run/mmp/i && losetup /dev/loop5 /run/mmp/i "
    "&& mount -t ext4 /dev/loop4 /run/mmp/m"
)
_MMP_END = "umount /run/mmp/m; losetup -d /dev/loop4; losetup -d /dev/loop5; umount /run/mmp"


@dataclass(frozen=True, slots=True)
class Figure:
    """One measured value beside its counterpart of the same run, both in ``unit``."""

    what: str
    value: float
    unit: str  # us, ms, s: time; MB: 10^6 bytes
    counterpart: str
    beside: float
    source: str  # how both were taken

    @property
    def ratio(self) -> float:
        """The value as a multiple of its counterpart."""
        return self.value / self.beside


@dataclass(frozen=True, slots=True)
class Storm:
    """What the kernel counted over ``mounts`` mounts of tmpfs, and what each of them cost."""

    mounts: int
    asks: int  # upcalls
    passed: int  # mounts that a gate let through by the table of types
    cost: Figure


@dataclass(frozen=True, slots=True)
class Call:
    """One system call: how long it took, and its errno or 0."""

    ns: int
    errno: int


def calls(text: str) -> list[Call]:
    """The lines of ``timed``. Raises ValueError."""
    return [Call(int(ns), int(number)) for ns, number in (line.split() for line in text.splitlines())]


def p99(values: Iterable[float]) -> float:
    """The smallest value that at least 99 of 100 do not exceed."""
    ordered = sorted(values)
    return ordered[-(-len(ordered) * 99 // 100) - 1]


def calm(values: Sequence[float], parts: int = 5) -> float:
    """The lowest median of ``parts`` stretches: of two sides that cannot take turns, the least disturbed moments."""
    size = -(-len(values) // parts)
    return min(median(values[at : at + size]) for at in range(0, len(values), size))


def timed(node: Node, what: str, count: int, *arguments: str, errno: int = 0, timeout_s: float = 120) -> list[float]:
    """Nanoseconds of ``count`` calls, each of which must end with ``errno``. Raises CommandFailed."""
    outcome = node.run(f"/run/timed {what} {count} {' '.join(arguments)}", timeout_s)
    found = calls(outcome.out) if outcome.ok else []
    if len(found) != count or any(call.errno != errno for call in found):
        errnos, command = sorted({call.errno for call in found}), f"timed {what} {count} {' '.join(arguments)}"
        raise CommandFailed(
            f"{node.name}: {command}: exit {outcome.rc}, errnos {errnos} instead of {errno} {outcome.err}"
        )
    return [float(call.ns) for call in found]


def bring(cluster: Cluster) -> None:
    """Put the timing program into the guests; before anything else here."""
    program = ways.build(cluster.lab.workdir, "timed")
    for node in cluster.nodes:
        ways.bring(node, program)


def verdict(node: Node) -> list[Figure]:
    """The bare way of a verdict: hook, upcall, the daemon's loop, the caller's errno, and no policy."""
    ours, bare = [], []
    for _ in range(ROUNDS):
        kind = probe.FSTYPE.decode()
        ours += timed(node, "mount", VERDICTS, "none", "/", kind, errno=probe.ERRNO)
        bare += timed(node, "getxattr", VERDICTS, ANCHOR, "user.enforcer.probe")
    source = f"{ROUNDS * VERDICTS} mount(2) of type {kind}, as many fgetxattr(2)"
    beside = "getxattr(2) of the same FUSE file"
    return [
        Figure(f"verdict round trip, {name}", of(ours) / 1e3, "us", f"{beside}, {name}", of(bare) / 1e3, source)
        for name, of in (("p50", median), ("p99", p99))
    ]


def first_mount(cluster: Cluster, node: Node) -> list[Figure]:
    """A mount for which the lease has to be acquired first, and the store's part of it."""
    guarded, unguarded = f"{node.device(cluster.disk)}2", node.device(cluster.private)
    for dev in (guarded, unguarded):
        node.run(f"mkfs.ext4 -qF {dev} {FS_MIB}M", check=True)
    before = cluster.now_ns(node)
    ours, bare = [], []
    for _ in range(FIRST_MOUNTS):
        cluster.wait_free(node, guarded)
        ours += timed(node, "mount", 1, guarded, ways.MOUNT_POINT, "ext4")
        bare += timed(node, "mount", 1, unguarded, ways.MOUNT_POINT, "ext4")
    cluster.wait_free(node, guarded)
    records = cluster.new_records(node, before, least=FIRST_MOUNTS)
    store = [r["latency_us"]["store"] for r in records if r["kind"] == "mount" and r["token"]]
    if len(store) != FIRST_MOUNTS:
        raise CommandFailed(f"{len(store)} of {FIRST_MOUNTS} mounts acquired a lease: {records}")
    reads = node.py(_READS, 60, checkout=str(CHECKOUT), urls=cluster.lab.etcd_urls, count=READS)
    return [
        Figure(
            "first mount, with an etcd lease",
            median(ours) / 1e6,
            "ms",
            "mount of an unguarded disk",
            median(bare) / 1e6,
            f"median of {FIRST_MOUNTS} mount(2) of an ext4 of {FS_MIB} MiB, the lease free before each",
        ),
        Figure(
            "of it, acquiring the lease",
            median(store) / 1e3,
            "ms",
            "one linearizable read of etcd",
            median(reads) / 1e6,
            f"median of latency_us.store in the records; of {READS} reads by the same client",
        ),
    ]


@contextmanager
def held(cluster: Cluster) -> Iterator[str]:
    """node-1 has the LUN's second partition mounted meanwhile; gives node-2's name of it."""
    one, two = cluster.nodes[:2]
    theirs = f"{one.device(cluster.disk)}2"
    one.run(f"mkfs.ext4 -qF {theirs} {FS_MIB}M && mount -t ext4 {theirs} {ways.MOUNT_POINT}", check=True)
    try:
        yield f"{two.device(cluster.disk)}2"
    finally:
        one.run(f"umount {ways.MOUNT_POINT}", check=True)
        cluster.wait_free(one, theirs)


def refusal(cluster: Cluster) -> Figure:
    """How soon a second node is told that it may not mount."""
    two = cluster.nodes[1]
    with held(cluster) as dev:
        ours = timed(two, "mount", REFUSALS, dev, ways.MOUNT_POINT, "ext4", errno=EBUSY)
    try:
        two.run(_MMP, check=True)
        bare = timed(two, "mount", 1, "/dev/loop5", ways.MOUNT_POINT, "ext4", errno=EBUSY)
    finally:
        two.run(_MMP_END)
    return Figure(
        "time to refuse a mount that another node has",
        median(ours) / 1e9,
        "s",
        "ext4 MMP's refusal",
        median(bare) / 1e9,
        f"median of {REFUSALS} mount(2); MMP: one, with mke2fs' own interval, on two loop devices over one file",
    )


def memory(cluster: Cluster) -> list[Figure]:
    """Resident memory of both processes after a crowd of callers, in MB (10^6 bytes)."""
    two = cluster.nodes[1]
    with held(cluster) as dev:
        ends = two.py(_CROWD, 120, dev=dev, where=ways.MOUNT_POINT, count=CROWD)
    if set(ends) != {1}:
        raise CommandFailed(f"{two.name}: {CROWD} mounts at once were to be refused with EBUSY: {ends}")
    _, bare_kib = bare_interpreter(two)
    pids = {"enforcerd": "cat /run/enforcer/enforcerd.lock", "enforcer-keeper": KEEPER}
    found = []
    for name, pid in pids.items():
        said = two.run(f"grep VmRSS /proc/$({pid})/status", check=True).out.split()
        source = f"VmRSS after {CROWD} mounts at once"
        found.append(
            Figure(
                f"memory of {name}", int(said[1]) * 1024 / 1e6, "MB", "bare interpreter", bare_kib * 1024 / 1e6, source
            )
        )
    return found


def bare_interpreter(node: Node) -> tuple[int, int]:
    """(nanoseconds from spawn to the first statement, VmRSS in KiB) of an interpreter that imports nothing."""
    ns, kib = node.py(_SPAWN + _BARE, 60, checkout=str(CHECKOUT), python=sys.executable)
    return int(ns), int(kib)


def start_times(cluster: Cluster, node: Node) -> list[Figure]:
    """From spawn to usefulness: enforcerd with its programs loaded and tested, the keeper with a deadline written."""
    bare = median([bare_interpreter(node)[0] for _ in range(3)])
    node.run(GATE_DOWN, check=True)
    daemon = node.py(_SPAWN + _DAEMON, 90)
    cluster.ready(node)
    node.run(KEEPER_KILLED, check=True)
    keeper = node.py(_SPAWN + _KEEPER, 90, checkout=str(CHECKOUT), pins=PINS)
    cluster.ready(node)
    beside = "bare interpreter, to its first statement"
    return [
        Figure(
            "start of enforcerd, to READY",
            daemon / 1e9,
            "s",
            beside,
            bare / 1e9,
            "spawn to READY=1, gate not in force before",
        ),
        Figure(
            "start of enforcer-keeper, to a deadline",
            keeper / 1e9,
            "s",
            beside,
            bare / 1e9,
            "spawn to the first deadline in the kernel's table",
        ),
    ]


def tmpfs(cluster: Cluster, node: Node) -> Storm:
    """A storm of mounts that touch no device, as containers cause it; then the same without the gate."""

    def counted() -> tuple[int, int]:
        counters = cluster.ask(node, "status")["counters"]
        return counters["kernel_asks"], counters["passed_without_upcall"]

    asks, passed = counted()
    ours = timed(node, "mount", STORM, "none", ways.MOUNT_POINT, "tmpfs")
    asks_after, passed_after = counted()
    node.run(GATE_DOWN, check=True)
    try:
        bare = timed(node, "mount", STORM, "none", ways.MOUNT_POINT, "tmpfs")
    finally:
        cluster.start_daemon(node)
        cluster.ready(node)
    source = f"lowest of 5 medians, {STORM} mount(2) each"
    cost = Figure("mount of a tmpfs", calm(ours) / 1e3, "us", "the gate out of force", calm(bare) / 1e3, source)
    return Storm(STORM, asks_after - asks, passed_after - passed, cost)


def measure(cluster: Cluster, say: Callable[[str], None] = lambda _: None) -> list[Figure]:
    """All figures, about a minute and a half with emulated CPUs. ``say`` is told what is being measured."""
    two = cluster.nodes[1]
    steps: dict[str, Callable[[], Sequence[Figure]]] = {
        "verdicts": lambda: verdict(two),
        "first mounts": lambda: first_mount(cluster, two),
        "refusals": lambda: [refusal(cluster)],
        "memory": lambda: memory(cluster),
        "tmpfs mounts": lambda: [tmpfs(cluster, two).cost],
        "start times": lambda: start_times(cluster, two),
    }
    bring(cluster)
    found: list[Figure] = []
    for name, step in steps.items():
        say(name)
        found += step()
    return found


def as_json(figures: Iterable[Figure]) -> list[dict[str, object]]:
    """For machines."""
    return [{**asdict(figure), "ratio": figure.ratio} for figure in figures]


def table(figures: Iterable[Figure], title: str) -> Table:
    """For people."""
    from rich.table import Table

    drawn = Table(title=title, title_justify="left")
    drawn.add_column("figure")
    drawn.add_column("", justify="right", no_wrap=True)
    drawn.add_column("beside")
    drawn.add_column("", justify="right", no_wrap=True)
    drawn.add_column("ratio", justify="right", no_wrap=True)
    for f in figures:
        value, beside = (f"{number:,.0f}" if number >= 100 else f"{number:.3g}" for number in (f.value, f.beside))
        drawn.add_row(f.what, f"{value} {f.unit}", f.counterpart, f"{beside} {f.unit}", f"{f.ratio:.3g}")
    return drawn
