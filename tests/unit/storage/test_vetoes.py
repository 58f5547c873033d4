# SPDX-License-Identifier: GPL-2.0-or-later
"""Which marks object: whose owner nothing calls silent, and which move whatever is said of their owner."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from enforcer.storage.vetoes.marks import SKEW_S, Damaged, Facts, Mark, Objection, Silence, damaged, moved, objections

THEIRS = Mark("ext4-mmp", "", "node-2", "its MMP block: mounted on node-2", b"30", 1000.0, remedy="umount it")
OURS = replace(THEIRS, owner="node-1")
HERE = Facts(frozenset({"node-1"}))

names = st.sampled_from(["node-1", "node-2", "node-20", "node-2.example.com", ""])
times = st.one_of(st.none(), st.floats(0, 4000))
owners = st.one_of(st.none(), names)
mark_lists = st.lists(
    st.builds(
        Mark, st.sampled_from(["a", "b"]), st.sampled_from("xy"), owners, st.just("says"), st.binary(max_size=1), times,
        st.booleans(),
    ),
    max_size=4,
)  # grouped by meaning  # fmt: skip
fact_sets = st.builds(
    Facts,
    st.frozensets(names.filter(bool), max_size=1),
    st.dictionaries(names.filter(bool), st.builds(Silence, st.floats(0, 4000), st.just("it was fenced")), max_size=2),
)


def silent(at_s: float, node: str = "node-2") -> Facts:
    return replace(HERE, silent={node: Silence(at_s, "it was fenced")})


def objection(mark: Mark, facts: Facts) -> Objection:
    found = objections([mark], facts)
    assert len(found) == 1
    return found[0]


def test_the_mark_of_a_node_of_which_nothing_is_known_objects() -> None:
    found = objection(THEIRS, HERE)
    assert (found.layer, found.owner, found.remedy) == ("ext4-mmp", "node-2", "umount it")
    assert found.sentence.endswith("mounted on node-2, and nothing says that node-2 was fenced or has let go")


def test_our_own_mark_is_left_over_from_a_crash() -> None:
    assert objections([OURS], HERE) == ()


def test_a_fact_excuses_what_is_older_than_itself() -> None:
    assert objections([THEIRS], silent(1000.0)) == ()
    assert objections([THEIRS], silent(1000.0 - SKEW_S)) == ()
    found = objection(THEIRS, silent(999.0 - SKEW_S))
    assert "newer than what is known of node-2: it was fenced" in found.sentence
    assert objections([replace(THEIRS, written_s=None)], silent(0.0)) == ()


def test_half_a_name_is_another_node() -> None:
    assert objections([THEIRS], silent(2000.0, "node-20")) and objections([THEIRS], silent(2000.0, "node"))
    assert objections([replace(OURS, owner="node-1.example.com")], HERE)
    assert objections([replace(THEIRS, owner="")], HERE)


def test_what_the_storage_refuses_no_fact_excuses() -> None:
    found = objection(replace(THEIRS, layer="scsi-pr", excusable=False), silent(2000.0))
    assert found.sentence.endswith("the storage would refuse our writes")


def test_what_moves_objects_whoever_it_is() -> None:
    after = replace(OURS, pulse=b"31")
    assert [o.layer for o in moved([OURS], [after])] == ["ext4-mmp"]
    assert moved([OURS], [OURS]) == () and moved([OURS], []) == ()
    assert moved([], [OURS]) and moved([replace(OURS, key="other")], [OURS])


def test_a_damaged_mark_is_nobodys_and_may_still_move() -> None:
    one, two = (damaged("ext4-mmp", Damaged("its checksum is wrong", data)) for data in (b"1", b"2"))
    assert objections([one], Facts()) == () and moved([one], [one]) == ()
    assert moved([one], [two])


@given(mark_lists, fact_sets)
def test_more_facts_never_make_more_objections_and_none_make_the_most(found: list[Mark], facts: Facts) -> None:
    some, all_ = objections(found, facts), objections(found, Facts())
    assert {(o.layer, o.owner) for o in some} <= {(o.layer, o.owner) for o in all_}
    assert len(all_) == sum(mark.owner is not None for mark in found)


@given(mark_lists, fact_sets)
def test_an_excuse_has_a_name(found: list[Mark], facts: Facts) -> None:
    for mark in found:
        if mark.owner is not None and facts.excuse(mark):
            assert mark.owner in facts.own or mark.owner in facts.silent
