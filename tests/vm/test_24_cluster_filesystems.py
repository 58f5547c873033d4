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

pytestmark = pytest.mark.full
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
    ),
    Way("another table", "mount -t gfs2 -o locktable=mg:other {dev} {dir}", UMOUNT, "mount", "mount"),
    ways.MOUNTS[0],
    ways.SWAP,
)


def _both(cluster: Cluster, story: Story, command: str, timeout_s: float = 60) -> None:
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda node: story.works(node, command, timeout_s), cluster.nodes))


def _refused_by_stack(cluster: Cluster, node: Node, command: str) -> Record:
    before = len(cluster.records(node))
    assert node.run(command).rc != 0
    (record,) = cluster.new_records(node, before)
    assert (record["source"], record["effect"]) == ("cluster", "refuse"), record
    return record


@pytest.fixture(scope="module")
def part(story: Story, cluster: Cluster) -> Iterator[str]:
    """The first partition, by the name that both nodes have for it; an ext4 again in the end."""
    one, dev = story.one, story.part(story.one)
    assert story.part(story.two) == dev
    for node in cluster.nodes:
        clusterfs.configure(node)
        story.works(node, "modprobe -a gfs2 ocfs2")
    story.works(one, GFS2.format(dev))
    cluster.wait_free(one, dev)
    yield dev
    story.works(one, f"mkfs.ext4 -qF {dev}")
    cluster.wait_free(one, dev)


def test_without_its_stack_it_is_not_mounted(part: str, cluster: Cluster, one: Node) -> None:
    mark = cluster.disk.mark()
    for command in (
        f"mount -t gfs2 {part} {ways.MOUNT_POINT}",
        f"/run/attempt fsconfig {part} {ways.MOUNT_POINT} gfs2",
    ):
        record = _refused_by_stack(cluster, one, command)
        assert "dlm_controld does not run here" in record["reason"]
    assert not cluster.disk.writes_of(one, since=mark)


@pytest.fixture(scope="module")
def gfs2(part: str, story: Story, cluster: Cluster) -> Iterator[str]:
    """corosync and dlm_controld on both nodes."""
    _both(cluster, story, clusterfs.START_DLM, 150)
    yield part
    _both(cluster, story, clusterfs.STOP_DLM)


@pytest.fixture
def mounted(gfs2: str, story: Story, cluster: Cluster) -> Iterator[str]:
    """Mounted on node-1."""
    story.works(story.one, f"mount -t gfs2 {gfs2} {ways.MOUNT_POINT}")
    yield gfs2
    story.works(story.one, UMOUNT)
    cluster.wait_free(story.one, gfs2)


def test_two_nodes_have_a_gfs2_at_once(mounted: str, story: Story, cluster: Cluster, one: Node, two: Node) -> None:
    story.works(two, f"/run/attempt fsconfig {mounted} {ways.MOUNT_POINT} gfs2")
    story.works(one, f"echo from node-1 > {ways.MOUNT_POINT}/f")
    assert two.run(f"cat {ways.MOUNT_POINT}/f").out == "from node-1\n"
    assert [cluster.state_of(node, mounted)["state"] for node in (one, two)] == ["live", "live"]
    mark = cluster.disk.mark()
    for node in (one, two):  # what both hold covers nothing but the filesystem, on neither
        before = len(cluster.records(node))
        assert node.run(f"dd if=/dev/zero of={mounted} bs=64k count=1 conv=notrunc,fsync").rc == 1
        assert "cluster filesystem" in cluster.new_records(node, before)[0]["reason"]
    assert not [r for r in cluster.disk.requests(since=mark) if r.changes and r.offset < PART_AT + (64 << 10)]
    story.works(two, UMOUNT)
    cluster.wait_free(two, mounted)


@pytest.mark.parametrize("way", EXCLUSIVE, ids=lambda way: way.name)
def test_what_needs_it_alone_is_refused_by_name(
    mounted: str, story: Story, cluster: Cluster, two: Node, way: Way
) -> None:
    mark = cluster.disk.mark()
    story.refused(two, way, mounted, "node-1")
    assert not cluster.disk.writes_of(two, since=mark)


def test_a_whole_disk_is_refused_while_a_part_is_shared(mounted: str, story: Story, two: Node) -> None:
    story.refused(two, ways.WHOLE_DISK[0], two.device(story.disk), "node-1")


def test_who_has_it_alone_keeps_the_cluster_out(
    gfs2: str, story: Story, cluster: Cluster, one: Node, two: Node
) -> None:
    story.works(two, f"fsck.gfs2 -y {gfs2} && mount -t gfs2 -o lockproto=lock_nolock {gfs2} {ways.MOUNT_POINT}")
    way = Way("mount", "mount -t gfs2 {dev} {dir}", UMOUNT, "mount", "mount")
    story.refused(one, way, gfs2, "node-2")
    story.works(two, UMOUNT)
    cluster.wait_free(two, gfs2)


def test_after_mkfs_it_is_shared_at_once(gfs2: str, story: Story, cluster: Cluster, one: Node, two: Node) -> None:
    mount = f"mount -t gfs2 {gfs2} {ways.MOUNT_POINT}"
    story.works(one, f"{GFS2.format(gfs2)} && {mount}")
    story.works(two, mount)
    for node in (one, two):
        story.works(node, UMOUNT)
        cluster.wait_free(node, gfs2)


@pytest.fixture(scope="module")
def ocfs2(part: str, story: Story, cluster: Cluster) -> Iterator[str]:
    """An ocfs2, and its cluster on both nodes."""
    story.works(story.one, OCFS2.format(part))
    cluster.wait_free(story.one, part)
    _both(cluster, story, clusterfs.START_O2CB)
    yield part
    _both(cluster, story, clusterfs.STOP_O2CB)


def test_two_nodes_have_an_ocfs2_at_once(ocfs2: str, story: Story, cluster: Cluster, one: Node, two: Node) -> None:
    mount = f"mount -t ocfs2 {ocfs2} {ways.MOUNT_POINT}"
    story.works(one, mount)
    mark = cluster.disk.mark()
    for way in (
        Way("mkfs.ocfs2", OCFS2.format("{dev}"), comm="mkfs.ocfs2"),
        Way("fsck.ocfs2", "fsck.ocfs2 -fy {dev}", comm="fsck.ocfs2"),
        Way("mount(2) without a heartbeat", "/run/attempt mount {dev} {dir} ocfs2", UMOUNT, "attempt", "mount"),
        ways.RAW[0],
    ):
        story.refused(two, way, ocfs2, "node-1")
    assert not cluster.disk.writes_of(two, since=mark)
    story.works(two, mount)
    story.works(one, f"echo from node-1 > {ways.MOUNT_POINT}/f")
    assert two.run(f"cat {ways.MOUNT_POINT}/f").out == "from node-1\n"
    _both(cluster, story, UMOUNT)
    for node in (one, two):
        cluster.wait_free(node, ocfs2)


def test_ocfs2_without_its_cluster_is_not_mounted(ocfs2: str, story: Story, cluster: Cluster, one: Node) -> None:
    story.works(one, clusterfs.STOP_O2CB)
    record = _refused_by_stack(cluster, one, f"mount -i -t ocfs2 -o heartbeat=local {ocfs2} {ways.MOUNT_POINT}")
    assert "no o2cb cluster is online" in record["reason"]
    story.works(one, clusterfs.START_O2CB)


LVM = """devices { dir="/dev" scan="/dev" obtain_device_list_from_udev=0 use_devicesfile=0
external_device_info_source="none" filter=["a|/dev/sd.*|","r|.*|"] multipath_component_detection=0 }
activation { udev_sync=0 udev_rules=0 verify_udev_operations=1 monitoring=0 }
global { use_lvmpolld=0 event_activation=0 }
backup { backup=0 archive=0 }
"""
ENV = "export LVM_SYSTEM_DIR=/run/lvm-lab LVM_SUPPRESS_FD_WARNINGS=1; "


@pytest.fixture(scope="module")
def group(story: Story, cluster: Cluster) -> Iterator[str]:
    """A volume group on the second partition, no lvmlockd anywhere; its volume is active on node-1."""
    one, dev = story.one, story.part(story.one, 2)
    for node in cluster.nodes:
        node.put("/run/lvm-lab/lvm.conf", LVM, 0o644)
    make = (
        f"pvcreate -qff -y {dev} && vgcreate -q labvg {dev} && lvcreate -q --noudevsync -an -Wn -Zn -L 32M -n lv1 labvg"
    )
    story.works(one, ENV + make)
    cluster.wait_free(one, dev)
    story.works(one, f"{ENV} vgchange -q --noudevsync -ay labvg")
    yield dev
    story.works(one, f"{ENV} vgremove -qf labvg && pvremove -qff -y {dev}")
    cluster.wait_free(one, dev)


def test_a_volume_group_is_active_on_one_node(group: str, story: Story, cluster: Cluster, one: Node, two: Node) -> None:
    assert "labvg" in story.works(two, f"{ENV} vgs --noheadings -o vg_name").out
    mark = cluster.disk.mark()
    for way in (
        Way("vgchange", ENV + "vgchange --noudevsync -ay labvg", comm="vgchange", kind="dm-load"),
        Way("pvcreate", ENV + "pvcreate -ff -y {dev}", comm="pvcreate"),
        Way("lvcreate", ENV + "lvcreate --noudevsync -an -Wn -Zn -L 4M -n lv2 labvg", comm="lvcreate"),
        ways.RAW[3],
    ):
        story.refused(two, way, group, "node-1")
    assert not cluster.disk.writes_of(two, since=mark)
    story.works(one, f"{ENV} vgchange -q --noudevsync -an labvg")
    cluster.wait_free(one, group)
    story.works(two, f"{ENV} vgchange -q --noudevsync -ay labvg && mkfs.ext4 -qF /dev/labvg/lv1")
    story.refused(
        one, Way("vgchange", ENV + "vgchange --noudevsync -ay labvg", comm="vgchange", kind="dm-load"), group, "node-2"
    )
    story.works(two, f"{ENV} vgchange -q --noudevsync -an labvg")
    cluster.wait_free(two, group)
