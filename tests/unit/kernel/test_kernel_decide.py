# SPDX-License-Identifier: GPL-2.0-or-later
"""One decision, written twice: what the guard compiles is compiled for the host and held against its model."""

from __future__ import annotations

import ctypes as C
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from enforcer.kernel import abi
from enforcer.kernel.abi import GuardFlag, State
from enforcer.kernel.decide import Decision, Question, decide
from tools import bpf

SOURCE = """
#include <linux/types.h>
#include "decide.h"
int decide_(const struct enf_question *q) { return enf_decide(q); }
int size_(void) { return sizeof(struct enf_question); }
int names_(int i) { int all[] = { ENF_PASS, ENF_REFUSE, ENF_WOULD_REFUSE, ENF_PASS_BEFORE_ASK }; return all[i]; }
"""
NOW = 1 << 40
BOOLEANS = ("claim", "in_mount", "asked", "refused", "unknown_allow", "early", "cluster")
Gcc = Callable[..., Path]


@pytest.fixture(scope="module")
def library(gcc: Gcc) -> C.CDLL:
    return C.CDLL(str(gcc(SOURCE, "-shared", "-fPIC")))


def in_c(library: Any, q: Question) -> Decision:
    words = {name: int(getattr(q, name)) for name in ("state", "guard_flags", "now_ns", "deadline_ns", *BOOLEANS)}
    return Decision(library.decide_(C.byref(abi.Question(**words))))


def everything() -> Iterator[Question]:
    """The whole domain, with the deadline not set, just past, now, and ahead."""
    booleans = itertools.product((False, True), repeat=len(BOOLEANS))
    deadlines = (0, NOW - 1, NOW, NOW + 1)
    flags = [GuardFlag(number) for number in range(8)]
    for state, flag, deadline, words in itertools.product(State, flags, deadlines, list(booleans)):
        yield Question(state, flag, NOW, deadline, **dict(zip(BOOLEANS, words, strict=True)))


def test_layout(library: Any) -> None:
    assert library.size_() == C.sizeof(abi.Question)
    assert [library.names_(number) for number in range(4)] == list(Decision)


def test_same_answer_on_every_input(library: Any) -> None:
    questions = list(everything())
    assert len(questions) == 6 * 8 * 4 * 128
    assert [q for q in questions if in_c(library, q) is not decide(q)] == []


@given(
    now=st.integers(0, 2**64 - 1),
    deadline=st.integers(0, 2**64 - 1),
    flags=st.sampled_from([GuardFlag(number) for number in range(8)]),
    state=st.sampled_from(State),
    words=st.tuples(*[st.booleans()] * len(BOOLEANS)),
)
@settings(max_examples=400)
def test_same_answer_at_any_time(
    library: Any, now: int, deadline: int, flags: GuardFlag, state: State, words: tuple[bool, ...]
) -> None:
    q = Question(state, flags, now, deadline, **dict(zip(BOOLEANS, words, strict=True)))
    assert in_c(library, q) is decide(q)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("now_ns < deadline_ns", "now_ns <= deadline_ns"),
        ("!(guard_flags & ENF_GUARD_DEADLINE) || ", ""),
        ("!(guard_flags & ENF_GUARD_CLUSTER) || cluster", "1"),
        (" || cluster", ""),
        ("q->in_mount && q->refused", "q->refused"),
        ("q->state != ENF_ELSEWHERE", "1"),
        ("&& !q->asked &&", "&&"),
        ("&& q->early &&", "&&"),
        ("q->state == ENF_UNKNOWN && q->unknown_allow", "q->unknown_allow"),
        ("q->guard_flags & ENF_GUARD_AUDIT", "0"),
        ("if (q->state == ENF_UNGUARDED)", "if (q->state == ENF_FREE)"),
        ("if (!q->claim)", "if (0)"),
    ],
)
def test_a_changed_decision_is_found(gcc: Gcc, tmp_path: Path, old: str, new: str) -> None:
    for name in ("enforcer.h", "decide.h"):
        (tmp_path / name).write_text((bpf.ROOT / "bpf" / name).read_text())
    text = (tmp_path / "decide.h").read_text()
    assert old in text
    (tmp_path / "decide.h").write_text(text.replace(old, new))
    changed = C.CDLL(str(gcc(SOURCE, "-shared", "-fPIC", headers=tmp_path)))
    assert any(in_c(changed, q) is not decide(q) for q in everything())


def test_no_write_without_a_live_lease() -> None:
    """The invariant itself, of the model: an enforced claim passes only with a live lease, or before its own ask."""
    for q in everything():
        enforced = GuardFlag.AUDIT not in q.guard_flags and q.state is not State.UNGUARDED
        if not q.claim or not enforced or decide(q) in (Decision.REFUSE, Decision.WOULD_REFUSE):
            continue
        live = q.state is State.LIVE and (GuardFlag.DEADLINE not in q.guard_flags or q.now_ns < q.deadline_ns)
        live = live and (q.cluster or GuardFlag.CLUSTER not in q.guard_flags)
        before_ask = q.in_mount and q.early and not q.asked and q.state is not State.ELSEWHERE
        assert live or before_ask or (q.state is State.UNKNOWN and q.unknown_allow)
