# SPDX-License-Identifier: GPL-2.0-or-later
"""What this node is called in each kind of mark: host name, LVM system ID, OCFS2 node, SCSI initiators.

A name that cannot be learnt is left out: then our own mark looks like somebody else's and is denied, with its remedy.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from enforcer.storage.sysfs import Unreadable, children, read_bytes, read_text

_SETTING = re.compile(r"\s*(?:global/|local/)?(system_id_source|system_id_file|system_id|extra_system_ids)\s*=\s*(.+)")
_LOCAL_PHY = re.compile(r"phy-\d+:\d+")  # those of an expander have one number more


@dataclass(frozen=True, slots=True)
class Local:
    """This node in the words of the formats."""

    names: frozenset[str] = frozenset()  # also its LVM system IDs: both are compared with an owner, whole
    ocfs2: Mapping[int, str] = field(default_factory=dict)  # every node of the o2cb clusters: number -> name
    initiators: frozenset[str] = frozenset()  # as reservation.transport_id writes them


def learn(node: str, *, root: Path = Path("/")) -> Local:
    """Read it all anew: a dozen small files. ``node``: this node's name in the cluster."""
    host = os.uname().nodename
    return Local(
        frozenset({node, host, *system_ids(root, host)} - {""}),
        ocfs2_nodes(_text(root / "etc/ocfs2/cluster.conf")),
        frozenset(initiators(root)),
    )


def system_ids(root: Path, host: str) -> set[str]:
    """The system IDs whose volume groups LVM would use here, as lvmsystemid(7) has it."""
    found: dict[str, str] = {}
    for name in ("lvm.conf", "lvmlocal.conf"):
        for line in _text(root / "etc/lvm" / name).splitlines():
            setting = _SETTING.match(line.partition("#")[0])
            if setting is not None:
                found[setting[1]] = setting[2].strip()
    source = _words(found.get("system_id_source", ""))
    own = ""
    if source == ["uname"]:
        own = "" if host.startswith("localhost") else host
    elif source == ["lvmlocal"]:
        own = next(iter(_words(found.get("system_id", ""))), "")
    elif source == ["machineid"]:
        own = _text(root / "etc/machine-id").strip()
    elif source == ["file"]:
        lines = _text(root / next(iter(_words(found.get("system_id_file", ""))), "").lstrip("/")).splitlines()
        own = next((line.strip() for line in lines if line.strip() and not line.startswith("#")), "")
    return {each for each in map(_system_id, [own, *_words(found.get("extra_system_ids", ""))]) if each}


def ocfs2_nodes(text: str) -> dict[int, str]:
    """Node numbers and names of /etc/ocfs2/cluster.conf; what two clusters number differently is left out."""
    found: dict[int, str] = {}
    doubtful: set[int] = set()
    for stanza in re.split(r"^(?=\S)", text, flags=re.MULTILINE):
        if not stanza.startswith("node:"):
            continue
        values = dict(re.findall(r"^\s+(number|name)\s*=\s*(\S+)", stanza, re.MULTILINE))
        if values.get("number", "").isdecimal() and "name" in values:
            number = int(values["number"][:9])
            if found.setdefault(number, values["name"]) != values["name"]:
                doubtful.add(number)
    return {number: name for number, name in found.items() if number not in doubtful}


def initiators(root: Path) -> Iterator[str]:
    """The initiator ports of this node: iSCSI sessions, FC hosts, SAS phys (drivers/scsi/scsi_transport_*.c)."""
    classes = root / "sys/class"
    yield from (value for _, value in _attributes(classes / "iscsi_session", "initiatorname"))
    yield from (f"fc.{value[2:]}" for _, value in _attributes(classes / "fc_host", "port_name"))
    for name, value in _attributes(classes / "sas_phy", "sas_address"):
        if _LOCAL_PHY.fullmatch(name):
            yield f"sas.{value[2:]}"


def _attributes(directory: Path, attribute: str) -> Iterator[tuple[str, str]]:
    with suppress(Unreadable):
        for name in children(directory):
            with suppress(Unreadable):
                value = read_text(directory / name / attribute)
                if value:
                    yield name, value.strip().lower()


def _text(path: Path) -> str:
    with suppress(Unreadable, IsADirectoryError):
        return (read_bytes(path, 1 << 20) or b"").decode("utf-8", "replace")
    return ""


def _words(value: str) -> list[str]:
    """``"a"``, ``[ "a", "b" ]`` or a bare word."""
    return re.findall(r'"([^"]*)"', value) or [word for word in re.split(r"[\s,\[\]]+", value) if word]


def _system_id(text: str) -> str:
    """As LVM makes one of a string: its characters, beginning with a letter or digit, at most 127."""
    return re.sub(r"^[^a-zA-Z0-9]+", "", re.sub(r"[^a-zA-Z0-9_.+-]", "", text))[:127]
