# SPDX-License-Identifier: GPL-2.0-or-later
"""A free device: every way works at the first try, holds the lease while in use, and gives it back."""

from __future__ import annotations

import time

import pytest

from enforcer.daemon.reconcile import EVERY_S
from tools.lab import ways
from tools.lab.cluster import Cluster
from tools.lab.story import Story
from tools.lab.vm import Node
from tools.lab.ways import Way

# lets a stopped process go on until it has the device open for writing, and stops it there
STOP_WITH_THE_DEVICE_OPEN = """
import os, signal, time
number = os.stat(dev).st_rdev
def has_it_open():
    for name in os.listdir(f"/proc/{pid}/fd"):
        flags = int(open(f"/proc/{pid}/fdinfo/{name}").read().split("flags:")[1].split()[0], 8)
        if flags & os.O_ACCMODE != os.O_RDONLY and os.stat(f"/proc/{pid}/fd/{name}").st_rdev == number:
            return True
    return False
while open(f"/proc/{pid}/stat").read().rpartition(")")[2].split()[0] != "T":
    time.sleep(0.02)
os.kill(pid, signal.SIGCONT)
result = False
while not result and os.path.exists(f"/proc/{pid}/fd"):
    try:
        result = has_it_open()
    except (OSError, IndexError):
        pass
os.kill(pid, signal.SIGSTOP)
"""


def _in_use(story: Story, node: Node, dev: str) -> None:
    state = story.cluster.state_of(node, dev)
    assert state["state"] == "live", state
    assert state["uses"] >= 1, state


def _works_and_gives_back(story: Story, node: Node, way: Way, dev: str) -> None:
    cluster, since = story.cluster, story.cluster.now_ns(node)
    if way.lasts:
        story.works(node, way.started(dev))
        _in_use(story, node, dev)
        story.works(node, way.ended(dev))
    elif way.kind == "mount":
        story.works(node, way.started(dev))  # it ends with the namespace
    else:
        writer = node.spawn(f"kill -STOP $$; exec {way.started(dev)}")
        assert node.py(STOP_WITH_THE_DEVICE_OPEN, 60, pid=writer.pid, dev=dev), "never seen with the device open"
        _in_use(story, node, dev)
        writer.kill("CONT")
        assert writer.wait(60) == 0, writer.output()
    found = [r for r in cluster.new_records(node, since) if r["kind"] != "umount"]
    assert [r["effect"] for r in found] == ["permit"] * len(found), found
    assert found[0]["token"] > 0
    cluster.wait_free(node, dev)


@pytest.mark.parametrize("way", ways.MOUNTS, ids=lambda way: way.name)
def test_a_free_filesystem_mounts_at_the_first_try(story: Story, two: Node, way: Way) -> None:
    _works_and_gives_back(story, two, way, story.part(two))


@pytest.mark.parametrize(("fstype", "option"), [("ext4", "ro"), ("xfs", ""), ("xfs", "ro")])  # ext4 "" is above
@pytest.mark.parametrize("api", ["mount", "fsconfig"])
def test_each_api_mounts_a_free_filesystem(
    story: Story, two: Node, cluster: Cluster, fstype: str, api: str, option: str
) -> None:
    dev = two.device(cluster.xfs) if fstype == "xfs" else story.part(two)
    command = f"/run/attempt {api} {{dev}} {{dir}} {fstype} {option}"
    _works_and_gives_back(story, two, Way(api, command, "umount {dir}", "attempt", "mount"), dev)


@pytest.mark.parametrize("way", ways.RAW, ids=lambda way: way.name)
def test_a_free_device_can_be_written_and_stacked(story: Story, two: Node, way: Way) -> None:
    _works_and_gives_back(story, two, way, story.part(two))


def test_a_free_device_can_be_swap(story: Story, two: Node) -> None:
    dev = story.part(two, 2)
    story.works(two, f"mkswap -q {dev}")
    story.cluster.wait_free(two, dev)
    _works_and_gives_back(story, two, ways.SWAP, dev)


def test_swap_under_a_lease_leaves_the_rest_of_the_disk_guarded(story: Story, two: Node, cluster: Cluster) -> None:
    dev = story.part(two, 2)
    story.works(two, ways.SWAP.started(dev))
    time.sleep(2 * EVERY_S + 1)  # the daemon has looked again what the system lives on
    found = [cluster.state_of(two, name)["state"] for name in (dev, two.device(cluster.disk), story.part(two))]
    story.works(two, ways.SWAP.ended(dev))
    assert found[0] == "live" and "unguarded" not in found, found
    cluster.wait_free(two, dev)


def test_a_free_whole_disk_can_be_written(story: Story, two: Node, cluster: Cluster) -> None:
    for node in cluster.nodes:  # an earlier case has written to it: back to a clean filesystem for the next ones
        cluster.wait_free(node, story.part(node))
    dev = two.device(cluster.disk)
    way = Way("dd", "dd if={dev} of={dev} bs=64k count=256 conv=notrunc,fsync", comm="dd")
    _works_and_gives_back(story, two, way, dev)


def test_two_nodes_may_use_two_partitions_of_one_disk(story: Story, one: Node, two: Node, cluster: Cluster) -> None:
    story.works(one, f"mkfs.ext4 -qF {story.part(one)}")
    story.works(one, f"mount {story.part(one)} {ways.MOUNT_POINT}")
    story.works(two, f"mkfs.ext4 -qF {story.part(two, 2)} && mount {story.part(two, 2)} {ways.MOUNT_POINT}")
    story.works(one, f"umount {ways.MOUNT_POINT}")
    story.works(two, f"umount {ways.MOUNT_POINT}")
    cluster.wait_free(one, story.part(one))
    cluster.wait_free(two, story.part(two, 2))
