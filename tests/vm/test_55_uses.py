# SPDX-License-Identifier: GPL-2.0-or-later
"""The lease outlives the use: a last flush, a claim that refuses others, a filesystem that is in no mount table."""

from __future__ import annotations

import time

import pytest

from tools.lab import ways
from tools.lab.cluster import Cluster
from tools.lab.story import Story
from tools.lab.vm import Node

pytestmark = pytest.mark.full
WRITTEN_BYTES = 64 << 20


def test_a_buffered_write_keeps_the_device_until_its_last_byte(
    story: Story, one: Node, two: Node, cluster: Cluster
) -> None:
    """Although a reader on the same node has it open, so that the writer's close does not wait for its pages."""
    dev, mark, before = two.device(cluster.twin), cluster.twin.mark(), cluster.now_ns(two)
    reader = one.spawn(f"exec sleep 600 8<{one.device(cluster.twin)}")
    writer = one.spawn(f"exec dd if=/dev/zero of={one.device(cluster.twin)} bs=1M count=64")
    while not cluster.twin.writes_of(one, since=mark):
        time.sleep(0.2)
    while not two.run(f"dd if=/dev/urandom of={dev} bs=4k count=1 conv=notrunc,fsync").ok:
        time.sleep(0.2)
    assert writer.wait(20) == 0, writer.output()
    assert cluster.new_records(two, before)[0]["effect"] == "refuse", "it was busy at first"
    changes = [r for r in cluster.twin.requests(since=mark) if r.changes]
    first = next(r.number for r in changes if r.node == two.name)
    assert sum(r.count for r in changes if r.node == one.name and r.number < first) == WRITTEN_BYTES
    assert not [r for r in changes if r.node == one.name and r.number > first]
    reader.kill()
    cluster.wait_free(two, dev)


def test_a_use_counts_until_its_last_close_has_flushed(story: Story, one: Node, two: Node, cluster: Cluster) -> None:
    """Nobody else has it open, so the close itself writes back what is dirty, at 6 MB a second."""
    dev = one.device(cluster.twin)
    cluster.wait_free(two, two.device(cluster.twin))
    writer = one.spawn(f"exec dd if=/dev/zero of={dev} bs=1M count=48")
    closing = f"grep -qE '^(3|231) ' /proc/{writer.pid}/syscall"  # __NR_close, __NR_exit_group
    uses, end = list[int](), time.monotonic() + 40
    while len(uses) < 3 and time.monotonic() < end:
        found = cluster.state_of(one, dev)["uses"] if one.run(closing).ok else None
        if found is not None and one.run(closing).ok:  # it was all the time
            uses.append(int(found))
    assert uses == [1, 1, 1]
    assert writer.wait(40) == 0, writer.output()
    cluster.wait_free(one, dev)


@pytest.mark.parametrize(("begin", "end"), [(ways.SWAP.begin, ways.SWAP.end), (ways.RAW[3].begin, ways.RAW[3].end)])
def test_refused_mounts_of_a_claimed_device_do_not_free_its_lease(
    story: Story, one: Node, two: Node, cluster: Cluster, begin: str, end: str
) -> None:
    dev = story.part(two, 2)
    story.works(two, f"mkswap -q {dev}")
    cluster.wait_free(two, dev)
    story.works(two, begin.format(dev=dev))
    for _ in range(10):
        assert two.run(f"/run/attempt mount {dev} {ways.MOUNT_POINT} ext4").rc == 1, "the kernel: it is claimed"
    time.sleep(12)  # longer than a permit is kept for who does not come
    held = {h["resource"]: h["holder"]["node"] for h in cluster.ask(one, "who")["leases"]}
    assert held == {f"{cluster.disk.wwid.replace('naa.', 'wwn-0x')}/p2": "node-2"}
    story.refused(one, ways.MOUNTS[1], story.part(one, 2), "node-2")
    story.works(two, end.format(dev=dev))
    cluster.wait_free(two, dev)


def test_a_lazy_umount_with_an_open_file_keeps_the_lease(story: Story, one: Node, two: Node, cluster: Cluster) -> None:
    dev = story.part(two)
    story.works(two, f"mkfs.ext4 -qF {dev} && mount {dev} {ways.MOUNT_POINT}")
    holder = two.spawn(f"exec sleep 600 9>{ways.MOUNT_POINT}/open")
    story.works(two, f"while ! test -e {ways.MOUNT_POINT}/open; do sleep 0.1; done; umount -l {ways.MOUNT_POINT}")
    story.works(two, f"! grep -q {ways.MOUNT_POINT} /proc/mounts")
    time.sleep(5)
    mark = cluster.disk.mark()
    story.refused(one, ways.MOUNTS[0], story.part(one), "node-2")
    assert not cluster.disk.writes_of(one, since=mark)
    holder.kill()
    cluster.wait_free(two, dev)


def test_a_mount_sees_what_the_other_node_has_just_written(
    story: Story, one: Node, two: Node, cluster: Cluster
) -> None:
    theirs, ours = story.part(one, 2), story.part(two, 2)
    story.works(two, f"mkfs.ext4 -qF {ours}")
    cluster.wait_free(two, ours)
    reader = two.spawn(f"exec sleep 600 8<{ours}")
    story.works(two, f"dd if={ours} of=/dev/null bs=1M count=16 status=none")
    story.works(one, f"mkfs.ext4 -qF {theirs} && mount {theirs} {ways.MOUNT_POINT}")
    story.works(one, f"echo news > {ways.MOUNT_POINT}/f && umount {ways.MOUNT_POINT}")
    cluster.wait_free(one, theirs)
    read = story.works(two, f"mount {ours} {ways.MOUNT_POINT} && cat {ways.MOUNT_POINT}/f").out
    assert read == "news\n"
    story.works(two, f"umount {ways.MOUNT_POINT}")
    reader.kill()
    cluster.wait_free(two, ours)


def test_who_reads_without_a_lease_sees_what_the_other_node_wrote(
    story: Story, one: Node, two: Node, cluster: Cluster
) -> None:
    """node-2 has the disk open read-only and cached all the time; then it reads, and mounts, what node-1 made of it."""
    theirs, ours = story.part(one), story.part(two)
    story.works(one, f"mkfs.ext4 -qF -L before {theirs}")
    cluster.wait_free(one, theirs)
    reader = two.spawn(f"exec sleep 600 8<{ours}")
    label = f"dd if={ours} bs=1k skip=1 count=1 status=none | tail -c +121 | head -c 6"
    assert two.run(label).out == "before", "node-2 has the superblock cached"
    story.works(one, f"mkfs.ext4 -qF -L after. {theirs} && mount {theirs} {ways.MOUNT_POINT}")
    story.works(one, f"echo news > {ways.MOUNT_POINT}/f && umount {ways.MOUNT_POINT}")
    cluster.wait_free(one, theirs)
    end = time.monotonic() + 10
    while two.run(label).out != "after." and time.monotonic() < end:
        time.sleep(0.5)
    assert two.run(label).out == "after.", "a raw read is right soon after the other node let go"
    read = story.works(two, f"mount {ours} {ways.MOUNT_POINT} && cat {ways.MOUNT_POINT}/f").out
    assert read == "news\n", "a mount is right at once"
    story.works(two, f"umount {ways.MOUNT_POINT}")
    reader.kill()
    cluster.wait_free(two, ours)
