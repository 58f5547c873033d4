# SPDX-License-Identifier: GPL-2.0-or-later
"""Tables and colours: they fit the terminal, and no name gets through them unescaped."""

from __future__ import annotations

import io
import json

import pytest
from audit_samples import ALL, hostile, hostile_record, record
from cli_samples import LEASE, STATUS, WHO
from hypothesis import HealthCheck, given, settings

from enforcer.audit.view import Record
from enforcer.cli import render, words
from enforcer.cli.output import Output
from enforcer.model.escape import to_json


def drawn(*things: object, width: int = 100) -> str:
    stream = io.StringIO()
    Output(stream, width=width).draw(*things)
    return stream.getvalue()


@pytest.mark.parametrize("width", [60, 80, 100, 200])
def test_the_audit_table_fits_the_terminal(width: int) -> None:
    rows = [Record.of(record(verdict)) for verdict in ALL]
    text = drawn(render.audit_table(rows, width), width=width)
    assert all(len(line) <= max(width, 80) for line in text.splitlines())


def test_the_cluster_manager_has_a_line_where_there_is_one() -> None:
    line = "pacemaker: quorate (3 of 3 votes)"
    assert line in drawn(*render.status_grid(STATUS)) and line in drawn(*render.who_tables(WHO))
    none = {"cluster": {"view": "none", "quorum": "none", "detail": line}}
    assert line not in drawn(*render.status_grid(STATUS | none), *render.who_tables(WHO | none))


def test_colour_is_for_terminals_and_not_where_it_is_unwanted(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    row = Record.of(record(ALL[0]))
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    coloured = Terminal()
    Output(coloured, width=100).draw(render.audit_table([row], 100))
    assert "\x1b[1;31mrefuse" in coloured.getvalue()
    monkeypatch.setenv("NO_COLOR", "1")
    plain = Terminal()
    Output(plain, width=100).draw(render.audit_table([row], 100))
    assert "31m" not in plain.getvalue()


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(hostile)
def test_no_renderer_lets_a_hostile_name_through(name: str) -> None:
    rows = [Record.of(json.loads(to_json({**hostile_record(name, verdict), "why": name}))) for verdict in ALL]
    device = {**dict.fromkeys(WHO["devices"][0], name), "resources": [name], "seen_by": [name]}
    lease = {
        **dict.fromkeys(LEASE, name),
        "holder": {"node": name, "boot_id": name},
        "facts": {"fstype": name},
    }
    stranded = {**lease, "liveness": "stranded"}
    node = {"node": name, "boot_id": name, "live": True, "policy_digest": name, "luns": [name]}
    who = {"leases": [lease, stranded], "devices": [device], "nodes": [node], "disagreements": [name]}
    who["cluster"] = {"view": name, "quorum": name, "detail": name}
    status = {
        **dict.fromkeys(STATUS, name), "warnings": [name], "counters": {name: name},
        "store": {"kind": name, "reachable": False, "detail": name, "ttl_s": name},
        "kernel": {"programs": [name], "misses": name, "drops": {name: name}},
        "keeper": {"deadline_in_s": name}, "cluster": who["cluster"],
    }  # grouped by meaning  # fmt: skip
    things = [
        render.audit_table(rows, 100),
        *(thing for row in rows for thing in render.explanation(words.explain(row), row.effect)),
        *render.who_tables(who),
        *render.status_grid(status),
        render.plain_table(("a",), [(name,)], {}),
    ]
    text = drawn(*things, width=100)
    assert all(char.isprintable() or char == "\n" for char in text)
