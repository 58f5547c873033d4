# SPDX-License-Identifier: GPL-2.0-or-later
"""The holder is silent before anybody else may write, whatever the figures, the network and the clocks do."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from enforcer.model.deadlines import DRIFT, SECOND_NS, Deadlines

ROUNDING_S = 1e-9  # of sums of floats in another order
figures = st.builds(
    Deadlines,
    st.floats(0.5, 600),
    st.floats(0.1, 60),
    watchdog_s=st.floats(0, 60),
    cut_s=st.floats(0, 60),
)
moments = st.integers(0, 10**15)


@given(figures, moments)
def test_everything_has_its_time_before_the_silence(d: Deadlines, t0: int) -> None:
    assume(not d.problem())
    order = [t0, d.expiring_ns(t0), d.stop_ns(t0), d.last_pet_ns(t0), d.silent_ns(t0)]
    rounding_ns = 3
    assert all(earlier <= later + rounding_ns for earlier, later in pairwise(order))
    assert d.silent_ns(t0) - d.stop_ns(t0) >= int(d.cut_s * SECOND_NS) + int(d.watchdog_s * SECOND_NS)


@given(figures, moments, st.floats(0, 60), st.floats(1 - DRIFT, 1 + DRIFT), st.floats(0, 5), st.floats(0, 5))
def test_the_taker_starts_after_the_holder_is_silent(
    d: Deadlines, t0: int, delay_s: float, rate: float, slack_s: float, seen_after_s: float
) -> None:
    """``delay_s``: how long the renewal took to reach the store; ``rate``: of the holder's clock by the others'."""
    assume(not d.problem())
    silent_after_s = (d.silent_ns(t0) - t0) / SECOND_NS / rate
    taken_after_s = delay_s + d.ttl_s + slack_s + seen_after_s + d.taker_waits_ns() / SECOND_NS
    worst_s = d.worst_takeover_s(slack_s, looks_every_s=seen_after_s)
    assert silent_after_s < taken_after_s <= delay_s + worst_s + ROUNDING_S


@given(figures, moments, moments, st.integers(0, 10**12))
def test_a_renewal_counts_from_when_it_was_sent(d: Deadlines, before: int, sent: int, took: int) -> None:
    after = d.renewed_ns(before, sent, sent + took)
    assert after >= before and after in (before, sent)
    if took >= d.ttl_s * SECOND_NS:
        assert after == before, "the answer is older than what it gives"


@pytest.mark.parametrize("at_most", [Deadlines(10, 3.16), Deadlines(30, 5, watchdog_s=10, cut_s=4.4)])
def test_what_does_not_fit_is_told_in_one_sentence(at_most: Deadlines) -> None:
    assert not at_most.problem()
    one_more = Deadlines(at_most.ttl_s, at_most.renew_s + 0.1, at_most.watchdog_s, at_most.cut_s)
    assert "which is more than ttl" in one_more.problem() and "3 x renew" in one_more.problem()
    assert not Deadlines(one_more.ttl_s, one_more.most_renew_s, one_more.watchdog_s, one_more.cut_s).problem()
