# SPDX-License-Identifier: GPL-2.0-or-later
"""The life of a lease on one node, as rules: what any order of events keeps, and what a few orders come to."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enforcer.model import lifecycle as life
from enforcer.model.lease import Guarantee
from enforcer.model.lifecycle import Action, Phase, State, phase_at, step

tokens = st.integers(1, 6)
events = st.one_of(
    st.builds(life.Asked, st.booleans()),
    st.builds(life.Granted, tokens, st.booleans(), st.booleans()),
    st.just(life.NotGranted()),
    st.just(life.Freshened()),
    st.builds(life.Adopted, tokens, st.booleans()),
    st.builds(life.Stored, st.none() | tokens),
    st.just(life.Unused()),
    st.builds(life.Looked, st.booleans()),
    st.just(life.Released()),
)
LIVE = State(Phase.LIVE, 3, 3)


@given(st.lists(events, max_size=12))
def test_whatever_happens(history: list[life.Event]) -> None:
    state = State()
    for event in history:
        before, (state, actions) = state, step(state, event)
        assert state.highest >= before.highest, "a token only grows"
        assert not state.live or state.token == state.highest, "what is live is the highest token ever seen"
        if Action.RELEASE in actions:
            assert before.phase in (Phase.CLOSING, Phase.TAKEN_OVER) and not state.live
        if Action.PERMIT in actions:
            assert state.live and (not state.stale or Action.FRESHEN in actions)
        if before.doubt and state.live:
            assert isinstance(event, life.Granted | life.Adopted | life.Stored), "only the store leads back to live"
        if before.live and not state.live:
            assert Action.PUBLISH in actions, "the guard is told first"


def test_it_is_given_back_in_three_steps() -> None:
    closing, actions = step(LIVE, life.Unused())
    assert (closing.phase, actions) == (Phase.CLOSING, (Action.PUBLISH, Action.LOOK))
    assert step(closing, life.Looked(False)) == (LIVE, (Action.PUBLISH,))
    sent, actions = step(closing, life.Looked(True))
    assert actions == (Action.RELEASE,)
    assert step(sent, life.Looked(False))[0] == sent, "told to the store: perhaps it is another node's by now"
    assert step(sent, life.Stored(None))[0] == sent
    assert step(sent, life.Released())[0] == State(highest=3)


def test_what_the_store_does_not_know_is_not_live() -> None:
    lost, actions = step(LIVE, life.Stored(None))
    assert (lost.phase, actions) == (Phase.TAKEN_OVER, (Action.PUBLISH,))
    assert step(lost, life.Asked(True))[1] == (Action.ASK,)
    assert step(lost, life.Granted(9, True, False))[0] == State(Phase.LIVE, 9, 9, stale=True)


@pytest.mark.parametrize("event", [life.Granted(2, True, True), life.Stored(2), life.Adopted(2, True)])
def test_a_lower_token_than_ever_seen_is_nobodys(event: life.Event) -> None:
    for state in (LIVE, State(highest=3), State(Phase.CLOSING, 3, 3)):
        after, actions = step(state, event)
        assert (after.phase, after.highest) == (Phase.CLOSING, 3)
        assert Action.PERMIT not in actions and step(after, life.Looked(False))[0].phase is Phase.CLOSING


def test_a_grant_is_freshened_unless_it_was_in_use_here_all_the_time() -> None:
    assert Action.FRESHEN in step(State(), life.Granted(4, True, True))[1]
    assert Action.FRESHEN in step(LIVE, life.Granted(4, True, True))[1], "idle: nobody knows who wrote"
    assert Action.FRESHEN not in step(LIVE, life.Granted(4, True, False))[1]
    assert Action.FRESHEN not in step(State(), life.Granted(4, False, True))[1]


def test_what_a_live_lease_becomes_by_the_clock() -> None:
    def at(now_ns: int, in_use: bool, guarantee: Guarantee = Guarantee.NONE) -> Phase:
        return phase_at(LIVE, now_ns, expiring_ns=10, stop_ns=20, in_use=in_use, guarantee=guarantee)

    assert [at(9, True), at(10, True), at(19, True)] == [Phase.LIVE, Phase.EXPIRING, Phase.EXPIRING]
    assert at(20, True) is Phase.STRANDED and at(20, False) is Phase.LOST
    assert at(20, True, Guarantee.CUT) is Phase.LOST and at(20, True, Guarantee.RESERVATION) is Phase.STRANDED
    assert phase_at(State(), 99, expiring_ns=10, stop_ns=20, in_use=False) is Phase.FREE
