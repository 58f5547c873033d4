# SPDX-License-Identifier: GPL-2.0-or-later
"""A filesystem on several devices is one set: the foreign member, journal or log alone is enough for a refusal."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tools.lab import ways
from tools.lab.cluster import Cluster
from tools.lab.disk import SharedDisk
from tools.lab.story import Story
from tools.lab.vm import Node


@dataclass(frozen=True)
class Set:
    """A filesystem whose main device is a whole LUN and whose companion is a partition of another."""

    name: str
    fstype: str
    make: str  # {main} {other}
    mount: str  # command of one API
    scan: str = "true"


BTRFS = "mkfs.btrfs -qf -m raid1 -d single {main} {other}"
JOURNAL = "mkfs.ext4 -qF -O journal_dev -b 4096 {other} && mkfs.ext4 -qF -b 4096 -J device={other} {main}"
LOG = "mkfs.xfs -qf -l logdev={other},size=64m {main}"
NEW_API = "/run/attempt fsconfig {main} {dir} {fstype} "
SETS = (
    Set("btrfs, members found by scan", "btrfs", BTRFS, "mount -t btrfs {main} {dir}", "btrfs device scan >&2"),
    Set("btrfs, member named", "btrfs", BTRFS, "mount -t btrfs -o device={other} {main} {dir}"),
    Set("ext4, journal found by number", "ext4", JOURNAL, "mount -t ext4 {main} {dir}"),
    Set("ext4, journal named", "ext4", JOURNAL, "mount -t ext4 -o journal_path={other} {main} {dir}"),
    Set("btrfs, member named by fsconfig", "btrfs", BTRFS, NEW_API + "device={other}"),
    Set(
        "ext4, journal named by fsconfig",
        "ext4",
        JOURNAL,
        NEW_API + "journal_path={other}",
    ),
    Set("xfs, log named by fsconfig", "xfs", LOG, NEW_API + "logdev={other}"),
    Set("xfs with a log device", "xfs", LOG, "mount -t xfs -o logdev={other} {main} {dir}"),
)


EVERYWHERE = SETS[:2]  # btrfs opens its members before or after it can be asked about, as the kernel has it


def _disks(cluster: Cluster) -> tuple[SharedDisk, ...]:
    return (cluster.disk, cluster.xfs)


def _names(cluster: Cluster, node: Node, made: Set) -> dict[str, str]:
    part = 2 if made.fstype == "ext4" else 1
    return {
        "main": node.device(cluster.xfs),
        "other": f"{node.device(cluster.disk)}{part}",
        "dir": ways.MOUNT_POINT,
        "fstype": made.fstype,
    }


@pytest.fixture(scope="module", autouse=True)
def plain_afterwards(story: Story, cluster: Cluster) -> Iterator[None]:
    """Whoever comes next finds plain filesystems again."""
    yield
    two = cluster.nodes[1]
    lun, part = two.device(cluster.xfs), story.part(two)
    story.works(two, f"wipefs -qa {lun} {part}; mkfs.xfs -qf {lun} && mkfs.ext4 -qF {part}", 120)
    cluster.wait_free(two, lun)
    cluster.wait_free(two, part)


@pytest.fixture(
    params=[pytest.param(made, id=made.name, marks=() if made in EVERYWHERE else pytest.mark.full) for made in SETS]
)
def made(request: pytest.FixtureRequest, story: Story, cluster: Cluster, two: Node) -> Iterator[Set]:
    """The filesystem made on node-2, all of its devices free."""
    chosen: Set = request.param
    names = _names(cluster, two, chosen)
    story.works(two, "modprobe -a btrfs")
    story.works(two, f"wipefs -qa {names['main']} {names['other']}; " + chosen.make.format(**names), 120)
    cluster.wait_free(two, names["main"])
    cluster.wait_free(two, names["other"])
    yield chosen


def test_the_foreign_companion_alone_is_enough(made: Set, story: Story, one: Node, two: Node, cluster: Cluster) -> None:
    names, theirs = _names(cluster, two, made), _names(cluster, one, made)
    story.works(two, made.scan)
    holder = one.spawn(f"exec sleep 600 9<>{theirs['other']}")
    try:
        end = time.monotonic() + 30
        while cluster.state_of(one, theirs["other"]).get("state") != "live":
            assert time.monotonic() < end, holder.output()
        marks = {disk.name: disk.mark() for disk in _disks(cluster)}
        for _ in ("before this node has heard of it", "afterwards"):
            before = cluster.now_ns(two)
            outcome = two.run(made.mount.format(**names))
            assert not outcome.ok, outcome
            record = cluster.only_record(two, before)
            assert record["effect"] == "refuse", record
            assert record["holder"]["node"] == "node-1", record
            assert [w for disk in _disks(cluster) for w in disk.writes_of(two, since=marks[disk.name])] == []
            end = time.monotonic() + 30
            while cluster.state_of(two, names["other"]).get("state") != "elsewhere":
                assert time.monotonic() < end, cluster.state_of(two, names["other"])
    finally:
        holder.kill()
        cluster.wait_free(one, theirs["other"])


def test_a_free_set_mounts_at_the_first_try_under_one_token(
    made: Set, story: Story, two: Node, cluster: Cluster
) -> None:
    names = _names(cluster, two, made)
    story.works(two, made.scan)
    story.works(two, made.mount.format(**names))
    states = [cluster.state_of(two, names[which]) for which in ("main", "other")]
    assert [s["state"] for s in states] == ["live", "live"], states
    assert states[0]["token"] == states[1]["token"] > 0, states
    assert all(s["uses"] >= 1 for s in states), states
    story.works(two, f"umount {ways.MOUNT_POINT}")
    cluster.wait_free(two, names["main"])
    cluster.wait_free(two, names["other"])
