# SPDX-License-Identifier: GPL-2.0-or-later
"""What daemon and keeper run with: /etc/enforcer/enforcer.toml. Not policy: nothing here decides a use.

Every setting is written once, as a field with its key, default and help. The parser, the file that is installed
and the JSON dump are made from that, and the manual page is held against it by a test, so that they cannot
disagree. The keeper, which is small and locked into memory, reads the same file; so this module imports little.
"""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, TypeVar

from enforcer.lost.options import Lost, Pauses
from enforcer.model.deadlines import Deadlines
from enforcer.policy.document import Document, LocatedErrors, Problem, parse_bytes, read_bytes
from enforcer.policy.fields import Fields, show_duration

DEFAULT_PATH = "/etc/enforcer/enforcer.toml"

LEAST_WATCHDOG_S = 2.0

T = TypeVar("T")

_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,252}[A-Za-z0-9])?")  # it becomes part of a key in the store
_ENDPOINT = re.compile(r"https?://([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\]):[0-9]{1,5}/?")


class StoreKind(StrEnum):
    """Lease stores. sqlite serves one node and denies what other nodes see."""

    SQLITE = "sqlite"
    ETCD = "etcd"
    EXTERNAL = "external"
    SANLOCK = "sanlock"


class OnConflict(StrEnum):
    """What a node does about its own use of what is leased to another; it is told in any case."""

    ALERT = "alert"
    CUT = "cut"


class ViewKind(StrEnum):
    """Cluster managers whose word counts beside the store's."""

    NONE = "none"
    PACEMAKER = "pacemaker"


class SettingsErrors(LocatedErrors):
    """The configuration cannot be used."""


def _setting(default: T, help_text: str, *, key: str = "", kind: str = "string") -> T:
    """A field of a section. ``kind``: string, name, word, path, paths, strings, number, duration, store, conflict."""
    return field(default=default, metadata={"help": help_text, "key": key, "kind": kind})


@dataclass(frozen=True, slots=True)
class Node:
    """[node]"""

    name: str = _setting("", "This node's name in the cluster; the kernel's hostname if empty", kind="name")


@dataclass(frozen=True, slots=True)
class Store:
    """[store]"""

    kind: StoreKind = _setting(  # noqa: RUF009, it is a field()
        StoreKind.SQLITE, "Where leases are kept: sqlite (one node), etcd, sanlock or external", kind="store"
    )
    path: str = _setting("", "Database of the sqlite store; leases.sqlite in state_dir if empty", kind="path")
    cluster: str = _setting("default", "Name that the nodes of one cluster have in common", kind="name")
    endpoints: tuple[str, ...] = _setting(
        (), "etcd members, as https://192.0.2.1:2379; all of them https, or all http without any secret", kind="strings"
    )
    ca: str = _setting("", "PEM file of the authorities that sign etcd's certificates; for https", kind="path")
    cert: str = _setting("", "PEM file of this node's client certificate, if etcd wants one", kind="path")
    key: str = _setting("", "PEM file of its private key, without passphrase; not readable by others", kind="path")
    server_name: str = _setting(
        "", "Name in etcd's certificates; that of each endpoint if empty, and it is always checked", kind="name"
    )
    username: str = _setting("", "User of etcd, if authentication is enabled there; https only", kind="word")
    password_file: str = _setting("", "File that holds its password and nothing else, of mode 0600", kind="path")
    command: tuple[str, ...] = _setting((), "Program of the external store, with its arguments", kind="strings")
    socket: str = _setting("", "Unix socket of the external store, if it is not started here", kind="path")
    device: str = _setting("", "Shared disk of the sanlock store, the same on all nodes", kind="path")
    host_id: int = _setting(0, "This node's number in sanlock's lock space, 1 to 32, its own on each", kind="number")
    io_timeout_s: float = _setting(
        10.0, "sanlock's io_timeout, in whole seconds; the same on all nodes", key="io_timeout", kind="duration"
    )
    ttl_s: float = _setting(30.0, "How long this node's session lives without renewal", key="ttl", kind="duration")
    renew_s: float = _setting(5.0, "How often the session is renewed", key="renew", kind="duration")

    @property
    def renews(self) -> bool:
        """Whether the keeper tells the kernel until when this node's leases are live."""
        return self.kind in (StoreKind.ETCD, StoreKind.SANLOCK)

    def deadlines(self) -> Deadlines:
        """The arithmetic of this node's session; etcd grants whole seconds only, sanlock has its own times.

        sanlock renews every 2 io_timeouts and gives up after 8 (src/timeouts.c); others wait for 60 s more.
        """
        if self.kind is StoreKind.SANLOCK:
            return Deadlines(8 * self.io_timeout_s, 2 * self.io_timeout_s)
        return Deadlines(float(max(1, int(self.ttl_s))) if self.kind is StoreKind.ETCD else self.ttl_s, self.renew_s)


@dataclass(frozen=True, slots=True)
class Cluster:
    """[cluster]"""

    view: ViewKind = _setting(  # noqa: RUF009, it is a field()
        ViewKind.NONE, "The cluster manager that is asked beside the store: none or pacemaker", kind="view"
    )


@dataclass(frozen=True, slots=True)
class Paths:
    """[paths]"""

    state_dir: str = _setting("/var/lib/enforcer", "What must survive a reboot", kind="path")
    run_dir: str = _setting("/run/enforcer", "Sockets, locks and the upcall mount", kind="path")
    log_dir: str = _setting("/var/log/enforcer", "The audit log", kind="path")
    bpffs: str = _setting("/sys/fs/bpf/enforcer", "Pins of programs, links and maps", kind="path")
    policy_dirs: tuple[str, ...] = _setting(
        ("/usr/lib/enforcer/policy.d", "/etc/enforcer/policy.d"),
        "Directories of policy files; a later one masks files of the same name",
        kind="paths",
    )


@dataclass(frozen=True, slots=True)
class Daemon:
    """[daemon]"""

    group: str = _setting("enforcer", "Group that may read status and leases from the control socket", kind="name")
    on_conflict: OnConflict = _setting(  # noqa: RUF009, it is a field()
        OnConflict.ALERT, "What a node does if it uses what is leased to another: alert or cut", kind="conflict"
    )


@dataclass(frozen=True, slots=True)
class Keeper:
    """[keeper]"""

    restart: tuple[str, ...] = _setting(
        ("systemctl", "restart", "enforcerd.service"),
        "Command that restarts a daemon which makes no progress",
        kind="strings",
    )
    progress_timeout_s: float = _setting(
        5.0,
        "How long a probe may take before the daemon counts as hung",
        key="progress_timeout",
        kind="duration",
    )


@dataclass(frozen=True, slots=True)
class Settings:
    """All sections. ``settings.store.ttl_s`` is in seconds, as every name that ends in ``_s``."""

    node: Node = field(default_factory=Node)
    store: Store = field(default_factory=Store)
    cluster: Cluster = field(default_factory=Cluster)
    paths: Paths = field(default_factory=Paths)
    daemon: Daemon = field(default_factory=Daemon)
    keeper: Keeper = field(default_factory=Keeper)
    lost: Lost = field(default_factory=Lost)
    file: str = ""  # where they came from; empty for the defaults

    def deadlines(self) -> Deadlines:
        """The arithmetic of this node's session, with all that [lost] wants done before its end."""
        store, most = self.store, self.lost.most
        if store.kind is not StoreKind.ETCD:  # no session, so nothing ends
            return store.deadlines()
        return dataclasses.replace(store.deadlines(), cut_s=most.cut_s, watchdog_s=most.watchdog_s)

    def as_dict(self) -> dict[str, dict[str, object]]:
        """For JSON: section -> key -> value as it would stand in the file."""
        result: dict[str, dict[str, object]] = {}
        for setting in SETTINGS:
            value = getattr(getattr(self, setting.section), setting.attribute)
            result.setdefault(setting.section, {})[setting.key] = _shown(setting.kind, value)
        return result


@dataclass(frozen=True, slots=True)
class Setting:
    """One line of the listing."""

    section: str
    key: str
    attribute: str
    kind: str
    default: object  # as it would stand in the file
    help: str


def _shown(kind: str, value: object) -> object:
    if kind in ("duration", "budget") and isinstance(value, float):
        return show_duration(value)
    return list(value) if isinstance(value, tuple) else value


SECTIONS: dict[str, type] = {
    "node": Node,
    "store": Store,
    "cluster": Cluster,
    "paths": Paths,
    "daemon": Daemon,
    "keeper": Keeper,
    "lost": Lost,
}
SETTINGS: tuple[Setting, ...] = tuple(
    Setting(
        section,
        item.metadata["key"] or item.name,
        item.name,
        item.metadata["kind"],
        _shown(item.metadata["kind"], item.default),
        item.metadata["help"],
    )
    for section, owner in SECTIONS.items()
    for item in dataclasses.fields(owner)
)


def listing() -> str:
    """Every setting with its default, as a configuration file that changes nothing."""
    import json  # JSON strings and lists of them are TOML as well

    lines: list[str] = []
    for section in SECTIONS:
        lines += ["", f"[{section}]"]
        for setting in SETTINGS:
            if setting.section == section:
                lines += [f"# {setting.help}.", f"# {setting.key} = {json.dumps(setting.default)}"]
    return "\n".join(lines).lstrip() + "\n"


def load(path: str | Path | None = None, *, euid: int | None = None) -> Settings:
    """Read ``path``, or DEFAULT_PATH if there is one and the defaults if not. Raises SettingsErrors."""
    file = DEFAULT_PATH if path is None else str(path)
    if path is None and not os.path.lexists(file):
        return _complete(Settings())
    problems: list[Problem] = []
    content = read_bytes(file, problems, euid=euid)
    if content is None:
        raise SettingsErrors(problems)
    return parse(content, file)


def parse(content: bytes | str, file: str = "<settings>") -> Settings:
    """One text as the configuration. Raises SettingsErrors."""
    data = content.encode("utf-8", "surrogatepass") if isinstance(content, str) else content
    document = parse_bytes(data, file)
    top = Fields(document, (), document.data, SECTIONS)
    values: dict[str, Any] = {}  # checked by kind below; the dataclass knows the types
    for section, owner in SECTIONS.items():
        keys = {setting.key: setting for setting in SETTINGS if setting.section == section}
        table = top.table(section, keys)
        given = {
            setting.attribute: _READERS[setting.kind](table, setting) for key, setting in keys.items() if table.has(key)
        }
        values[section] = owner(**given)
    settings = Settings(**values, file=file)
    _check(settings, document)
    if document.problems:
        raise SettingsErrors(sorted(dict.fromkeys(document.problems), key=lambda problem: problem.line))
    return _complete(settings)


def _check(settings: Settings, document: Document) -> None:
    """What is right key by key and wrong together."""
    deadlines = settings.deadlines()
    if what := deadlines.problem():
        places = [("store", "renew"), ("store", "ttl"), *(("lost", s.key) for s in SETTINGS if s.section == "lost")]
        remedy = f"Raise ttl, or set renew to {show_duration(deadlines.most_renew_s)} or less"
        document.problem(next((place for place in places if place in document.lines), places[1]), what, remedy)
    if settings.lost.watchdog and settings.lost.watchdog_timeout_s < LEAST_WATCHDOG_S:
        what = "the watchdog's time-out is too short: it is programmed with half of it, in whole seconds"
        document.problem(("lost", "watchdog_timeout"), what, f"Set it to {LEAST_WATCHDOG_S:g}s or more")
    if settings.store.kind is StoreKind.ETCD and not settings.store.endpoints:
        document.problem(("store", "kind"), "the etcd store has no endpoints", 'Add endpoints = ["https://host:2379"]')
    _check_access(settings.store, document)
    if settings.store.kind is StoreKind.EXTERNAL:
        _check_external(settings.store, document)
    if settings.store.kind is StoreKind.SANLOCK:
        _check_sanlock(settings.store, document)


def _check_access(store: Store, document: Document) -> None:
    """How etcd is reached: nothing half secret, and nothing that would silently not be used."""
    secure = [endpoint.startswith("https:") for endpoint in store.endpoints]
    if True in secure and False in secure:
        odd = secure.index(not secure[0])
        what = f'"{store.endpoints[odd]}" and "{store.endpoints[0]}" mix http and https'
        document.problem(("store", "endpoints", odd), what, "Make all of them https")
    elif True in secure and not store.ca:
        document.problem(("store", "endpoints"), "https endpoints need the authorities that sign them", "Set ca")
    for one, other in (("cert", "key"), ("key", "cert"), ("username", "password_file"), ("password_file", "username")):
        if getattr(store, one) and not getattr(store, other):
            document.problem(("store", one), f'"{one}" is of no use without "{other}"', f"Set {other} as well")
    if secure and True not in secure:
        for key in ("ca", "cert", "key", "server_name"):
            if getattr(store, key):
                document.problem(("store", key), f'"{key}" is of no use with http endpoints', "Make them https")
        if store.username:
            document.problem(
                ("store", "username"), "the password would cross the network in clear text", "Make the endpoints https"
            )


def _check_external(store: Store, document: Document) -> None:
    if bool(store.command) == bool(store.socket):
        what = "the external store has " + ("both command and socket" if store.command else "no peer")
        document.problem(("store", "kind"), what, 'Give either command = ["/path/of/program"] or socket = "/path"')
    elif store.command and (what := _path_problem(store.command[0])):
        document.problem(("store", "command", 0), f'"{store.command[0]}" {what}', "Write the program from / on")


def _check_sanlock(store: Store, document: Document) -> None:
    if not store.device:
        document.problem(("store", "kind"), "the sanlock store has no device", 'Set device = "/dev/disk/by-id/..."')
    if not 1 <= store.host_id <= 32:
        what = f"{store.host_id} is no host_id" if store.host_id else "the sanlock store has no host_id"
        document.problem(("store", "host_id"), what, "Set host_id to 1 to 32, another one on each node")
    if len(store.cluster) > 48:
        document.problem(("store", "cluster"), "sanlock's names have at most 48 characters", "Shorten it")
    if not 1 <= store.io_timeout_s <= 60 or store.io_timeout_s % 1:
        document.problem(("store", "io_timeout"), "sanlock counts whole seconds, 60 at most", 'Set it to "10s"')


def _complete(settings: Settings) -> Settings:
    """Fill in what depends on the machine or on another setting."""
    node, store = settings.node, settings.store
    if not node.name:
        node = dataclasses.replace(node, name=os.uname().nodename)
    if not store.path:
        store = dataclasses.replace(store, path=f"{settings.paths.state_dir}/leases.sqlite")
    return dataclasses.replace(settings, node=node, store=store)


def _read_name(table: Fields, setting: Setting) -> str:
    value = table.string(setting.key)
    if isinstance(table.data[setting.key], str) and not _NAME.fullmatch(value):
        remedy = "Use letters, digits, dots, dashes and underscores, a letter or digit first and last"
        table.problem(setting.key, f"{value!r} is not a name", remedy)
    return value


def _path_problem(value: str) -> str:
    if not value.startswith("/"):
        return "is not an absolute path"
    if value != os.path.normpath(value) or not value.isprintable():
        return "is not a normalized path"
    return ""


def _read_path(table: Fields, setting: Setting) -> str:
    value = table.string(setting.key)
    if isinstance(table.data[setting.key], str) and (what := _path_problem(value)):
        named = "its value" if setting.key == "password_file" else f'"{value}"'  # perhaps it is the password itself
        table.problem(setting.key, f"{named} {what}", "Write it from / on, without //, ./ and ../")
    return value


def _read_paths(table: Fields, setting: Setting) -> tuple[str, ...]:
    values = table.strings(setting.key, one=False)
    for index, value in enumerate(values):
        if what := _path_problem(value):
            table.problem((setting.key, index), f'"{value}" {what}', "Write it from / on, without //, ./ and ../")
    return values


def _read_strings(table: Fields, setting: Setting) -> tuple[str, ...]:
    values = table.strings(setting.key, one=False)
    for index, value in enumerate(values):
        if setting.key == "endpoints" and "@" in value:
            what, remedy = "an endpoint names a user", "Write them as username and password_file"
            table.problem((setting.key, index), what, remedy)
        elif setting.key == "endpoints" and not _ENDPOINT.fullmatch(value):
            table.problem((setting.key, index), f'"{value}" is not an endpoint', 'Write "https://192.0.2.1:2379"')
        elif not value or "\0" in value:
            table.problem((setting.key, index), f'"{setting.key}" holds an empty word', "Remove it")
    return values


def _read_word(table: Fields, setting: Setting) -> str:
    value = table.string(setting.key)
    if isinstance(table.data[setting.key], str) and (not value.strip() or not value.isprintable()):
        table.problem(setting.key, f'"{setting.key}" is empty or not printable', "Write it out, or leave it out")
    return value


def _read_duration(table: Fields, setting: Setting) -> float:
    return table.duration(setting.key, 1.0, least=0.1, most=3600.0)


def _read_budget(table: Fields, setting: Setting) -> float:
    return table.duration(setting.key, 0.0, most=3600.0)


def _read_pauses(table: Fields, setting: Setting) -> Pauses:
    return table.choice(setting.key, Pauses, Pauses.AUTO)


def _read_number(table: Fields, setting: Setting) -> int:
    value = table.data[setting.key]
    if type(value) is not int:
        table.problem(setting.key, f'"{setting.key}" is no whole number', "Write it without quotes")
        return 0
    return value


def _read_store(table: Fields, setting: Setting) -> StoreKind:
    return table.choice(setting.key, StoreKind, StoreKind.SQLITE)


def _read_conflict(table: Fields, setting: Setting) -> OnConflict:
    return table.choice(setting.key, OnConflict, OnConflict.ALERT)


def _read_view(table: Fields, setting: Setting) -> ViewKind:
    return table.choice(setting.key, ViewKind, ViewKind.NONE)


_READERS: dict[str, Callable[[Fields, Setting], object]] = {
    "name": _read_name,
    "word": _read_word,
    "path": _read_path,
    "paths": _read_paths,
    "strings": _read_strings,
    "number": _read_number,
    "duration": _read_duration,
    "budget": _read_budget,
    "pauses": _read_pauses,
    "store": _read_store,
    "conflict": _read_conflict,
    "view": _read_view,
}
