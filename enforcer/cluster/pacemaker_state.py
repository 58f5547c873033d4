# SPDX-License-Identifier: GPL-2.0-or-later
"""What Pacemaker says of itself, as facts: ``crm_mon --output-as=xml`` for its state, ``cibadmin`` for the devices that
its resources use.

Reading is strict, because a missing word must not become a "no": an attribute that is not there, a truth value that is
neither true nor false, a role that nobody knows, each makes the whole answer unreadable, which denies. What is more
than we know is passed over. The form is that of Pacemaker's own schemas (xml/api/crm_mon-2.*.rng, nodes-2.*.rng and
resources-2.*.rng there, xml/resources-3.*.rng of Pacemaker 2.1); tried with 2.1.5.
"""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from dataclasses import dataclass

from enforcer.cluster.view import Fencing

ACTIVE_ROLES = frozenset({"Started", "Promoted", "Unpromoted", "Master", "Slave"})
BEGINNING = frozenset({"Starting", "Promoting"})  # the cluster's own agent is at work
ENDING = frozenset({"Stopping", "Demoting"})
ROLES = ACTIVE_ROLES | BEGINNING | ENDING | {"Migrating", "Stopped"}
CLUSTER_FILESYSTEMS = frozenset({"gfs2", "ocfs2"})
_VOLUME_GROUPS = ("vgname", "volgrpname")  # ocf:heartbeat:LVM-activate, ocf:heartbeat:LVM
_BY_NAME = {"UUID=": "/dev/disk/by-uuid/", "LABEL=": "/dev/disk/by-label/", "PARTUUID=": "/dev/disk/by-partuuid/"}
_BY_OPTION = {"-U": "UUID=", "-L": "LABEL="}  # as ocf:heartbeat:Filesystem hands them to mount(8)


class Unreadable(Exception):
    """Pacemaker's answer cannot be understood, or says that it does not know; one clause."""


@dataclass(frozen=True, slots=True)
class Member:
    """One node as the cluster sees it."""

    name: str
    id: str
    online: bool
    standby: bool
    maintenance: bool
    pending: bool
    unclean: bool
    expected_up: bool  # it has neither left in good order nor been fenced


@dataclass(frozen=True, slots=True)
class Running:
    """One instance of one resource."""

    id: str
    role: str
    managed: bool
    failed: bool
    blocked: bool
    nodes: tuple[str, ...]
    cloned: bool = False


@dataclass(frozen=True, slots=True)
class State:
    """The whole cluster at one moment, by its designated controller."""

    with_quorum: bool
    stonith: bool
    maintenance: bool
    members: tuple[Member, ...]
    running: tuple[Running, ...]
    fencings: tuple[Fencing, ...] = ()


@dataclass(frozen=True, slots=True)
class Managed:
    """A resource that uses block devices, as it is configured."""

    id: str
    devices: tuple[str, ...]  # paths; of all sets of parameters, whichever rule would choose between them
    volume_groups: tuple[str, ...] = ()
    shareable: bool = False  # a cluster filesystem, or a volume group that is activated shared


@dataclass(frozen=True, slots=True)
class Configuration:
    """What the CIB says of devices and fencing."""

    managed: tuple[Managed, ...]
    startup_fencing: bool = True  # nodes that were never seen count as unclean


def read_state(text: bytes) -> State:
    """The output of ``crm_mon -1 -r --fence-history=2 --output-as=xml``. Raises Unreadable."""
    root = _parse(text, "crm_mon")
    if root.tag != "pacemaker-result":
        raise Unreadable("crm_mon gave something else than its result")
    status = _child(root, "status")
    if status.get("code") != "0":
        errors = " ".join((e.text or "").strip() for e in status.iter("error")) or status.get("message") or "?"
        raise Unreadable(f"crm_mon: {errors[:200]}")
    daemon = _child(root, "pacemakerd")
    if daemon.get("state") != "running":
        raise Unreadable(f"pacemakerd is in state {daemon.get('state') or '?'}")
    history = root.find("fence_history")
    if history is not None and history.get("status", "0") != "0":
        raise Unreadable("crm_mon could not read which fencings there were")
    summary = _child(root, "summary")
    controller, options = _child(summary, "current_dc"), _child(summary, "cluster_options")
    if not _truth(controller, "present"):
        raise Unreadable("no designated controller is elected")
    members = tuple(_member(node) for node in _child(root, "nodes").findall("node"))
    if not members:
        raise Unreadable("crm_mon names no node")
    return State(
        _truth(controller, "with_quorum"),
        _truth(options, "stonith-enabled"),
        _truth(options, "maintenance-mode"),
        members,
        tuple(_running(_child(root, "resources"), cloned=False)),
        tuple(_fencing(event) for event in root.iter("fence_event") if event.get("status") != "failed"),
    )


def read_configuration(text: bytes) -> Configuration:
    """The output of ``cibadmin --query --scope configuration``. Raises Unreadable."""
    root = _parse(text, "cibadmin")
    if root.tag != "configuration":
        raise Unreadable("cibadmin gave something else than the configuration")
    resources = _child(root, "resources")
    templates = {t.get("id") or "": t for t in resources.iter("template")}
    sets = {s.get("id") or "": s for s in root.iter("instance_attributes") if s.get("id")}
    found = (_managed(p, templates, sets) for p in resources.iter("primitive") if p.get("class") != "stonith")
    options = [n.get("value") for n in root.iterfind("crm_config//nvpair") if n.get("name") == "startup-fencing"]
    startup = all((value or "").lower() in ("true", "yes", "y", "on", "1") for value in options)
    return Configuration(tuple(each for each in found if each.devices or each.volume_groups), startup)


def _parse(text: bytes, program: str) -> ElementTree.Element:
    if b"<!DOCTYPE" in text or b"<!ENTITY" in text:
        raise Unreadable(f"{program} gave XML with a document type")
    try:
        return ElementTree.fromstring(text)
    except (ElementTree.ParseError, ValueError):
        raise Unreadable(f"{program} gave no XML") from None


def _child(parent: ElementTree.Element, tag: str) -> ElementTree.Element:
    found = parent.find(tag)
    if found is None:
        raise Unreadable(f"<{tag}> is missing in <{parent.tag}>")
    return found


def _word(element: ElementTree.Element, key: str) -> str:
    value = element.get(key)
    if not value:
        raise Unreadable(f"{key} is missing in <{element.tag}>")
    return value


def _truth(element: ElementTree.Element, key: str) -> bool:
    value = element.get(key)
    if value not in ("true", "false"):
        raise Unreadable(f"{key} of <{element.tag}> is {value!r}, neither true nor false")
    return value == "true"


def _member(node: ElementTree.Element) -> Member:
    flags = ("online", "standby", "maintenance", "pending", "unclean", "expected_up")
    return Member(_word(node, "name"), _word(node, "id"), *(_truth(node, flag) for flag in flags))


def _running(parent: ElementTree.Element, *, cloned: bool) -> Iterator[Running]:
    """Every primitive, however deep: in groups, clones, bundles and their replicas."""
    for child in parent:
        if child.tag != "resource":
            yield from _running(child, cloned=cloned or child.tag in ("clone", "bundle"))
            continue
        role = _word(child, "role")
        if role not in ROLES:
            raise Unreadable(f"{_word(child, 'id')} is in the role {role}, of which nothing is known")
        nodes = tuple(_word(node, "name") for node in child.findall("node"))
        managed, failed, blocked = (_truth(child, flag) for flag in ("managed", "failed", "blocked"))
        name = re.sub(r":[0-9]+$", "", _word(child, "id"))  # an instance of a clone whose instances differ
        yield Running(name, role, managed, failed, blocked, nodes, cloned)


def _fencing(event: ElementTree.Element) -> Fencing:
    """``unfencing`` ("on") silences nobody; whatever is not known to be over is under way."""
    target, action, status = _word(event, "target"), _word(event, "action"), _word(event, "status")
    key = "/".join((target, action, event.get("origin") or "", event.get("client") or "", event.get("completed") or ""))
    return Fencing(target, key, done=status == "success" and action in ("off", "reboot"))


def _managed(
    primitive: ElementTree.Element,
    templates: dict[str, ElementTree.Element],
    sets: dict[str, ElementTree.Element],
) -> Managed:
    values: dict[str, set[str]] = {}
    template = templates.get(primitive.get("template") or "")
    for owner in [primitive] if template is None else [primitive, template]:
        for attributes in owner.findall("instance_attributes"):
            for pair in sets.get(attributes.get("id-ref") or "", attributes).iter("nvpair"):
                values.setdefault(pair.get("name") or "", set()).add(pair.get("value") or "")
    devices = {path for each in values.values() for value in each for path in _paths(value)}
    groups = {value for name in _VOLUME_GROUPS for value in values.get(name, ()) if value}
    kinds = values.get("fstype", set())
    clustered = bool(kinds) and kinds <= CLUSTER_FILESYSTEMS
    shared = values.get("activation_mode") == {"shared"}
    identity = _word(primitive, "id")
    return Managed(identity, tuple(sorted(devices)), tuple(sorted(groups)), clustered or shared)


def _paths(value: str) -> Iterator[str]:
    """Device paths in the value of any parameter of any agent: ``/dev/sdb1``, ``UUID=...``, ``-L data``."""
    words = re.split(r"[\s,]+", value.strip())
    for first, second in zip(["", *words], words, strict=False):
        word = _BY_OPTION[first] + second if first in _BY_OPTION else second
        for option, prefix in _BY_OPTION.items():
            if word.startswith(option) and len(word) > len(option):
                word = prefix + word[len(option) :]
        for prefix, directory in _BY_NAME.items():
            if word.startswith(prefix) and len(word) > len(prefix):
                word = directory + word[len(prefix) :].strip('"')
        if word.startswith("/dev/"):
            yield word
