# SPDX-License-Identifier: GPL-2.0-or-later
"""The chaos run's plan and its check, without a machine: what a seed plans, and which histories are accused."""

from __future__ import annotations

import itertools
import re
from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tools.chaos.check import Verdict, Violation, check, time_line
from tools.chaos.faults import ACTS
from tools.chaos.history import Change, Clock, Won, Write, tenures
from tools.chaos.plan import BOOT_STEPS, FAULTS, Fault, Hold, LeaseState, cells, plan
from tools.chaos.report import Result, summary
from tools.chaos.uses import CLOSING, LIVE, Standing
from tools.lab.disk import LogReader

RES = "/enforcer/lab/res/"
SEEDS = st.integers(0, 2**32)


# -- the plan


@given(SEEDS, st.integers(0, 130), st.integers(0, 130))
def test_a_seed_is_a_plan_and_a_shorter_run_is_its_beginning(seed: int, one: int, other: int) -> None:
    short, long = sorted((one, other))
    assert plan(seed, long)[:short] == plan(seed, short)


def test_seeds_differ() -> None:
    assert len({tuple(map(str, plan(seed, 45))) for seed in range(20)}) == 20


@given(SEEDS, st.integers(1, 3))
def test_every_fault_meets_every_state_once_in_each_deal(seed: int, deals: int) -> None:
    wanted = cells()
    steps = plan(seed, deals * len(wanted))
    for deal in range(deals):
        seen = [step.cell for step in steps[deal * len(wanted) : (deal + 1) * len(wanted)]]
        assert sorted(seen) == sorted(wanted)


def test_a_fault_that_is_added_to_the_table_is_planned() -> None:
    more = (*FAULTS, Fault("watchdog-bites", ends_boot=True), Fault("slow-storage", (Hold.LINK,)))
    assert {step.cell for step in plan(3, len(cells(more)), more)} == set(cells(more))


@given(SEEDS)
def test_a_state_is_held_by_what_the_fault_leaves_alone(seed: int) -> None:
    for step in plan(seed, 90):
        if step.state in (LeaseState.LIVE, LeaseState.TAKEN_OVER):
            assert step.hold is Hold.NONE
        else:
            assert step.hold in step.fault.holds
    partitions = [s for s in plan(seed, 45) if s.outlasts]
    assert {s.fault.name for s in partitions} == {"cut-link", "pause-node"}, "each deal, and of a lease that is live"


@given(SEEDS)
def test_what_is_taken_over_stays_so_until_its_node_boots(seed: int) -> None:
    steps = plan(seed, 90)
    for before, step in itertools.pairwise(steps):
        if before.state is LeaseState.TAKEN_OVER and not before.fault.ends_boot:
            assert (step.state, step.node) == (LeaseState.TAKEN_OVER, before.node)
    for index, step in enumerate(steps):
        if step.fault.ends_boot:
            assert all(later.node != step.node for later in steps[index + 1 : index + 1 + BOOT_STEPS])


# -- times


def put(revision: int, node: str, boot: str = "b1", lun: str = "lun", token: int | None = None) -> Change:
    value = {"boot_id": f"{node} {boot}"} | ({} if token is None else {"token": token})
    return Change(revision, revision + 0.3, f"{RES}{lun}//{node}", value)


def gone(revision: int, node: str, lun: str = "lun") -> Change:
    return Change(revision, revision + 0.3, f"{RES}{lun}//{node}", None)


def clock(changes: list[Change]) -> Clock:
    """Revision N was made at N or a little later: a beat was sent at N and is the revision before, all is heard 0.3 s
    later."""
    return Clock(changes, [(c.revision - 1, float(c.revision)) for c in changes])


def write(at_s: float, node: str, connected_s: float = 0.0) -> Write:
    return Write(at_s, "lun", node, connected_s, 4096, 512)


def test_a_revision_was_made_between_the_beat_before_and_what_was_heard() -> None:
    heard = [Change(7, 3.5, "x", None), Change(9, 3.2, "y", None), Change(12, 9.0, "z", None)]
    times = Clock(heard, [(5, 1.0), (8, 2.5), (11, 2.0)])
    assert times.earliest(5) == float("-inf")
    assert (times.earliest(6), times.latest(6)) == (1.0, 3.2), "a later revision was heard before it"
    assert (times.earliest(9), times.latest(9)) == (2.5, 3.2)
    assert times.earliest(12) == 2.5, "a beat that was sent earlier and came later says less"
    assert times.latest(13) == float("inf")


def test_how_a_lease_was_won() -> None:
    changes = [put(10, "node-1"), gone(20, "node-1"), put(30, "node-2"), gone(40, "node-2"), put(40, "node-1", "b2")]
    changes += [put(50, "node-1", "b3"), put(60, "node-1", "b3", token=50), gone(70, "node-1"), put(80, "node-1", "b3")]
    found = [(t.node, t.first, t.last, t.won) for t in tenures(changes, RES)]
    assert found == [
        ("node-1", 10, 20, Won.FREE),
        ("node-2", 30, 40, Won.HANDED_OVER),
        ("node-1", 40, 50, Won.TAKEN_OVER),  # the holder's record goes in the revision that grants
        ("node-1", 50, 70, Won.TAKEN_OVER),  # an earlier boot of its own; adopted at 60, and the same lease
        ("node-1", 80, None, Won.FREE),
    ]


def test_names_of_the_store_are_unquoted() -> None:
    found = tenures([Change(3, 3.0, f"{RES}wwn-0x5%2F1/p1%2Fa/node-1", {"boot_id": "b"})], RES)
    assert [(t.lun, t.path, t.node) for t in found] == [("wwn-0x5/1", "p1/a", "node-1")]


# -- the check

HISTORY = [put(10, "node-1"), gone(20, "node-1"), put(30, "node-2"), gone(40, "node-2"), put(40, "node-1", "b2")]


def accused(changes: list[Change], *writes: Write) -> list[str]:
    return [v.what for v in check(tenures(changes, RES), writes, clock(changes)).violations]


@pytest.mark.parametrize(
    "ok",
    [
        write(10.0, "node-1"),  # not before the grant was sent for
        write(15.0, "node-1"),
        write(20.2, "node-1"),  # the release may not have been made yet
        write(31.0, "node-2"),
        write(40.2, "node-2"),
        write(41.0, "node-1", connected_s=35.0),
        write(99.0, "node-1", connected_s=35.0),
    ],
)
def test_a_write_of_the_holder(ok: Write) -> None:
    assert not accused(HISTORY, ok)


@pytest.mark.parametrize(
    ("wrong", "what"),
    [
        (write(9.9, "node-1"), "node-1 writes 512 bytes at 0x1000 without a lease"),
        (write(20.4, "node-1"), "node-1 writes 512 bytes at 0x1000 without a lease"),
        (write(31.0, "node-1"), "node-1 writes 512 bytes at 0x1000 after token 30 was granted to node-2"),
        (write(15.0, "node-2"), "node-2 writes 512 bytes at 0x1000 after token 10 was granted to node-1"),
        (write(40.5, "node-2"), "node-2 writes 512 bytes at 0x1000 after token 40 was granted to node-1"),
        (write(15.0, "node-1", 12.0), "node-1 writes 512 bytes at 0x1000 without a lease"),  # another boot's lease
        (write(50.0, "node-3"), "node-3 writes 512 bytes at 0x1000 after token 40 was granted to node-1"),
    ],
)
def test_a_write_of_anybody_else(wrong: Write, what: str) -> None:
    assert accused(HISTORY, write(15.0, "node-1"), wrong) == [what]


def test_two_holders_at_once() -> None:
    both = [put(10, "node-1"), put(15, "node-2"), gone(20, "node-1")]
    assert accused(both) == ["node-2 is granted token 15 while node-1 holds token 10"]
    parts = [replace(c, key=c.key.replace("//", f"/p{i}/")) for i, c in enumerate(both[:2])]
    assert not accused(parts), "two partitions"


def test_a_token_that_falls() -> None:
    changes = [put(10, "node-1"), gone(20, "node-1"), put(30, "node-2", token=5)]
    assert accused(changes) == ["node-2 is granted token 5 after token 10"]


def test_what_a_result_says() -> None:
    writes = [write(15.0, "node-1"), write(20.2, "node-1"), write(31.0, "node-2")]
    verdict = check(tenures(HISTORY, RES), writes, clock(HISTORY))
    assert (verdict.writes["node-1"], verdict.writes["node-2"], verdict.in_doubt) == (2, 1, 1)
    assert (verdict.takeovers, verdict.hand_overs) == (1, 1)
    assert verdict.bound_s == pytest.approx(0.3)


def test_the_time_line_shows_what_happened_around() -> None:
    writes = [write(27.0 + i / 4, "node-1", 0.0) for i in range(20)]
    held = tenures(HISTORY, RES)
    found = check(held, writes, clock(HISTORY)).violations
    at_token = next(v for v in found if "after token 30" in v.what)
    lines = time_line(at_token, held, writes, clock(HISTORY), [(26.0, "too early"), (28.0, "the link is cut")])
    told = [line.partition("  ")[2] for line in lines]
    assert told == [
        "the storage: 20 writes in 4.8 s of node-1",
        "the link is cut",
        "the store: token 30 for node-2, handed over",
        f"*** {at_token.what}",
    ]


# -- the result


def result(steps: int = 45, *, planned: int = 45, takeovers: int = 12, idle: str = "") -> Result:
    reached = Counter(step.cell for step in plan(7, steps))
    writes = Counter({node: 100 for node in ("node-1", "node-2") if node != idle})
    verdict = Verdict((), writes, takeovers=takeovers, hand_overs=3, bound_s=0.2)
    return Result(7, planned, steps, 300.0, reached, Counter(refused=40), (), verdict)


def test_a_good_run_prints_every_figure() -> None:
    good = result()
    assert not good.problems()
    text = summary(good)
    assert "SEED=7 STEPS=45" in text and "takeovers 12" in text and "within the 0.20 s" in text
    rows = [line.split() for line in text.splitlines() if line.startswith(tuple(f.name for f in FAULTS))]
    assert rows == [[fault.name, *"11111"] for fault in FAULTS]


@pytest.mark.parametrize(
    ("bad", "what"),
    [
        (result(44), f"never reached: {', '.join(plan(7, 45)[44].cell)}"),
        (result(takeovers=9), "9 takeovers, wanted are 10"),
        (result(idle="node-2"), "a node wrote nothing, so nothing is proven"),
        (replace(result(), failed="node-1 has not recovered"), "node-1 has not recovered"),
        (
            replace(result(), verdict=replace(result().verdict, violations=(Violation("lun", 1.0, "so"),))),
            "lun: so",
        ),
    ],
)
def test_a_run_that_is_no_good_says_why(bad: Result, what: str) -> None:
    assert what in bad.problems()


def test_a_plan_too_short_for_every_cell_need_not_reach_them() -> None:
    assert not result(8, planned=8, takeovers=1).problems()


def test_a_lease_expires_once_every_renewal_that_may_fail_has_failed() -> None:
    ttl_s, renew_s = 10, 2.0  # stop after 9.48 s, expiring after 6 s: 3.48 s before it
    state = {left_s: Standing(LIVE, 7, left_s).expiring(ttl_s, renew_s) for left_s in (9.4, 3.5, 3.4, 0.1, 0.0, -1.0)}
    assert state == {9.4: False, 3.5: False, 3.4: True, 0.1: True, 0.0: False, -1.0: False}
    assert not Standing(CLOSING, 7, 1.0).expiring(ttl_s, renew_s)


def test_every_fault_of_the_plan_can_be_done() -> None:
    assert list(ACTS) == [fault.name for fault in FAULTS]


# -- what the check stands on


def test_the_storage_servers_log_tells_when_and_since_when_a_node_is_connected() -> None:
    reader = LogReader()
    reader.feed(
        "2026-11-22 21:03:02.939484 connection=1 Connect export=node1 tls=0 size=0x800000\n"
        "2026-11-22 21:03:03.940571 connection=1 Write id=1 offset=0x1000 count=0x200 fua=0 ...\n"
        "2026-11-22 21:03:03.940640 connection=1 ...Write id=1 return=0\n"
    )
    (request,) = reader.requests
    assert request.at_s - request.connected_s == pytest.approx(1.001087, abs=1e-5)
    assert request.at_s == pytest.approx(1795381383.940571, abs=1e-5), "the log is in UTC"


def test_a_steps_line_says_what_is_done() -> None:
    for step in plan(1, 45):
        assert re.match(r"node-[12], (raw|ext4) on lun [123], \w+", str(step))
        assert str(step.fault.name) in str(step)
