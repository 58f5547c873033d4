# SPDX-License-Identifier: GPL-2.0-or-later
"""Device numbers are no identity: two paths to one LUN, maps over them, disks that change, partitions that appear."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from tools.lab import ways
from tools.lab.cluster import Cluster
from tools.lab.disk import SharedDisk
from tools.lab.ends import DAEMON_KILLED, GATE_DOWN
from tools.lab.story import Story
from tools.lab.vm import Node

pytestmark = pytest.mark.full
MAP = "/dev/mapper/mpatha"


def _table(node: Node, cluster: Cluster) -> str:
    """What multipathd would load: both paths."""
    paths = node.paths(cluster.twin)
    assert len(paths) == 2, "two disks with one WWN"
    numbers = " ".join(f"{node.run(f'cat /sys/class/block/{p[5:]}/dev').out.strip()} 1000" for p in paths)
    return f"0 $(blockdev --getsz {paths[0]}) multipath 0 0 1 1 round-robin 0 2 1 {numbers}"


def _map(node: Node, cluster: Cluster) -> str:
    """The command that makes what multipathd would make: a map with its uuid."""
    return (
        "modprobe -a dm_multipath dm_round_robin && dmsetup create --noudevsync mpatha"
        f' --uuid mpath-{cluster.twin.wwn:x} --table "{_table(node, cluster)}"'
    )


def _lose(node: Node, path: str) -> None:
    """What a transport does with a path that it has lost for good."""
    node.run(f"echo 1 > /sys/block/{path[5:]}/device/delete", check=True)


def _back(story: Story, node: Node, cluster: Cluster) -> None:
    """All paths are found again, and the map gets them."""
    story.works(node, "for host in /sys/class/scsi_host/host*/scan; do echo '- - -' > $host; done")
    for _ in range(50):
        if len(node.paths(cluster.twin)) == 2:
            break
        time.sleep(0.2)
    reload = f'dmsetup reload --noudevsync mpatha --table "{_table(node, cluster)}"'
    story.works(node, f"dmsetup suspend --noflush --nolockfs mpatha && {reload} && dmsetup resume --noudevsync mpatha")


def _name(node: Node) -> str:
    """The kernel's name of the map."""
    return node.run("dmsetup info --columns --noheadings -o blkdevname mpatha").out.strip()


def _until_live(cluster: Cluster, node: Node, dev: str) -> None:
    end = time.monotonic() + 30
    while cluster.state_of(node, dev).get("state") != "live":
        assert time.monotonic() < end, f"{dev} of {node.name} did not come to be leased"
        time.sleep(0.3)


@pytest.fixture(scope="module")
def maps(story: Story, cluster: Cluster) -> Iterator[None]:
    """A multipath map on both nodes, as on every node of a SAN, whoever uses the LUN."""
    for node in cluster.nodes:
        story.works(node, _map(node, cluster))
        story.works(node, "dmsetup mknodes mpatha")
    yield
    for node in cluster.nodes:
        story.works(node, "if dmsetup info mpatha; then dmsetup remove --noudevsync mpatha; fi")


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


def test_a_first_block_written_by_another_node_locks_nobody_out(
    maps: None, story: Story, one: Node, two: Node, cluster: Cluster
) -> None:
    for node in (one, two, one):
        story.works(node, f"dd if=/dev/urandom of={MAP} bs=512 count=1 conv=fsync status=none")
        cluster.wait_free(node, _name(node))


def test_a_map_that_lost_a_path_is_guarded_as_before(
    maps: None, story: Story, one: Node, two: Node, cluster: Cluster
) -> None:
    story.works(one, f"mkfs.ext4 -qF {MAP} && mount -t ext4 {MAP} {ways.MOUNT_POINT}", 120)
    mark = cluster.twin.mark()
    _lose(two, two.paths(cluster.twin)[0])
    assert two.run(f"/run/attempt open {MAP}").rc == 1
    assert not cluster.twin.writes_of(two, since=mark)
    _back(story, two, cluster)
    assert cluster.state_of(two, _name(two))["state"] == "elsewhere"
    story.works(one, f"umount {ways.MOUNT_POINT}")
    cluster.wait_free(one, _name(one))


def test_a_map_in_use_that_lost_all_paths_keeps_the_lease(
    maps: None, story: Story, one: Node, two: Node, cluster: Cluster
) -> None:
    """It may queue what was written, and write it out when a path comes back."""
    writer = two.spawn(f"exec sleep 600 9<>{MAP}")
    _until_live(cluster, two, _name(two))
    for path in two.paths(cluster.twin):
        _lose(two, path)
    time.sleep(8)
    story.refused(one, ways.MOUNTS[1], MAP, "node-2")
    _back(story, two, cluster)
    story.refused(one, ways.MOUNTS[1], MAP, "node-2")
    writer.kill()
    cluster.wait_free(two, _name(two))


def test_what_is_mounted_on_a_map_when_enforcement_begins_is_leased_and_given_back(
    maps: None, story: Story, one: Node, two: Node, cluster: Cluster
) -> None:
    story.works(two, GATE_DOWN)
    story.works(two, f"mount -t ext4 {MAP} {ways.MOUNT_POINT}")
    cluster.start_daemon(two)
    cluster.ready(two)
    _until_live(cluster, two, _name(two))
    story.refused(one, ways.MOUNTS[1], MAP, "node-2")
    story.works(two, f"umount {ways.MOUNT_POINT}")
    cluster.wait_free(two, _name(two))


def test_a_linear_map_over_a_path_needs_the_lease(story: Story, one: Node, two: Node, cluster: Cluster) -> None:
    first, second = one.paths(cluster.twin)
    story.works(one, ways.RAW[3].started(first))
    story.refused(two, ways.RAW[3], two.paths(cluster.twin)[1], "node-1")
    state = cluster.state_of(one, second)
    assert state["state"] == "live", "one LUN, one lease, whichever path"
    story.works(one, ways.RAW[3].ended(first))
    cluster.wait_free(one, first)


def _in_a_row(node: Node, *disks: SharedDisk) -> None:
    """See to it that no number below theirs is free: a path that came back before its map had let go of the old one has
    left one, and what is plugged in gets the lowest."""
    for _ in range(6):
        upper = max(disks, key=node.device)
        here = set(node.run("ls /sys/block").out.split())
        if all(f"sd{chr(letter)}" in here for letter in range(ord("a"), ord(node.device(upper)[-1]))):
            return
        node.unplug(upper)
        node.plug(upper)


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
    _in_a_row(two, unguarded, leased, foreign)
    number = two.device(leased)
    writer = two.spawn(f"exec sleep 600 9<>{number}")
    _until_live(cluster, two, number)
    story.works(two, DAEMON_KILLED)
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
    story.works(two, DAEMON_KILLED)
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
    before = cluster.now_ns(two)
    assert two.run(f"/run/attempt open {disk}7").rc == 1
    record = cluster.only_record(two, before)
    assert "partition table" in record["reason"], record
    story.works(two, f"delpart {disk} 7")
