# SPDX-License-Identifier: GPL-2.0-or-later
"""Two virtual machines that have nothing in common but disks: the gate, the guard and the deadline over sanlock."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from tools import takeovers
from tools.at_end import Keep
from tools.lab.cluster import SETTINGS, WWN, Cluster
from tools.lab.disk import SharedDisk
from tools.lab.vm import Node

pytestmark = pytest.mark.timeout(600)
IO_TIMEOUT_S = 2
BARE_AT = 72 << 20  # behind the area
STOP = "kill -STOP $(cat /run/sanlock/sanlock.pid)"
CONT = "kill -CONT $(cat /run/sanlock/sanlock.pid)"


class SanlockCluster(Cluster):
    """No network and no etcd: a daemon of sanlock on each node, the first of which makes the store."""

    def __init__(self) -> None:
        self.leases = SharedDisk("leases", 76 << 20, wwn=WWN + 9, serial="LEASES")
        super().__init__("6.12", store="sanlock", disks=[self.leases])

    def configure(self, node: Node) -> None:
        super().configure(node)
        number, dev = self.nodes.index(node) + 1, node.device(self.leases)
        store = f'device = "{dev}"\nhost_id = {number}\nio_timeout = "{IO_TIMEOUT_S}s"'
        text = SETTINGS.format(name=f"node-{number}", kind="sanlock", endpoints=store, ttl_s=self.ttl_s)
        node.put("/etc/enforcer/enforcer.toml", text, 0o644)
        daemon = f"sanlock daemon -w 0 -h 0 -l 0 -U root -G root -e host-{number}"
        wait = "for i in $(seq 100); do [ -S /run/sanlock/sanlock.sock ] && break; sleep 0.1; done"
        node.run(f"mkdir -p /run/sanlock /run/m/a; {daemon}; {wait}", check=True)
        if number == 1:
            node.run(self.cli(f"sanlock init {dev}"), timeout_s=200, check=True)

    def start(self, node: Node) -> None:
        node.spawn("exec /bin/bash /run/start-keeper")
        self.start_daemon(node)

    def keeper_alive(self, node: Node, alive: bool, timeout_s: float = 60) -> None:
        """Wait until the kernel's deadline lies ahead, or has passed."""
        end = time.monotonic() + timeout_s
        while self.ask(node, "status")["keeper"]["alive"] is not alive:
            assert time.monotonic() < end, f"the deadline of {node.name} did not become {alive}"
            time.sleep(0.5)

    def mounts(self, node: Node) -> bool:
        return node.run(f"mount {node.device(self.ext4)} /run/m/a", timeout_s=60).ok


def bare(machines: SanlockCluster) -> float:
    """Seconds from the end of a release to the end of an acquire, by sanlock's own client, of a lease of its own."""
    one, two = (f"lab:bare:{node.device(machines.leases)}:{BARE_AT}" for node in machines.nodes)
    first, second = machines.nodes
    first.run(f"sanlock direct init -r {one}", check=True)
    holder = first.spawn(f"exec sanlock client command -r {one} -c /bin/sleep 600")
    take = f"sanlock client command -r {two} -c /bin/true"
    first.run(f"until sanlock client inquire -p {holder.pid} | grep bare; do sleep 0.1; done", check=True)
    waiting = second.spawn(f"until {take}; do :; done")
    assert waiting.wait(1) is None
    first.run(f"sanlock client release -r {one} -p {holder.pid}", check=True)
    began = time.monotonic()
    assert waiting.wait(30) == 0, waiting.output()
    took_s = time.monotonic() - began
    holder.kill()
    return took_s


@pytest.fixture(scope="module")
def machines() -> Iterator[SanlockCluster]:
    with SanlockCluster() as made:
        for node in made.nodes:
            made.keeper_alive(node, True)
        yield made


def test_one_mounts_the_other_may_not_and_takes_over_after_the_umount(machines: SanlockCluster, taken: Keep) -> None:
    one, two = machines.nodes
    one.run(f"mkfs.ext4 -qF {one.device(machines.ext4)}", timeout_s=60, check=True)
    machines.wait_free(one, one.device(machines.ext4))
    assert machines.mounts(one)
    mark = machines.ext4.mark()
    assert not machines.mounts(two)
    assert not two.run(f"dd if=/dev/zero of={two.device(machines.ext4)} bs=4k count=1 conv=notrunc").ok
    assert machines.ext4.writes_of(two, since=mark) == []
    assert machines.state_of(two, two.device(machines.leases))["state"] == "unguarded", "sanlock writes to it"
    one.run("umount /run/m/a", timeout_s=60, check=True)
    began = time.monotonic()
    mount = f"/run/attempt mount {two.device(machines.ext4)} /run/m/a ext4"
    two.run(f"until {mount}; do sleep 0.05; done", timeout_s=30, check=True)
    took_s = time.monotonic() - began
    two.run("umount /run/m/a", timeout_s=60, check=True)
    taken(
        [takeovers.released(took_s, "end of umount(8) to end of a mount(2) that is tried all the time", bare(machines))]
    )


def test_a_node_whose_sanlock_hangs_opens_nothing_after_its_deadline_until_it_goes_on(machines: SanlockCluster) -> None:
    _, two = machines.nodes
    two.run(STOP, check=True)
    try:
        machines.keeper_alive(two, False, 8 * IO_TIMEOUT_S + 15)
        mark = machines.ext4.mark()
        assert not machines.mounts(two)
        assert machines.ext4.writes_of(two, since=mark) == []
    finally:
        two.run(CONT, check=True)
    end = time.monotonic() + 90
    while not machines.mounts(two):
        assert time.monotonic() < end
        time.sleep(1)
    two.run("umount /run/m/a", timeout_s=60, check=True)
