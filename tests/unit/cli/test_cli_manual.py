# SPDX-License-Identifier: GPL-2.0-or-later
"""The manual pages are well formed, and true about the verbs, options and keys that there are."""

from __future__ import annotations

import argparse
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from audit_samples import REFUSED, record

from enforcer.audit import journal
from enforcer.cli.main import parser
from enforcer.model.errors import Exit

MAN = Path(__file__).parents[3] / "docs" / "man"


def plain(page: str) -> str:
    return (MAN / page).read_text().replace("\\-", "-")


def parsers(top: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    yield top
    for action in top._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, sub in action.choices.items():
                assert name in plain("enforcer.8")
                yield from parsers(sub)


@pytest.mark.skipif(not shutil.which("groff"), reason="groff is not installed")
@pytest.mark.parametrize("page", ["enforcer.8", "enforcer.audit.5"])
def test_a_page_has_no_warnings(page: str) -> None:
    command = ["groff", "-t", "-man", "-ww", "-rF0", "-Tutf8", "-z", str(MAN / page)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_every_verb_and_every_option_is_in_the_manual() -> None:
    page = plain("enforcer.8")
    options = {
        option
        for sub in parsers(parser())
        for action in sub._actions
        for option in action.option_strings
        if option.startswith("--") and option != "--help"
    }
    assert len(options) > 10
    assert [option for option in sorted(options) if option not in page] == []


def test_every_exit_code_is_in_the_manual() -> None:
    assert [code for code in Exit if f"\n{int(code)}|" not in plain("enforcer.8")] == []


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
