# SPDX-License-Identifier: GPL-2.0-or-later
"""Of every policy: the kernel's tables agree with the decisions, and hiding a fact makes nothing looser."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st
from policy_samples import LUN_A, LUN_B, device

from enforcer.model.intent import Caller, Intent
from enforcer.model.resource import Device, ResourceId, UseKind
from enforcer.policy.engine import Action, Facts, FsHandling, decide, guards, kernel_fstypes
from enforcer.policy.masks import covers
from enforcer.policy.rules import (
    RULE_USES,
    Defaults,
    FailMode,
    Implicit,
    Mask,
    Match,
    MultiAttached,
    Policy,
    Rule,
    RuleMode,
    RuleVerdict,
    Subject,
    UidMask,
)

_globs = st.lists(st.sampled_from(["a", "b", "a*", "vg", "x"]), max_size=2).map(tuple)
_subjects = st.builds(
    Subject,
    unit=st.none() | st.builds(Mask, st.sampled_from(["a.service", "*.scope"]), st.booleans()),
    uid=st.none() | st.builds(UidMask, st.integers(0, 1), st.booleans()),
    exe=st.none() | st.builds(Mask, st.just("/bin/a"), st.booleans()),
)
_matches = st.builds(
    Match,
    device=_globs,
    fstype=st.sampled_from([(), ("ext4",), ("nfs",), ("nfs*", "tmpfs")]),
    target=st.sampled_from([(), ("/a",)]),
    source=st.sampled_from([(), (), ("f:*",)]),
    subject=st.just(Subject()) | _subjects,
)
_rules = st.builds(
    Rule,
    id=st.sampled_from(["r1", "r2", "r3"]),
    on=st.sets(st.sampled_from(RULE_USES), min_size=1).map(frozenset),
    mode=st.sampled_from(RuleMode),
    match=_matches,
    verdict=st.sampled_from(RuleVerdict),
)
_policies = st.builds(
    Policy,
    rules=st.lists(_rules, max_size=4).map(tuple),
    defaults=st.builds(
        Defaults,
        implicit=st.sampled_from(Implicit),
        multi_attached=st.sampled_from(MultiAttached),
        unknown=st.sampled_from(Implicit),
        on_daemon_dead=st.sampled_from(FailMode),
    ),
)
_resources = st.lists(
    st.sampled_from([LUN_A, LUN_B, ResourceId("a", ("p1",)), ResourceId("b", ("p1",))]),
    max_size=2,
    unique=True,
).map(lambda found: tuple(sorted(found)))


@st.composite
def _devices(draw: st.DrawFn) -> Device:
    more = draw(st.sampled_from([{}, {}, {}, {"problem": "p"}, {"carrier": True}, {"system": "holds /"}]))
    return device(*draw(_resources), aliases=draw(st.sampled_from([(), ("vg",)])), **more)


_callers = st.builds(
    Caller,
    pid=st.just(1),
    tid=st.just(1),
    uid=st.integers(0, 1),
    comm=st.just("x"),
    exe=st.sampled_from(["", "/bin/a", "/bin/b"]),
    cgroup=st.sampled_from(["", "/"]),
    unit=st.sampled_from(["", "a.service", "b.scope"]),
)
_intents = st.builds(
    Intent,
    id=st.just(1),
    kind=st.sampled_from(UseKind),
    caller=_callers,
    fstype=st.sampled_from(["", "ext4", "nfs", "nfs4", "tmpfs", "multipath"]),
    source=st.sampled_from(["", "f:/x", "g:/y"]),
    target=st.sampled_from(["", "/a", "/b"]),
)
_facts = st.builds(
    Facts,
    seen_by=st.sampled_from([frozenset(), frozenset({"n2"})]),
    unresolved=st.sampled_from(["", "", "u"]),
)


@settings(max_examples=300, deadline=None)
@given(_policies, _intents, _devices(), _facts)
def test_what_could_be_refused_is_guarded(some: Policy, asked: Intent, dev: Device, facts: Facts) -> None:
    decision = decide(some, replace(asked, device=dev, dev=dev.dev), facts)
    guarding = guards(some, dev, facts)
    if decision.action is not Action.PASS:
        assert guarding.guarded
        assert decision.errno > 0
        assert decision.rule or decision.default
        assert not (guarding.audit and decision.mode is RuleMode.ENFORCE)
    if decision.action is Action.LEASE:
        assert dev.resources
        assert not dev.problem
        assert not facts.unresolved
    if guarding.guarded:
        assert guarding.errno > 0
        assert not dev.system


@settings(max_examples=250, deadline=None)
@given(_policies, _intents)
def test_types_that_the_kernel_passes_are_passed_here(some: Policy, asked: Intent) -> None:
    decision = decide(some, replace(asked, kind=UseKind.MOUNT))
    handling = kernel_fstypes(some, ["tmpfs", "ext4", "multipath", ""])[asked.fstype]
    if decision.action is not Action.PASS:
        assert handling is not FsHandling.PASS
        if decision.mode is RuleMode.ENFORCE:
            assert handling is FsHandling.ASK_DENY_DEAD


@settings(max_examples=250, deadline=None)
@given(_policies, _intents, _devices(), _facts, st.sampled_from(["target", "fstype", "exe"]))
def test_hiding_a_fact_makes_nothing_looser(
    some: Policy, asked: Intent, dev: Device, facts: Facts, hidden: str
) -> None:
    asked = replace(asked, device=dev, dev=dev.dev)
    if hidden == "exe":
        less = replace(asked, caller=replace(asked.caller, exe=""))
    else:
        less = replace(asked, **{hidden: ""})
    assert decide(some, less, facts).strictness >= decide(some, asked, facts).strictness


@settings(max_examples=200, deadline=None)
@given(st.text("ab*?", max_size=4), st.text("ab*?", max_size=4), st.text("ab", max_size=4))
def test_covers_is_right_when_it_says_yes(wide: str, narrow: str, text: str) -> None:
    if covers(wide, narrow) and Mask(narrow).matches(text):
        assert Mask(wide).matches(text)
