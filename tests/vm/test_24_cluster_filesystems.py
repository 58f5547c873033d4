# SPDX-License-Identifier: GPL-2.0-or-later
"""Filesystems that two nodes may have at once, each under its own lock manager, and all else, which they may not."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from tools.lab import clusterfs, ways
from tools.lab.cluster import Cluster
from tools.lab.story import Record, Story
from tools.lab.vm import Node
from tools.lab.ways import Way

pytestmark = [pytest.mark.full, pytest.mark.own_lab]
UMOUNT = f"umount {ways.MOUNT_POINT}"
PART_AT = 2048 * 512  # of the first partition; the first 64 KiB of a gfs2 are never written to
GFS2 = "mkfs.gfs2 -q -K -O -p lock_dlm -t mg:lun11 -j 2 -J 8 {}"
OCFS2 = "yes | mkfs.ocfs2 -q -b 4K -C 4K -N 2 -J size=4M --cluster-stack=o2cb --cluster-name=mg -F {}"
EXCLUSIVE = (
    Way("fsck.gfs2", "fsck.gfs2 -y {dev}", comm="fsck.gfs2"),
    Way("mkfs.gfs2", GFS2.format("{dev}"), comm="mkfs.gfs2"),
    ways.RAW[0],
    ways.RAW[3],
    Way("lock_nolock", "mount -t gfs2 -o lockproto=lock_nolock {dev} {dir}", UMOUNT, "mount", "mount"),
    Way(
        "lock_nolock by fsconfig",
        "/run/attempt fsconfig {dev} {dir} gfs2 lockproto=lock_nolock",
        UMOUNT,
        "attempt",
        "mount",
        ways.EBUSY,
    ),
    Way("another table", "mount -t gfs2 -o locktable=mg:other {dev} {dir}", UMOUNT, "mount", "mount"),
    ways.MOUNTS[0],
    ways.SWAP,
)


def _both(cluster: Cluster, story: Story, command: str, timeout_s: float = 60) -> None:
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda node: story.works(node, command, timeout_s), cluster.nodes))


def _free(cluster: Cluster, story: Story, *nodes: Node) -> None:
    for node in nodes:
        story.works(node, UMOUNT)
        cluster.wait_free(node, story.part(node))


def _mount(story: Story, node: Node, fstype: str) -> str:
    return f"mount -t {fstype} {story.part(node)} {ways.MOUNT_POINT}"


def _refused_by_stack(cluster: Cluster, node: Node, command: str) -> Record:
    before = cluster.now_ns(node)
    assert node.run(command).rc != 0
    record = cluster.only_record(node, before)
    assert (record["source"], record["effect"]) == ("cluster", "refuse"), record
    return record


@pytest.fixture(scope="module")
def part(story: Story, cluster: Cluster) -> Iterator[None]:
    """A gfs2 on the first partition, and an ext4 again in the end."""
    one = story.one
    for node in cluster.nodes:
        clusterfs.configure(node)
        story.works(node, "modprobe -a gfs2 ocfs2")
    story.works(one, GFS2.format(story.part(one)))
    cluster.wait_free(one, story.part(one))
    yield
    story.works(one, f"mkfs.ext4 -qF {story.part(one)}")
    cluster.wait_free(one, story.part(one))


def test_without_its_stack_it_is_not_mounted(part: None, story: Story, cluster: Cluster, one: Node) -> None:
    mark = cluster.disk.mark()
    for way in (ways.MOUNTS[0], ways.MOUNTS[2]):
        record = _refused_by_stack(cluster, one, way.started(story.part(one), "gfs2"))
        assert "dlm_controld does not run here" in record["reason"]
    assert not cluster.disk.writes_of(one, since=mark)


def test_without_quorum_it_is_not_mounted(part: None, story: Story, cluster: Cluster, one: Node) -> None:
    """Of two nodes the first waits for the other."""
    story.works(one, clusterfs.BEGIN_DLM)
    story.works(one, "until dlm_tool status | grep -q quorate; do sleep 0.2; done")
    record = _refused_by_stack(cluster, one, _mount(story, one, "gfs2"))
    assert "this node's side of the cluster has no quorum" in record["reason"]


@pytest.fixture(scope="module")
def gfs2(part: None, story: Story, cluster: Cluster) -> Iterator[None]:
    """corosync and dlm_controld on both nodes."""
    _both(cluster, story, clusterfs.START_DLM, 150)
    yield
    _both(cluster, story, clusterfs.STOP_DLM)


@pytest.fixture
def mounted(gfs2: None, story: Story, cluster: Cluster) -> Iterator[None]:
    """Mounted on node-1."""
    story.works(story.one, _mount(story, story.one, "gfs2"))
    yield
    _free(cluster, story, story.one)


def test_two_nodes_have_a_gfs2_at_once(mounted: None, story: Story, cluster: Cluster, one: Node, two: Node) -> None:
    story.works(two, ways.MOUNTS[2].started(story.part(two), "gfs2"))
    story.works(one, f"echo from node-1 > {ways.MOUNT_POINT}/f")
    assert two.run(f"cat {ways.MOUNT_POINT}/f").out == "from node-1\n"
    assert [cluster.state_of(node, story.part(node))["state"] for node in (one, two)] == ["live", "live"]
    mark = cluster.disk.mark()
    for node in (one, two):  # what both hold covers nothing but the filesystem, on neither
        before = cluster.now_ns(node)
        assert node.run(f"dd if=/dev/zero of={story.part(node)} bs=64k count=1 conv=notrunc,fsync").rc == 1
        assert "cluster filesystem" in cluster.new_records(node, before)[0]["reason"]
    assert not [r for r in cluster.disk.requests(since=mark) if r.changes and r.offset < PART_AT + (64 << 10)]
    _free(cluster, story, two)


def test_what_needs_it_alone_is_refused_by_name(mounted: None, story: Story, cluster: Cluster, two: Node) -> None:
    mark = cluster.disk.mark()
    for way in EXCLUSIVE:
        story.refused(two, way, story.part(two), "node-1")
    story.refused(two, ways.WHOLE_DISK[0], two.device(story.disk), "node-1")
    assert not cluster.disk.writes_of(two, since=mark)


def test_who_has_it_alone_keeps_the_cluster_out(
    gfs2: None, story: Story, cluster: Cluster, one: Node, two: Node
) -> None:
    dev = story.part(two)
    story.works(two, f"fsck.gfs2 -y {dev} && mount -t gfs2 -o lockproto=lock_nolock {dev} {ways.MOUNT_POINT}")
    story.refused(one, ways.MOUNTS[0], story.part(one), "node-2", "gfs2")
    _free(cluster, story, two)


def test_after_mkfs_it_is_shared_at_once(gfs2: None, story: Story, cluster: Cluster, one: Node, two: Node) -> None:
    story.works(one, f"{GFS2.format(story.part(one))} && {_mount(story, one, 'gfs2')}")
    story.works(two, _mount(story, two, "gfs2"))
    _free(cluster, story, one, two)


def test_beside_a_node_that_failed_it_is_not_mounted_until_that_was_fenced(
    gfs2: None, story: Story, cluster: Cluster, one: Node, two: Node
) -> None:
    """No agent here can fence it, so somebody has to answer for it."""
    story.works(two, "kill -KILL $(pidof corosync); while pidof dlm_controld; do sleep 0.1; done")
    story.works(one, "while dlm_tool status | grep -q '^node 2 M'; do sleep 0.1; done")
    reason = _refused_by_stack(cluster, one, _mount(story, one, "gfs2"))["reason"]
    assert "node 2 failed and was not fenced since" in reason or "is being fenced" in reason
    _refused_by_stack(cluster, two, _mount(story, two, "gfs2"))
    story.works(one, "dlm_tool fence_ack 2")
    story.works(one, f"until {_mount(story, one, 'gfs2')}; do sleep 0.5; done")
    _free(cluster, story, one)
    story.works(two, clusterfs.START_DLM, 150)


@pytest.fixture(scope="module")
def ocfs2(part: None, story: Story, cluster: Cluster) -> Iterator[None]:
    """An ocfs2, and its cluster on both nodes."""
    one = story.one
    story.works(one, OCFS2.format(story.part(one)))
    cluster.wait_free(one, story.part(one))
    _both(cluster, story, clusterfs.START_O2CB)
    yield
    _both(cluster, story, clusterfs.STOP_O2CB)


def test_two_nodes_have_an_ocfs2_at_once(ocfs2: None, story: Story, cluster: Cluster, one: Node, two: Node) -> None:
    story.works(one, _mount(story, one, "ocfs2"))
    mark = cluster.disk.mark()
    for way in (
        Way("mkfs.ocfs2", OCFS2.format("{dev}"), comm="mkfs.ocfs2"),
        Way("fsck.ocfs2", "fsck.ocfs2 -fy {dev}", comm="fsck.ocfs2"),
        ways.MOUNTS[1],
        ways.RAW[0],
    ):
        story.refused(two, way, story.part(two), "node-1", "ocfs2")
    story.refused(two, ways.MOUNTS[1], story.part(two), "node-1", "ext4")
    assert not cluster.disk.writes_of(two, since=mark)
    story.works(two, _mount(story, two, "ocfs2"))
    story.works(one, f"echo from node-1 > {ways.MOUNT_POINT}/f")
    assert two.run(f"cat {ways.MOUNT_POINT}/f").out == "from node-1\n"
    _both(cluster, story, UMOUNT)
    for node in (one, two):
        cluster.wait_free(node, story.part(node))


def test_ocfs2_without_its_cluster_is_not_mounted(ocfs2: None, story: Story, cluster: Cluster, one: Node) -> None:
    story.works(one, clusterfs.STOP_O2CB)
    command = f"mount -i -t ocfs2 -o heartbeat=local {story.part(one)} {ways.MOUNT_POINT}"
    assert "no o2cb cluster is online" in _refused_by_stack(cluster, one, command)["reason"]
    story.works(one, clusterfs.START_O2CB)


LVM = """devices { dir="/dev" scan="/dev" obtain_device_list_from_udev=0 use_devicesfile=0
external_device_info_source="none" filter=["a|/dev/sd.*|","r|.*|"] multipath_component_detection=0 }
activation { udev_sync=0 udev_rules=0 verify_udev_operations=1 monitoring=0 }
global { use_lvmpolld=0 event_activation=0 }
backup { backup=0 archive=0 }
"""
ENV = "export LVM_SYSTEM_DIR=/run/lvm-lab LVM_SUPPRESS_FD_WARNINGS=1; "


ACTIVATE = Way("vgchange", ENV + "vgchange --noudevsync -ay labvg", comm="vgchange", kind="dm-load")
DEACTIVATE = f"{ENV} vgchange -q --noudevsync -an labvg"


@pytest.fixture(scope="module")
def group(story: Story, cluster: Cluster) -> Iterator[None]:
    """A volume group on the second partition, no lvmlockd anywhere; its volume is active on node-1."""
    one, dev = story.one, story.part(story.one, 2)
    for node in cluster.nodes:
        node.put("/run/lvm-lab/lvm.conf", LVM, 0o644)
    story.works(one, f"{ENV} pvcreate -qff -y {dev} && vgcreate -q labvg {dev}")
    story.works(one, f"{ENV} lvcreate -q --noudevsync -an -Wn -Zn -L 32M -n lv1 labvg")
    cluster.wait_free(one, dev)
    story.works(one, ACTIVATE.begin)
    yield
    story.works(one, f"{ENV} vgremove -qf labvg && pvremove -qff -y {dev}")
    cluster.wait_free(one, dev)


def test_a_volume_group_is_active_on_one_node(
    group: None, story: Story, cluster: Cluster, one: Node, two: Node
) -> None:
    dev = story.part(two, 2)
    assert "labvg" in story.works(two, f"{ENV} vgs --noheadings -o vg_name").out
    mark = cluster.disk.mark()
    for way in (
        ACTIVATE,
        Way("pvcreate", ENV + "pvcreate -ff -y {dev}", comm="pvcreate"),
        Way("lvcreate", ENV + "lvcreate --noudevsync -an -Wn -Zn -L 4M -n lv2 labvg", comm="lvcreate"),
        ways.RAW[3],
    ):
        story.refused(two, way, dev, "node-1")
    assert not cluster.disk.writes_of(two, since=mark)
    story.works(one, DEACTIVATE)
    cluster.wait_free(one, story.part(one, 2))
    story.works(two, ACTIVATE.begin + " && mkfs.ext4 -qF /dev/labvg/lv1")
    story.refused(one, ACTIVATE, story.part(one, 2), "node-2")
    story.works(two, DEACTIVATE)
    cluster.wait_free(two, dev)
