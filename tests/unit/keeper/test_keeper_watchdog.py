# SPDX-License-Identifier: GPL-2.0-or-later
"""The watchdog bites before the node's last moment, whatever becomes of the keeper, and spares a node that holds
nothing. A clock that the tests turn; a real device is in tests/vm/test_44_watchdog.py."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from enforcer.keeper import watchdog
from enforcer.keeper.feeding import MEALS, Feeder, used
from enforcer.keeper.watchdog import Can, NoWatchdog, Support
from enforcer.kernel.abi import GuardFlag, State
from enforcer.model.deadlines import SECOND_NS, Deadlines
from enforcer.model.resource import DevNum

W_S = 6.0
SESSION = Deadlines(20.0, 2.0, watchdog_s=W_S, cut_s=3.0)
SILENT = SESSION.silent_ns(0)  # the last renewal was sent at 0
STEP = watchdog.programmed_s(W_S) * SECOND_NS // MEALS
BETWEEN = STEP // 3  # moments at which things happen
MOMENTS = range(0, SILENT, BETWEEN)


class Dog:
    """A watchdog as the kernel has it: closing it without a word is one more meal."""

    def __init__(self, clock: Clock, timeout_s: float) -> None:
        self.clock, self.timeout_ns, self.fed_ns, self.stopped = clock, int(timeout_s * SECOND_NS), clock.now, False

    @property
    def bites_ns(self) -> int:
        return self.fed_ns + self.timeout_ns

    def feed(self) -> None:
        if self.clock.now < self.bites_ns:
            self.fed_ns = self.clock.now

    def stop(self) -> None:
        self.stopped = True

    def leave(self) -> None:
        self.feed()


class Clock:
    """``seen``: what the keeper reads; time may go on before it does something about it."""

    now = 0
    seen: int | None = None

    def __call__(self) -> int:
        return self.now if self.seen is None else self.seen


class Kennel:
    """A feeder with its dog, told that the last renewal was sent at 0."""

    def __init__(self, *, in_use: Callable[[], bool] = lambda: True, refused: bool = False) -> None:
        self.clock, self.dogs, self.refused = Clock(), list[Dog](), refused
        self.feeder = Feeder(
            "/dev/dog", W_S, in_use=in_use, refused=lambda: self.refused, opens=self.opens, clock_ns=self.clock
        )
        self.feeder.last_pet_ns = SESSION.last_pet_ns(0)

    def opens(self, _path: object, watchdog_s: float, *, idle: bool) -> Dog:
        self.dogs.append(Dog(self.clock, watchdog.programmed_s(watchdog_s)))
        return self.dogs[-1]

    def until(self, end_ns: int) -> Dog:
        """The keeper works from 0 on and then no more."""
        for self.clock.now in range(0, end_ns + 1, STEP):
            self.feeder.once()
        self.clock.now = end_ns
        return self.dogs[0]


def test_it_bites_in_time_if_the_keeper_is_killed_or_hangs_at_any_moment() -> None:
    for moment in MOMENTS:
        kennel = Kennel()
        dog = kennel.until(moment)
        assert dog.bites_ns <= SILENT, f"hung at {moment}"
        assert dog.bites_ns <= moment + dog.timeout_ns, "and soon"
        dog.leave()
        assert dog.bites_ns <= SILENT, f"killed at {moment}"


def test_a_hung_keeper_that_is_killed_later_wins_no_time_beyond_the_end() -> None:
    for hung in MOMENTS:
        for killed in range(hung, SILENT, BETWEEN):
            dog = (kennel := Kennel()).until(hung)
            kennel.clock.now = killed
            dog.leave()
            assert dog.bites_ns <= SILENT, (hung, killed)


def test_a_keeper_that_was_stopped_between_its_look_and_its_meal_wins_no_time_beyond_the_end() -> None:
    for stopped in MOMENTS:
        for goes_on in range(stopped, SILENT, BETWEEN):
            dog = (kennel := Kennel()).until(stopped)
            kennel.clock.seen, kennel.clock.now = stopped, goes_on
            kennel.feeder.once()
            assert dog.bites_ns <= SILENT, (stopped, goes_on)


def test_a_keeper_that_starts_too_late_does_not_touch_it() -> None:
    kennel = Kennel()
    kennel.clock.now = SESSION.last_pet_ns(0)
    kennel.feeder.once()
    assert not kennel.dogs and not kennel.feeder.armed


def test_a_renewal_goes_on_feeding_it() -> None:
    kennel = Kennel()
    dog = kennel.until(SESSION.last_pet_ns(0))
    kennel.feeder.last_pet_ns = SESSION.last_pet_ns(kennel.clock.now)
    kennel.feeder.once()
    assert dog.fed_ns == kennel.clock.now and kennel.feeder.armed


def test_a_node_that_uses_nothing_lives_on() -> None:
    kennel = Kennel(in_use=lambda: False)
    kennel.until(3 * SILENT)
    assert kennel.dogs[0].fed_ns > 3 * SILENT - STEP


def test_a_doubt_about_uses_and_a_cut_that_failed_are_not_fed() -> None:
    def broken() -> bool:
        raise OSError("no table")

    assert Kennel(in_use=broken).until(3 * SILENT).bites_ns <= SILENT
    kennel = Kennel(refused=True)
    kennel.feeder.once()
    assert not kennel.dogs, "what should have cut us off has failed"


@pytest.mark.parametrize("in_use", [True, False])
def test_an_orderly_end_stops_it_only_if_nothing_is_in_use(in_use: bool) -> None:
    kennel = Kennel(in_use=lambda: in_use)
    kennel.feeder.once()
    kennel.feeder.end()
    assert kennel.dogs[0].stopped is not in_use
    assert not kennel.feeder.armed


@pytest.mark.parametrize(
    ("state", "uses", "flags", "expected"),
    [
        (State.LIVE, 0, 0, True),  # something may be in use that the kernel did not count
        (State.CLOSING, 0, 0, False),
        (State.CLOSING, 1, 0, True),
        (State.ELSEWHERE, 1, 0, True),
        (State.FREE, 1, GuardFlag.AUDIT, False),
        (State.LIVE, 1, GuardFlag.AUDIT, False),
        (State.UNGUARDED, 1, 0, False),
    ],
)
def test_what_counts_as_a_use(state: State, uses: int, flags: int, expected: bool) -> None:
    key = DevNum(8, 1).to_kernel().to_bytes(4, "little")
    guard = {key: SimpleNamespace(state=int(state), flags=flags)}
    tables = SimpleNamespace(
        guard=SimpleNamespace(each_key=lambda: iter(guard), get=guard.get),
        ledger=SimpleNamespace(get={key: SimpleNamespace(uses=uses, inflight=0)}.get),
    )
    assert used(cast(Any, tables)) is expected
    assert not used(cast(Any, tables), lambda: frozenset({DevNum(8, 1)})), "what is cut off can be written to no more"


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (Can.SETTIMEOUT | Can.KEEPALIVEPING | Can.MAGICCLOSE, ""),
        (Can.SETTIMEOUT | Can.KEEPALIVEPING, "killed"),
        (Can.KEEPALIVEPING | Can.MAGICCLOSE, "time-out"),
        (Can.SETTIMEOUT | Can.MAGICCLOSE, "keep-alive"),
        (Can.SETTIMEOUT | Can.KEEPALIVEPING | Can.MAGICCLOSE | Can.ALARMONLY, "alarm"),
    ],
)
def test_a_driver_on_which_no_promise_can_be_built_is_refused(options: Can, problem: str) -> None:
    assert problem in Support(options, "dog").problem() and bool(problem) == bool(Support(options, "dog").problem())


def test_what_is_no_watchdog_is_refused_and_not_written_to(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("")
    with pytest.raises(NoWatchdog, match="is no watchdog"):
        watchdog.opened(file, W_S, idle=True)
    assert file.read_text() == ""
    with pytest.raises(NoWatchdog, match="cannot be opened") as missing:
        watchdog.opened(tmp_path / "none", W_S, idle=True)
    assert "softdog" in missing.value.hint
