# SPDX-License-Identifier: GPL-2.0-or-later
"""etcd loses its leader, its quorum, and sight of a node: no lease is lost, nothing becomes free, the kernel stops by
itself. What etcd holds is read from the host, by other code than the nodes'.

Who may take over from a holder that is gone is in test_90_story.py (a confirmed fencing) and, against a real etcd too,
in tests/unit/cluster/test_etcd_store.py (a confirmed fencing, and the same machine back under another boot id).
"""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from tools.lab import ways
from tools.lab.cluster import Cluster
from tools.lab.etcd import EtcdServer, Record
from tools.lab.story import Story
from tools.lab.vm import Node

pytestmark = pytest.mark.full

LIVE = "/run/live"
STOP_BOTH = "kill -STOP $(cat /run/enforcer/enforcerd.lock) $(pgrep -f '[e]nforcer.keeper.main')"
KILL_BOTH = "kill -KILL $(cat /run/enforcer/enforcerd.lock) $(pgrep -f '[e]nforcer.keeper.main'); sleep 0.5"


@pytest.fixture
def etcd(cluster: Cluster) -> Iterator[EtcdServer]:
    """Three members, up before and after."""
    server = cluster.lab.etcd
    assert server is not None and len(server.members) == 3
    yield server
    server.resume()
    server.start()


@pytest.fixture
def live(story: Story, one: Node, cluster: Cluster) -> Iterator[str]:
    """node-1 has the first partition of the LUN mounted at /run/live; its name on node-1."""
    dev = story.part(one)
    story.works(one, f"mkdir -p {LIVE} && mkfs.ext4 -qF {dev} && mount -t ext4 {dev} {LIVE}")
    yield dev
    if not cluster.ask(one, "status"):  # a case that failed has left it stopped or dead
        one.run(KILL_BOTH)
        cluster.start(one)
        cluster.ready(one)
    story.works(one, f"umount {LIVE}")
    cluster.wait_free(one, dev)


def sessions(etcd: EtcdServer) -> dict[str, Record]:
    """The nodes' sessions as etcd has them."""
    return etcd.records("/enforcer/lab/node/")


def leases(etcd: EtcdServer, node: str) -> dict[str, tuple[int, str]]:
    """What etcd says that a node holds: key -> token and session."""
    found = etcd.records("/enforcer/lab/res/")
    return {
        key: (int(r.value.get("token", r.mod_revision)), r.value["session"])
        for key, r in found.items()
        if key.endswith(f"/{node}")
    }


def deadline(cluster: Cluster, node: Node) -> float:
    """Until when the node's kernel lets it write; host's monotonic clock, rather too early than too late."""
    now = time.monotonic()
    left = cluster.ask(node, "status")["keeper"]["deadline_in_s"]
    return now + float(left or 0)


def renewed_since(cluster: Cluster, node: Node, began: float) -> bool:
    """Whether a renewal that was sent after ``began`` has reached the kernel."""
    margin_s = 0.5 + cluster.ttl_s / 500
    return deadline(cluster, node) > began + cluster.ttl_s - margin_s


@pytest.mark.parametrize(("how", "leader"), [("killed", 0), ("hung", 1)])  # the nodes ask 0 first, and then 1
def test_a_lost_leader_costs_no_lease(
    live: str, story: Story, etcd: EtcdServer, cluster: Cluster, one: Node, two: Node, how: str, leader: int
) -> None:
    free = two.device(cluster.ext4)
    before, held = sessions(etcd), leases(etcd, "node-1")
    assert len(before) == 2 and len(held) == 1
    etcd.lead(leader)
    etcd.kill(leader) if how == "killed" else etcd.pause(leader)
    began = time.monotonic()
    story.works(two, f"mount -t ext4 {free} {ways.MOUNT_POINT}")
    assert time.monotonic() - began < 12, "a free LUN is mounted once the others have a leader"
    assert etcd.leader() != leader
    story.refused(two, ways.MOUNTS[0], story.part(two), "node-1")
    story.works(one, f"echo x > {LIVE}/f && sync {LIVE}/f")
    while not all(renewed_since(cluster, node, began) for node in (one, two)):
        assert time.monotonic() - began < 20, "both nodes renew with the others"
    etcd.resume(leader)
    etcd.start()
    assert sessions(etcd) == before
    assert leases(etcd, "node-1") == held
    story.works(two, f"umount {ways.MOUNT_POINT}")
    cluster.wait_free(two, free)


def test_without_a_quorum_mounts_are_refused_and_the_kernel_stops_by_itself(
    live: str, story: Story, etcd: EtcdServer, cluster: Cluster, one: Node, two: Node
) -> None:
    second, ext4, xfs = story.part(one, 2), two.device(cluster.ext4), two.device(cluster.xfs)
    story.works(one, f"mkfs.ext4 -qF {second} && mount -t ext4 {second} {ways.MOUNT_POINT}")
    before, held, marks = sessions(etcd), leases(etcd, "node-1"), (cluster.ext4.mark(), cluster.xfs.mark())
    assert len(held) == 2
    since = cluster.now_ns(two)
    leader = etcd.leader()
    for member in (leader, (leader + 1) % 3):
        etcd.kill(member)
    mounts = [  # of LUNs that nobody has
        two.spawn(f"exec /run/attempt mount {ext4} {ways.MOUNT_POINT} ext4"),
        two.spawn(f"exec /run/attempt fsconfig {ext4} {ways.MOUNT_POINT} ext4"),
        two.spawn(f"exec /run/attempt fsconfig {xfs} {ways.MOUNT_POINT} xfs"),
    ]
    story.works(one, STOP_BOTH)
    stopped = time.monotonic()
    story.works(one, f"/run/attempt open {live}")  # nobody is there to be asked, and the lease is live

    outcomes = [(mount.wait(30), mount.output().partition(": ")[2].strip()) for mount in mounts]
    eperm, ebusy = (3, "errno 1 (Operation not permitted)"), (1, "errno 16 (Device or resource busy)")
    assert outcomes == [eperm, eperm, ebusy], "as their rules say"
    records = cluster.new_records(two, since, least=3)
    assert len(records) == 3, records
    for record in records:
        assert record["effect"] == "refuse" and "the lease store did not answer" in record["reason"], record
    reason, end = "", time.monotonic() + 30  # a busy machine may be too late with the members' own words
    while "it has no quorum now (1 of 3 members answers and knows no leader)" not in reason:
        assert time.monotonic() < end, reason
        since = cluster.now_ns(two)
        assert two.run(f"/run/attempt mount {ext4} {ways.MOUNT_POINT} ext4").rc == 3
        reason = cluster.only_record(two, since)["reason"]
    assert not cluster.ext4.writes_of(two, since=marks[0]) and not cluster.xfs.writes_of(two, since=marks[1])
    told = time.monotonic() + 30
    while "no quorum" not in cluster.ask(two, "status")["store"]["detail"]:
        assert time.monotonic() < told, "status says why the store is silent"
        time.sleep(0.5)

    time.sleep(max(0.0, stopped + cluster.ttl_s - time.monotonic()))  # the last renewal was sent before it
    asks = one.spawn(f"exec /run/attempt open {live}")
    assert asks.wait(1.5) is None, "the lease is live no more: the open asks, and waits for a hung daemon"
    asks.kill("TERM")
    assert asks.wait(2) == 143 and not asks.output()
    story.works(one, KILL_BOTH)
    refused = one.run(f"/run/attempt open {live}")
    assert refused.rc == 1 and "errno 16 " in refused.out, "without a daemon it is refused at once"
    story.works(one, f"umount {ways.MOUNT_POINT}")

    etcd.start()
    cluster.start(one)
    cluster.ready(one)
    cluster.ready(two)
    assert sessions(etcd) == before, "the members count from new, and both keepers went on in time"
    cluster.wait_free(one, second)
    after = leases(etcd, "node-1")
    assert len(after) == 1 and after.items() <= held.items(), "the live mount's lease is what it was"
    story.works(one, f"/run/attempt open {live} && echo x > {LIVE}/f && sync {LIVE}/f")
    story.refused(two, ways.MOUNTS[0], story.part(two), "node-1")
    for dev, fstype in ((ext4, "ext4"), (xfs, "xfs")):
        story.works(two, f"mount -t {fstype} {dev} {ways.MOUNT_POINT} && umount {ways.MOUNT_POINT}")
        cluster.wait_free(two, dev)


def test_a_lease_outlives_the_session_of_its_holder(
    live: str, story: Story, etcd: EtcdServer, cluster: Cluster, one: Node, two: Node
) -> None:
    held, boot_id, old = leases(etcd, "node-1"), one.boot_id, sessions(etcd)
    since = cluster.now_ns(one)
    one.link(False)
    try:
        cut = time.monotonic()
        while len(sessions(etcd)) == 2:
            assert time.monotonic() - cut < cluster.ttl_s + 15, "the session ends by itself"
            time.sleep(0.5)
        assert leases(etcd, "node-1") == held, "the lease does not"
        blind = one.spawn(f"exec /run/attempt mount {one.device(cluster.ext4)} {ways.MOUNT_POINT} ext4")
        record = story.refused(two, ways.MOUNTS[0], story.part(two), "node-1")
        assert record["reason"].startswith("stranded: node-1"), record
        assert record["remedy"] == f"enforcer fence confirm node-1 --boot-id {boot_id}"
        assert one.run(f"/run/attempt open {live}").rc == 1, "and its holder may begin nothing any more"
        assert blind.wait(30) == 3, blind.output()
        reasons = [r["reason"] for r in cluster.new_records(one, since, least=2)]
        assert all("out of reach" in reason for reason in reasons), reasons
    finally:
        one.link(True)
    cluster.ready(one)
    while len(sessions(etcd)) < 2 or not renewed_since(cluster, one, cut + 1):
        assert time.monotonic() - cut < 90, "the keeper opens another session"
        time.sleep(0.3)
    assert sessions(etcd)["/enforcer/lab/node/node-1"] != old["/enforcer/lab/node/node-1"]
    assert leases(etcd, "node-1") == held, "under which the lease is the same, with its token"
    record = story.refused(two, ways.MOUNTS[0], story.part(two), "node-1")
    assert "stranded" not in record["reason"]
    story.works(one, f"/run/attempt open {live} && echo x > {LIVE}/f && sync {LIVE}/f")
