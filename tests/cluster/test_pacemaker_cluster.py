# SPDX-License-Identifier: GPL-2.0-or-later
"""The ClusterView against a real three-node cluster, as root: what it says while nodes are cut off, fenced and stopped.

The cluster's own agent asks the view before each mount, so the cluster itself only works as long as the view vouches
for it. The tests run in order on one cluster, and each but the last leaves it whole. What every view promises is in
test_conformance_of_views.py.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest
from lab_pacemaker import Lab, Node, loop_device, wait_for

pytestmark = [pytest.mark.skipif(os.geteuid() != 0, reason="needs root"), pytest.mark.timeout(180)]
NOT_MANAGED = "/dev/not-managed"
SILENCE_S = 15.0  # within which a silent daemon must be told as unknown: two looks of at most 6 s, and a busy machine


@pytest.fixture(scope="module")
def lab(three_nodes: Lab) -> Iterator[Lab]:
    yield three_nodes
    three_nodes.close()  # the last test leaves it in parts


def roles(lab: Lab) -> tuple[Node, Node, Node]:
    """The node where the resource is, and the others."""
    active = lab.active()
    assert active
    first = lab.node(active)
    return first, *(node for node in lab.nodes if node is not first)


def in_order(said: list[str], *wanted: str) -> bool:
    """True if sentences that hold these words came, in this order, with whatever between them."""
    left = iter(said)
    return all(any(word in sentence for sentence in left) for word in wanted)


def property_of(node: Node, name: str, value: str) -> None:
    node.run("crm_attribute", "-t", "crm_config", "-n", name, "-v", value)


def test_a_managed_filesystem_is_for_the_clusters_own_agent(lab: Lab) -> None:
    """It mounted it, so the view vouched for that; nobody else may, on the node where it is and on the others."""
    active, other, _ = roles(lab)
    here, there = active.ask(lab.device), other.ask(lab.device)
    assert (here["stance"], here["reason"]) == (
        "objects",
        "fs_lun7 is active here, and only the cluster's own agent may use it",
    )
    assert (there["stance"], there["reason"]) == ("objects", f"fs_lun7 is active on {active.name}")
    assert (there["holder"], there["quorum"]) == (active.name, "held")


def test_standby(lab: Lab) -> None:
    active, other, _ = roles(lab)
    active.run("crm_standby", "-v", "on", "-N", active.name)
    wait_for("the resource to move", lambda: lab.active() not in ("", active.name))
    where = lab.active()
    assert active.ask(lab.device)["reason"] == f"fs_lun7 is active on {where}"
    assert active.ask(NOT_MANAGED)["stance"] == "no objection"
    other.run("crm_resource", "-r", "fs_lun7", "--meta", "-p", "target-role", "-v", "Stopped")
    wait_for("the resource to stop", lambda: lab.instance(active)[0] == "Stopped")
    assert "in standby" in str(active.ask(lab.device)["reason"])
    active.run("crm_standby", "-D", "-N", active.name)
    other.run("crm_resource", "-r", "fs_lun7", "--meta", "-d", "target-role")
    wait_for("the resource to start", lab.active)


def test_maintenance(lab: Lab) -> None:
    """Pacemaker keeps its hands off: where it is active is still refused elsewhere, the rest is the store's."""
    active, other, _ = roles(lab)
    property_of(active, "maintenance-mode", "true")
    wait_for("maintenance", lambda: "in maintenance" in str(other.ask(lab.device)["health"]))
    assert other.ask(lab.device)["reason"] == f"fs_lun7 is active on {active.name}"
    assert active.ask(lab.device)["stance"] == "no objection"
    alone = active.ask(lab.device, store="no")
    assert alone["stance"] == "objects" and "no lease store" in str(alone["reason"])
    property_of(active, "maintenance-mode", "false")
    wait_for("no maintenance", lambda: active.ask(lab.device)["stance"] == "objects")


def test_the_active_node_is_cut(lab: Lab) -> None:
    """The time line on the third node; the one that was cut learns at once that it has no quorum."""
    active, second, third = roles(lab)
    watches = [node.watch(lab.device) for node in lab.nodes]
    watched = dict(zip((node.name for node in lab.nodes), watches, strict=True))
    lab.power.hold_s = 2.0
    active.cut()
    wait_for("a failover", lambda: lab.active() in (second.name, third.name))
    successor = lab.active()
    observer = watched[third.name if successor == second.name else second.name]
    observer.until(f"active on {successor}")
    said = observer.said()
    assert in_order(
        said,
        f"active on {active.name}",
        f"fencing not confirmed for {active.name}",
        f"active on {successor}",
    ), said
    after = said[next(i for i, sentence in enumerate(said) if "fencing not" in sentence) :]
    assert f"fs_lun7 is active on {active.name}" not in after
    assert in_order(watched[active.name].said(), "active here", "no quorum"), watched[active.name].said()
    assert any(line.get("pushed") is False for line in watched[active.name].lines)
    confirmed = [line["fenced"] for line in observer.lines if "fenced" in line]
    assert {*confirmed[-1]} - {*confirmed[0]} == {active.name}, "confirmed by Pacemaker, so its leases can go"
    assert {line["stance"] for line in observer.lines if "stance" in line} == {"objects"}
    assert {line["stance"] for line in watched[active.name].lines if "stance" in line} == {"objects"}
    for watch in watches:
        watch.close()
    lab.power.hold_s = 0.0
    active.boot()
    lab.up([active])


def test_corosync_that_hangs_and_fencing_that_fails_until_it_is_confirmed_by_hand(lab: Lab) -> None:
    """The node with the stopped corosync knows nothing any more; the others wait for its fencing."""
    _, victim, third = roles(lab)
    own, others = victim.watch(NOT_MANAGED), third.watch(NOT_MANAGED)
    lab.power.broken = True
    victim.signal("corosync", signal.SIGSTOP)
    assert own.until("corosync does not answer", SILENCE_S) < SILENCE_S
    others.until(f"fencing not confirmed for {victim.name}")
    wait_for("two tries of fencing", lambda: lab.power.asked.count(victim.name) >= 2)
    assert "fencing not confirmed" in str(others.lines[-1]["reason"])
    victim.signal("corosync", signal.SIGKILL)
    own.until("corosync has ended", SILENCE_S)
    assert {line["stance"] for line in own.lines[1:] if "unknown" in str(line.get("reason"))} == {"objects"}
    third.run("stonith_admin", "--confirm", victim.name)
    others.until("does not manage it")
    for watch in (own, others):
        watch.close()
    victim.power_off()
    lab.power.broken = False
    victim.boot()
    lab.up([victim])


def test_without_stonith_a_lost_node_is_not_taken_for_stopped(lab: Lab) -> None:
    """Pacemaker says offline, not unclean, and starts the resource elsewhere; the view goes on to refuse, its own
    agent too, until the node is back."""
    active, other, third = roles(lab)
    property_of(active, "stonith-enabled", "false")
    wait_for("no stonith", lambda: "stonith is off" in str(other.ask(lab.device)["health"]))
    watch = other.watch(lab.device)
    tried = len(lab.refused())
    active.cut()
    watch.until(f"fencing not confirmed for {active.name}")
    wait_for("Pacemaker to start it elsewhere, and its agent to be refused", lambda: len(lab.refused()) > tried)
    assert "fencing not confirmed" in str(watch.lines[-1]["reason"])
    assert lab.instance(other)[0] != "Started" != lab.instance(third)[0]
    watch.close()


def test_two_nodes_without_stonith_are_quorate_on_both_sides_and_permit_on_none(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    place = tmp_path_factory.mktemp("two")
    with loop_device(place) as device, Lab(place, device, count=2, stonith=False) as lab:
        watches = [node.watch(NOT_MANAGED) for node in lab.nodes]
        assert [watch.lines[-1]["stance"] for watch in watches] == ["no objection"] * 2
        lab.nodes[0].cut()
        for watch, peer in zip(watches, reversed(lab.nodes), strict=True):
            watch.until(f"fencing not confirmed for {peer.name}")
            assert (watch.lines[-1]["stance"], watch.lines[-1]["quorum"]) == ("objects", "held")
