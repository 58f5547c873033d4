# SPDX-License-Identifier: GPL-2.0-or-later
"""The story of ``make run``, step by step; and, while the dead node's journals are dirty, that nobody replays them."""

from __future__ import annotations

import pytest

from tools.lab import ways
from tools.lab.cluster import Cluster
from tools.lab.story import Story
from tools.lab.vm import Node


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


def test_a_powered_off_node_leaves_its_leases_stranded(story: Story, two: Node, cluster: Cluster) -> None:
    for disk, fstype in ((cluster.ext4, "ext4"), (cluster.xfs, "xfs")):
        where = f"/run/dirty-{fstype}"
        dev = two.device(disk)
        story.works(
            two, f"mkdir -p {where} && mount -t {fstype} {dev} {where} && mkdir {where}/d && cp /etc/passwd {where}/d/f"
        )
        story.works(two, f"sync {where}/d/f {where}/d && touch {where}/d/g")
    story.powered_off()
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
        f"mkdir -p /run/r && mount -t {fstype} {one.device(disk)} /run/r"
        " && cmp /etc/passwd /run/r/d/f && umount /run/r",
    )
    assert disk.writes_of(one, since=mark), "the journal was dirty, so its replay must have written"
