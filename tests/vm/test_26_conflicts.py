# SPDX-License-Identifier: GPL-2.0-or-later
"""In use on two nodes: node-2 mounts, while nobody asks there, what node-1 has. Both shout, nothing new begins."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from tools.lab import ways
from tools.lab.cluster import Cluster
from tools.lab.ends import GATE_DOWN
from tools.lab.story import Story
from tools.lab.vm import Node

pytestmark = [pytest.mark.full, pytest.mark.own_lab]
LOUD = "IN USE ON TWO NODES"


@dataclass(frozen=True)
class Twice:
    """What each node calls the partition that both have mounted, and how long their logs were before."""

    dev: dict[str, str]
    since: dict[str, int]


def who(cluster: Cluster, node: Node, name: str) -> dict[str, Any]:
    outcome = node.run(cluster.cli(f"who {name} --json"))
    assert outcome.ok, outcome
    found: dict[str, Any] = json.loads(outcome.out)
    return found


def noted(cluster: Cluster, node: Node, since: int, kind: str, timeout_s: float = 20) -> str:
    """The reason of the first record of that kind; waits for it."""
    end = time.monotonic() + timeout_s
    while time.monotonic() < end:
        for record in cluster.records(node)[since:]:
            if record["kind"] == kind:
                return str(record["reason"])
        time.sleep(0.3)
    raise AssertionError(f"{node.name} has no record of kind {kind}")


@pytest.fixture(scope="module")
def blind(story: Story, cluster: Cluster) -> Iterator[Node]:
    """node-2 without its gate: it has an ext4 with MMP mounted that nobody holds in the store."""
    one, two = cluster.nodes
    dev = one.device(cluster.ext4)
    story.works(one, f"mkfs.ext4 -qF -O mmp {dev}")
    cluster.wait_free(one, dev)
    story.works(two, f"{GATE_DOWN}; mkdir -p /run/mmp /run/twice && mount {two.device(cluster.ext4)} /run/mmp")
    yield two
    two.run("umount /run/twice; umount /run/mmp")
    if not cluster.ask(two, "status"):
        cluster.start_daemon(two)
        cluster.ready(two)
    cluster.wait_free(two, two.device(cluster.ext4))
    story.works(one, f"mkfs.ext4 -qF {dev}")
    cluster.wait_free(one, dev)


@pytest.fixture(scope="module")
def twice(blind: Node, story: Story, cluster: Cluster) -> Iterator[Twice]:
    """node-1 has a partition mounted under its lease, and node-2 has it mounted too when its daemon starts."""
    one, two = cluster.nodes
    dev = {node.name: story.part(node) for node in cluster.nodes}
    story.works(one, f"mkfs.ext4 -qF {dev[one.name]} && mount {dev[one.name]} {ways.MOUNT_POINT}")
    since = {node.name: len(cluster.records(node)) for node in cluster.nodes}
    story.works(two, f"mount -o ro,noload {dev[two.name]} /run/twice")
    cluster.start_daemon(two)
    cluster.ready(two)
    yield Twice(dev, since)
    two.run("umount /run/twice")
    story.works(one, f"umount {ways.MOUNT_POINT}")
    cluster.wait_free(one, dev[one.name])


def test_a_disk_that_somebody_writes_disagrees_with_a_store_that_says_free(blind: Node, cluster: Cluster) -> None:
    one = cluster.nodes[0]
    found = who(cluster, one, one.device(cluster.ext4))
    (mark,) = found["layers"][0]["disk"]["marks"]
    assert (mark["layer"], mark["moves"]) == ("ext4-mmp", True), mark
    (said,) = found["disagreements"]
    assert "the store says that nobody holds it, but its MMP block" in said and "being written now" in said


def test_both_nodes_shout(twice: Twice, cluster: Cluster) -> None:
    for node, clause in zip(cluster.nodes, ("on node-2, which has no lease", "leased to node-1"), strict=True):
        reason = noted(cluster, node, twice.since[node.name], "conflict")
        assert reason.startswith(LOUD) and clause in reason, (node.name, reason)
        assert LOUD in node.get("/run/enforcerd.log").decode()
        assert any(LOUD in warning for warning in cluster.ask(node, "status")["warnings"])


def test_nothing_new_begins_on_either(twice: Twice, cluster: Cluster) -> None:
    for node in cluster.nodes:
        since = cluster.now_ns(node)
        assert node.run(f"/run/attempt open {twice.dev[node.name]}").rc == 1
        assert node.run(f"mkdir -p /run/third && mount {twice.dev[node.name]} /run/third").rc == 32
        told = cluster.new_records(node, since, least=2)
        assert len(told) >= 2 and all("in use on two nodes" in record["reason"] for record in told), told


def test_who_shows_it_on_both_in_80_columns(twice: Twice, cluster: Cluster) -> None:
    for node in cluster.nodes:
        name = twice.dev[node.name]
        found = who(cluster, node, name)
        assert found["layers"][0]["proc"]["mounted_at"], "this node's own mount"
        assert [use["node"] for use in found["layers"][0]["conflicts"]] == ["node-2"]
        assert any(LOUD in said for said in found["disagreements"]), found["disagreements"]
        text = node.run(cluster.cli(f"who {name}").replace("COLUMNS=110", "COLUMNS=80")).out
        print(f"-- {node.name}\n{text}")
        assert max(map(len, text.splitlines())) <= 80


def test_a_layer_that_agrees_is_no_disagreement(twice: Twice, blind: Node, cluster: Cluster) -> None:
    """node-2 has leased the filesystem with MMP meanwhile; its mark bears its host name, which the lease tells."""
    one = cluster.nodes[0]
    found = who(cluster, one, one.device(cluster.ext4))
    assert found["layers"][0]["store"]["leases"][0]["holder"]["node"] == "node-2"
    assert found["layers"][0]["disk"]["marks"][0]["moves"] is True and found["disagreements"] == []


def test_it_is_over_when_one_use_ends(twice: Twice, story: Story, cluster: Cluster) -> None:
    one, two = cluster.nodes
    story.works(two, "umount /run/twice")
    for node in cluster.nodes:
        noted(cluster, node, twice.since[node.name], "conflict-over")
    story.works(one, f"/run/attempt open {twice.dev[one.name]}")
    story.refused(two, ways.MOUNTS[0], twice.dev[two.name], "node-1")
