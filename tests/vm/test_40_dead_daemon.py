# SPDX-License-Identifier: GPL-2.0-or-later
"""enforcerd dead, hung, restarted: nothing fails open, nothing that is mounted notices."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest

from enforcer.model.errors import Exit
from tools.lab import ways
from tools.lab.cluster import CHECKOUT, Cluster
from tools.lab.ends import DAEMON_KILLED, KEEPER_KILLED
from tools.lab.story import Story
from tools.lab.vm import Node

pytestmark = pytest.mark.full


@pytest.fixture(scope="module")
def dead(story: Story, cluster: Cluster) -> Iterator[Node]:
    """node-2 without its daemon, with a guarded filesystem mounted at /run/live."""
    two = cluster.nodes[1]
    story.works(two, f"mkfs.ext4 -qF {story.part(two)} && mkdir -p /run/live && mount {story.part(two)} /run/live")
    story.works(two, DAEMON_KILLED)
    yield two
    if not cluster.ask(two, "status"):
        cluster.start_daemon(two)
        cluster.ready(two)


@pytest.mark.parametrize("api", ["mount", "fsconfig"])
def test_a_guarded_device_is_refused(dead: Node, cluster: Cluster, api: str) -> None:
    mark = cluster.xfs.mark()
    outcome = dead.run(f"/run/attempt {api} {dead.device(cluster.xfs)} {ways.MOUNT_POINT} xfs")
    assert outcome.rc == 1, outcome
    assert not cluster.xfs.writes_of(dead, since=mark)


def test_a_guarded_device_cannot_be_written(dead: Node, cluster: Cluster) -> None:
    assert dead.run(f"/run/attempt open {dead.device(cluster.xfs)}").rc == 1


def test_everything_else_mounts_as_ever(story: Story, dead: Node, cluster: Cluster) -> None:
    story.works(dead, "mkdir -p /run/t/{l,u,w,m} && mount -t tmpfs none /run/t && mkdir -p /run/t/{l,u,w,m}")
    story.works(
        dead, "mount -t overlay o -o lowerdir=/run/t/l,upperdir=/run/t/u,workdir=/run/t/w /run/t/m && umount /run/t/m"
    )
    story.works(dead, "mount -t proc proc /run/t/m && umount /run/t/m && mount --bind /usr /run/t/m && umount /run/t/m")
    dev = dead.device(cluster.private)
    story.works(dead, f"mkfs.ext4 -qF {dev} && mount {dev} /run/t/m && umount /run/t/m && umount /run/t")


def test_the_live_mount_works_and_can_be_remounted(story: Story, dead: Node) -> None:
    story.works(
        dead, "echo more > /run/live/f && sync && mount -o remount,ro /run/live && mount -o remount,rw /run/live"
    )


def test_the_restarted_daemon_adopts_the_lease_with_its_token(
    story: Story, dead: Node, one: Node, cluster: Cluster
) -> None:
    def token() -> int:
        leases = cluster.ask(one, "who")["leases"]
        return next(int(h["token"]) for h in leases if h["holder"]["node"] == "node-2")

    before = token()
    cluster.start_daemon(dead)
    cluster.ready(dead)
    assert token() == before
    state = cluster.state_of(dead, story.part(dead))
    assert (state["state"], state["token"]) == ("live", before), state
    assert state["uses"] >= 1
    story.refused(one, ways.MOUNTS[0], story.part(one), "node-2")


def test_what_was_refused_meanwhile_is_in_the_log(dead: Node, cluster: Cluster) -> None:
    refused = [r for r in cluster.records(dead) if r.get("source") == "fail-mode" and r["effect"] == "refuse"]
    assert len(refused) >= 3, refused
    assert all("did not answer" in r["reason"] for r in refused)


def test_an_umount_gives_the_lease_back_after_all(story: Story, dead: Node, cluster: Cluster) -> None:
    story.works(dead, "umount /run/live")
    cluster.wait_free(dead, story.part(dead))


def test_every_umount_works_without_the_daemon(story: Story, two: Node, cluster: Cluster) -> None:
    story.works(two, f"mkdir -p /run/live && mount {story.part(two)} /run/live")
    story.works(two, DAEMON_KILLED)
    story.works(two, "umount /run/live")
    cluster.start_daemon(two)
    cluster.ready(two)
    cluster.wait_free(two, story.part(two))


@pytest.fixture
def stopped(story: Story, two: Node, cluster: Cluster) -> Iterator[Node]:
    """node-2 without its daemon and its keeper; both run again afterwards."""
    story.works(two, KEEPER_KILLED)
    story.works(two, DAEMON_KILLED)
    yield two
    story.works(two, DAEMON_KILLED + "; true")
    cluster.start(two)
    cluster.ready(two)


def test_a_policy_with_a_mistake_keeps_the_daemon_from_starting_and_the_gate_shut(
    stopped: Node, cluster: Cluster
) -> None:
    stopped.put("/run/policy.d/20-more.toml", '[[rule]]\nid = "more"\nmode = "enforced"\non = ["mount"]\n')
    outcome = stopped.run("bash /run/start-enforcerd; rc=$?; tail -n 5 /run/enforcerd.log; exit $rc")
    stopped.run("rm /run/policy.d/20-more.toml")
    assert outcome.rc == Exit.NOT_CONFIGURED, outcome
    assert "enforcerd: /run/policy.d/20-more.toml:3: " in outcome.out and "Traceback" not in outcome.out, outcome
    assert stopped.run(f"/run/attempt open {stopped.device(cluster.xfs)}").rc == 1


def test_a_daemon_that_starts_without_its_store_says_so_and_refuses(stopped: Node, cluster: Cluster) -> None:
    stopped.link(False)
    try:
        cluster.start(stopped)
        end, status = time.monotonic() + 60, dict[str, Any]()
        while not (status.get("enforcing") and status["store"]["detail"]):
            assert time.monotonic() < end, (status, stopped.run("tail -n 20 /run/enforcerd.log").out)
            status = cluster.ask(stopped, "status")
        assert not status["store"]["reachable"], status
        before = cluster.now_ns(stopped)
        assert stopped.run(f"/run/attempt open {stopped.device(cluster.xfs)}").rc == 1
        record = cluster.only_record(stopped, before)
        assert record["effect"] == "refuse" and "store" in record["reason"] and record["remedy"], record
    finally:
        stopped.link(True)


def test_what_is_in_use_when_enforcement_begins_is_leased(story: Story, one: Node, two: Node, cluster: Cluster) -> None:
    story.works(
        two,
        "kill $(cat /run/enforcer/enforcerd.lock);"
        "while ! flock -n /run/enforcer/enforcerd.lock true; do sleep 0.2; done",
    )
    story.works(two, f"cd {CHECKOUT}; {sys.executable} -m enforcer.daemon.main --detach")
    story.works(two, f"mount {story.part(two)} /run/live")
    cluster.start_daemon(two)
    cluster.ready(two)
    story.refused(one, ways.MOUNTS[0], story.part(one), "node-2")
    story.works(two, "umount /run/live")
    cluster.wait_free(two, story.part(two))


def test_the_keeper_ends_a_hung_daemon_and_starts_another(two: Node, cluster: Cluster) -> None:
    before = two.run("cat /run/enforcer/enforcerd.lock").out
    two.run(f"kill -STOP {before}")
    waiter = two.spawn(f"exec /run/attempt mount {two.device(cluster.xfs)} {ways.MOUNT_POINT} xfs")
    assert waiter.wait(40) == 1, waiter.output()
    time.sleep(2)
    cluster.ready(two, 60)
    assert two.run("cat /run/enforcer/enforcerd.lock").out != before
