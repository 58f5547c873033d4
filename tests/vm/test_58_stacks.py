# SPDX-License-Identifier: GPL-2.0-or-later
"""Device numbers are no identity: two paths to one LUN, maps over them, disks that change, partitions that appear."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tools.lab import ways
from tools.lab.cluster import Cluster
from tools.lab.disk import SharedDisk
from tools.lab.story import Story
from tools.lab.vm import Node

pytestmark = pytest.mark.full
MAP = "/dev/mapper/mpatha"
KILL = "kill -9 $(cat /run/enforcer/enforcerd.lock); sleep 0.5; rm -f /run/enforcer/control.sock"


def _map(node: Node, cluster: Cluster) -> str:
    """The command that makes what multipathd would make: a map over both paths, with its uuid."""
    paths = node.paths(cluster.twin)
    assert len(paths) == 2, "two disks with one WWN"
    numbers = " ".join(f"{node.run(f'cat /sys/class/block/{p[5:]}/dev').out.strip()} 1000" for p in paths)
    table = f"0 $(blockdev --getsz {paths[0]}) multipath 0 0 1 1 round-robin 0 2 1 {numbers}"
    return (
        "modprobe -a dm_multipath dm_round_robin && dmsetup create --noudevsync mpatha"
        f' --uuid mpath-{cluster.twin.wwn:x} --table "{table}"'
    )


def _name(node: Node) -> str:
    """The kernel's name of the map."""
    return node.run("dmsetup info --columns --noheadings -o blkdevname mpatha").out.strip()


@pytest.fixture(scope="module")
def maps(story: Story, cluster: Cluster) -> Iterator[None]:
    """A multipath map on both nodes, as on every node of a SAN, whoever uses the LUN."""
    for node in cluster.nodes:
        story.works(node, _map(node, cluster))
        story.works(node, "dmsetup mknodes mpatha")
    yield
    for node in cluster.nodes:
        story.works(node, "dmsetup remove --noudevsync mpatha")


def test_a_multipath_map_takes_its_paths_without_a_lease(maps: None, cluster: Cluster) -> None:
    for node in cluster.nodes:
        names = [*(path[5:] for path in node.paths(cluster.twin)), _name(node)]
        for name in names:
            state = cluster.state_of(node, name)
            assert state["state"] in ("free", "elsewhere") and state["uses"] == 0, state


def test_a_lun_is_refused_by_every_name_that_it_has(
    maps: None, story: Story, one: Node, two: Node, cluster: Cluster
) -> None:
    story.works(one, f"mkfs.ext4 -qF {MAP} && mount -t ext4 {MAP} {ways.MOUNT_POINT}", 120)
    mark = cluster.twin.mark()
    for dev in (MAP, *two.paths(cluster.twin)):
        for way in (ways.MOUNTS[1], ways.MOUNTS[2], ways.RAW[0], ways.RAW[2], ways.RAW[3]):
            story.refused(two, way, dev, "node-1")
    assert not cluster.twin.writes_of(two, since=mark)
    story.works(one, f"umount {ways.MOUNT_POINT}")
    cluster.wait_free(one, one.paths(cluster.twin)[0])


def test_through_the_map_it_is_used_and_given_back(maps: None, story: Story, two: Node, cluster: Cluster) -> None:
    story.works(two, f"mount -t ext4 {MAP} {ways.MOUNT_POINT}")
    name = _name(two)
    assert cluster.state_of(two, name)["uses"] >= 1
    story.works(two, f"umount {ways.MOUNT_POINT}")
    cluster.wait_free(two, name)


def test_a_linear_map_over_a_path_needs_the_lease(story: Story, one: Node, two: Node, cluster: Cluster) -> None:
    first, second = one.paths(cluster.twin)
    story.works(one, ways.RAW[3].started(first))
    story.refused(two, ways.RAW[3], two.paths(cluster.twin)[1], "node-1")
    state = cluster.state_of(one, second)
    assert state["state"] == "live", "one LUN, one lease, whichever path"
    story.works(one, ways.RAW[3].ended(first))
    cluster.wait_free(one, first)


def _swap(node: Node, left: SharedDisk, right: SharedDisk) -> None:
    """Give each of two disks the other's device number."""
    names = {disk.name: node.device(disk) for disk in (left, right)}
    node.unplug(left)
    node.unplug(right)
    lower, upper = sorted((left, right), key=lambda disk: names[disk.name])
    node.plug(upper)
    node.plug(lower)
    assert {left.name: node.device(right), right.name: node.device(left)} == names


def test_another_lun_under_the_same_number_inherits_nothing(story: Story, two: Node, cluster: Cluster) -> None:
    unguarded, leased, foreign = cluster.private, cluster.ext4, cluster.forgotten
    number = two.device(leased)
    writer = two.spawn(f"exec sleep 600 9<>{number}")
    for _ in range(50):
        if cluster.state_of(two, number).get("state") == "live":
            break
    story.works(two, KILL)
    writer.kill()
    _swap(two, unguarded, foreign)
    marks = [disk.mark() for disk in (leased, foreign)]
    assert two.run(f"/run/attempt open {two.device(foreign)}").rc != 0, "its number was an unguarded disk's"
    _swap(two, leased, foreign)
    assert two.device(foreign) == number
    assert two.run(f"/run/attempt open {two.device(foreign)}").rc != 0, "its number was that of a live lease"
    assert two.run(f"/run/attempt open {two.device(leased)}").rc != 0, "the lease was not this number's"
    assert [disk.writes_of(two, since=mark) for disk, mark in zip((leased, foreign), marks, strict=True)] == [[], []]
    _swap(two, leased, foreign)
    _swap(two, unguarded, foreign)
    cluster.start_daemon(two)
    cluster.ready(two)
    assert two.run(f"/run/attempt open {two.device(foreign)}").rc == 1
    story.works(two, f"/run/attempt open {two.device(unguarded)}")
    cluster.wait_free(two, two.device(leased))


def test_a_partition_that_appears_is_guarded_at_once(story: Story, two: Node, cluster: Cluster) -> None:
    disk = two.device(cluster.disk)
    story.works(two, KILL)
    story.works(two, f"addpart {disk} 7 450560 2048 && test -b {disk}7")
    for attempt in (f"mount {disk}7 {ways.MOUNT_POINT} ext4", f"open {disk}7"):
        assert two.run(f"/run/attempt {attempt}").rc == 1
    story.works(two, f"delpart {disk} 7")
    cluster.start_daemon(two)
    cluster.ready(two)


def test_a_partition_that_is_not_in_the_table_on_the_disk_is_refused(story: Story, two: Node, cluster: Cluster) -> None:
    """The kernel lets nobody lay one partition over another, but for a disk whose own table it has not read."""
    disk = two.device(cluster.disk)
    story.works(two, f"addpart {disk} 7 401408 2048")
    before = len(cluster.records(two))
    assert two.run(f"/run/attempt open {disk}7").rc == 1
    (record,) = cluster.new_records(two, before)
    assert "partition table" in record["reason"], record
    story.works(two, f"delpart {disk} 7")
