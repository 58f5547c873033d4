# SPDX-License-Identifier: GPL-2.0-or-later
"""What others choose as names is shown, and does nothing."""

from __future__ import annotations

import json

from audit_samples import hostile
from hypothesis import given
from hypothesis import strategies as st

from enforcer.model.escape import for_terminal, from_bytes, to_json


@given(hostile, st.integers(1, 5000))
def test_a_hostile_name_comes_out_printable_and_bounded(name: str, limit: int) -> None:
    shown = for_terminal(name, limit)
    assert shown.isprintable()
    assert len(shown) <= limit
    shown.encode("utf-8")  # no surrogate is left


@given(hostile)
def test_escaping_twice_changes_nothing(name: str) -> None:
    once = for_terminal(name, 9000)
    assert for_terminal(once, 9000) == once


@given(st.binary(max_size=300))
def test_any_bytes_of_the_kernel_become_printable_text(raw: bytes) -> None:
    assert from_bytes(raw).isprintable()


@given(hostile)
def test_json_is_printable_ascii_and_loses_nothing(name: str) -> None:
    line = to_json({"name": name})
    assert line.isascii() and line.isprintable()
    # two halves of a character that stand side by side, which no name of the kernel holds, are read back as the whole
    whole = name.encode("utf-16", "surrogatepass").decode("utf-16", "surrogatepass")
    assert json.loads(line)["name"] == whole


def test_each_kind_of_character_has_its_visible_form() -> None:
    assert for_terminal("\x1b[31m") == "\\x1b[31m"
    assert for_terminal("a\u202eb") == "a\\u202eb"
    assert for_terminal("a\nb\x9b") == "a\\x0ab\\u009b"
    assert for_terminal("data é") == "data é"
    assert from_bytes(b"lab\xff\0rest") == "lab\\xff"


def test_what_was_cut_is_marked_and_no_escape_is_cut_in_two() -> None:
    assert for_terminal("abcdef", 4) == "abc…"
    assert for_terminal("abcd", 4) == "abcd"
    assert for_terminal("a\x1b\x1b", 6) == "a\\x1b…"
    assert for_terminal("\x1b", 3) == "…"
