# SPDX-License-Identifier: GPL-2.0-or-later
"""A shared lease goes with those of other nodes, covers a cluster filesystem alone, and becomes exclusive only where
nobody uses it."""

from __future__ import annotations

import asyncio
import errno
from typing import Any

import pytest
from lab_court import Court, mount, question, refuses
from lab_node import ME, SECOND, B, Node, run

from enforcer.cluster.stacks import StackState
from enforcer.kernel import abi
from enforcer.kernel.abi import GuardFlag, Op, State
from enforcer.model.intent import Source
from enforcer.model.lease import Denied, Granted, Lease, Standing
from enforcer.model.resource import DevNum, Mode
from enforcer.policy.modes import ClusterFs
from enforcer.storage import clusterfs
from enforcer.storage.vetoes.marks import Mark
from enforcer.workflow import clustered
from enforcer.workflow.sharing import EXCLUSIVE, Want

SHARED = Want(Mode.CW)
ASKER = Want(Mode.EX, counted=1)  # of file_open: the file that waits for the verdict is counted


async def ask(node: Node, want: Want, intent: int = 1) -> Granted | Denied:
    return await node.leases.acquire(node.there[SECOND], intent, {}, budget_s=1.0, want=want)


async def mounted(node: Node) -> Granted:
    """A cluster filesystem is mounted here."""
    granted = await ask(node, SHARED)
    assert isinstance(granted, Granted), granted
    node.count(SECOND, uses=1)
    node.leases.permit_over(1)
    return granted


def modes(node: Node) -> set[Mode]:
    return {lease.mode for lease, _ in node.leases.held()}


def flags(node: Node) -> GuardFlag:
    return GuardFlag(node.entry(SECOND).flags)


def test_two_nodes_have_it_shared_and_the_table_says_so(node: Node) -> None:
    node.store.hold(B, mode=Mode.CW)

    async def all_of_it() -> None:
        await node.leases.refresh()
        assert node.state(SECOND) is State.ELSEWHERE
        await mounted(node)
        assert node.state(SECOND) is State.LIVE and GuardFlag.CLUSTER in flags(node)
        await node.leases.refresh()  # that the other node has it too takes nothing away
        assert node.state(SECOND) is State.LIVE and GuardFlag.CLUSTER in flags(node)

    run(all_of_it())


@pytest.mark.parametrize(("theirs", "want"), [(Mode.CW, EXCLUSIVE), (Mode.EX, SHARED)])
def test_shared_and_exclusive_exclude_each_other_by_name(node: Node, theirs: Mode, want: Want) -> None:
    node.store.hold(B, mode=theirs)
    denied = run(ask(node, want))
    assert isinstance(denied, Denied) and denied.standing is Standing.ELSEWHERE and "node-2" in denied.reason


def test_what_is_shared_and_used_here_is_not_taken_exclusively(node: Node) -> None:
    async def all_of_it() -> None:
        await mounted(node)
        node.count(SECOND, uses=2)  # with the file of who asks
        calls = list(node.store.calls)
        denied = await ask(node, ASKER, 2)
        assert isinstance(denied, Denied) and "cluster filesystem" in denied.reason
        assert node.store.calls == calls and modes(node) == {Mode.CW} and GuardFlag.CLUSTER in flags(node)

    run(all_of_it())


def test_a_mount_under_way_is_a_use(node: Node) -> None:
    async def all_of_it() -> None:
        assert isinstance(await ask(node, SHARED), Granted)
        node.count(SECOND, uses=1)  # of who asks
        assert isinstance(await ask(node, ASKER, 2), Denied)

    run(all_of_it())


def test_a_mount_that_began_while_the_store_was_asked_is_a_use(node: Node) -> None:
    async def begins(call: str) -> None:
        if call == "acquire done":
            node.store.during = None
            assert isinstance(await ask(node, SHARED, 3), Granted)

    async def all_of_it() -> None:
        await mounted(node)
        node.count(SECOND, uses=1)  # umounted; what is counted is who asks
        node.store.during = begins
        assert isinstance(await ask(node, ASKER, 2), Denied)

    run(all_of_it())


def test_what_is_shared_and_not_used_here_becomes_exclusive_with_fresh_caches(node: Node) -> None:
    async def all_of_it() -> None:
        first = await mounted(node)
        node.count(SECOND, uses=1)
        node.dropped.clear()
        granted = await ask(node, ASKER, 2)
        assert isinstance(granted, Granted) and granted.token > first.token
        assert modes(node) == {Mode.EX} and GuardFlag.CLUSTER not in flags(node)
        assert SECOND in [dev for dev, _ in node.dropped], "other nodes wrote while it was shared"

    run(all_of_it())


async def used_alone_it_is_fresh(node: Node) -> None:
    """After what came late: the table says shared still, and the next exclusive use drops what is cached."""
    assert modes(node) == {Mode.CW} and GuardFlag.CLUSTER in flags(node)
    node.count(SECOND, uses=0)
    node.leases.permit_over(3)
    node.dropped.clear()
    assert isinstance(await ask(node, EXCLUSIVE, 4), Granted)
    assert modes(node) == {Mode.EX} and GuardFlag.CLUSTER not in flags(node)
    assert SECOND in [dev for dev, _ in node.dropped], "other nodes wrote while it was shared"


def test_an_exclusive_grant_too_late_for_who_asked_leaves_no_old_blocks(node: Node) -> None:
    async def begins(call: str) -> None:
        if call == "acquire done":
            node.store.during = None
            assert isinstance(await ask(node, SHARED, 3), Granted)

    async def all_of_it() -> None:
        await mounted(node)
        node.count(SECOND, uses=1)
        node.store.during = begins
        assert isinstance(await ask(node, ASKER, 2), Denied)
        await used_alone_it_is_fresh(node)

    run(all_of_it())


def test_an_exclusive_grant_that_nobody_waited_for_leaves_no_old_blocks(node: Node) -> None:
    async def all_of_it() -> None:
        await mounted(node)
        node.store.hold(B, ME, Mode.EX)
        await node.leases.refresh()
        await used_alone_it_is_fresh(node)

    run(all_of_it())


def test_other_nodes_keep_it_from_becoming_exclusive(node: Node) -> None:
    node.store.hold(B, mode=Mode.CW)

    async def all_of_it() -> None:
        await mounted(node)
        node.count(SECOND, uses=1)
        denied = await ask(node, ASKER, 2)
        assert isinstance(denied, Denied) and "node-2" in denied.reason and modes(node) == {Mode.CW}

    run(all_of_it())


def test_what_mkfs_has_left_over_is_given_back_before_the_mount(node: Node) -> None:
    async def all_of_it() -> None:
        await node.hold(node.there[SECOND])
        await mounted(node)
        assert modes(node) == {Mode.CW} and "release" in node.store.calls

    run(all_of_it())


@pytest.mark.parametrize("error", [TimeoutError(), OSError(5, "Input/output error")])
def test_what_cannot_be_given_back_before_the_mount_leaves_its_caller_a_verdict(
    node: Node, monkeypatch: pytest.MonkeyPatch, error: OSError
) -> None:
    async def give_up(_lease: Lease) -> None:
        raise error

    async def all_of_it() -> None:
        await node.hold(node.there[SECOND])
        monkeypatch.setattr(node.leases._reservations, "give_up", give_up)
        (verdict,) = await asyncio.gather(ask(node, SHARED, 2), return_exceptions=True)
        assert isinstance(verdict, Granted | Denied)

    run(all_of_it())


def test_what_is_used_exclusively_here_covers_a_mount_and_stays_exclusive(node: Node) -> None:
    async def all_of_it() -> None:
        await node.hold(node.there[SECOND])
        node.count(SECOND, uses=1)
        await ask(node, SHARED, 2)
        assert modes(node) == {Mode.EX} and GuardFlag.CLUSTER not in flags(node)
        assert "release" not in node.store.calls

    run(all_of_it())


@pytest.mark.parametrize(("layer", "want"), [("ocfs2-slot", EXCLUSIVE), ("sanlock", SHARED), ("sanlock", EXCLUSIVE)])
def test_a_stranger_on_the_disk_objects(node: Node, layer: str, want: Want) -> None:
    node.marks[SECOND] = [(Mark(layer, "slot 0", "node-9", "mounted on node-9"),)]
    denied = run(ask(node, want))
    assert isinstance(denied, Denied) and denied.veto == layer


def test_the_slots_of_its_own_cluster_are_no_strangers(node: Node) -> None:
    node.marks[SECOND] = [(Mark("ocfs2-slot", "slot 0", "node-9", "mounted on node-9"),)]
    assert isinstance(run(ask(node, SHARED)), Granted)


@pytest.mark.parametrize(("shared", "mode"), [(True, Mode.CW), (False, Mode.EX)])
def test_what_was_mounted_before_is_leased_as_it_is(
    node: Node, monkeypatch: pytest.MonkeyPatch, shared: bool, mode: Mode
) -> None:
    monkeypatch.setattr(clusterfs, "mounted_shared", lambda dev, name: (dev, name) == (SECOND, "sdb") and shared)
    assert run(node.leases.take_in_use(node.there[SECOND], budget_s=1.0)) is None
    assert modes(node) == {mode}


class FakeStack:
    def __init__(self, trouble: str = "") -> None:
        self.trouble, self.asked = trouble, list[str]()

    async def state(self, cluster: str) -> StackState:
        self.asked.append(cluster)
        return StackState(self.trouble, "look there")


def stacked(court: Court, monkeypatch: pytest.MonkeyPatch, trouble: str = "", disk: object = None) -> FakeStack:
    stack = FakeStack(trouble)
    found = disk or ClusterFs("gfs2", "dlm", "mg", "mg:lun11")

    def read(_dev: DevNum, *, scratch: object) -> object:
        if isinstance(found, OSError):
            raise found
        return found

    monkeypatch.setattr(clusterfs, "cluster_fs", read)
    monkeypatch.setattr(clustered, "Dlm", lambda: stack)
    monkeypatch.setattr(clustered, "O2cb", lambda: stack)
    return stack


def test_a_cluster_filesystem_is_mounted_shared_while_its_stack_is_well(
    court: Court, monkeypatch: pytest.MonkeyPatch
) -> None:
    stack = stacked(court, monkeypatch)
    _, verdict = court.judge(mount(fstype=b"gfs2"))
    assert verdict.token and verdict.shared and stack.asked == ["mg"] and modes(court.node) == {Mode.CW}


def test_with_its_stack_down_it_is_not_mounted_at_all(court: Court, monkeypatch: pytest.MonkeyPatch) -> None:
    stacked(court, monkeypatch, "no quorum")
    _, verdict = court.judge(mount(fstype=b"gfs2"))
    assert refuses(verdict) and verdict.source is Source.CLUSTER and not court.node.store.calls
    assert verdict.reason == "gfs2 mg:lun11: no quorum" and verdict.remedy == "look there" and not verdict.shared


@pytest.mark.parametrize(
    "disk", [OSError(errno.EIO, "EIO"), ClusterFs("ocfs2", "o9cb", "mg")], ids=["unreadable", "unknown stack"]
)
def test_what_cannot_be_known_of_it_denies(court: Court, monkeypatch: pytest.MonkeyPatch, disk: object) -> None:
    stacked(court, monkeypatch, disk=disk)
    fstype = b"ocfs2" if isinstance(disk, ClusterFs) else b"gfs2"
    _, verdict = court.judge(mount(fstype=fstype, options=b"heartbeat=none"))
    assert refuses(verdict) and verdict.source is Source.CLUSTER and not court.node.store.calls


@pytest.mark.parametrize(
    "asked",
    [
        mount(fstype=b"gfs2", options=b"noatime,lockproto=lock_nolock"),
        mount(fstype=b"ext4"),
        mount(op=Op.SB_ALLOC, fstype=b"gfs2", syscall_nr=165),
        question(fstype=b"gfs2"),
    ],
    ids=["lock_nolock", "another type", "options that sb_mount did not see", "raw"],
)
def test_every_other_use_of_it_is_exclusive(court: Court, monkeypatch: pytest.MonkeyPatch, asked: Any) -> None:
    stacked(court, monkeypatch)
    _, verdict = court.judge(asked)
    assert verdict.token and not verdict.shared and modes(court.node) == {Mode.EX}


def test_the_options_of_fsconfig_are_heeded(court: Court, monkeypatch: pytest.MonkeyPatch) -> None:
    stacked(court, monkeypatch)
    params = abi.Params(used=1)
    params.slots[0].key[:9] = list(b"lockproto")
    params.slots[0].value[:12] = list(b"lock_nolock\0")
    court.node.tables.params[7] = params
    _, verdict = court.judge(mount(op=Op.SB_ALLOC, fstype=b"gfs2", syscall_nr=431, arg=7))
    assert not verdict.shared and modes(court.node) == {Mode.EX}
