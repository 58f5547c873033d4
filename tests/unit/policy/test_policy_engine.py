# SPDX-License-Identifier: GPL-2.0-or-later
"""Decisions: the first rule that matches, the strictest where it is not known which does."""

from __future__ import annotations

import errno
from dataclasses import replace

import pytest
from policy_samples import CALLER, LUN_A, LUN_B, device, intent, policy, rule

from enforcer.model.intent import Source
from enforcer.model.resource import Device, DevNum, ResourceId, UseKind
from enforcer.policy.engine import Action, Facts, FsHandling, decide, guards, kernel_fstypes
from enforcer.policy.match import NETWORK_LIKE
from enforcer.policy.rules import (
    RULE_USES,
    FailMode,
    Implicit,
    Mask,
    Match,
    MultiAttached,
    RuleMode,
    RuleVerdict,
    Subject,
    UidMask,
)


class TestUnknownFacts:
    """Leaving a fact out never gets anybody past a rule."""

    def test_a_mount_without_target_may_be_the_one(self) -> None:
        some = policy(rule(match=Match(target=("/db",))))
        assert decide(some, intent(dev=device(LUN_A), target="")).action is Action.LEASE
        assert decide(some, intent(dev=device(LUN_A), target="/srv")).action is Action.PASS

    def test_an_exception_must_be_known_to_hold(self) -> None:
        some = policy(rule("off", mode=RuleMode.OFF, match=Match(target=("/srv",))), rule("on"))
        assert decide(some, intent(dev=device(LUN_A))).rule == "off"
        assert decide(some, intent(dev=device(LUN_A), target="")).rule == "on"
        assert decide(some, intent(UseKind.WRITE_OPEN, device(LUN_A))).rule == "on"

    def test_an_unreadable_exe(self) -> None:
        unknown = replace(CALLER, exe="")
        for negate in (False, True):
            mask = Subject(exe=Mask("/usr/bin/mount", negate))
            enforce, off = policy(rule(match=Match(subject=mask))), policy(
                rule("off", mode=RuleMode.OFF, match=Match(subject=mask)), rule("on")
            )  # grouped by meaning  # fmt: skip
            assert decide(enforce, intent(dev=device(LUN_A), caller=unknown)).rule == "r"
            assert decide(off, intent(dev=device(LUN_A), caller=unknown)).rule == "on"

    def test_no_unit_is_a_fact_if_the_cgroup_is_known(self) -> None:
        some = policy(rule(match=Match(subject=Subject(unit=Mask("b.service")))))
        none = replace(CALLER, unit="")
        assert decide(some, intent(dev=device(LUN_A), caller=none)).action is Action.PASS
        assert decide(some, intent(dev=device(LUN_A), caller=replace(none, cgroup=""))).action is Action.LEASE

    def test_half_of_a_volume_is_not_let_through(self) -> None:
        volume = device(LUN_A, LUN_B, name="dm-1")
        some = policy(
            rule("off", mode=RuleMode.OFF, match=Match(device=("a",))), rule("on", match=Match(device=("b",)))
        )
        assert decide(some, intent(dev=volume)).rule == "on"
        assert guards(some, volume).guarded
        assert decide(some, intent(dev=device(LUN_A))).rule == "off"
        assert not guards(some, device(LUN_A)).guarded

    def test_the_strictest_of_those_that_may_match(self) -> None:
        some = policy(
            rule("audit", mode=RuleMode.AUDIT, match=Match(target=("/a",))),
            rule("lease", match=Match(target=("/b",))),
            rule("deny", verdict=RuleVerdict.DENY, errno=errno.EACCES),
        )
        decision = decide(some, intent(dev=device(LUN_A), target=""))
        assert (decision.action, decision.rule, decision.errno) == (Action.REFUSE, "deny", errno.EACCES)
        assert decide(some, intent(dev=device(LUN_A), target="/a")).rule == "audit"


def test_first_match_decides() -> None:
    some = policy(rule("one", mode=RuleMode.AUDIT), rule("two"))
    assert decide(some, intent(dev=device(LUN_A))).rule == "one"
    assert decide(some, intent(dev=device(LUN_A))).mode is RuleMode.AUDIT
    assert guards(some, device(LUN_A)).audit


@pytest.mark.parametrize("narrow", [{"subject": Subject(uid=UidMask(0))}, {"target": ("/a",)}, {"fstype": ("xfs",)}])
def test_an_exception_for_some_leaves_the_device_guarded_for_all(narrow: dict[str, object]) -> None:
    off = rule("off", mode=RuleMode.OFF, match=replace(Match(), **narrow))
    guarding = guards(policy(off, rule("on")), device(LUN_A))
    assert (guarding.guarded, guarding.rule) == (True, "on")
    assert not guards(policy(rule("off", mode=RuleMode.OFF), rule("on")), device(LUN_A)).guarded


def test_a_lun_names_what_lies_on_it() -> None:
    some = policy(rule(match=Match(device=("a",))))
    part = Device(DevNum(8, 1), "sdx1", (ResourceId("a", ("p1",)),), ("a/p1", "sdx1"))
    assert decide(some, intent(dev=part)).rule == "r"
    assert decide(some, intent(dev=device(LUN_B))).action is Action.PASS


def test_system_devices() -> None:
    root = device(LUN_A, system="holds /usr")
    for some in (policy(rule(verdict=RuleVerdict.DENY)), policy(implicit=Implicit.DENY)):
        decision = decide(some, intent(dev=root), Facts(frozenset({"n2"}), "x"))
        assert (decision.action, decision.source) == (Action.PASS, Source.SYSTEM)
        assert "holds /usr" in decision.reason
        assert not guards(some, root, Facts(frozenset({"n2"}))).guarded


def test_problem_devices_are_refused_by_name() -> None:
    broken = device(name="dm-7", aliases=("vg:x",), problem="too many layers")
    decision = decide(policy(rule(match=Match(device=("vg:x",)))), intent(dev=broken))
    assert decision.action is Action.REFUSE
    assert "vg:x" in decision.reason
    assert "too many layers" in decision.reason
    unnamed = decide(policy(), intent(dev=broken))
    assert (unnamed.action, unnamed.default) == (Action.REFUSE, "unknown"), "a rule may mean this very LUN"
    assert guards(policy(), broken).guarded
    assert decide(policy(unknown=Implicit.ALLOW), intent(dev=broken)).action is Action.PASS
    multi = Facts(frozenset({"n2"}))
    assert decide(policy(multi_attached=MultiAttached.LEASE), intent(dev=broken), multi).action is Action.REFUSE
    assert guards(policy(), broken, multi).guarded


@pytest.mark.parametrize(
    ("default", "action", "mode"),
    [
        (MultiAttached.DENY, Action.REFUSE, RuleMode.ENFORCE),
        (MultiAttached.LEASE, Action.LEASE, RuleMode.ENFORCE),
        (MultiAttached.AUDIT, Action.REFUSE, RuleMode.AUDIT),
        (MultiAttached.ALLOW, Action.PASS, RuleMode.OFF),
    ],
)
def test_multi_attached(default: MultiAttached, action: Action, mode: RuleMode) -> None:
    some = policy(multi_attached=default)
    decision = decide(some, intent(dev=device(LUN_A)), Facts(frozenset({"n3", "n2"})))
    assert (decision.action, decision.mode, decision.default) == (action, mode, "multi_attached")
    assert "n2, n3 see it" in decision.reason
    assert decision.generation == 3
    assert guards(some, device(LUN_A), Facts(frozenset({"n2"}))).guarded is (action is not Action.PASS)


@pytest.mark.parametrize(
    ("stated", "seen", "expected"),
    [(None, "", None), (True, "", True), (False, "", False), (False, "n2", True), (None, "n2", True)],
)
def test_a_fact_beats_a_statement(stated: bool | None, seen: str, expected: bool | None) -> None:
    facts = Facts(frozenset({seen} - {""}))
    assert decide(policy(rule(multi_attached=stated)), intent(dev=device(LUN_A)), facts).multi_attached is expected


def test_implicit_deny() -> None:
    some = policy(implicit=Implicit.DENY)
    for dev in (device(LUN_A), device(name="loop0")):
        decision = decide(some, intent(dev=dev))
        assert (decision.action, decision.errno, decision.default) == (Action.REFUSE, errno.EPERM, "implicit")
        assert guards(some, dev).guarded
    assert decide(some, intent(fstype="proc")).action is Action.PASS  # as in the kernel's table


def test_without_a_lun_there_is_nothing_to_lease() -> None:
    loop = device(name="loop0")
    assert decide(policy(rule()), intent(dev=loop)).default == "implicit"
    assert decide(policy(rule(match=Match(device=("loop0",)))), intent(dev=loop)).default == "implicit"
    named = policy(rule(match=Match(device=("loop0",)), verdict=RuleVerdict.DENY))
    assert decide(named, intent(dev=loop)).action is Action.REFUSE
    assert guards(named, loop).guarded


def test_a_device_that_nobody_described() -> None:
    unknown = replace(intent(UseKind.WRITE_OPEN), dev=DevNum(8, 5))
    decision = decide(policy(), unknown)
    assert (decision.action, decision.default) == (Action.REFUSE, "unknown")
    assert "8:5" in decision.reason
    assert decide(policy(unknown=Implicit.ALLOW), unknown).action is Action.PASS


def test_multipath_tables_pass_and_multipath_maps_are_guarded() -> None:
    carrier = device(LUN_A, carrier=True)
    some = policy(rule())
    assert decide(some, intent(UseKind.DM_LOAD, carrier, fstype="multipath")).action is Action.PASS
    for kind in RULE_USES:
        assert decide(some, intent(kind, carrier, fstype="linear")).action is Action.LEASE
    assert guards(some, carrier).guarded


def test_umount_is_never_refused() -> None:
    some = policy(rule(on=frozenset(UseKind), verdict=RuleVerdict.DENY), implicit=Implicit.DENY)
    assert decide(some, intent(UseKind.UMOUNT, device(LUN_A)), Facts(frozenset({"n2"}), "x")).action is Action.PASS


class TestTypesWithoutDevice:
    nfs = intent(fstype="nfs", source="f:/x", target="/mnt")

    def test_a_catch_all_does_not_name_them(self) -> None:
        assert decide(policy(rule()), self.nfs).action is Action.PASS
        assert set(kernel_fstypes(policy(rule()), ["proc"]).values()) == {FsHandling.PASS}

    def test_by_type_and_by_source(self) -> None:
        for match in (
            Match(fstype=("nf[s]",)),
            Match(source=("f:*",)),
            Match(fstype=("nfs",), source=("f:/x",)),
        ):
            for verdict in RuleVerdict:
                some = policy(rule(on=frozenset({UseKind.MOUNT}), match=match, verdict=verdict))
                assert decide(some, self.nfs).action is Action.REFUSE
                assert kernel_fstypes(some, [])["nfs"] is FsHandling.ASK_DENY_DEAD
                assert decide(some, intent(dev=device(LUN_A))).action is Action.PASS
        other = policy(rule(on=frozenset({UseKind.MOUNT}), match=Match(source=("g:*",))))
        assert decide(other, self.nfs).action is Action.PASS
        assert decide(other, replace(self.nfs, source="")).action is Action.REFUSE

    def test_the_beginning_of_a_source_is_not_the_source(self) -> None:
        long = replace(self.nfs, source="f:" + "/" * 1000, source_cut=True)
        assert decide(policy(rule(match=Match(source=("f:*x",)))), long).action is Action.REFUSE
        some = policy(rule("off", mode=RuleMode.OFF, match=Match(source=("f:*",))), rule(match=Match(fstype=("nfs",))))
        assert decide(some, long).action is Action.REFUSE

    def test_handling(self) -> None:
        def handling(mode: RuleMode, **defaults: object) -> FsHandling:
            some = policy(rule(mode=mode, match=Match(fstype=("tmpfs",))), **defaults)
            table = kernel_fstypes(some, {"tmpfs", "proc"})
            assert table["proc"] is FsHandling.PASS
            assert set(table) == NETWORK_LIKE | {"tmpfs", "proc"}
            return table["tmpfs"]

        assert handling(RuleMode.ENFORCE) is FsHandling.ASK_DENY_DEAD
        assert handling(RuleMode.AUDIT) is FsHandling.ASK
        assert handling(RuleMode.OFF) is FsHandling.PASS
        assert handling(RuleMode.AUDIT, on_daemon_dead=FailMode.DENY) is FsHandling.ASK_DENY_DEAD

    def test_an_off_rule_before(self) -> None:
        off, on = (
            rule("off", mode=RuleMode.OFF, match=Match(fstype=("nfs",))),
            rule(match=Match(fstype=("nfs*",))),
        )
        table = kernel_fstypes(policy(off, on), [])
        assert (table["nfs"], table["nfs4"]) == (FsHandling.PASS, FsHandling.ASK_DENY_DEAD)
        narrow = replace(off, match=replace(off.match, subject=Subject(uid=UidMask(0))))
        assert kernel_fstypes(policy(narrow, on), [])["nfs"] is FsHandling.ASK_DENY_DEAD
