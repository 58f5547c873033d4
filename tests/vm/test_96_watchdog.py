# SPDX-License-Identifier: GPL-2.0-or-later
"""A keeper that does not feed the watchdog any more, whatever became of it: the machine is reset while the kernel would
still let it write, and the other node takes over by the clock alone. Last of all, because both nodes are lost by it.

When a node is reset is told by QEMU, on the host's clock; until when its kernel lets it write was read before, from the
pinned table, as seconds that were left. The guests' clocks run as the host's do.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator

import pytest

from tools import takeovers
from tools.at_end import Keep
from tools.lab import ways
from tools.lab.cluster import CHECKOUT, Cluster
from tools.lab.story import Story
from tools.lab.vm import Node

pytestmark = [pytest.mark.full, pytest.mark.own_lab]

W_S = 10
KEEPER = "$(pgrep -f '[e]nforcer.keeper.main')"
# a keeper that starts as fast as on real hardware: an interpreter's start may take longer here than the watchdog waits
HEIR = """
import fcntl, sys
sys.path.insert(0, "")
import enforcer.keeper.duties, enforcer.keeper.main
with open("/run/enforcer/keeper.lock") as lock:
    open("/run/heir", "w").close()
    fcntl.flock(lock, fcntl.LOCK_EX)
sys.exit(enforcer.keeper.main.main([]))
"""
LOST = f"""
[lost]
cut = "0s"
hypervisor_pauses = "no"
watchdog = "/dev/watchdog0"
watchdog_timeout = "{W_S}s"
"""


@pytest.fixture(scope="module")
def watched(story: Story, cluster: Cluster) -> Iterator[Story]:
    """Both nodes enforce, each with a softdog that its keeper feeds."""
    for node in cluster.nodes:
        if not node.alive:
            node.start(wait=False)
    for node in cluster.nodes:
        node.wait_up()
        node.run("pkill -f '[e]nforcer.keeper.main'; pkill -f '[e]nforcer.daemon.main'; umount -a -t ext4,xfs", 30)
        node.run("while ! flock -n /run/enforcer/enforcerd.lock true; do sleep 0.2; done", 30)
        node.run("modprobe softdog", check=True)
        cluster.configure(node)
        settings = node.get("/etc/enforcer/enforcer.toml").decode()
        node.put("/etc/enforcer/enforcer.toml", settings.replace("[lost]\n", LOST))
        ways.bring(node, ways.build(cluster.lab.workdir))
        cluster.start(node)
    for node in cluster.nodes:
        cluster.ready(node)
    yield story


def until_fed(cluster: Cluster, node: Node) -> None:
    """A keeper that has just started, or started anew, has told the kernel and the daemon of its session."""
    end = time.monotonic() + 40
    while True:
        said = cluster.ask(node, "status")
        left_s = said["keeper"]["deadline_in_s"] or 0
        if left_s > 5 and said["lost"]["guarantee"] == "watchdog" and said["store"]["reachable"]:
            return
        assert time.monotonic() < end, (said, node.run("cat /run/keeper.log").out)
        time.sleep(0.3)


def promised(cluster: Cluster, name: str) -> set[str]:
    """The guarantees in the leases of a node, as etcd has them."""
    assert cluster.lab.etcd is not None
    found = cluster.lab.etcd.records("/enforcer/lab/res/")
    return {r.value["guarantee"] for key, r in found.items() if key.endswith(f"/{name}")}


def reset_after(cluster: Cluster, node: Node, command: str) -> float:
    """The node must be reset before its kernel would have stopped it; when it was, time.monotonic()."""
    asked_s = time.time()
    left_s = float(cluster.ask(node, "status")["keeper"]["deadline_in_s"])
    done = node.spawn(command)
    assert node.wait_gone(30) == "guest-reset", done
    took_s = node.ended_s - asked_s
    assert 0 < took_s < left_s, f"reset {took_s:.1f} s after {left_s:.1f} s were left"
    return time.monotonic() - (time.time() - node.ended_s)


def test_a_keeper_that_ends_in_order_with_nothing_in_use_stops_it(watched: Story, cluster: Cluster, one: Node) -> None:
    until_fed(cluster, one)
    watched.works(one, f"kill -TERM {KEEPER}; sleep {W_S / 2 + 1}", 60)
    assert "stopped, nothing guarded is in use" in one.run("cat /run/keeper.log").out
    one.spawn("exec /bin/bash /run/start-keeper")
    until_fed(cluster, one)


def test_a_keeper_that_is_killed_and_started_again_takes_it_over(watched: Story, cluster: Cluster, one: Node) -> None:
    dev = one.device(cluster.ext4)
    watched.works(one, f"mkfs.ext4 -qF {dev} && mount -t ext4 {dev} {ways.MOUNT_POINT}")
    assert promised(cluster, "node-1") == {"watchdog"}
    one.put("/run/enforcer.keeper.main.py", HEIR)
    heir = one.spawn(f"cd {CHECKOUT}; exec {sys.executable} /run/enforcer.keeper.main.py")
    watched.works(one, "while ! test -e /run/heir; do sleep 0.2; done", 60)
    watched.works(one, "kill -KILL $(pgrep -f -- '-m [e]nforcer.keeper.main')")
    time.sleep(W_S / 2 + 1)
    assert heir.wait(0) is None, heir.output()
    until_fed(cluster, one)
    watched.works(one, f"umount {ways.MOUNT_POINT}")
    cluster.wait_free(one, dev)


def test_a_killed_keeper_costs_the_machine_and_the_other_node_takes_over(
    watched: Story, cluster: Cluster, one: Node, two: Node, taken: Keep
) -> None:
    until_fed(cluster, two)
    dev = two.device(cluster.ext4)
    watched.works(two, f"mount -t ext4 {dev} {ways.MOUNT_POINT} && cp /etc/passwd {ways.MOUNT_POINT}/f && sync")
    assert promised(cluster, "node-2") == {"watchdog"}
    gone = reset_after(cluster, two, f"kill -KILL {KEEPER}")
    mark = cluster.ext4.mark()
    mount = f"/run/attempt mount {one.device(cluster.ext4)} {ways.MOUNT_POINT} ext4"
    assert not one.run(mount).ok, "not before its session has ended"
    watched.works(one, f"until {mount}; do sleep 0.2; done")
    took_s, worst_s = time.monotonic() - gone, takeovers.printed_s(one)
    taken([takeovers.died("a reset by its own watchdog", took_s, worst_s)])
    assert took_s < worst_s
    watched.works(one, f"cmp /etc/passwd {ways.MOUNT_POINT}/f")
    assert not cluster.ext4.writes_of(two, since=mark)


def test_hung_keeper_and_daemon_cost_the_machine(watched: Story, cluster: Cluster, one: Node) -> None:
    assert promised(cluster, "node-1") == {"watchdog"}
    reset_after(cluster, one, f"kill -STOP $(cat /run/enforcer/enforcerd.lock) {KEEPER}")
