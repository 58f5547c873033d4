# SPDX-License-Identifier: GPL-2.0-or-later
"""What is done to whom, in which state of its lease: a list of steps made from a seed, before anything runs.

A run that only rolls dice meets the short states hardly ever. So the cells of *fault x state of the lease* are dealt
like cards: each of them once, in an order that the seed decides, and then all of them anew. Every prefix of a plan is
the plan of that many steps, and a run can be replayed by its seed alone.

Two things bound the order. A fault that ends a boot costs a boot, so those are spread over the deal, and the next
steps are done to the other node. And a lease can only be in the state *taken over* on a node that was cut off for
longer than its TTL and confirmed fenced, which nothing but a boot mends: those cells are dealt in a row, on one node,
with the end of its boot last.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import count, islice


class LeaseState(StrEnum):
    """Where the lease of the node stands when the fault comes; the names are those of model/lifecycle.py."""

    ACQUIRING = "acquiring"
    LIVE = "live"
    EXPIRING = "expiring"
    CLOSING = "closing"
    TAKEN_OVER = "taken over"


class Hold(StrEnum):
    """By what the state is made to last: the node's requests to the store find no answer."""

    NONE = "nothing"
    STORE = "store"  # every member of etcd is stopped
    LINK = "link"  # the node's cable to the store is cut


class Use(StrEnum):
    """What the node does with the LUN."""

    RAW = "raw"  # a writer by O_DIRECT
    MOUNT = "ext4"  # a writer in a mounted filesystem


@dataclass(frozen=True, slots=True)
class Fault:
    """One row of the table; ``faults.ACTS`` has the hands for it.

    ``holds``: what may keep the store silent meanwhile. ``ends_boot``: only a boot mends it. ``outlasts``: of a live
    lease it is kept up for longer than the TTL.
    """

    name: str
    holds: tuple[Hold, ...] = (Hold.STORE, Hold.LINK)
    ends_boot: bool = False
    outlasts: bool = False


FAULTS = (
    Fault("kill-enforcerd"),
    Fault("stop-enforcerd"),
    Fault("kill-keeper"),
    Fault("stop-keeper"),
    Fault("kill-leader", (Hold.LINK,)),
    Fault("freeze-etcd", (Hold.LINK,)),
    Fault("cut-link", (Hold.STORE,), outlasts=True),
    Fault("pause-node", outlasts=True),
    Fault("power-off", ends_boot=True),
)
TARGETS = 3  # LUNs that steps are about: two raw ones, and the last one with a filesystem
BOOT_STEPS = 6  # so many steps a node is left alone after its boot has ended


@dataclass(frozen=True, slots=True)
class Step:
    """One fault. ``node``: 1 or 2, whose lease it is; ``lun``: which of the targets."""

    number: int
    fault: Fault
    state: LeaseState
    node: int
    lun: int
    hold: Hold
    outlasts: bool

    @property
    def use(self) -> Use:
        return Use.MOUNT if self.lun == TARGETS - 1 else Use.RAW

    @property
    def cell(self) -> tuple[str, LeaseState]:
        return self.fault.name, self.state

    def __str__(self) -> str:
        held = f", {self.hold} silent" if self.hold is not Hold.NONE else ""
        return (
            f"node-{self.node}, {self.use} on lun {self.lun + 1}, {self.state}{held}: {self.fault.name}"
            f"{' for longer than the TTL' if self.outlasts else ''}"
        )


Card = tuple[Fault, LeaseState]


def cells(faults: Sequence[Fault] = FAULTS) -> list[tuple[str, LeaseState]]:
    """Every cell of the histogram."""
    return [(fault.name, state) for fault in faults for state in LeaseState]


def plan(seed: int, steps: int, faults: Sequence[Fault] = FAULTS) -> list[Step]:
    """The first ``steps`` steps of a seed. At least one fault must end a boot."""
    return list(islice(_steps(random.Random(seed), faults), steps))


def _deal(rng: random.Random, faults: Sequence[Fault]) -> list[Card]:
    """Every cell once: what ends a boot spread evenly, the cells of TAKEN_OVER in a row with the end of a boot last."""
    ends = [fault for fault in faults if fault.ends_boot]
    lasting = [fault for fault in faults if not fault.ends_boot]
    before = [state for state in LeaseState if state is not LeaseState.TAKEN_OVER]
    mild: list[Card] = [(fault, state) for fault in lasting for state in before]
    rng.shuffle(mild)
    rows: list[list[Card]] = [[(fault, state)] for fault in ends for state in before]
    rng.shuffle(lasting)
    for index, fault in enumerate(ends):
        first = lasting if index == 0 else []
        rows.append([(one, LeaseState.TAKEN_OVER) for one in (*first, fault)])
    rng.shuffle(rows)
    dealt: list[Card] = []
    for index, row in enumerate(rows):
        dealt += mild[index * len(mild) // len(rows) : (index + 1) * len(mild) // len(rows)]
        dealt += row
    return dealt


def _steps(rng: random.Random, faults: Sequence[Fault]) -> Iterator[Step]:
    numbers = count(1)
    node, left_alone, lun = rng.choice((1, 2)), 0, 0
    while True:
        row = False
        for fault, state in _deal(rng, faults):
            taken = state is LeaseState.TAKEN_OVER
            if left_alone:
                left_alone -= 1
            elif not (taken and row):
                node = 3 - node if rng.random() < 0.75 else node
            if not (taken and row):
                lun = rng.randrange(TARGETS - 1) if taken else (lun + 1 + rng.randrange(TARGETS - 1)) % TARGETS
            row = taken
            held = state not in (LeaseState.LIVE, LeaseState.TAKEN_OVER)
            hold = rng.choice(fault.holds) if held else Hold.NONE
            outlasts = fault.outlasts and state is LeaseState.LIVE
            yield Step(next(numbers), fault, state, node, lun, hold, outlasts)
            if fault.ends_boot:
                node, left_alone, row = 3 - node, BOOT_STEPS, False
