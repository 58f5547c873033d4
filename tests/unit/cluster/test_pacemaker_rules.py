# SPDX-License-Identifier: GPL-2.0-or-later
"""What Pacemaker's state means for a use: each trap, and who may do what with a managed device."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from enforcer.cluster.corosync import Votes
from enforcer.cluster.pacemaker_rules import Picture, decide
from enforcer.cluster.pacemaker_state import Configuration, Managed, Member, Running, State
from enforcer.cluster.view import Fencing, Opinion, Site, Stance, Use
from enforcer.model.resource import DevNum, ResourceId, UseKind

LUN, P1, P2 = ResourceId("wwn-a"), ResourceId("wwn-a", ("p1",)), ResourceId("wwn-a", ("p2",))
DISK, PART, PART2, VOLUME = DevNum(8, 0), DevNum(8, 1), DevNum(8, 2), DevNum(253, 0)
SITES = {"/dev/sda": Site(DISK, (LUN,)), "/dev/sda1": Site(PART, (P1,)), "/dev/vg/one": Site(VOLUME, (LUN,))}
ON_PART = Use(PART, (P1,))
OTHER = Use(DevNum(8, 16), (ResourceId("wwn-b"),))
FS = Managed("fs", ("/dev/sda1",))


def member(number: int, **more: Any) -> Member:
    flags = {"online": True, "expected_up": True} | dict.fromkeys(
        ("standby", "maintenance", "pending", "unclean"), False
    )
    return Member(f"ha{number}", str(number), **{**flags, **more})


def running(role: str = "Started", *nodes: str, id: str = "fs", **more: Any) -> Running:
    return Running(id, role, **{"managed": True, "failed": False, "blocked": False, "nodes": nodes, **more})


LOST = {"online": False}
GONE = {"online": False, "expected_up": False}
WHOLE = Picture(
    Votes(1, quorate=True, two_node=False, total=3, expected=3),
    State(True, True, False, (member(1), member(2), member(3)), (running("Stopped"),)),
    Configuration((FS,)),
    SITES.get,
    lease_store=True,
)
TWO_NODES = replace(
    WHOLE,
    votes=replace(WHOLE.votes, two_node=True, expected=2, total=2),
    state=replace(WHOLE.state, members=(member(1), member(2))),
)


def having(picture: Picture = WHOLE, **state: Any) -> Picture:
    return replace(picture, state=replace(picture.state, **state))


def with_fs(*instances: Running, **more: Any) -> Picture:
    return replace(having(running=instances), **more)


def without_store(picture: Picture) -> Picture:
    return replace(picture, lease_store=False)


def said(picture: Picture, use: Use = ON_PART) -> tuple[Stance, str]:
    opinion = decide(picture, use)
    return opinion.stance, opinion.reason


def test_what_the_cluster_does_not_manage_is_the_lease_stores() -> None:
    assert decide(WHOLE, OTHER).stance is Stance.NO_OBJECTION
    assert decide(WHOLE, Use(PART2, (P2,))).stance is Stance.NO_OBJECTION  # another partition of the same disk


def test_its_own_agent_is_vouched_for_while_the_cluster_starts_it_here() -> None:
    opinion = decide(with_fs(running("Starting", "ha1")), ON_PART)
    assert (opinion.stance, opinion.resource) == (Stance.VOUCHES, "fs")


@pytest.mark.parametrize(
    ("instance", "sentence"),
    [
        (running("Started", "ha2"), "fs is active on ha2"),
        (running("Starting", "ha2"), "fs is active on ha2 (starting)"),
        (running("Stopping", "ha2"), "fs is active on ha2 (stopping)"),
        (running("Migrating", "ha1", "ha2"), "fs is active on ha2"),
        (running("Started", "ha1"), "fs is active here, and only the cluster's own agent may use it"),
        (running("Stopping", "ha1"), "fs is active here, and only the cluster's own agent may use it"),
        (running("Stopped"), "fs is managed by the cluster: only the cluster's own agent may use it"),
        (running("Started", "ha2", failed=True, blocked=True), "fs is active on ha2"),
        (running("Stopped", blocked=True), "fs has failed"),
    ],
)
def test_nobody_else_may(instance: Running, sentence: str) -> None:
    for picture in (with_fs(instance), without_store(with_fs(instance))):
        assert said(picture) == (Stance.OBJECTS, sentence)
    assert decide(with_fs(instance), Use(DISK, (LUN,))).stance is Stance.OBJECTS  # nor by way of the whole disk


def test_it_may_not_start_here_while_it_is_anything_anywhere_else() -> None:
    assert said(with_fs(running("Starting", "ha1"), running("Started", "ha2"))) == (
        Stance.OBJECTS,
        "fs is active on ha2",
    )
    assert decide(with_fs(running("Started", "ha1", "ha3")), replace(ON_PART, running=True)).holder == "ha3"


def test_the_start_of_a_filesystem_on_a_partition_says_nothing_of_the_whole_disk() -> None:
    assert decide(with_fs(running("Starting", "ha1")), Use(DISK, (LUN,))).objects


def test_a_volume_group_is_managed_by_its_name() -> None:
    use = Use(DISK, (LUN,), aliases=("wwn-a", "vg:data"), kind=UseKind.DM_LOAD)
    for instance, stance in ((running("Starting", "ha1"), Stance.VOUCHES), (running("Started", "ha2"), Stance.OBJECTS)):
        picture = with_fs(instance, configuration=Configuration((Managed("fs", (), ("data",)),)))
        assert decide(picture, use).stance is stance


def test_of_volumes_on_one_disk_the_very_one_counts() -> None:
    configuration = Configuration((Managed("vg", (), ("data",)), Managed("fs", ("/dev/vg/one",))))
    use = Use(VOLUME, (LUN,), aliases=("vg:data",))
    up = running("Started", "ha1", id="vg")
    assert decide(with_fs(up, running("Starting", "ha1"), configuration=configuration), use).stance is Stance.VOUCHES
    starting = running("Starting", "ha1", id="vg")
    assert decide(with_fs(starting, running("Started", "ha1"), configuration=configuration), use).objects


LOST_SIGHT: list[tuple[str, Callable[[Picture], Picture]]] = [
    ("unclean", lambda p: having(p, members=(member(1), member(2, unclean=True), member(3)))),
    ("unclean and away", lambda p: having(p, members=(member(1), member(2, unclean=True, **LOST), member(3)))),
    ("lost", lambda p: having(p, members=(member(1), member(2, **LOST), member(3)))),
    ("lost, stonith off", lambda p: having(p, stonith=False, members=(member(1), member(2, **LOST), member(3)))),
    ("being fenced", lambda p: having(p, fencings=(Fencing("ha2", "k", done=False),))),
]


@pytest.mark.parametrize("change", [c for _, c in LOST_SIGHT], ids=[name for name, _ in LOST_SIGHT])
@pytest.mark.parametrize("instance", [running("Starting", "ha1"), running("Started", "ha2"), running("Stopped")])
def test_as_long_as_fencing_is_not_confirmed_nobody_may_anything(
    change: Callable[[Picture], Picture], instance: Running
) -> None:
    """Not even the cluster's own agent; and where it was active is no longer what matters."""
    for use in (ON_PART, OTHER, replace(ON_PART, running=True)):
        assert said(change(with_fs(instance)), use) == (Stance.OBJECTS, "fencing not confirmed for ha2")


def test_who_left_in_good_order_or_was_fenced_is_in_nobodys_way() -> None:
    fenced = having(members=(member(1), member(2, **GONE), member(3)), fencings=(Fencing("ha2", "k", done=True),))
    for picture in (fenced, without_store(fenced)):
        assert decide(picture, OTHER).stance is Stance.NO_OBJECTION


@pytest.mark.parametrize("lease_store", [True, False])
def test_without_a_quorum_nobody_may_anything(lease_store: bool) -> None:
    for picture in (replace(WHOLE, votes=replace(WHOLE.votes, quorate=False, total=1)), having(with_quorum=False)):
        for use in (ON_PART, OTHER):
            stance, reason = said(replace(picture, lease_store=lease_store), use)
            assert stance is Stance.OBJECTS and reason.startswith("no quorum")


@pytest.mark.parametrize(
    "me",
    [
        member(1, pending=True),
        member(1, online=False, expected_up=False),
        member(1, unclean=True),
        member(9),
    ],
)
def test_who_is_no_clean_member_may_nothing(me: Member) -> None:
    assert decide(having(members=(me, member(2), member(3)), running=(running("Starting", "ha1"),)), ON_PART).objects
    assert decide(having(members=(me, member(2), member(3))), OTHER).objects


def test_two_nodes_without_stonith_must_both_be_there() -> None:
    """Each side of a cut is quorate. One that was shut down cannot be told from one that was never seen."""
    alone = having(TWO_NODES, stonith=False, members=(member(1), member(2, **GONE)))
    unseen = replace(having(alone, members=(member(1),)), votes=replace(alone.votes, total=1))
    for picture in (alone, unseen):
        assert "both sides are quorate" in said(picture, OTHER)[1]
    assert decide(having(TWO_NODES, stonith=False), OTHER).stance is Stance.NO_OBJECTION
    assert decide(having(alone, stonith=True), OTHER).stance is Stance.NO_OBJECTION


def test_without_stonith_and_without_a_lease_store_all_nodes_must_be_there() -> None:
    away = having(
        stonith=False, members=(member(1), member(2, **GONE), member(3)), running=(running("Starting", "ha1"),)
    )
    assert decide(away, ON_PART).stance is Stance.VOUCHES
    assert decide(without_store(away), ON_PART).objects
    without_startup = replace(WHOLE.configuration, startup_fencing=False)
    assert decide(replace(without_store(having(away, stonith=True)), configuration=without_startup), ON_PART).objects


MAINTENANCE = {
    "cluster": having(maintenance=True),
    "node": having(members=(member(1, maintenance=True), member(2), member(3))),
    "resource": having(running=(running("Stopped", managed=False),)),
}


@pytest.mark.parametrize("picture", MAINTENANCE.values(), ids=MAINTENANCE)
def test_in_maintenance_the_lease_store_decides_and_without_one_nobody(picture: Picture) -> None:
    assert decide(picture, ON_PART).stance is Stance.NO_OBJECTION
    assert "no lease store" in said(without_store(picture))[1]
    away = having(picture, running=(replace(picture.state.running[0], role="Started", nodes=("ha2",)),))
    assert said(away) == (Stance.OBJECTS, "fs is active on ha2")
    lost = having(picture, members=(picture.state.members[0], member(2, unclean=True), member(3)))
    assert decide(lost, ON_PART).objects


def test_maintenance_of_another_node_changes_nothing_here() -> None:
    assert decide(having(members=(member(1), member(2, maintenance=True), member(3))), ON_PART).objects


def test_in_standby_a_managed_device_is_refused_and_another_is_not() -> None:
    picture = having(members=(member(1, standby=True), member(2), member(3)))
    assert "standby" in said(picture)[1] and decide(picture, OTHER).stance is Stance.NO_OBJECTION


def test_a_stop_here_is_not_disturbed_whatever_else_is_wrong() -> None:
    """Its agent may write to a volume group; a mount is no part of a stop."""
    picture = replace(with_fs(running("Stopping", "ha1")), votes=replace(WHOLE.votes, quorate=False))
    for kind in UseKind:
        stance = decide(picture, replace(ON_PART, kind=kind)).stance
        wanted = Stance.NO_OBJECTION if kind in (UseKind.WRITE_OPEN, UseKind.DM_LOAD) else Stance.OBJECTS
        assert stance is wanted


def test_what_is_in_use_here_already_is_vouched_for_only_if_the_cluster_started_it_here() -> None:
    use = replace(ON_PART, running=True)
    assert decide(with_fs(running("Started", "ha1")), use).stance is Stance.VOUCHES
    assert decide(with_fs(running("Started", "ha2")), use).objects and decide(with_fs(running("Stopped")), use).objects


def test_a_cluster_filesystem_in_a_clone_may_be_active_on_several_nodes() -> None:
    instances = (running("Started", "ha2", cloned=True), running("Starting", "ha1", cloned=True))
    gfs2 = Configuration((replace(FS, shareable=True),))
    assert decide(with_fs(*instances, configuration=gfs2), ON_PART).stance is Stance.VOUCHES
    assert decide(with_fs(*instances), ON_PART).objects  # an ext4 in a clone destroys itself
    assert decide(with_fs(*(replace(i, cloned=False) for i in instances), configuration=gfs2), ON_PART).objects


def test_an_opinion_that_objects_says_so() -> None:
    assert [Opinion(stance, "").objects for stance in Stance] == [True, False, False]
