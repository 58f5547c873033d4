# SPDX-License-Identifier: GPL-2.0-or-later
"""What can be set: each setting is a field with its key, default and help."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TypeVar

from enforcer.lost.options import Lost
from enforcer.model.deadlines import Deadlines
from enforcer.policy.fields import show_duration
from enforcer.settings.fencing import Fencing

T = TypeVar("T")


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
    io_timeout_s: float = _setting(10.0, "sanlock's; the same on all nodes", key="io_timeout", kind="duration")
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
    fencing: Fencing = field(default_factory=Fencing)
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
    "fencing": Fencing,
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
    if item.metadata
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
