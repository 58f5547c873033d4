# SPDX-License-Identifier: GPL-2.0-or-later
"""Beside the gates' usual way: sources that lie on no device, and openers inside the kernel that nobody can ask."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest

from tools.lab import ways
from tools.lab.cluster import EXPORT, Cluster
from tools.lab.story import Story
from tools.lab.vm import CommandFailed, Node

pytestmark = pytest.mark.full

RULE = f"""
[[rule]]
id      = "no-9p"
on      = ["mount"]
match   = {{ fstype = "9p", source = "{EXPORT[:3]}*" }}
verdict = "deny"
errno   = "EACCES"
"""
SUBSYSTEM = "/sys/kernel/config/nvmet/subsystems/lab"
NAMESPACE = f"{SUBSYSTEM}/namespaces/1"


@pytest.fixture
def denied(two: Node, cluster: Cluster) -> Iterator[None]:
    """A rule that refuses a source of type 9p."""
    two.put("/run/policy.d/20-9p.toml", RULE)
    assert "error" not in cluster.ask(two, "policy-reload")
    yield
    two.run("rm /run/policy.d/20-9p.toml")
    assert "error" not in cluster.ask(two, "policy-reload")


def _mount_9p(node: Node, api: str) -> str:
    return node.run(f"/run/attempt {api} {EXPORT} {ways.MOUNT_POINT} 9p").out.strip()


@pytest.mark.parametrize("api", ["mount", "fsconfig"])
def test_a_source_without_a_device_mounts_where_no_rule_names_it(
    story: Story, two: Node, cluster: Cluster, api: str
) -> None:
    asks = cluster.ask(two, "status")["counters"]["kernel_asks"]
    assert _mount_9p(two, api) == "ok"
    story.works(two, f"umount {ways.MOUNT_POINT}")
    assert cluster.ask(two, "status")["counters"]["kernel_asks"] == asks


@pytest.mark.parametrize(("api", "number"), [("mount", 13), ("fsconfig", 12)])
def test_a_source_without_a_device_is_refused_by_its_rule(
    denied: None, two: Node, cluster: Cluster, api: str, number: int
) -> None:
    """An error of sb_alloc_security has but one face for who called fsconfig(2): ENOMEM."""
    before = cluster.now_ns(two)
    assert f": errno {number} " in _mount_9p(two, api)
    assert not two.run(f"grep -q ' {ways.MOUNT_POINT} ' /proc/mounts").ok
    record = cluster.only_record(two, before)
    assert (record["effect"], record["rule"], record["source"]) == ("refuse", "no-9p", "policy"), record
    assert (record["kind"], record["fstype"], record["source_path"]) == ("mount", "9p", EXPORT), record
    assert record["errno"]["name"] == "EACCES" and record["device"] is None, record


@pytest.fixture
def target(story: Story, two: Node, cluster: Cluster) -> Iterator[str]:
    """An nvmet namespace on the ext4 LUN, whose rule answers EPERM; the command that opens the device."""
    dev = two.device(cluster.ext4)
    story.works(
        two,
        "modprobe nvmet && { mountpoint -q /sys/kernel/config || mount -t configfs none /sys/kernel/config; } &&"
        f"mkdir -p {NAMESPACE} && echo -n {dev} >{NAMESPACE}/device_path",
    )
    yield f"echo 1 >{NAMESPACE}/enable"
    story.works(two, f"echo 0 >{NAMESPACE}/enable; rmdir {NAMESPACE} {SUBSYSTEM} && modprobe -r nvmet")
    cluster.wait_free(two, dev)


def _refused_by_the_guard(two: Node, cluster: Cluster, command: str, state: str) -> dict[str, Any]:
    """The one record of an opener that is refused without an ask, once the node knows the device to be so."""
    dev = two.device(cluster.ext4)
    end = time.monotonic() + 10
    while cluster.state_of(two, dev)["state"] != state:
        if time.monotonic() > end:
            raise CommandFailed(f"{dev} did not come to be {state}")
        time.sleep(0.3)
    mark, before = cluster.ext4.mark(), cluster.now_ns(two)
    outcome = two.run(command)
    assert "Operation not permitted" in outcome.err, outcome
    assert two.run(f"cat {NAMESPACE}/enable").out.strip() == "0"
    assert cluster.ext4.writes_of(two, since=mark) == []
    record = cluster.only_record(two, before)
    assert (record["effect"], record["source"], record["errno"]["name"]) == ("refuse", "guard", "EPERM"), record
    assert (record["rule"], record["caller"]["comm"]) == ("other-errno", "bash"), record
    return record


def test_an_opener_inside_the_kernel_is_refused_with_holder_and_hint(
    story: Story, one: Node, two: Node, cluster: Cluster, target: str
) -> None:
    theirs = one.device(cluster.ext4)
    story.works(one, f"mount -t ext4 {theirs} {ways.MOUNT_POINT}")
    record = _refused_by_the_guard(two, cluster, target, "elsewhere")
    assert record["holder"] and record["holder"]["node"] == "node-1" and record["holder"]["token"] > 0, record
    assert "in use on node-1" in record["reason"] and "end its use on node-1" in record["remedy"], record
    words = two.run(cluster.cli(f"explain {record['id']}")).out
    assert "node-1" in words and "exec 9<>" in words, words
    story.works(one, f"umount {ways.MOUNT_POINT}")
    cluster.wait_free(one, theirs)


def test_an_opener_inside_the_kernel_works_under_a_lease_if_done_as_the_hint_says(
    story: Story, one: Node, two: Node, cluster: Cluster, target: str
) -> None:
    dev = two.device(cluster.ext4)
    record = _refused_by_the_guard(two, cluster, target, "free")
    assert record["holder"] is None, record
    hint = record["remedy"].partition(": ")[2]
    story.works(two, f"set -e; {hint.replace('try again', target)}")
    time.sleep(4)  # as long as it takes to give back what nobody uses
    state = cluster.state_of(two, dev)
    assert state["state"] == "live" and state["uses"] >= 1, state
    assert "errno 1 " in one.run(f"/run/attempt open {one.device(cluster.ext4)}").out
    story.works(two, f"echo 0 >{NAMESPACE}/enable")
    cluster.wait_free(two, dev)
