# SPDX-License-Identifier: GPL-2.0-or-later
"""One row of the table: a fault that one wrong line could bring in, and the test that must see it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Suite(StrEnum):
    LINT = "lint"
    UNIT = "unit"
    VM = "vm"
    CHAOS = "chaos"
    CLUSTER = "cluster"
    MODEL = "model"


@dataclass(frozen=True, slots=True)
class Mutant:
    """One fault. ``test``: which must fail on its own assertion, ``tests/...py::test_name``, of any parameter if none
    is given; or a check of ``make lint``, by name. ``old`` stands exactly once in ``file``.
    """

    name: str
    claim: str  # what the test promises, in one sentence
    file: str
    old: str
    new: str
    test: str
    select: tuple[str, ...] = ()  # what pytest is given; the test alone if empty

    @property
    def suite(self) -> Suite:
        """Where its test lives."""
        for suite in (Suite.UNIT, Suite.VM, Suite.CHAOS, Suite.CLUSTER, Suite.MODEL):
            if self.test.startswith(f"tests/{suite}/"):
                return suite
        return Suite.LINT


def steps(file: str, *tests: str) -> tuple[str, ...]:
    """What pytest is given where one test stands on others before it."""
    return tuple(f"{file}::{test}" for test in tests)
