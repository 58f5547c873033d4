# SPDX-License-Identifier: GPL-2.0-or-later
"""The mark of a node that asks nobody: the file behind the storage is written to, behind the backs of both nodes."""

from __future__ import annotations

import os
import struct
import sys
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from enforcer.storage.vetoes import mmp
from tools.lab import ways
from tools.lab.cluster import CHECKOUT, Cluster
from tools.lab.story import Story
from tools.lab.vm import Node

pytestmark = pytest.mark.full


@dataclass(frozen=True)
class Protected:
    """An ext4 with MMP on the shared LUN: what node-1's kernel wrote while it was mounted, and after its umount."""

    cluster: Cluster
    at: int
    mounted: bytes
    clean: bytes

    def write(self, block: bytes) -> None:
        fd = os.open(self.cluster.ext4.image, os.O_WRONLY)
        try:
            os.pwrite(fd, block, self.at)
        finally:
            os.close(fd)


@pytest.fixture(scope="module")
def protected(story: Story, cluster: Cluster) -> Iterator[Protected]:
    one, disk = story.one, cluster.ext4
    dev = one.device(disk)
    story.works(one, f"mkfs.ext4 -qF -O mmp,^metadata_csum {dev}", 60)
    log_size, block = struct.unpack_from("<I332xQ", disk.read(1024, 1024), 0x18)
    at = block * (1024 << log_size)
    story.works(one, f"mount -t ext4 {dev} {ways.MOUNT_POINT}")
    mounted = disk.read(at, mmp.MMP_SIZE)
    story.works(one, f"umount {ways.MOUNT_POINT}")
    cluster.wait_free(one, dev)
    yield (made := Protected(cluster, at, mounted, disk.read(at, mmp.MMP_SIZE)))
    made.write(made.clean)
    story.works(one, f"mkfs.ext4 -qF {dev}", 60)
    cluster.wait_free(one, dev)


def test_the_kernel_writes_what_is_read(protected: Protected, one: Node) -> None:
    assert struct.unpack_from("<I", protected.mounted, 4)[0] not in (mmp.CLEAN, mmp.FSCK)
    assert struct.unpack_from("<I", protected.clean, 4)[0] == mmp.CLEAN
    assert protected.mounted[16:80].rstrip(b"\0").decode() == one.run("hostname").out.strip()


@pytest.mark.parametrize("way", ["mount -t ext4 {} " + ways.MOUNT_POINT, "mkfs.ext4 -qF {}"])
def test_a_stranger_on_the_disk_is_refused_by_name(
    protected: Protected, cluster: Cluster, one: Node, two: Node, way: str
) -> None:
    protected.write(protected.mounted[:16] + b"node-9".ljust(64, b"\0") + protected.mounted[80:])
    since = cluster.ext4.mark()
    for node in (one, two):
        before = cluster.now_ns(node)
        assert node.run(way.format(node.device(cluster.ext4))).rc != 0
        record = cluster.new_records(node, before)[0]
        assert (record["source"], record["veto"], record["effect"]) == ("veto", "ext4-mmp", "refuse"), record
        assert "node-9" in record["reason"] and "clear_mmp" in record["remedy"]
        assert "what stands on the disk" in node.run(cluster.cli(f"explain {record['id']}")).out
        cluster.wait_free(node, node.device(cluster.ext4))
        assert cluster.ext4.writes_of(node, since=since) == []


def test_a_clean_disk_is_mounted_at_the_first_try(
    protected: Protected, cluster: Cluster, story: Story, two: Node
) -> None:
    protected.write(protected.clean)
    dev = two.device(cluster.ext4)
    story.works(two, f"mount -t ext4 {dev} {ways.MOUNT_POINT} && umount {ways.MOUNT_POINT}")
    cluster.wait_free(two, dev)


TARGET = """set -e; modprobe -a target_core_mod target_core_file tcm_loop
mountpoint -q /sys/kernel/config || mount -t configfs none /sys/kernel/config
C=/sys/kernel/config/target; B=$C/core/fileio_0/lun7; mkdir -p $B
echo fd_dev_name=/run/lun7,fd_dev_size=1048576 > $B/control; echo 1 > $B/enable
for i in 1 2; do T=$C/loopback/naa.600140500000000$i/tpgt_1
mkdir -p $T; echo naa.60014050000000b$i > $T/nexus; mkdir $T/lun/lun_0; ln -s $B $T/lun/lun_0/lun7; done"""
NO_TARGET = """C=/sys/kernel/config/target
for T in $C/loopback/naa.*/tpgt_1; do
rm $T/lun/lun_0/lun7; rmdir $T/lun/lun_0; echo NULL > $T/nexus; rmdir $T ${T%/*}; done
rmdir $C/core/fileio_0/lun7 $C/core/fileio_0; rm /run/lun7"""
LOOK = """
import fcntl, os, struct
from enforcer.storage.vetoes import medium, reservation
disks = sorted(d for d in os.listdir("/sys/block") if d.startswith("sd"))
disks = [d for d in disks if "LIO" in open(f"/sys/block/{d}/device/vendor").read()]
fds = [os.open(f"/dev/{d}", os.O_RDONLY | os.O_DIRECT) for d in disks]
def tell(word, *ours):
    for fd in fds:
        print(word, *(m.owner for m in reservation.marks(medium.Disk(fd).reserve_in, lambda: set(ours))))
tell("free")
out = os.open(f"/dev/{disks[0]}", os.O_RDWR)  # include/uapi/linux/pr.h: IOC_PR_REGISTER, IOC_PR_RESERVE
fcntl.ioctl(out, 0x401870C8, bytearray(struct.pack("QQII", 0, 0xA1, 0, 0)))
fcntl.ioctl(out, 0x401070C9, bytearray(struct.pack("QII", 0xA1, 3, 0)))
tell("reserved")
tell("ours", "sas.60014050000000b1")
"""


def test_a_real_target_tells_who_holds_its_reservation(one: Node, story: Story) -> None:
    """Two initiators of one LIO target in one guest; either is asked, on a descriptor that is open for reading."""
    story.works(one, TARGET)
    try:
        one.put("/run/look.py", LOOK)
        told = one.run(f"cd {CHECKOUT}; sleep 2; PYTHONPATH=. {sys.executable} /run/look.py")
        assert told.out.split("\n") == 2 * ["free"] + 2 * ["reserved sas.60014050000000b1"] + 2 * ["ours"] + [""], told
    finally:
        story.works(one, NO_TARGET)
