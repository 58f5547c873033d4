# SPDX-License-Identifier: GPL-2.0-or-later
"""Exclusion as a property of all histories: holders that exclude each other never both hold."""

from __future__ import annotations

from itertools import combinations

from hypothesis import given, settings
from hypothesis import strategies as st

from enforcer.cluster.conflicts import Absences, Witness, join, judge, refusal, under_token
from enforcer.model.deadlines import Deadlines
from enforcer.model.lease import Claim, Guarantee, HeldLease, Holder, Lease, Liveness, Standing
from enforcer.model.resource import Mode, ResourceId

RESOURCES = [ResourceId.parse(text) for text in ("a", "a/p1", "a/p2", "a/p2/lv", "b", "b/p1")]
HOLDERS = [Holder(f"node-{n}", f"boot-{n}{b}", s) for n in (1, 2, 3) for b in "xy" for s in ("s1", "s2")]

claim_sets = st.frozensets(
    st.builds(Claim, st.sampled_from(RESOURCES), st.sampled_from(list(Mode))), min_size=1, max_size=3
)
steps = st.lists(st.tuples(st.sampled_from(HOLDERS), claim_sets, st.booleans()), max_size=25)
witnesses = st.builds(
    Witness,
    st.lists(st.sampled_from(HOLDERS), max_size=3).map(lambda hs: {h.node: h for h in hs}),
    st.frozensets(st.sampled_from([(h.node, h.boot_id) for h in HOLDERS]), max_size=3),
)


@settings(max_examples=300, deadline=None)
@given(steps, st.data())
def test_whatever_the_order_incompatible_holders_never_hold_together(steps: list, data: st.DataObject) -> None:
    store: dict[tuple[ResourceId, str], Lease] = {}
    for token, (me, claims, release) in enumerate(steps, 1):
        if release:
            store = {k: v for k, v in store.items() if v.holder != me}
            continue
        facts = data.draw(witnesses)
        witness = Witness({**facts.present, me.node: me}, facts.fenced)  # who acts is live
        held = [HeldLease(lease, witness.liveness(lease.holder)) for lease in store.values()]
        before = dict(store)
        ruling = judge(claims, me, held)
        if not ruling.blocking:
            for gone in ruling.taken_over:
                del store[gone.lease.resource, gone.lease.holder.node]
            for resource, mode in ruling.wanted.items():
                store[resource, me.node] = Lease(resource, mode, me, token, "")

        for one, other in combinations(store.values(), 2):
            if (one.holder.node, one.holder.boot_id) != (other.holder.node, other.holder.boot_id):
                assert one.mode.compatible(other.mode) or not one.resource.meets(other.resource)
        for key, lease in before.items():
            if store.get(key) != lease and (lease.holder.node, lease.holder.boot_id) != (me.node, me.boot_id):
                assert witness.liveness(lease.holder) in (Liveness.FENCED, Liveness.REBOOTED)


@given(claim_sets, st.sampled_from(HOLDERS), st.sampled_from(HOLDERS), st.sampled_from(RESOURCES))
def test_the_living_and_the_stranded_are_in_the_way_of_all_that_meets_them(
    claims: frozenset[Claim], me: Holder, other: Holder, resource: ResourceId
) -> None:
    lease = Lease(resource, Mode.EX, other, 1, "then")
    ruling = judge(claims, me, [HeldLease(lease, Liveness.STRANDED)])
    meets = any(claim.resource.meets(resource) for claim in claims)
    excluded = (me.node, me.boot_id) != (other.node, other.boot_id)
    own_place = me.node == other.node and any(claim.resource == resource for claim in claims)
    assert bool(ruling.blocking) == (excluded and (meets or own_place))
    assert not ruling.taken_over


def test_what_is_known_of_a_holder() -> None:
    old, new = Holder("n", "boot-1", "s1"), Holder("n", "boot-2", "s9")
    assert Witness({}, frozenset()).liveness(old) is Liveness.STRANDED
    assert Witness({"n": new}).liveness(old) is Liveness.REBOOTED
    assert Witness({}, {("n", "boot-1")}).liveness(old) is Liveness.FENCED
    assert Witness({}, {("n", "boot-1")}).liveness(new) is Liveness.STRANDED, "a fact is about one boot"
    assert Witness({"n": old}, {("n", "boot-1")}).liveness(old) is Liveness.LIVE, "nobody takes from the living"
    assert Witness({"n": Holder("n", "boot-1", "s2")}).liveness(old) is Liveness.LIVE, "one boot is one kernel"


def test_a_refusal_names_the_holder_and_the_command_that_helps() -> None:
    here = ResourceId("a")
    live = HeldLease(Lease(here, Mode.EX, Holder("n1", "b1", "s"), 1, "noon"), Liveness.LIVE)
    gone = HeldLease(Lease(here, Mode.EX, Holder("n2", "b2", "s"), 1, "noon"), Liveness.STRANDED)
    assert refusal((live,)).reason == "in use on n1 since noon"
    assert refusal((gone,)).reason == "stranded: n2 (boot id b2) is gone but not proven silent"
    assert refusal((gone,)).remedy == "enforcer fence confirm n2 --boot-id b2"
    both = refusal((gone, live))
    assert both.standing is Standing.ELSEWHERE
    assert both.reason == "in use on n1 since noon, and 1 more in the way"
    assert not both.remedy, "fencing one does not help while another one lives"


@given(st.sampled_from(list(Mode)), st.sampled_from(list(Mode)), st.sampled_from(list(Mode)))
def test_a_joined_mode_excludes_all_that_either_excludes(one: Mode, other: Mode, third: Mode) -> None:
    if join(one, other).compatible(third):
        assert one.compatible(third)
        assert other.compatible(third)


def test_what_was_held_under_cw_is_fresh_under_ex() -> None:
    me, here = Holder("n", "b", "s"), ResourceId("a")
    held = [HeldLease(Lease(here, Mode.CW, me, 7, ""), Liveness.LIVE)]
    assert not judge([Claim(here, Mode.CW)], me, held).fresh({here: 7})
    assert judge([Claim(here, Mode.CW)], me, held).fresh({}), "nobody told this process of token 7"
    assert judge([Claim(here, Mode.EX)], me, held).fresh({here: 7}), "others wrote too"


def test_a_release_names_its_token() -> None:
    part = ResourceId("a", ("p1",))
    ours = {r: Lease(r, Mode.EX, Holder("n", "b", "s"), 7, "") for r in (ResourceId("a"), part)}
    assert under_token(ours, [part, ResourceId("b")], 7) == [part]
    assert under_token(ours, [part], 6) == [], "an older grant is over, and says nothing of the one that followed"


def test_a_promise_of_silence_counts_when_its_time_is_over_and_is_recorded() -> None:
    here, me, gone = ResourceId("a"), Holder("n1", "b1", "s"), Holder("n2", "b2", "s")
    deadlines = Deadlines(30.0)
    seen = Absences().noted({}, [gone], 1000).noted({}, [], 2000)
    over_ns = 1000 + deadlines.taker_waits_ns()
    assert seen.gone(over_ns - 1, deadlines) == frozenset()
    assert seen.gone(over_ns, deadlines) == {("n2", "b2")}
    assert seen.noted({"n2": gone}, [], 3000) == Absences(), "back again: it starts anew"

    witness = Witness({"n1": me}, frozenset(), seen.gone(over_ns, deadlines))
    for guarantee in Guarantee:
        lease = Lease(here, Mode.EX, gone, 1, "", guarantee)
        ruling = judge([Claim(here)], me, [HeldLease(lease, witness.liveness(gone, guarantee))])
        silenced = guarantee in (Guarantee.CUT, Guarantee.WATCHDOG)
        assert bool(ruling.taken_over) == silenced != bool(ruling.blocking)
        assert ruling.silenced == ({("n2", "b2")} if silenced else frozenset())
    assert witness.liveness(Holder("n2", "b3", "s"), Guarantee.CUT) is Liveness.STRANDED, "another boot of it"


def test_a_reservation_is_taken_over_by_who_preempts_and_is_no_fencing() -> None:
    here, me, gone = ResourceId("a"), Holder("n1", "b1", "s"), Holder("n2", "b2", "s")
    away = Witness({"n1": me}, frozenset(), {("n2", "b2")})
    lease = Lease(here, Mode.EX, gone, 1, "", Guarantee.RESERVATION)
    held = HeldLease(lease, away.liveness(gone, Guarantee.RESERVATION))
    assert held.liveness is Liveness.PREEMPTIBLE
    assert judge([Claim(here)], me, [held]).blocking == (held,), "by nobody else"
    ruling = judge([Claim(here)], me, [held], preempts=True)
    assert ruling.taken_over == (held,) and ruling.absent == {"n2"}
    assert ruling.silenced == frozenset(), "it is silent on this LUN alone"
    part = Claim(ResourceId("a", ("p1",)))
    assert judge([part], me, [held], preempts=True).blocking == (held,), "a part does not reserve the whole"
    live = HeldLease(lease, Witness({"n2": gone}).liveness(gone, Guarantee.RESERVATION))
    assert judge([Claim(here)], me, [live], preempts=True).blocking == (live,)
