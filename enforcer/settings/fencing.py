# SPDX-License-Identifier: GPL-2.0-or-later
"""[fencing] of the settings: which agent of the fence-agents package switches which node off.

Every table below [fencing] is a node; its ``options`` are the agent's own, as it reads them from its standard input
(ClusterLabs/fence-agents, doc/FenceAgentAPI.md). They may hold passwords, so their values are in no message and in no
``repr``, and a file that has one in it must be private. Refused is what would make an agent prove less than "off".
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath

from enforcer.policy.document import Document
from enforcer.policy.fields import Fields

AGENTS = "/usr/sbin"  # where the package has them
LEAST_S, MOST_S = 1.0, 600.0
KEYS = ("agent", "options", "timeout")
_BOOKS = "it switches nothing off"
_PATHS = "the node stays on, cut off from the storage or the network until something gives that back"
REFUSED_AGENTS = {  # beside those that say so of themselves, which enforcer.cluster.fence_agent refuses when it asks
    "fence_ack_manual": "it takes somebody's word: enforcer fence confirm does that",
    "fence_aws_vpc_net": _PATHS,
    "fence_brocade": _PATHS,
    "fence_cisco_mds": _PATHS,
    "fence_compute": "it tells OpenStack that a host is down, which stays on",
    "fence_crosslink": "a node that answers no ping is not off",
    "fence_docker": "a container that is off is no kernel that is off",
    "fence_dummy": _BOOKS,
    "fence_evacuate": _BOOKS,
    "fence_heuristics_ping": _BOOKS,
    "fence_heuristics_resource": _BOOKS,
    "fence_ifmib": _PATHS,
    "fence_kdump": _BOOKS,
    "fence_manual": "it takes somebody's word: enforcer fence confirm does that",
    "fence_mcdata": _PATHS,
    "fence_mpath": "the node stays on; [lost] reservation is for that",
    "fence_nova": "it is not known that what it calls off is off: fence_openstack",
    "fence_recorder": _BOOKS,
    "fence_sanbox2": _PATHS,
    "fence_sbd": "it leaves a message on a disk, which nobody may read",
    "fence_scsi": "the node stays on; [lost] reservation is for that",
    "fence_vixel": _PATHS,
    "fence_watchdog": _BOOKS,
}
REFUSED_OPTIONS = {
    "action": "it is given by enforcerd",
    "option": "it is an old name of action, which is given by enforcerd",
    "nodename": "it is given by enforcerd",
    "missing_as_off": "a plug that is not there is no node that is off",
    "network_fencing": "a network that is away is no node that is off",
    "verbose": "the agent would print its password",
    "verbose_level": "the agent would print its password",
    "debug": "the agent would print its password",
    "debug_file": "the agent would print its password",
}
_NODE = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,252}[A-Za-z0-9])?")
_AGENT = re.compile(r"fence_[a-z0-9_]{1,60}")
_OPTION = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,63}")
_SECRET = re.compile(r"(?!.*_(script|file)$).*(pass|secret|token|community|credential|api_?key|access_key)")


@dataclass(frozen=True, slots=True)
class FenceAgent:
    """How one node is switched off. ``timeout_s`` is for each call of the program."""

    program: str  # absolute path
    options: Mapping[str, str] = field(repr=False, default_factory=dict)
    timeout_s: float = 60.0

    @property
    def name(self) -> str:
        """What people call it: fence_ipmilan."""
        return PurePosixPath(self.program).name


@dataclass(frozen=True, slots=True)
class Fencing:
    """[fencing]"""

    on_demand: bool = field(
        default=False,
        metadata={
            "help": "Whether a node that is gone is switched off when somebody here wants what it holds",
            "key": "",
            "kind": "boolean",
        },
    )
    nodes: Mapping[str, FenceAgent] = field(default_factory=dict)  # by name; tables, so no setting of the listing


def node_tables(section: object, keys: Sequence[str]) -> list[str]:
    """The names of the tables below [fencing]: all of them are nodes."""
    found = section if isinstance(section, dict) else {}
    return [name for name, value in found.items() if isinstance(value, dict) and name not in keys]


def read_nodes(section: Fields, names: Sequence[str], *, private: bool) -> dict[str, FenceAgent]:
    """The agents of these nodes. ``private``: nobody but its owner can read the file."""
    return {name: _read_node(section, name, private) for name in names}


def check_fencing(fencing: Fencing, document: Document) -> None:
    """What is right key by key and wrong together."""
    if fencing.on_demand and not fencing.nodes:
        what, remedy = "on demand nobody can be fenced: no node has an agent", 'Add [fencing.NODE] with agent = "..."'
        document.problem(("fencing", "on_demand"), what, remedy)


def _read_node(section: Fields, name: str, private: bool) -> FenceAgent:
    table = section.table(name, KEYS)
    if not _NODE.fullmatch(name):
        section.problem(name, f"{name!r} is not the name of a node", "Use letters, digits, dots, dashes, underscores")
    if not table.has("agent"):
        section.problem(name, f'"{name}" has no agent', 'Add agent = "fence_ipmilan", say')
    timeout_s = table.duration("timeout", 60.0, least=LEAST_S, most=MOST_S)
    return FenceAgent(_read_program(table), _read_options(table, private), timeout_s)


def _read_program(table: Fields) -> str:
    value = table.string("agent")
    plain = PurePosixPath(value)
    if not value or not isinstance(table.data.get("agent"), str):
        return ""
    if plain.name in REFUSED_AGENTS:
        table.problem("agent", f"{plain.name} proves nothing: {REFUSED_AGENTS[plain.name]}", "Name another agent")
    if _AGENT.fullmatch(value):
        return f"{AGENTS}/{value}"
    if not value.startswith("/") or value != str(plain) or ".." in plain.parts or not value.isprintable():
        table.problem("agent", f'"{value}" is no agent', f"Name one of {AGENTS}, as fence_ipmilan, or its whole path")
    return value


def _read_options(table: Fields, private: bool) -> dict[str, str]:
    given = table.data.get("options", {})
    if not isinstance(given, dict):
        table.problem("options", '"options" must be a table', 'Write options = { ip = "192.0.2.1", plug = "1" }')
        return {}
    good: dict[str, str] = {}
    for key, value in given.items():
        plain, at = key.lower().replace("-", "_"), ("options", key)
        if not _OPTION.fullmatch(key):
            table.problem(at, f"{key!r} is not the name of an option", "Write it as the agent's manual page does")
        elif plain in REFUSED_OPTIONS:
            table.problem(at, f'"{key}" cannot be set: {REFUSED_OPTIONS[plain]}', "Remove it")
        elif _SECRET.match(plain) and not private:
            remedy = "Run chmod 600 on it, or use password_script"
            table.problem(at, f'"{key}" is a secret, and others can read this file', remedy)
        elif type(value) is int:
            good[key] = str(value)
        elif not isinstance(value, str) or not value or not value.isprintable():
            table.problem(at, f'"{key}" is not a printable string on one line', 'Write it in quotes; yes is "1"')
        else:
            good[key] = value
    return good
