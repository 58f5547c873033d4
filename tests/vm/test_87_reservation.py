# SPDX-License-Identifier: GPL-2.0-or-later
"""The storage decides who writes. node-2 exports a LUN that knows reservations; node-1 has it mounted and is paused,
with its clock: nothing that it promised about time could be kept. Then its kernel goes on, and believes what it
believed. What no reservation holds waits for the word that the node was switched off."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from tools.lab import iscsi, ways
from tools.lab.cluster import Cluster
from tools.lab.story import Story
from tools.lab.vm import Node

pytestmark = [pytest.mark.full, pytest.mark.own_lab]

HERE = "/run/reserved"


@pytest.fixture(scope="module")
def names(story: Story) -> Iterator[tuple[str, str]]:
    """The LUN's name on both nodes."""
    one, two = story.one, story.two
    iscsi.export(two)
    yield iscsi.login(one), iscsi.login(two)
    iscsi.logout(one)
    iscsi.logout(two)


def promised(cluster: Cluster) -> dict[str, str]:
    """LUN -> the guarantee in node-1's lease, as etcd has it."""
    assert cluster.lab.etcd is not None
    found = cluster.lab.etcd.records("/enforcer/lab/res/")
    return {key.split("/")[4]: r.value["guarantee"] for key, r in found.items() if key.endswith("/node-1")}


@pytest.mark.timeout(600)  # it boots a node twice
def test_who_is_paused_is_taken_over_where_the_storage_refuses_him_and_nowhere_else(
    story: Story, cluster: Cluster, names: tuple[str, str], one: Node, two: Node
) -> None:
    mine, theirs = names
    stranded = story.part(one)
    story.works(one, f"mkdir -p {HERE} && mkfs.ext4 -qF {mine}")
    cluster.wait_free(one, mine)
    assert "No SPC-3 Reservation holder" in iscsi.holder(two), "given up with the last use"
    story.works(one, f"mount -t ext4 {mine} {HERE} && echo 'of node-1' > {HERE}/f && sync {HERE}/f {HERE}")
    story.works(one, f"mkfs.ext4 -qF {stranded} && mount -t ext4 {stranded} {ways.MOUNT_POINT}")
    held = iscsi.holder(two)
    assert "lab:node1" in held.splitlines()[0] and "Write Exclusive Access" in held, held
    guarantees = promised(cluster)
    assert sorted(guarantees.values()) == ["none", "reservation"], guarantees
    story.works(one, f"echo 'never arrives' >> {HERE}/f")

    one.pause()
    paused = time.monotonic()
    try:
        mount = f"mount -t ext4 {theirs} {HERE}"
        story.works(two, f"mkdir -p {HERE}")
        assert not two.run(mount).ok, "not while its session stands"
        while not (tried := two.run(mount)).ok:
            assert time.monotonic() - paused < cluster.ttl_s + 20, (tried, cluster.records(two)[-1])
            time.sleep(1)
        assert "lab:node2" in iscsi.holder(two).splitlines()[0]
        story.works(two, f"grep -qx 'of node-1' {HERE}/f && cp /etc/passwd {HERE}/g && umount {HERE}")
        cluster.wait_free(two, theirs)
        record = story.refused(two, ways.MOUNTS[0], story.part(two), "node-1")
        assert record["reason"].startswith("stranded: node-1") and "fence confirm" in record["remedy"], record
        before = two.run(f"sha256sum {iscsi.IMAGE}").out
    finally:
        one.resume()

    # dd itself may succeed, into the cache, for older pages of the file cannot be written
    late = one.run(f"dd if=/dev/zero of={HERE}/f bs=4096 count=1 oflag=direct conv=notrunc; sync; sync {HERE}/f", 60)
    assert not late.ok, late
    one.run(f"umount {HERE} || umount -l {HERE}", 60)
    assert two.run(f"sha256sum {iscsi.IMAGE}").out == before, "the storage has taken nothing of node-1"
    cluster.ready(one)
    story.works(two, f"{mount} && cmp /etc/passwd {HERE}/g && umount {HERE}")
    cluster.wait_free(two, theirs)

    one.power_off()
    story.refused(two, ways.MOUNTS[0], story.part(two), "node-1")
    story.works(two, cluster.cli(record["remedy"].removeprefix("enforcer ") + " --force"))  # its session stands still
    story.works(two, f"mount -t ext4 {story.part(two)} {ways.MOUNT_POINT} && umount {ways.MOUNT_POINT}")
    cluster.wait_free(two, story.part(two))
    one.start()
    cluster.furnish(one)
    cluster.ready(one)
