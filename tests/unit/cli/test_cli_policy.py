# SPDX-License-Identifier: GPL-2.0-or-later
"""policy check, test and show: mistakes with file and line, cases that come out otherwise, rules in their order."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from cli_samples import printed

from enforcer.cli.main import main
from enforcer.model.errors import Exit


def test_policy_check_names_file_and_line(policy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["policy", "check", str(policy)]) == 0
    assert "1 rules in 1 files" in printed(capsys)
    (policy / "60-bad.toml").write_text('[[rule]]\nid = "x"\non = ["mount"]\ncolour = "\\u001b[31m"\n')
    assert main(["policy", "check", str(policy)]) == Exit.NOT_CONFIGURED
    text = printed(capsys)
    assert "60-bad.toml:4: " in text and "\x1b" not in text
    assert main(["policy", "check", "--json", str(policy)]) == Exit.NOT_CONFIGURED
    assert json.loads(printed(capsys))["errors"][0]["line"] == 4
    assert main(["policy", "show", "--dir", str(policy)]) == Exit.NOT_CONFIGURED
    assert "60-bad.toml:4: " in capsys.readouterr().err


def test_a_place_without_a_policy_file_is_not_one_without_mistakes(
    policy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    empty, others, none = tmp_path / "empty", tmp_path / "others", tmp_path / "none"
    empty.mkdir()
    others.mkdir()
    for name in ("50-site.conf", "10-san.toml.example", "README.md", ".50-hidden.toml"):
        (others / name).write_text("[[rule]]\n")
    for place, said in (
        (empty, "holds no policy file. Only NN-name.toml is read"),
        (others, "holds no policy file. Only NN-name.toml is read"),
        (none, "does not exist. "),
    ):
        for places in ([place], [policy, place]):
            assert main(["policy", "check", *map(str, places)]) == Exit.NOT_CONFIGURED
            assert printed(capsys).startswith(f"{place}: {said}")
        assert main(["policy", "check", "--json", str(place)]) == Exit.NOT_CONFIGURED
        assert json.loads(printed(capsys))["errors"][0]["file"] == str(place)
        assert main(["policy", "show", "--dir", str(place)]) == Exit.NOT_CONFIGURED
        assert f"{place}: {said}" in capsys.readouterr().err


def test_policy_test_tells_what_came_out_otherwise(
    policy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cases = tmp_path / "cases.toml"
    head = '[[device]]\nname = "sdb"\nresources = ["wwn-1"]\n[[case]]\nname = "a LUN"\n'
    cases.write_text(
        head + 'intent = { kind = "mount", device = "sdb" }\nexpect = { action = "lease", rule = "san" }\n'
    )
    assert main(["policy", "test", str(cases), "--dir", str(policy)]) == 0
    assert "1 of 1 cases come out as expected" in printed(capsys)
    cases.write_text(head + 'intent = { kind = "mount", device = "sdb" }\nexpect = { action = "refuse" }\n')
    assert main(["policy", "test", str(cases), "--dir", str(policy)]) == 1
    assert "a LUN: action is" in printed(capsys)
    assert main(["policy", "test", "--json", str(cases), "--dir", str(policy)]) == 1
    assert json.loads(printed(capsys))["cases"][0]["passed"] is False


def test_policy_shows_rules_in_order_and_one_in_full(policy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["policy", "show", "--dir", str(policy)]) == 0
    text = printed(capsys)
    assert "san" in text and "device=wwn-*" in text and "50-site.toml:1" in text
    assert main(["policy", "show", "san", "--dir", str(policy)]) == 0
    assert "rule san" in printed(capsys)
    assert main(["policy", "show", "nope", "--dir", str(policy)]) == 1
