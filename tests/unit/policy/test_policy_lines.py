# SPDX-License-Identifier: GPL-2.0-or-later
"""The scanner that tells the line of a key finds what tomllib finds."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from enforcer.policy.document import parse_bytes


class TestLines:
    """The scanner finds what tomllib finds."""

    def test_every_shape(self) -> None:
        text = (
            'a.b = 1\n"c.d" = """\nx = 1\n"""\n[[t]] # t\nk = [ # c\n  "]", \'#\',\n  [1,\n 2],\n]\n'
            "[t.sub]\nz = {p = 1, q = {r = '}'}}\n[[t]]\nk = 1979-05-27 07:32:00Z # d\n[[t.u]]\nv = 1e3\n"
            's = \'\'\'it\'s\n\'\'\'\ne = """a\\"""" # x\nf = ""\n'
        )
        document = parse_bytes(text.encode(), "f")
        assert document.problems == []
        lines = document.lines
        expected: dict[tuple[str | int, ...], int] = {
            ("a", "b"): 1,
            ("c.d",): 2,
            ("t", 0): 5,
            ("t", 0, "k"): 6,
            ("t", 0, "k", 0): 7,
            ("t", 0, "k", 2): 8,
            ("t", 0, "k", 2, 1): 9,
            ("t", 0, "sub"): 11,
            ("t", 0, "sub", "z", "q", "r"): 12,
            ("t", 1): 13,
            ("t", 1, "k"): 14,
            ("t", 1, "u", 0, "v"): 16,
            ("t", 1, "u", 0, "s"): 17,
            ("t", 1, "u", 0, "e"): 19,
            ("t", 1, "u", 0, "f"): 20,
        }
        assert {path: lines.get(path) for path in expected} == expected
        assert document.line(("t", 0, "nowhere", 5)) == 5
        assert document.line(("x",)) == 1

    keys = st.text("ab-_1", min_size=1, max_size=3) | st.text(max_size=3).map(lambda s: _quoted(s))
    scalars = st.sampled_from(["1", "-0.5", "true", "1979-05-27", "inf", '"#"', "'a]'", '""', "''", '"""\n"x"\n"""'])
    values = st.recursive(
        scalars,
        lambda inner: (
            st.lists(inner, max_size=3).map(lambda items: "[\n" + " ,\n".join(items) + " # c\n]")
            | st.lists(inner.filter(lambda v: "\n" not in v), max_size=2).map(
                lambda items: "{" + ", ".join(f"k{i} = {item}" for i, item in enumerate(items)) + "}"
            )
        ),
        max_leaves=6,
    )
    statements = st.tuples(keys, values).map(lambda pair: f"{pair[0]} = {pair[1]}")
    headers = keys.map(lambda key: f"[[{key}]]")

    @settings(max_examples=100, deadline=None)
    @given(st.lists(statements | headers, max_size=6).map("\n".join))
    def test_every_path_has_a_line(self, text: str) -> None:
        document = parse_bytes(text.encode("utf-8", "replace"), "f")
        if document.problems:
            return
        for path in _paths(document.data):
            assert path in document.lines, (path, text)
        assert all(1 <= line <= text.count("\n") + 1 for line in document.lines.values())


def _quoted(text: str) -> str:
    return '"' + "".join(c if c.isalnum() or c in " .#]'" else f"\\U{ord(c):08x}" for c in text) + '"'


def _paths(value: object, path: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    found = [path] if path else []
    if isinstance(value, dict):
        for key, item in value.items():
            found += _paths(item, (*path, key))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            found += _paths(item, (*path, index))
    return found
