# SPDX-License-Identifier: GPL-2.0-or-later
"""What every view of a cluster manager promises, tried on each: the one on nothing, and the one on a real Pacemaker.

What is special to Pacemaker, its own resources above all, is in test_pacemaker_cluster.py.
"""

from __future__ import annotations

import time

import pytest
from lab_pacemaker import LabError, Watch, wait_for
from lab_views import MANAGERS, Fault, Manager, Nothing, Pacemaker

pytestmark = pytest.mark.timeout(180)
SILENCE_S = 15.0  # in which any view must have spoken: two looks of at most 6 s, and a busy machine
RECOVERY_S = 30.0
FAULTS = [pytest.param(name, fault, id=f"{name}-{fault}") for name, kind in MANAGERS.items() for fault in kind.faults]


@pytest.fixture
def manager(request: pytest.FixtureRequest) -> Manager:
    return Nothing() if request.param == "none" else Pacemaker(request.getfixturevalue("three_nodes"))


def says(watch: Watch, stance: str, word: str = "", *, within_s: float) -> None:
    """Wait until the view takes that stance, from now on."""
    seen = len(watch.lines)

    def there() -> bool:
        return any(line.get("stance") == stance and word in str(line["reason"]) for line in watch.lines[seen:])

    try:
        wait_for(f"{stance}: {word} on {watch.node.name}", there, within_s)
    except LabError as error:
        raise AssertionError(f"{error}; it said {watch.said(max(0, seen - 1))}") from None


def between(watch: Watch, began: float, ended: float) -> list[dict[str, object]]:
    """Answers that were asked for and came in that time."""
    lines = [line for line in watch.lines if "took" in line]
    return [x for x in lines if began < float(str(x["at"])) - float(str(x["took"])) and float(str(x["at"])) < ended]


@pytest.mark.parametrize("manager", MANAGERS, indirect=True)
def test_where_all_is_well_nobody_objects_to_a_device_that_nobody_manages(manager: Manager) -> None:
    for answer in manager.ask():
        assert answer["stance"] == "no objection", answer
        assert answer["quorum"] in ("held", "none"), answer
        assert answer["reason"] and answer["health"]
        assert float(str(answer["took"])) < SILENCE_S


@pytest.mark.parametrize(("manager", "fault"), FAULTS, indirect=["manager"])
def test_a_fault_is_objected_to_as_long_as_it_lasts_and_its_end_is_heard(manager: Manager, fault: Fault) -> None:
    """By views that are asked all the time, before, meanwhile and after: no answer that was asked for after the fault
    was there, and that came before it was taken away, may be anything but an objection."""
    watched = manager.watch(fault)
    try:
        for watch in watched.values():
            says(watch, "no objection", within_s=RECOVERY_S)
        with manager.hurt(fault):
            began = time.monotonic()
            for word, watch in watched.items():
                says(watch, "objects", word, within_s=SILENCE_S)
            time.sleep(0.5)
            ended = time.monotonic()
        for watch in watched.values():
            says(watch, "no objection", within_s=RECOVERY_S)
            assert all(float(str(line["took"])) < SILENCE_S for line in watch.lines if "took" in line)
            meanwhile = between(watch, began, ended)
            assert {line["stance"] for line in meanwhile} <= {"objects"}, meanwhile
            if fault is Fault.NO_QUORUM:
                assert {line["quorum"] for line in meanwhile} == {"lost"}, meanwhile
    finally:
        for watch in watched.values():
            watch.close()
