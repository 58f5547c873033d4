# SPDX-License-Identifier: GPL-2.0-or-later
"""What counts as a kill, and that every mutant of the table still fits the sources and names a test that is there."""

from __future__ import annotations

import ast

import pytest

from tools.mutants import __main__ as mutants
from tools.mutants.__main__ import MUTANTS, Failure, Fate, broken, failures, judged
from tools.mutants.row import Mutant, Suite
from tools.test import LINT

TEST = "tests/vm/test_10.py::test_it"
ONE = Mutant("one", "It is so.", "enforcer/x.py", "a = 1\n", "a = 2\n", TEST)
ASSERTION = "AssertionError: {'state': 'free'}\nassert 'free' == 'live'"


def report(tag: str, message: str) -> bytes:
    case = f'<testcase classname="tests.vm.test_10" name="test_it[dd]"><{tag} message="{message}"/></testcase>'
    return f'<testsuites><testsuite><testcase classname="a" name="b"/>{case}</testsuite></testsuites>'.encode()


def test_the_old_text_is_replaced() -> None:
    assert broken(ONE, "b = 1\na = 1\n") == "b = 1\na = 2\n"


@pytest.mark.parametrize("text", ["a = 3\n", "a = 1\na = 1\n"])
def test_a_text_that_is_not_there_once_makes_it_stale(text: str) -> None:
    with pytest.raises(mutants.MutantError, match=r"one is stale: enforcer/x\.py holds the old text [02] times"):
        broken(ONE, text)


@pytest.mark.parametrize(
    ("tag", "message", "fate"),
    [
        ("failure", ASSERTION, Fate.KILLED),
        ("failure", "tools.lab.story.NotAsTold: node2: dd was let through", Fate.KILLED),
        ("failure", "tools.lab.vm.LostVM: node2 is silent", Fate.NOT_JUDGED),
        ("failure", "Failed: Timeout &gt;240.0s", Fate.NOT_JUDGED),
        ("failure", "", Fate.NOT_JUDGED),
        ("error", ASSERTION, Fate.NOT_JUDGED),
    ],
)
def test_only_an_assertion_of_a_test_kills(tag: str, message: str, fate: Fate) -> None:
    found = failures(report(tag, message))
    assert [f.test for f in found] == ["tests/vm/test_10.py::test_it[dd]"]
    assert judged(ONE, 1, found)[0] is fate


@pytest.mark.parametrize("name", ["test_it_too", "test_other[dd]"])
def test_another_test_does_not_kill(name: str) -> None:
    assert judged(ONE, 1, [Failure(f"tests/vm/test_10.py::{name}", False, ASSERTION)])[0] is Fate.NOT_JUDGED


def test_what_passes_has_survived_and_what_ran_nothing_is_not_judged() -> None:
    assert judged(ONE, 0, [])[0] is Fate.SURVIVED
    assert judged(ONE, 5, [])[0] is Fate.NOT_JUDGED


def test_one_that_is_not_killed_fails_the_run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(mutants, "MUTANTS", (ONE,))
    for fate, code in ((Fate.KILLED, 0), (Fate.SURVIVED, 1), (Fate.NOT_JUDGED, 1)):
        monkeypatch.setattr(
            mutants, "watch", lambda m, _, control, fate=fate: mutants.Outcome("one", m.suite, fate, "")
        )
        assert mutants.main(["one"]) == code
        assert capsys.readouterr().out.splitlines()[-1] == ("1 killed, 0 not" if not code else "0 killed, 1 not")


def test_names_are_their_own() -> None:
    assert len({m.name for m in MUTANTS}) == len(MUTANTS)
    assert not {m.name for m in MUTANTS} & set(Suite)


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda m: m.name)
def test_a_mutant_fits(mutant: Mutant) -> None:
    assert broken(mutant, (mutants.ROOT / mutant.file).read_text()) and mutant.old != mutant.new
    if mutant.suite is Suite.LINT:
        assert mutant.test in LINT
        return
    for wanted in (mutant.test, *mutant.select):
        file, _, test = wanted.partition("::")
        tree = ast.parse((mutants.ROOT / file).read_text())
        names = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
        assert test.partition("[")[0] in names, wanted
