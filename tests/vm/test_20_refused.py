# SPDX-License-Identifier: GPL-2.0-or-later
"""A device that another node holds: what the refused caller sees, whatever way it took."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tools.lab import ways
from tools.lab.cluster import Cluster
from tools.lab.story import Story
from tools.lab.vm import Node
from tools.lab.ways import Way


@pytest.fixture
def held(story: Story, one: Node, cluster: Cluster) -> Iterator[str]:
    """node-1 has the ext4 LUN mounted, whose rule answers EPERM; its name on node-2."""
    dev = one.device(cluster.ext4)
    story.works(one, f"mount -t ext4 {dev} {ways.MOUNT_POINT}")
    yield cluster.nodes[1].device(cluster.ext4)
    story.works(one, f"umount {ways.MOUNT_POINT}")
    cluster.wait_free(one, dev)


@pytest.mark.parametrize("api", ["mount", "fsconfig"])
@pytest.mark.parametrize("option", ["", "ro"])
def test_the_rules_errno_reaches_the_caller_through_both_apis(held: str, two: Node, api: str, option: str) -> None:
    outcome = two.run(f"/run/attempt {api} {held} {ways.MOUNT_POINT} ext4 {option}")
    assert "errno 1 " in outcome.out, outcome


@pytest.mark.parametrize("way", ways.MOUNTS[:3], ids=lambda way: way.name)
def test_the_refused_caller_reads_one_line_on_its_terminal(held: str, two: Node, cluster: Cluster, way: Way) -> None:
    before = cluster.now_ns(two)
    outcome = two.run(f"script -qec '{way.started(held)}' /dev/null </dev/null")
    record = cluster.new_records(two, before)[0]
    lines = [line for line in outcome.out.splitlines() if line.startswith("enforcer: ")]
    assert len(lines) == 1, outcome
    assert "node-1" in lines[0], lines
    assert f"enforcer explain {record['id']}" in lines[0], lines


def test_the_record_explains_itself(held: str, two: Node, cluster: Cluster) -> None:
    before = cluster.now_ns(two)
    two.run(f"mount -t ext4 {held} {ways.MOUNT_POINT}")
    record = cluster.only_record(two, before)
    assert record["rule"] == "other-errno"
    assert record["generation"] == 1
    assert (record["source"], record["store"]) == ("store", "etcd")
    assert record["holder"]["node"] == "node-1"
    assert record["holder"]["token"] > 0
    assert record["errno"] == {"name": "EPERM", "number": 1}
    assert record["target"] == ways.MOUNT_POINT
    assert record["caller"]["exe"] == "/usr/bin/mount"
    assert len(record["caller"]["build_id"]) == 40
    assert record["caller"]["syscall"] == "mount"
    assert record["device"]["resources"] == ["wwn-0x5000c50015ea71ad"]
    assert set(record["latency_us"]) >= {"classify", "policy", "store", "total"}
    words = two.run(cluster.cli(f"explain {record['id']}")).out
    assert "node-1" in words and "other-errno" in words, words


def test_a_lun_that_two_nodes_see_and_no_rule_names_is_refused(two: Node, cluster: Cluster) -> None:
    dev = two.device(cluster.forgotten)
    mark, before = cluster.forgotten.mark(), cluster.now_ns(two)
    assert two.run(f"/run/attempt open {dev}").rc == 1
    record = cluster.only_record(two, before)
    assert (record["rule"], record["default"]) == ("", "multi_attached"), record
    assert not cluster.forgotten.writes_of(two, since=mark)


def test_the_nodes_publish_what_they_see_and_under_which_policy(two: Node, cluster: Cluster) -> None:
    nodes = {n["node"]: n for n in cluster.ask(two, "who")["nodes"]}
    assert set(nodes) == {"node-1", "node-2"}
    assert nodes["node-1"]["policy_digest"] == nodes["node-2"]["policy_digest"] != ""
    assert f"wwn-0x{cluster.forgotten.wwn:016x}" in nodes["node-1"]["luns"]
    assert f"wwn-0x{cluster.private.wwn:016x}" not in nodes["node-1"]["luns"]


def test_an_unguarded_device_is_none_of_our_business(story: Story, two: Node, cluster: Cluster) -> None:
    dev = two.device(cluster.private)
    story.works(two, f"mkfs.ext4 -qF {dev} && mount {dev} {ways.MOUNT_POINT} && umount {ways.MOUNT_POINT}")


def test_types_without_a_device_cost_no_upcall(story: Story, two: Node, cluster: Cluster) -> None:
    before = cluster.ask(two, "status")["counters"]
    story.works(
        two, "mkdir -p /run/t && for i in $(seq 20); do mount -t tmpfs none /run/t && umount /run/t || exit 1; done"
    )
    after = cluster.ask(two, "status")["counters"]
    assert after["kernel_asks"] == before["kernel_asks"]
    assert after["passed_without_upcall"] >= before["passed_without_upcall"] + 20


@pytest.mark.full
def test_a_store_out_of_reach_refuses_and_says_so(story: Story, two: Node, cluster: Cluster) -> None:
    dev = two.device(cluster.ext4)
    mark = cluster.ext4.mark()
    two.link(False)
    try:
        before = cluster.now_ns(two)
        for attempt in ("mount", "fsconfig"):
            outcome = two.run(f"/run/attempt {attempt} {dev} {ways.MOUNT_POINT} ext4", 60)
            assert "errno 1 " in outcome.out, outcome
        records = cluster.new_records(two, before, least=2)
        assert all("store" in r["reason"] and r["effect"] == "refuse" for r in records), records
    finally:
        two.link(True)
    assert not cluster.ext4.writes_of(two, since=mark)
    cluster.ready(two)
    story.works(two, f"mount -t ext4 {dev} {ways.MOUNT_POINT} && umount {ways.MOUNT_POINT}")
    cluster.wait_free(two, dev)


@pytest.mark.full
def test_a_second_daemon_is_refused(two: Node) -> None:
    outcome = two.run("bash /run/start-enforcerd; rc=$?; tail -n 2 /run/enforcerd.log; exit $rc")
    assert outcome.rc == 1, outcome
    assert "another enforcerd is running (pid " in outcome.out, outcome
