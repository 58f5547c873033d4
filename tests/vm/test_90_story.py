# SPDX-License-Identifier: GPL-2.0-or-later
"""The story of ``make run``, step by step; and, while the dead node's journals are dirty, that nobody replays them."""

from __future__ import annotations

import struct
import time

import pytest

from tools import takeovers
from tools.at_end import Keep
from tools.lab import ways
from tools.lab.cluster import Cluster
from tools.lab.promise import promise
from tools.lab.story import Story
from tools.lab.vm import Node


def guarantees(cluster: Cluster) -> dict[str, str]:
    """LUN -> what node-2 has promised about it, as etcd has it."""
    assert cluster.lab.etcd is not None
    names = {disk.wwid.replace("naa.", "wwn-0x"): disk.name for disk in cluster.lab.disks}
    found = cluster.lab.etcd.records("/enforcer/lab/res/")
    return {names[key.split("/")[4]]: r.value["guarantee"] for key, r in found.items() if key.endswith("/node-2")}


def test_the_first_node_mounts(story: Story) -> None:
    story.first_mount()


def test_every_way_of_the_second_node_is_refused_and_the_storage_saw_no_write(story: Story) -> None:
    story.every_way_refused()


def test_another_mount_namespace_keeps_the_lease(story: Story) -> None:
    story.another_namespace()


def test_the_second_node_gets_it_at_the_first_try_with_a_higher_token(story: Story) -> None:
    story.handed_over()


def test_the_programs_raised_no_alarm(cluster: Cluster) -> None:
    for node in cluster.nodes:
        status = cluster.ask(node, "status")
        assert status["kernel"]["drops"] == 0
        assert not status["kernel"]["strict"]
        assert status["counters"]["alarms"] == 0, status


def test_the_second_node_has_dirty_journals(story: Story, two: Node, cluster: Cluster) -> None:
    for disk, fstype in ((cluster.ext4, "ext4"), (cluster.xfs, "xfs")):
        where = f"/run/dirty-{fstype}"
        dev = two.device(disk)
        story.works(
            two, f"mkdir -p {where} && mount -t {fstype} {dev} {where} && mkdir {where}/d && cp /etc/passwd {where}/d/f"
        )
        story.works(two, f"sync {where}/d/f {where}/d && touch {where}/d/g")


@pytest.mark.full
def test_it_promises_to_cut_itself_off_one_more_disk(story: Story, two: Node, cluster: Cluster) -> None:
    promise(two, cluster)
    dev = two.device(cluster.twin)
    story.works(two, f"mkfs.ext4 -qF {dev} && mkdir /run/twin && mount {dev} /run/twin && touch /run/twin/f && sync")
    assert guarantees(cluster) == {"ext4": "none", "xfs": "none", "lun": "none", "twin": "cut"}


def test_it_is_powered_off(story: Story) -> None:
    story.powered_off()


def test_the_journal_that_it_left_is_dirty(cluster: Cluster) -> None:
    """s_feature_incompat of the superblock at byte 1024 has EXT4_FEATURE_INCOMPAT_RECOVER, fs/ext4/ext4.h."""
    assert struct.unpack("<I", cluster.ext4.read(1024 + 0x60, 4))[0] & 0x4


@pytest.mark.full
def test_the_disk_of_its_promise_is_taken_over_within_the_time_that_was_printed(
    story: Story, one: Node, cluster: Cluster, taken: Keep
) -> None:
    """From when QEMU was told to quit to the end of the mount(2) on node-1, which was tried all the time."""
    mount = f"/run/attempt mount {one.device(cluster.twin)} /run/twin ext4"
    story.works(one, f"mkdir -p /run/twin; until {mount}; do sleep 0.2; done")
    took_s, worst_s = time.monotonic() - story.off_s, takeovers.printed_s(one)
    taken([takeovers.died("the power-off of a node that promised a cut", took_s, worst_s)])
    assert cluster.ttl_s / 2 < took_s < worst_s
    assert guarantees(cluster) == {"ext4": "none", "xfs": "none", "lun": "none"}, "what promised nothing stays"
    story.works(one, "test -e /run/twin/f && umount /run/twin")
    cluster.wait_free(one, one.device(cluster.twin))


def test_its_other_leases_are_stranded(story: Story) -> None:
    story.stranded()


@pytest.mark.parametrize("fstype", ["ext4", "xfs"])
@pytest.mark.parametrize("api", ["mount", "fsconfig"])
@pytest.mark.parametrize("option", ["", "ro"])
def test_a_dirty_journal_is_not_replayed(one: Node, cluster: Cluster, fstype: str, api: str, option: str) -> None:
    disk = {"ext4": cluster.ext4, "xfs": cluster.xfs}[fstype]
    mark, before = disk.mark(), disk.sha256()
    outcome = one.run(f"/run/attempt {api} {one.device(disk)} {ways.MOUNT_POINT} {fstype} {option}")
    assert f"errno {1 if fstype == 'ext4' else 16} " in outcome.out, outcome
    assert disk.writes_of(one, since=mark) == []
    assert disk.sha256() == before


def test_the_confirmed_fencing_lets_the_first_node_mount(story: Story) -> None:
    story.confirmed()


@pytest.mark.parametrize("fstype", ["ext4", "xfs"])
def test_and_it_replays_the_journals_then(story: Story, one: Node, cluster: Cluster, fstype: str) -> None:
    disk = {"ext4": cluster.ext4, "xfs": cluster.xfs}[fstype]
    mark = disk.mark()
    story.works(
        one,
        f"mkdir -p /run/r && mount -t {fstype} -o ro {one.device(disk)} /run/r"
        " && cmp /etc/passwd /run/r/d/f && umount /run/r",
    )
    assert disk.writes_of(one, since=mark), "a mount that only reads has written: so the journal was dirty"
