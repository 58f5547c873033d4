# SPDX-License-Identifier: GPL-2.0-or-later
"""The shipped policy gives the verdicts that policy/cases promises."""

from __future__ import annotations

import json
from pathlib import Path
from typing import ClassVar

import pytest

from enforcer.model.resource import UseKind
from enforcer.policy.cases import Case, CaseErrors, load_cases, run_case
from enforcer.policy.document import LocatedErrors
from enforcer.policy.engine import Action
from enforcer.policy.lint import lint
from enforcer.policy.parse import KEYS, LATER_KEYS, load
from enforcer.policy.rules import (
    RULE_USES,
    Defaults,
    FailMode,
    Implicit,
    MultiAttached,
    RuleMode,
    RuleVerdict,
)

SHIPPED = Path(__file__).parents[3] / "policy"
CASES = load_cases([SHIPPED / "cases"])


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{Path(case.file).stem}: {case.name}")
def test_case(case: Case) -> None:
    assert run_case(case).differences == ()


def test_cases_are_many_and_have_their_own_names() -> None:
    assert len(CASES) >= 20
    assert len({(case.file, case.name) for case in CASES}) == len(CASES)


def test_a_wrong_expectation_is_seen(tmp_path: Path) -> None:
    file = tmp_path / "c.toml"
    file.write_text('[[case]]\nname = "x"\nintent = { fstype = "proc" }\nexpect = { action = "lease", rule = "y" }\n')
    result = run_case(load_cases([file])[0])
    assert not result.passed
    assert result.differences == ('action is "pass", expected "lease"', 'rule is "", expected "y"')


def test_mistakes_in_case_files_are_located(tmp_path: Path) -> None:
    file = tmp_path / "c.toml"
    file.write_text('[[case]]\nname = "x"\nintent = { device = "sdz" }\nexpekt = 1\n')
    with pytest.raises(CaseErrors) as caught:
        load_cases([file])
    assert isinstance(caught.value, LocatedErrors)
    assert {problem.line for problem in caught.value.problems} == {1, 3, 4}


def test_the_shipped_directory_is_a_policy_without_rules() -> None:
    policy = load([SHIPPED])
    assert [Path(file).name for file in policy.files] == ["90-default.toml"]
    assert policy.rules == ()
    assert policy.defaults == Defaults()


@pytest.mark.parametrize("place", ["90-default.toml", "10-san.toml.example", "run"])
def test_shipped_files_have_no_warnings(place: str) -> None:
    # Who owns a checkout is no matter of ours; the rules themselves are.
    found = lint(load([SHIPPED / place]))
    assert [problem for problem in found if problem.message.startswith("rule ")] == []


def test_audit_all_refuses_nothing() -> None:
    policy = load([SHIPPED / "run"])
    for case in CASES:
        decision = run_case(Case(case.name, case.intent, case.facts, case.expected, policy, "", 0)).decision
        assert decision.action is Action.PASS or decision.mode is RuleMode.AUDIT
        if case.intent.device and case.intent.device.resources and not case.intent.device.system:
            in_scope = case.intent.kind is not UseKind.UMOUNT and case.intent.fstype != "multipath"
            assert (decision.rule == "audit-all") is in_scope


class TestSchema:
    """The schema and the parser know the same keys and words."""

    schema = json.loads((SHIPPED / "schema.json").read_text())
    defs = schema["$defs"]
    tables: ClassVar = {
        "": schema,
        "defaults": defs["defaults"],
        "rule": defs["rule"],
        "rule.match": defs["match"],
        "rule.match.subject": defs["subject"],
    }

    @pytest.mark.parametrize("table", KEYS)
    def test_keys(self, table: str) -> None:
        assert set(self.tables[table]["properties"]) == set(KEYS[table])
        assert self.tables[table]["additionalProperties"] is False

    def test_tables(self) -> None:
        assert set(self.tables) == set(KEYS)
        assert not set(LATER_KEYS) & set(KEYS["rule"])

    def test_words(self) -> None:
        defaults, rule = self.defs["defaults"]["properties"], self.defs["rule"]["properties"]
        for words, enum in (
            (defaults["implicit"], Implicit),
            (defaults["unknown"], Implicit),
            (defaults["multi_attached"], MultiAttached),
            (defaults["on_deadline"], FailMode),
            (defaults["on_daemon_dead"], FailMode),
            (rule["mode"], RuleMode),
            (rule["verdict"], RuleVerdict),
            (rule["on"]["oneOf"][0], RULE_USES),
            (rule["on"]["oneOf"][1]["items"], RULE_USES),
        ):
            assert set(words["enum"]) == {str(word) for word in enum}

    def test_defaults(self) -> None:
        given = self.defs["defaults"]["properties"]
        for key in ("implicit", "multi_attached", "unknown", "on_deadline", "on_daemon_dead"):
            assert given[key]["default"] == getattr(Defaults(), key)
