# SPDX-License-Identifier: GPL-2.0-or-later
"""``explain`` says who wanted what, what was decided and why, and what to type next."""

from __future__ import annotations

import contextlib
import dataclasses
from datetime import UTC, datetime, timedelta

import pytest
from audit_samples import (
    ALL,
    GUARD_ONLY,
    OTHER_BOOT,
    PERMITTED,
    REFUSED,
    STRANDED,
    WOULD_REFUSE,
    hostile,
    hostile_record,
    view,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from enforcer.audit.view import Record
from enforcer.cli import words
from enforcer.cli.when import since
from enforcer.cli.words import Explanation
from enforcer.model.errors import UsageError
from enforcer.model.intent import Effect, Source, Verdict
from enforcer.model.resource import UseKind


def told(verdict: Verdict, place: str = "") -> Explanation:
    return words.explain(view(verdict), rule_place=place, zone=UTC)


def text_of(found: Explanation) -> str:
    rows = [f"{label}: {said}" for label, said in found.rows]
    return "\n".join([found.headline, *rows, *(f"> {step}" for step in found.next_steps)])


def test_a_refusal_for_a_holder() -> None:
    assert text_of(told(REFUSED, "now at /etc/enforcer/policy.d/50-site.toml:3")) == (
        "E-1a2b3c-17: mount of /dev/sdb1 refused with EBUSY (Device or resource busy)\n"
        "who: mount[4711], uid 0, of ssh.service, program /usr/bin/mount\n"
        "wanted: to mount /dev/sdb1 (ext4) on /srv/db\n"
        "when: 2026-11-22 12:05:01 UTC on node-2\n"
        "decided: refused by the lease store etcd\n"
        "because: held by node-1\n"
        "rule: san, now at /etc/enforcer/policy.d/50-site.toml:3, policy generation 7\n"
        f"holder: node-1 since 2026-11-22 12:03:00, token 41, boot id {OTHER_BOOT}; "
        "it is alive and renews its session\n"
        "device: sdb1 (8:17) = wwn-0x5000c500aa/p1, attached by iscsi\n"
        "took: 12.3 ms (classify 0.80, policy 0.10, store 11.2)\n"
        "> end its use on node-1 and try again; who holds it now:\n"
        "> enforcer who wwn-0x5000c500aa/p1"
    )


def test_a_stranded_lease_comes_with_the_command_and_its_condition() -> None:
    found = told(STRANDED)
    holder = dict(found.rows)["holder"]
    assert "stranded: it is silent, and nothing proves that it no longer writes" in holder
    assert "it does not silence itself" in holder
    assert found.next_steps == (
        "make sure that node-1 is off or cut off from the storage, and only then:",
        f"enforcer fence confirm node-1 --boot-id {OTHER_BOOT}",
    )


def test_a_refusal_by_the_guard_alone() -> None:
    found = told(GUARD_ONLY)
    rows = dict(found.rows)
    assert rows["decided"] == "refused inside the kernel by its device table, without asking the daemon"
    assert rows["rule"] == "none matched, the default 'multi_attached' decided, policy generation 7"
    assert "holder" not in rows
    assert found.next_steps[-1] == "enforcer who /dev/sdb1"


def test_a_refusal_in_mode_audit_says_that_it_was_none() -> None:
    found = told(WOULD_REFUSE)
    assert found.headline == "E-1a2b3c-17: mount of /dev/sdb1 would be refused"
    assert dict(found.rows)["decided"] == (
        "would be refused by the lease store etcd; let through, because its rule is in mode audit"
    )
    assert found.next_steps[-1] == "enforcer audit --effect would-refuse --rule trial"


def test_a_permit_names_its_token_and_needs_no_next_step() -> None:
    found = told(PERMITTED)
    assert found.headline == "E-1a2b3c-17: mount of /dev/sdb1 permitted"
    assert dict(found.rows)["lease"] == "held by node-2 under token 42 in etcd"
    assert found.next_steps == ()


def test_the_remedy_of_the_daemon_goes_before_our_own() -> None:
    assert told(dataclasses.replace(STRANDED, remedy="enforcer fence ...")).next_steps == ("enforcer fence ...",)


@pytest.mark.parametrize("source", list(Source))
@pytest.mark.parametrize("effect", list(Effect))
def test_every_source_of_a_verdict_has_its_sentence(source: Source, effect: Effect) -> None:
    found = told(Verdict(effect, 16, source, "so it is"))
    assert len(dict(found.rows)["decided"]) > 8
    assert bool(found.next_steps) is (effect is not Effect.PERMIT)


@pytest.mark.parametrize("kind", list(UseKind))
def test_every_kind_of_use_has_its_words(kind: UseKind) -> None:
    seen = dataclasses.replace(view(REFUSED), kind=str(kind))
    assert "/dev/sdb1" in dict(words.explain(seen).rows)["wanted"]


def test_an_explanation_has_eight_to_fifteen_lines() -> None:
    for verdict in ALL:
        assert 8 <= len(text_of(told(verdict)).splitlines()) <= 15


@settings(max_examples=60)
@given(hostile, st.sampled_from(ALL))
def test_a_hostile_name_is_never_explained_unescaped(name: str, verdict: Verdict) -> None:
    seen = Record.of(hostile_record(name, verdict))
    found = words.explain(seen)
    shown = [found.headline, *found.next_steps, *(said for _, said in found.rows)]
    assert all(text.isprintable() for text in [*shown, words.what(seen), words.why(seen), words.caller(seen)])


NOW = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("2h", NOW - timedelta(hours=2)),
        ("30min", NOW - timedelta(minutes=30)),
        ("-3 days ago", NOW - timedelta(days=3)),
        ("90s", NOW - timedelta(seconds=90)),
        ("11:30", NOW.replace(hour=11, minute=30)),
        ("13:00", NOW.replace(day=21, hour=13)),
        ("today", NOW.replace(hour=0)),
        ("yesterday", NOW.replace(day=21, hour=0)),
        ("2026-11-20 08:00", NOW.replace(day=20, hour=8)),
        ("2026-11-20T08:00:00Z", NOW.replace(day=20, hour=8)),
    ],
)
def test_times_are_understood_as_people_type_them(typed: str, meant: datetime) -> None:
    assert since(typed, NOW) == meant


@settings(max_examples=50)
@given(st.text("0123456789:-+ hdsTZ\n٣", max_size=20))
def test_any_other_time_is_a_usage_error(typed: str) -> None:
    with contextlib.suppress(UsageError):
        since(typed, NOW)
