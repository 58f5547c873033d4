# SPDX-License-Identifier: GPL-2.0-or-later
"""What lies beside the straight road: late answers, late rules, uses of before, callers without a right to ask."""

from __future__ import annotations

import time

import pytest

from tools.lab import ways
from tools.lab.cluster import Cluster
from tools.lab.ends import GATE_DOWN
from tools.lab.story import NotAsTold, Story
from tools.lab.vm import Node

HAMMER = """
import ctypes, os
children = []
for number in range(8):
    where = f"/run/h{number}".encode()
    os.makedirs(where, exist_ok=True)
    child = os.fork()
    if not child:
        libc = ctypes.CDLL(None)
        failed = 0
        for _ in range(150):
            if libc.mount(b"none", where, b"tmpfs", 0, None):
                failed += 1
            else:
                libc.umount2(where, 0)
        os._exit(min(failed, 255))
    children.append(child)
result = [os.WEXITSTATUS(os.waitpid(child, 0)[1]) for child in children]
"""


def _until(what: str, seconds: float, holds: object) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if callable(holds) and holds():
            return
        time.sleep(0.5)
    raise NotAsTold(f"{what} did not come true within {seconds:.0f} s")


def test_types_without_a_device_never_fail_however_many_mount_at_once(two: Node) -> None:
    assert two.py(HAMMER, 120) == [0] * 8


@pytest.mark.full
def test_who_may_not_mount_takes_no_lease_by_trying(story: Story, two: Node, cluster: Cluster) -> None:
    dev, before = two.device(cluster.xfs), cluster.now_ns(two)
    outcome = two.run(
        f"setpriv --reuid 65534 --regid 65534 --clear-groups /run/attempt mount {dev} {ways.MOUNT_POINT} xfs"
    )
    assert "errno 1 " in outcome.out, outcome
    assert cluster.new_records(two, before, timeout_s=1) == []
    assert cluster.state_of(two, dev)["state"] != "live"


@pytest.mark.full
def test_a_device_that_becomes_guarded_while_mounted_is_leased(story: Story, two: Node, cluster: Cluster) -> None:
    dev = two.device(cluster.private)
    story.works(two, f"mkfs.ext4 -qF {dev} && mount {dev} {ways.MOUNT_POINT}")
    assert cluster.state_of(two, dev)["state"] == "unguarded"
    two.put(
        "/run/policy.d/20-late.toml", '[[rule]]\nid = "late"\non = ["mount"]\nmatch = { device = "wwn-0x5000d1*" }\n'
    )
    try:
        cluster.ask(two, "policy-reload")
        _until("the lease", 20, lambda: cluster.state_of(two, dev).get("state") == "live")
        story.works(two, f"umount {ways.MOUNT_POINT}")
        cluster.wait_free(two, dev)
    finally:
        two.run("rm /run/policy.d/20-late.toml")
        cluster.ask(two, "policy-reload")


@pytest.mark.full
def test_a_bad_policy_is_not_loaded_and_the_old_one_stays(two: Node, cluster: Cluster) -> None:
    two.put("/run/policy.d/20-bad.toml", '[[rule]]\nid = "bad"\non = ["mont"]\n')
    try:
        before = cluster.ask(two, "status")["generation"]
        answer = cluster.ask(two, "policy-reload")
        assert answer["exit"] == 6 and "20-bad.toml:3" in str(answer["error"]), answer
        assert cluster.ask(two, "status")["generation"] == before
    finally:
        two.run("rm /run/policy.d/20-bad.toml")


@pytest.mark.full
def test_a_writer_of_before_keeps_its_lease_over_a_restart(story: Story, two: Node, cluster: Cluster) -> None:
    dev = story.part(two, 2)
    story.works(two, GATE_DOWN)
    writer = two.spawn(f"exec sleep 600 9<>{dev}")
    time.sleep(1)
    cluster.start_daemon(two)
    cluster.ready(two)
    _until("the lease", 20, lambda: cluster.state_of(two, dev).get("state") == "live")
    story.works(two, "kill -9 $(cat /run/enforcer/enforcerd.lock); sleep 0.5; rm -f /run/enforcer/control.sock")
    cluster.start_daemon(two)
    cluster.ready(two)
    time.sleep(8)
    assert cluster.state_of(two, dev)["state"] == "live"
    writer.kill()
    cluster.wait_free(two, dev)


@pytest.mark.full
def test_a_permit_that_comes_too_late_permits_nothing(story: Story, one: Node, two: Node, cluster: Cluster) -> None:
    theirs, dev = one.device(cluster.xfs), two.device(cluster.xfs)
    story.works(one, f"mount -t xfs {theirs} {ways.MOUNT_POINT}")
    before = cluster.now_ns(two)
    waiting = two.spawn(f"exec /run/attempt open {dev}")
    assert waiting.wait(1.5) is None
    two.run(f"kill -STOP {waiting.pid}")
    story.works(one, f"umount {ways.MOUNT_POINT}")
    _until("the grant", 20, lambda: cluster.state_of(two, dev).get("state") == "live")
    cluster.wait_free(two, dev, 40)
    story.works(one, f"mount -t xfs {theirs} {ways.MOUNT_POINT}")
    two.run(f"kill -CONT {waiting.pid}")
    assert waiting.wait(30) == 1, waiting.output()
    cluster.only_record(two, before)
    story.works(one, f"umount {ways.MOUNT_POINT}")
    cluster.wait_free(one, theirs)


@pytest.mark.full
def test_a_table_that_another_node_changed_is_read_again(story: Story, one: Node, two: Node, cluster: Cluster) -> None:
    disk, theirs = two.device(cluster.disk), one.device(cluster.disk)
    story.works(two, f"test ! -e /sys/class/block/{disk.removeprefix('/dev/')}3")
    story.works(one, f"echo ',,L' | sfdisk -q --append {theirs}")
    cluster.wait_free(one, theirs)
    story.works(two, f"mkfs.ext4 -qF {story.part(two)}")
    story.works(two, f"test -e /sys/class/block/{disk.removeprefix('/dev/')}3")
    story.works(one, f"sfdisk -q --delete {theirs} 3")
    cluster.wait_free(one, theirs)


@pytest.mark.full
def test_an_aborted_connection_ends_the_daemon_and_opens_nothing(two: Node, cluster: Cluster) -> None:
    old = two.run("cat /run/enforcer/enforcerd.lock").out.strip()
    two.run("for c in /sys/fs/fuse/connections/*/abort; do echo 1 > $c; done")
    _until("the end of the daemon", 10, lambda: not two.run(f"kill -0 {old}").ok)
    assert two.run(f"/run/attempt open {two.device(cluster.xfs)}").rc == 1
    cluster.start_daemon(two)
    cluster.ready(two)


@pytest.mark.full
def test_a_lun_stays_multi_attached_when_the_other_node_falls_silent(one: Node, two: Node, cluster: Cluster) -> None:
    one.run(
        "kill -9 $(cat /run/enforcer/enforcerd.lock) $(pgrep -f [e]nforcer.keeper); rm -f /run/enforcer/control.sock"
    )

    def silent() -> bool:
        return {n["node"]: n["live"] for n in cluster.ask(two, "who").get("nodes", [])}.get("node-1") is False

    _until("the end of the session", 60, silent)
    time.sleep(4)
    assert two.run(f"/run/attempt open {two.device(cluster.forgotten)}").rc == 1
    cluster.start(one)
    cluster.ready(one)
