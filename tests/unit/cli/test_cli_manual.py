# SPDX-License-Identifier: GPL-2.0-or-later
"""The manual pages are well formed, and true about the verbs, options and keys that there are."""

from __future__ import annotations

import argparse
import dataclasses
import json
import re
import subprocess
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from audit_samples import REFUSED, record

from enforcer import settings
from enforcer.audit import journal
from enforcer.cli import main as cli
from enforcer.daemon import main as daemon
from enforcer.keeper import main as keeper
from enforcer.model.errors import Exit
from enforcer.policy.fields import show_duration
from enforcer.policy.message import FIELDS
from enforcer.policy.parse import KEYS
from enforcer.policy.rules import RULE_USES, Defaults, FailMode, Implicit, MultiAttached, RuleMode, RuleVerdict
from enforcer.revoker import main as revoker

MAN = Path(__file__).parents[3] / "docs" / "man"
PAGES = sorted(path.name for path in MAN.iterdir())
OPTION = re.compile(r"(?<![\w-])-(?:-[a-z][a-z-]*|[a-z])(?![\w-])")
EVERYWHERE = {"--socket", "--debug", "--json", "--help", "-h"}  # said once, for all verbs

Main = Callable[[Sequence[str]], int]


def groff(page: str, *options: str) -> subprocess.CompletedProcess[str]:
    command = ["groff", "-t", "-man", "-ww", "-rF0", *options, str(MAN / page)]
    return subprocess.run(command, capture_output=True, text=True)


def plain(page: str) -> str:
    """What a reader sees, without hyphenation, each paragraph one line, its tag far to the left of it."""
    return groff(page, "-Tascii", "-P-cbou", "-rHY=0", "-rIN=200n", "-rLL=4000n").stdout


def sections(page: str) -> dict[str, str]:
    parts = re.split(r"^(\S.*)\n", plain(page), flags=re.M)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def tagged(section: str) -> dict[str, str]:
    """The paragraphs that have a tag, by it; what follows one without a tag of its own belongs to it."""
    found: dict[str, str] = {}
    for line in section.splitlines():
        tag, _, text = line.removeprefix(" " * 200).partition("   ")
        if tag and text:
            found[tag] = text.strip()
        elif found and line.startswith(" " * 400):
            found[[*found][-1]] += " " + line.strip()
    return found


def parsers(top: argparse.ArgumentParser, words: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """The words that lead to each verb which takes no further one."""
    inner = [action for action in top._actions if isinstance(action, argparse._SubParsersAction)]
    for action in inner:
        for name, sub in action.choices.items():
            yield from parsers(sub, (*words, name))
    if not inner:
        yield words


def helped(main: Main, words: Sequence[str], capsys: pytest.CaptureFixture[str]) -> set[str]:
    """The options that a program names when it is asked."""
    with pytest.raises(SystemExit) as end:
        main([*words, "--help"])
    assert end.value.code == 0
    return set(OPTION.findall(capsys.readouterr().out))


@pytest.mark.parametrize("page", PAGES)
def test_a_page_has_no_warnings(page: str) -> None:
    done = groff(page, "-Tutf8", "-z")
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("page", PAGES)
def test_a_page_names_itself_and_the_others_exist(page: str) -> None:
    name, _, section = page.rpartition(".")
    found = sections(page)
    assert plain(page).split()[0] == f"{name.upper()}({section})"
    assert found["NAME"].strip().startswith(f"{name} - ")
    ours = re.findall(r"\b(enforcer[\w.-]*)\((\d)\)", "".join(found.values()))
    assert [other for other in ours if ".".join(other) not in PAGES] == []
    assert set(re.findall(r"(enforcer[\w.-]*)\(", found["SEE ALSO"])) - {name}


@pytest.mark.parametrize(
    ("page", "main"),
    [("enforcerd.8", daemon.main), ("enforcer-keeper.8", keeper.main), ("enforcer-revoker.8", revoker.main)],
)
def test_a_daemon_takes_the_options_that_its_page_names(
    page: str, main: Main, capsys: pytest.CaptureFixture[str]
) -> None:
    told = sections(page)
    known = helped(main, [], capsys)
    assert set(OPTION.findall(" ".join(tagged(told["OPTIONS"])))) == known
    assert set(OPTION.findall(told["SYNOPSIS"])) == known - {"-h", "--help"}


@pytest.mark.parametrize("words", [*parsers(cli.parser())], ids=" ".join)
def test_a_verb_takes_the_options_that_the_page_names(
    words: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    told = sections("enforcer.8")
    own = [f"{tag} {text}" for tag, text in tagged(told["VERBS"]).items() if re.match(" ".join(words) + r"\b", tag)]
    assert own
    assert set(OPTION.findall(" ".join(own))) == helped(cli.main, words, capsys) - EVERYWHERE
    assert OPTION.findall(told["DESCRIPTION"]) == ["--json", "--json"]
    assert set(OPTION.findall(" ".join(tagged(told["OPTIONS"])))) == EVERYWHERE - {"--json"} | {"--version"}


def test_every_setting_is_in_the_manual_with_its_default_and_its_meaning() -> None:
    told = sections("enforcer.toml.5")
    for setting in settings.SETTINGS:
        paragraphs = tagged(told[f"[{setting.section}]"])
        assert f"{setting.help}." in paragraphs[f"{setting.key} = {json.dumps(setting.default)}"]
    named = [tag.split(" = ")[0] for name, text in told.items() if name[0] == "[" for tag in tagged(text)]
    assert named == [setting.key for setting in settings.SETTINGS]


def test_every_key_of_a_policy_is_in_the_manual_with_its_values_and_defaults() -> None:
    told = sections("enforcer.policy.5")
    rules, conditions = tagged(told["RULES"]), tagged(told["CONDITIONS"])
    assert tuple(rules) == KEYS["rule"]
    assert tuple(", ".join(conditions).split(", ")) == KEYS["rule.match"]
    assert [key for key in KEYS["rule.match.subject"] if key not in conditions["subject"]] == []
    for key, values in (("on", RULE_USES), ("mode", RuleMode), ("verdict", RuleVerdict), ("message", FIELDS)):
        assert [value for value in values if str(value) not in rules[key]] == []
    defaults = {
        key.removesuffix("_s"): show_duration(value) if isinstance(value, float) else str(value)
        for key, value in dataclasses.asdict(Defaults()).items()
    }
    paragraphs = tagged(told["DEFAULTS"])
    assert list(paragraphs) == [f'{key} = "{value}"' for key, value in defaults.items()]
    for text, choice in zip(paragraphs.values(), (Implicit, MultiAttached, Implicit, FailMode), strict=False):
        assert [value for value in choice if str(value) not in text] == []


def test_every_exit_code_is_in_the_manual() -> None:
    told = sections("enforcer.8")["EXIT STATUS"]
    assert [code for code in Exit if not re.search(rf"^ +{int(code)} ", told, re.M)] == []


def test_every_key_of_a_record_is_in_the_manual() -> None:
    page = plain("enforcer.audit.5")
    made = record(REFUSED)
    keys = [*made, *(key for inner in made.values() if isinstance(inner, dict) for key in inner)]
    missing = [key for key in keys if key not in page and key not in ("classify", "policy", "store")]
    assert missing == []


def test_every_message_id_is_in_the_manual() -> None:
    page = plain("enforcer.audit.5")
    for message_id in (journal.REFUSED, journal.WOULD_REFUSE, journal.LOST, journal.NOTICE):
        assert message_id in page
