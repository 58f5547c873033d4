# SPDX-License-Identifier: GPL-2.0-or-later
"""The lab's check of itself: ``python -m tools.lab.check [SERIES...]``. A test can be no better than its lab.

Two nodes, one shared disk, etcd. Every line that is printed was found true inside the guests.
"""

from __future__ import annotations

import sys
import time

from tools.lab.disk import SharedDisk
from tools.lab.lab import Lab
from tools.lab.vm import LostVM, Node

MODULES = ("ext4", "xfs", "btrfs", "loop", "dm_mod", "fuse")

FETCH = """
import http.client
connection = http.client.HTTPConnection("10.0.77.100", 2379, timeout=limit)
try:
    connection.request("GET", "/version")
    result = connection.getresponse().read().decode()
except OSError as error:
    result = "failed: " + type(error).__name__
"""

MANY = """
import http.client
connections = [http.client.HTTPConnection("10.0.77.100", 2379, timeout=30) for _ in range(count)]
for connection in connections:
    connection.request("GET", "/version")
result = [connection.getresponse().status for connection in connections]
"""

REFUSED = """
import socket
try:
    socket.create_connection((host, port), 3)
    result = False
except OSError:
    result = True
"""

# Through O_DIRECT: what is asked is the disk and not a page cache.
DIRECT = """
import os, mmap
page = mmap.mmap(-1, 4096)
handle = os.open("/dev/sda", (os.O_RDONLY if text is None else os.O_RDWR) | os.O_DIRECT)
if text is None:
    os.preadv(handle, [page], offset)
    result = bytes(page[:32]).rstrip(b"\\0").decode()
else:
    page[: len(text)] = text.encode()
    result = os.pwritev(handle, [page], offset)
os.close(handle)
"""


def claim(name: str, truth: object) -> None:
    """Print what holds, or stop."""
    if not truth:
        raise AssertionError(f"does not hold: {name}")
    print(f"  ok  {name}", flush=True)


def check_guest(node: Node, disk: SharedDisk) -> None:
    """What every test takes for granted in a guest."""
    claim("uname", node.run("uname -r").out.strip() == node.kernel.version)
    claim("hostname", node.run("hostname").out.strip() == node.name)
    claim("the BPF LSM is on", "bpf" in node.run("cat /sys/kernel/security/lsm").out.split(","))
    claim("cgroup2", "cgroup2" in node.run("stat -fc %T /sys/fs/cgroup").out)
    claim("BTF", node.py("result = open('/sys/kernel/btf/vmlinux', 'rb').read(2)[:2].hex()") in ("9feb", "eb9f"))
    claim("the disk is there, by its hardware name", node.device(disk) == "/dev/sda")
    for module in MODULES:
        claim(f"modprobe {module}", node.run(f"modprobe {module}", 120).ok)
    claim("a failing command", node.run("echo a; echo b >&2; exit 3").rc == 3)
    claim("a limit", node.run("sleep 60", 0.5).timed_out)
    data = bytes(range(256)) * 4096
    node.put("/run/big", data, 0o600)
    claim("a file there and back", node.get("/run/big") == data)
    daemon = node.spawn("echo up; sleep 0.2; exit 7")
    claim("a spawned process", daemon.wait(10) == 7 and daemon.output() == "up\n")
    claim("nothing of the host can be written", not node.run("touch /usr/bin/x").ok)


def check_shared(one: Node, two: Node, disk: SharedDisk) -> None:
    """Two nodes, one disk, and who wrote what."""
    mark = disk.mark()
    one.py(DIRECT, text="from one", offset=4096)
    claim("node2 reads what node1 wrote", two.py(DIRECT, text=None, offset=4096) == "from one")
    two.py(DIRECT, text="from two", offset=4096)
    claim("node1 reads what node2 wrote", one.py(DIRECT, text=None, offset=4096) == "from two")
    claim("the image has it", disk.read(4096, 8) == b"from two")
    mine, yours = disk.writes_of(one, since=mark), disk.writes_of(two, since=mark)
    claim(
        "the record tells them apart",
        [(r.offset, r.count) for r in mine] == [(4096, 4096)] and len(yours) == 1,
    )
    mark = disk.mark()
    one.run(
        "mkfs.ext4 -q /dev/sda && mkdir -p /run/m && mount /dev/sda /run/m && echo x > /run/m/f",
        120,
        check=True,
    )
    one.run("umount /run/m", check=True)
    claim(
        "ext4 was made and mounted by node1 alone",
        disk.writes_of(one, since=mark) and not disk.writes_of(two, since=mark),
    )
    kinds = {request.kind for request in disk.writes_of(one, since=mark)}
    claim(f"kinds of request: {' '.join(sorted(kinds))}", "write" in kinds)
    before = disk.sha256()
    two.run("mkdir -p /run/m && mount -o ro,noload /dev/sda /run/m && cat /run/m/f && umount /run/m", check=True)
    claim("a read-only mount changes nothing", disk.sha256() == before)


def check_etcd(node: Node, port: int) -> None:
    """The one thing that guests reach."""
    claim("etcd answers", "etcdserver" in node.py(FETCH, limit=10))
    claim("eight connections at a time", node.py(MANY, count=8) == [200] * 8)
    node.link(False)
    claim("a cut link times out", node.py(FETCH, limit=2).startswith("failed: "))
    node.link(True)
    claim("a healed link answers", "etcdserver" in node.py(FETCH, limit=10))
    claim("nothing else answers, not even the host's own ports", node.py(REFUSED, host="10.0.77.2", port=port))


def check_power(node: Node) -> None:
    """Plugs, pauses and the loss of a node."""
    first = node.boot_id
    node.power_off()
    try:
        node.run("true")
        claim("a node without power is lost", False)
    except LostVM:
        claim("a node without power is lost", True)
    began = time.monotonic()
    node.start()
    claim(
        f"boots again with another boot id ({time.monotonic() - began:.1f} s)",
        node.boot_id not in ("", first),
    )
    node.pause()
    claim("paused", node.qmp("query-status")["status"] == "paused")
    node.resume()
    claim("goes on", node.run("true").ok)
    node.spawn("modprobe softdog soft_margin=1; exec 9>/dev/watchdog; sleep 60")
    claim("a watchdog's bite ends it", node.wait_gone(60) == "guest-reset")


def main(series: list[str]) -> int:
    for name in series or ["6.12"]:
        began = time.monotonic()
        disk = SharedDisk("lun1", size_bytes=512 << 20)
        with Lab(name, nodes=2, disks=[disk]) as lab:
            one, two = lab.nodes
            print(f"{name}: {lab.kernel.version}, two nodes after {time.monotonic() - began:.1f} s", flush=True)
            check_guest(one, disk)
            check_shared(one, two, disk)
            assert lab.etcd is not None
            check_etcd(two, lab.etcd.members[0].client_port)
            check_power(two)
        print(f"{name}: {time.monotonic() - began:.1f} s in all", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
