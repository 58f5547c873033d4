# SPDX-License-Identifier: GPL-2.0-or-later
"""[fencing] of the settings: agents of nodes, and what would make one prove less than that its node is off."""

from __future__ import annotations

from pathlib import Path

import pytest

from enforcer.settings import FenceAgent, SettingsErrors, load, parse

AGENT = "[fencing.n]\nagent = 'fence_ipmilan'\n"


def test_each_table_is_a_node_with_its_agent() -> None:
    fencing = parse(
        "[fencing]\non_demand = true\n[fencing.node-2]\nagent = 'fence_ipmilan'\ntimeout = '20s'\n"
        "options = { ip = '192.0.2.7', plug = 3, password_script = '/etc/pw' }\n"
        "[fencing.\"node-3.example\"]\nagent = '/opt/site/agent'\n"
    ).fencing
    assert fencing.on_demand
    assert fencing.nodes == {
        "node-2": FenceAgent(
            "/usr/sbin/fence_ipmilan", {"ip": "192.0.2.7", "plug": "3", "password_script": "/etc/pw"}, 20.0
        ),
        "node-3.example": FenceAgent("/opt/site/agent", {}, 60.0),
    }
    assert fencing.nodes["node-2"].name == "fence_ipmilan"
    assert not parse("").fencing.on_demand and parse("").fencing.nodes == {}


@pytest.mark.parametrize(
    ("text", "line", "word", "remedy"),
    [
        ("[fencing]\non_demand = true", 2, "no node has an agent", "[fencing.NODE]"),
        ("[fencing]\non_demand = 'yes'", 2, "must be true or false", "Write true or false"),
        ("[fencing]\non_demnd = true", 2, 'unknown key "on_demnd"', '"on_demand"'),
        ("[fencing]\nnode-1 = 'fence_ipmilan'", 2, 'unknown key "node-1"', "on_demand"),
        ("[fencing.n]\n", 1, '"n" has no agent', "agent ="),
        ("[fencing.n.example]\nagent = 'fence_ipmilan'", 1, 'unknown key "example"', "agent, options, timeout"),
        ("[fencing.'a/b']\nagent = 'fence_ipmilan'", 1, "not the name of a node", "letters"),
        ("[fencing.n]\nagent = 'ipmilan'", 2, "is no agent", "/usr/sbin"),
        ("[fencing.n]\nagent = '/a/../b'", 2, "is no agent", "whole path"),
        ("[fencing.n]\nagent = 5", 2, "must be a string", "Write"),
        ("[fencing.n]\nagent = 'fence_scsi'", 2, "proves nothing: the node stays on", "reservation"),
        ("[fencing.n]\nagent = '/x/fence_dummy'", 2, "proves nothing", "another agent"),
        (AGENT + "timeout = '20min'", 3, "outside of 1s to 600s", "Choose"),
        (AGENT + "options = 'ip=1'", 3, "must be a table", "ip ="),
        (AGENT + "options = { plug = true }", 3, "not a printable string", '"1"'),
        (AGENT + "options = { plug = '1\\n' }".replace("'", '"'), 3, "not a printable string", "quotes"),
        (AGENT + "options = { plug = '' }", 3, "not a printable string", "quotes"),
        (AGENT + "options = { 'a b' = '1' }", 3, "not the name of an option", "manual"),
        (AGENT + "options = { action = 'on' }", 3, "given by enforcerd", "Remove"),
        (AGENT + "options = { Missing-As-Off = '1' }", 3, "no node that is off", "Remove"),
        (AGENT + "options = { network-fencing = '1' }", 3, "no node that is off", "Remove"),
        (AGENT + "options = { verbose = '1' }", 3, "print its password", "Remove"),
    ],
)
def test_bad(text: str, line: int, word: str, remedy: str) -> None:
    with pytest.raises(SettingsErrors) as caught:
        parse(text, "f")
    found = [problem for problem in caught.value.problems if word in problem.message]
    assert found, str(caught.value)
    assert (found[0].file, found[0].line) == ("f", line)
    assert remedy in found[0].remedy or remedy in found[0].message


@pytest.mark.parametrize(
    "name",
    [
        *("brocade", "cisco_mds", "compute", "ifmib", "mpath", "sanbox2", "scsi", "aws_vpc_net", "sbd", "recorder"),
        *("heuristics_ping", "heuristics_resource", "crosslink", "dummy", "evacuate", "kdump", "ack_manual", "nova"),
    ],
)
def test_who_leaves_the_node_on_or_only_keeps_books_is_no_agent(name: str) -> None:
    for where in ("", "/opt/"):
        with pytest.raises(SettingsErrors, match=f"fence_{name} proves nothing"):
            parse(f"[fencing.n]\nagent = '{where}fence_{name}'")


@pytest.mark.parametrize(
    "key", ["password", "passwd", "snmp-priv-passwd", "secret_key", "apikey", "token", "community"]
)
@pytest.mark.parametrize("secret", ['"hunter2"', "246801"])
def test_a_secret_stands_only_in_a_file_that_nobody_else_can_read(key: str, secret: str, tmp_path: Path) -> None:
    file, word = tmp_path / "e.toml", secret.strip('"')
    file.write_text(f"{AGENT}options = {{ {key} = {secret} }}\n")
    for mode in (0o640, 0o604):
        file.chmod(mode)
        with pytest.raises(SettingsErrors) as refused:
            load(file)
        assert "others can read" in str(refused.value) and "password_script" in str(refused.value)
        assert word not in str(refused.value)
    file.chmod(0o600)
    settings = load(file)
    assert settings.fencing.nodes["n"].options == {key: word}
    assert word not in repr(settings) + str(settings.as_dict())


def test_where_a_secret_is_found_is_no_secret(tmp_path: Path) -> None:
    file = tmp_path / "e.toml"
    file.write_text(f'{AGENT}options = {{ password_script = "/etc/pw", token_file = "/etc/token", plug = "1" }}\n')
    file.chmod(0o644)
    assert len(load(file).fencing.nodes["n"].options) == 3
