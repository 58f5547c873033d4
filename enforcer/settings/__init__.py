# SPDX-License-Identifier: GPL-2.0-or-later
"""What daemon and keeper run with: /etc/enforcer/enforcer.toml. Not policy: nothing here decides a use.

Every setting is written once, as a field with its key, default and help. The parser, the file that is installed
and the JSON dump are made from that, and the manual page is held against it by a test, so that they cannot
disagree. The keeper, which is small and locked into memory, reads the same file; so this module imports little.
"""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any

from enforcer.policy.document import LocatedErrors, Problem, parse_bytes, read_bytes
from enforcer.policy.fields import Fields
from enforcer.settings.checks import LEAST_WATCHDOG_S, check
from enforcer.settings.fencing import FenceAgent, Fencing, node_tables, read_nodes
from enforcer.settings.readers import READERS
from enforcer.settings.sections import (
    SECTIONS,
    SETTINGS,
    Cluster,
    Daemon,
    Keeper,
    Node,
    OnConflict,
    Paths,
    Setting,
    Settings,
    Store,
    StoreKind,
    ViewKind,
    listing,
)

__all__ = [
    "DEFAULT_PATH",
    "LEAST_WATCHDOG_S",
    "SECTIONS",
    "SETTINGS",
    "Cluster",
    "Daemon",
    "FenceAgent",
    "Fencing",
    "Keeper",
    "Node",
    "OnConflict",
    "Paths",
    "Setting",
    "Settings",
    "SettingsErrors",
    "Store",
    "StoreKind",
    "ViewKind",
    "listing",
    "load",
    "parse",
]

DEFAULT_PATH = "/etc/enforcer/enforcer.toml"


class SettingsErrors(LocatedErrors):
    """The configuration cannot be used."""


def load(path: str | Path | None = None, *, euid: int | None = None, fencing: bool = True) -> Settings:
    """Read ``path``, or DEFAULT_PATH if there is one and the defaults if not. Raises SettingsErrors.

    Without ``fencing`` that section is neither read nor judged, nor who can read the file because of it: keeper and
    revoker switch nobody off, and one that did not start again for a mistake there would cost a healthy node its
    session.
    """
    file = DEFAULT_PATH if path is None else str(path)
    if path is None and not os.path.lexists(file):
        return _complete(Settings())
    problems: list[Problem] = []
    content = read_bytes(file, problems, euid=euid)
    if content is None:
        raise SettingsErrors(problems)
    return parse(content, file, private=_private(file), fencing=fencing)


def parse(content: bytes | str, file: str = "<settings>", *, private: bool = False, fencing: bool = True) -> Settings:
    """One text as the configuration; ``private`` if nobody else can read it. Raises SettingsErrors."""
    data = content.encode("utf-8", "surrogatepass") if isinstance(content, str) else content
    document = parse_bytes(data, file)
    top = Fields(document, (), document.data, SECTIONS)
    values: dict[str, Any] = {}  # checked by kind below; the dataclass knows the types
    for section, owner in SECTIONS.items():
        if owner is Fencing and not fencing:
            continue
        keys = {setting.key: setting for setting in SETTINGS if setting.section == section}
        nodes = node_tables(top.data.get(section), list(keys)) if owner is Fencing else []
        table = top.table(section, [*keys, *nodes])
        given = {
            setting.attribute: READERS[setting.kind](table, setting) for key, setting in keys.items() if table.has(key)
        }
        if nodes:
            given["nodes"] = read_nodes(table, nodes, private=private)
        values[section] = owner(**given)
    settings = Settings(**values, file=file)
    check(settings, document)
    if document.problems:
        raise SettingsErrors(sorted(dict.fromkeys(document.problems), key=lambda problem: problem.line))
    return _complete(settings)


def _private(file: str) -> bool:
    try:
        return not Path(file).stat().st_mode & 0o077
    except OSError:
        return False


def _complete(settings: Settings) -> Settings:
    """Fill in what depends on the machine or on another setting."""
    node, store = settings.node, settings.store
    if not node.name:
        node = dataclasses.replace(node, name=os.uname().nodename)
    if not store.path:
        store = dataclasses.replace(store, path=f"{settings.paths.state_dir}/leases.sqlite")
    return dataclasses.replace(settings, node=node, store=store)
