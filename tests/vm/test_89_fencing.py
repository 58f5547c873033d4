# SPDX-License-Identifier: GPL-2.0-or-later
"""A node that has lost the store and writes on is switched off by a fence agent, because another wants its LUN.

The agent on node-2 reaches nothing: it writes down what it was asked and waits for the test, which is the power switch.
The oracle of who wrote is the storage server's log.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import pytest

from tools.lab import ways
from tools.lab.cluster import Cluster
from tools.lab.story import Story
from tools.lab.vm import Node

pytestmark = [pytest.mark.full, pytest.mark.own_lab]

AGENT = """#!/bin/sh
cat > /run/fence-asked
case "$(grep ^action= /run/fence-asked)" in
action=metadata) echo '<action name="off" />'; exit 0;;
action=off) cp /run/fence-asked /run/fence-off; while ! [ -e /run/is-off ]; do sleep 0.1; done; exit 0;;
action=status) [ -e /run/is-off ] && exit 2; exit 0;;
esac
exit 1
"""
FENCING = """
[fencing]
on_demand = true
[fencing.node-1]
agent = "/run/fence_switch"
options = { plug = "7" }
timeout = "30s"
"""
SETTINGS = "/etc/enforcer/enforcer.toml"
END_DAEMON = (
    "kill $(cat /run/enforcer/enforcerd.lock); while ! flock -n /run/enforcer/enforcerd.lock true; do sleep 0.1; done"
)
WRITER = "while echo x >> {point}/f && sync {point}/f; do sleep 0.1; done"


def again(node: Node, cluster: Cluster, settings: str) -> None:
    """Restart the daemon with these settings."""
    node.put(SETTINGS, settings)
    node.run(END_DAEMON, check=True)
    cluster.start_daemon(node)
    cluster.ready(node)


def until(timeout_s: float, holds: Callable[[], object], what: str) -> None:
    end = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < end, what
        time.sleep(0.1)


@pytest.fixture
def agent(cluster: Cluster, one: Node, two: Node) -> Iterator[None]:
    """node-2 can have node-1 switched off; afterwards node-1 boots again."""
    two.put("/run/fence_switch", AGENT, 0o755)
    before = two.get(SETTINGS).decode()
    again(two, cluster, before + FENCING)
    yield
    if one.alive:
        one.power_off()
    one.start(wait=False)
    again(two, cluster, before)  # while the other one boots
    one.wait_up()
    cluster.furnish(one)
    cluster.ready(one)


@pytest.mark.timeout(600)
def test_who_writes_on_without_the_store_is_switched_off_and_then_taken_over(
    agent: None, story: Story, cluster: Cluster, one: Node, two: Node
) -> None:
    etcd, disk = cluster.lab.etcd, cluster.xfs
    assert etcd is not None
    story.works(one, f"mount -t xfs {one.device(disk)} {ways.MOUNT_POINT}")
    one.spawn(WRITER.format(point=ways.MOUNT_POINT))
    one.link(False)
    until(
        cluster.ttl_s + 10,
        lambda: "/enforcer/lab/node/node-1" not in etcd.records("/enforcer/lab/node/"),
        "the session of node-1 does not end",
    )
    began, asked = disk.mark(), len(cluster.records(two))
    taken = two.spawn(f"exec mount -t xfs {two.device(disk)} {ways.MOUNT_POINT}")  # its rule lets it wait for 12 s
    until(10, lambda: two.run("test -e /run/fence-off").ok, "the agent was not started")
    assert two.get("/run/fence-off").decode().splitlines() == ["plug=7", "nodename=node-1", "action=off"]
    until(10, lambda: disk.writes_of(one, since=began), "node-1 does not write on")
    assert taken.wait(0) is None and not disk.writes_of(two, since=began), "nothing before the agent has proven it"
    assert [r["kind"] for r in cluster.records(two)[asked:]] == ["fence-run"]

    one.power_off()
    off = disk.mark()
    two.put("/run/is-off", "")
    assert taken.wait(30) == 0, taken.output()
    assert not disk.writes_of(one, since=off) and disk.writes_of(two, since=off)
    kinds = [r["kind"] for r in cluster.records(two)[asked:]]
    assert kinds == ["fence-run", "fence-confirm", "mount"], kinds
    late = two.run(cluster.cli("fence run node-1"))
    assert late.rc == 1 and "holds no lease that waits for its fencing" in late.err, late
    story.works(two, f"test -s {ways.MOUNT_POINT}/f && umount {ways.MOUNT_POINT}")
    cluster.wait_free(two, two.device(disk))
