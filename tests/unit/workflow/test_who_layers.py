# SPDX-License-Identifier: GPL-2.0-or-later
"""Every layer's word on a device held against every other's, and the look that fetches them."""

from __future__ import annotations

import asyncio
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from lab_node import ME, OTHER, B, disk, run

from enforcer.cluster.view import Quorum
from enforcer.model.lease import HeldLease, Holder, Lease, Liveness
from enforcer.model.resource import DevNum, Mode
from enforcer.storage.vetoes import local
from enforcer.storage.vetoes.local import Local
from enforcer.storage.vetoes.marks import Mark
from enforcer.storage.vetoes.shown import Reserved, Shown
from enforcer.workflow import looking
from enforcer.workflow.layers import HOST, Key, Layers, Sign, compare
from enforcer.workflow.looking import Looking


def held(holder: Holder, token: int, liveness: Liveness = Liveness.LIVE, **facts: str) -> HeldLease:
    return HeldLease(Lease(B, Mode.EX, holder, token, "2026-01-01T00:00:00Z", facts=facts), liveness)


FREE = Layers("sdb", ME.node, (B,), own_names=frozenset({"node-1", "host-1"}))
OURS = replace(FREE, stored=(held(ME, 7),), state="live", token=7, uses=1, found="mounted at /srv")
THEIRS = replace(FREE, stored=(held(OTHER, 8, host="host-2"),), state="elsewhere")
MMP = Sign("ext4-mmp", "node-2", "its MMP block: mounted on node-2", moves=True)
LVM = Sign("lvm-system-id", "node-2", "the system ID of its volume group vg: node-2")
RESERVED = Key(0xA1, "Write Exclusive", ("iqn.two",))


@pytest.mark.parametrize(
    "agrees",
    [
        FREE,
        OURS,
        THEIRS,
        replace(THEIRS, state="free"),  # not told of it yet
        replace(OURS, signs=(replace(MMP, owner="host-1"),), key=replace(RESERVED, ours=True)),
        replace(THEIRS, signs=(MMP,), key=RESERVED),
        replace(THEIRS, signs=(replace(MMP, owner="host-2"),)),  # the host name that the lease tells
        replace(THEIRS, signs=(Sign("ext4-mmp", None, "damaged"),)),
        replace(FREE, signs=(LVM,)),  # says whose it is, and not that it is used
        replace(OURS, key=replace(RESERVED, key=7)),  # the key is our token
        replace(FREE, enforced=False, uses=1, found="mounted at /srv"),
        replace(OURS, quorum=Quorum.HELD, runs_on=("node-1",)),
        replace(FREE, quorum=Quorum.LOST),
        replace(FREE, stored=None, state="live", uses=1, signs=(MMP,)),  # there is nothing to hold it against
    ],
)
def test_what_agrees_is_not_told(agrees: Layers) -> None:
    assert compare(agrees) == ()


NOBODY = "the store says that nobody holds it"


@pytest.mark.parametrize(
    ("differs", "said"),
    [
        (replace(FREE, signs=(MMP,)), f"{NOBODY}, but its MMP block: mounted on node-2, and it is being written now"),
        (replace(FREE, signs=(replace(MMP, moves=False),)), "left over from a crash"),
        (replace(FREE, key=RESERVED), f"{NOBODY}, and the SCSI reservation (Write Exclusive) is held by iqn.two"),
        (replace(OURS, signs=(MMP,)), "node-1 (token 7, live) holds it, and its MMP block: mounted on node-2"),
        (replace(OURS, signs=(LVM,)), "holds it, and the system ID of its volume group vg: node-2"),
        (replace(OURS, key=RESERVED), "held by iqn.two: the storage would refuse our writes"),
        (
            replace(THEIRS, key=replace(RESERVED, ours=True)),
            "node-2 (token 8, live) holds it, and the SCSI reservation",
        ),
        (replace(FREE, found="mounted at /srv"), f"mounted at /srv here, and {NOBODY}"),
        (
            replace(THEIRS, found="mounted at /srv"),
            "IN USE ON TWO NODES: mounted at /srv here, and the store says that",
        ),
        (replace(THEIRS, uses=2), "IN USE ON TWO NODES: counted 2 times as in use by the kernel here"),
        (replace(FREE, state="live", token=7), f"the kernel's table says live under token 7, and {NOBODY}"),
        (replace(THEIRS, state="live", token=7), "says live under token 7, and the store says that node-2 (token 8"),
        (replace(OURS, token=6), "the kernel's table says token 6, and the store says that node-1 (token 7"),
        (replace(OURS, state="elsewhere"), "says that it is held elsewhere, and the store says that node-1 (token 7"),
        (replace(OURS, deadline_left_s=-3.0), "its deadline passed 3 s ago"),
        (replace(OURS, quorum=Quorum.LOST), "the cluster manager has no quorum here"),
        (replace(OURS, quorum=Quorum.UNKNOWN), "does not say whether there is a quorum"),
        (replace(OURS, runs_on=("node-2",)), "the cluster manager runs it on node-2"),
    ],
)
def test_what_differs_is_said_with_both_layers(differs: Layers, said: str) -> None:
    (sentence,) = compare(differs)
    assert sentence.startswith("sdb: ") and said in sentence


def test_a_stranded_holder_is_no_second_user() -> None:
    gone = replace(THEIRS, stored=(held(OTHER, 8, Liveness.STRANDED),), found="mounted at /srv")
    (sentence,) = compare(gone)
    assert "TWO NODES" not in sentence and "stranded" in sentence
    assert HOST == "host", "what other versions read"


# -- the look ----------------------------------------------------------------------------------------------------

ONE, TWO = disk(DevNum(8, 16), "sdb", B), disk(DevNum(8, 32), "sdc", B)


@pytest.fixture
def disks(monkeypatch: pytest.MonkeyPatch) -> dict[DevNum, Any]:
    """What each disk shows, in turn: Shown, an OSError, or an Event that it hangs on."""
    there: dict[DevNum, Any] = {}

    def see(dev: DevNum, _here: object, _scratch: object) -> Shown:
        found = there[dev].pop(0) if len(there[dev]) > 1 else there[dev][0]
        if isinstance(found, threading.Event):
            found.wait(20)
            return Shown((), None)
        if isinstance(found, OSError):
            raise found
        assert isinstance(found, Shown)
        return found

    monkeypatch.setattr(looking, "_shown", see)
    monkeypatch.setattr(looking, "LOOK_S", 0.3)
    monkeypatch.setattr(looking, "WATCH_S", 0.2)
    monkeypatch.setattr(looking, "POLL_S", 0.05)
    monkeypatch.setattr(local, "learn", lambda name: Local(frozenset({name})))
    return there


def shown(pulse: bytes, reserved: Reserved | None = None) -> Shown:
    return Shown((Mark("ext4-mmp", "", "node-2", "mounted on node-2", pulse),), reserved)


def test_a_mark_moves_or_stands_still(disks: dict[DevNum, Any], tmp_path: Path) -> None:
    disks[ONE.dev] = [shown(b"1"), shown(b"1"), shown(b"2")]
    disks[TWO.dev] = [shown(b"1", Reserved(7, "Write Exclusive", (), True))]
    found = run(Looking("node-1", tmp_path).disks([ONE, TWO]))
    assert [found[each.dev].signs[0].moves for each in (ONE, TWO)] == [True, False]
    assert found[TWO.dev].reserved is not None and found[ONE.dev].reserved is None


def test_a_disk_that_cannot_be_read_says_why(disks: dict[DevNum, Any], tmp_path: Path) -> None:
    disks[ONE.dev] = [OSError(5, "Input/output error")]
    assert run(Looking("node-1", tmp_path).disks([ONE]))[ONE.dev].unread == "Input/output error"


def test_a_disk_that_hangs_delays_nobody_and_is_not_asked_twice(disks: dict[DevNum, Any], tmp_path: Path) -> None:
    async def scenario() -> None:
        hangs = threading.Event()
        disks[ONE.dev], disks[TWO.dev] = [hangs], [shown(b"")]
        looks, ticks = Looking("node-1", tmp_path), 0

        async def tick() -> None:
            nonlocal ticks
            while True:
                await asyncio.sleep(0.01)
                ticks += 1

        ticking, began = asyncio.create_task(tick()), time.monotonic()
        found = await looks.disks([ONE, TWO])
        assert found[ONE.dev].unread == "no answer within 0.3 s" and found[TWO.dev].signs
        assert time.monotonic() - began < 2 and ticks > 5, "the loop went on"
        assert (await looks.disks([ONE]))[ONE.dev].unread == "an earlier look at it has not come back"
        ticking.cancel()
        hangs.set()

    run(scenario())
