# SPDX-License-Identifier: GPL-2.0-or-later
"""What is right key by key and wrong together."""

from __future__ import annotations

from enforcer.policy.document import Document
from enforcer.policy.fields import show_duration
from enforcer.settings.fencing import check_fencing
from enforcer.settings.readers import path_problem
from enforcer.settings.sections import SETTINGS, OnConflict, Settings, Store, StoreKind

LEAST_WATCHDOG_S = 2.0
_INSTEAD = {
    StoreKind.SQLITE: "no other node ever takes over what the sqlite store holds",
    StoreKind.SANLOCK: "sanlock itself resets a node that cannot renew, through wdmd",
    StoreKind.EXTERNAL: "what silences a lost node is up to the external store",
}


def check(settings: Settings, document: Document) -> None:
    """What is right key by key and wrong together."""
    deadlines = settings.deadlines()
    if what := deadlines.problem():
        places = [("store", "renew"), ("store", "ttl"), *(("lost", s.key) for s in SETTINGS if s.section == "lost")]
        remedy = f"Raise ttl, or set renew to {show_duration(deadlines.most_renew_s)} or less"
        document.problem(next((place for place in places if place in document.lines), places[1]), what, remedy)
    if settings.lost.watchdog and settings.lost.watchdog_timeout_s < LEAST_WATCHDOG_S:
        what = "the watchdog's time-out is too short: it is programmed with half of it, in whole seconds"
        document.problem(("lost", "watchdog_timeout"), what, f"Set it to {LEAST_WATCHDOG_S:g}s or more")
    _check_lost(settings, document)
    if settings.daemon.on_conflict is OnConflict.CUT:
        what = '"cut" cannot be done: nothing in this version ends a use by force'
        document.problem(("daemon", "on_conflict"), what, 'Set on_conflict = "alert"')
    if settings.store.kind is StoreKind.ETCD and not settings.store.endpoints:
        document.problem(("store", "kind"), "the etcd store has no endpoints", 'Add endpoints = ["https://host:2379"]')
    check_fencing(settings.fencing, document)
    _check_access(settings.store, document)
    if settings.store.kind is StoreKind.EXTERNAL:
        _check_external(settings.store, document)
    if settings.store.kind is StoreKind.SANLOCK:
        _check_sanlock(settings.store, document)


def _check_lost(settings: Settings, document: Document) -> None:
    """A protection that was asked for and would not be there: whoever reads the file relies on it.

    Each of them is promised with a lease and kept before a session ends, and only etcd's has an end that is known here.
    ``hypervisor_pauses`` and ``watchdog_timeout`` ask for nothing by themselves, nor do defaults that are written out.
    """
    kind, lost = settings.store.kind, settings.lost
    stated = document.data.get("store")
    if kind is StoreKind.ETCD or (isinstance(stated, dict) and stated.get("kind", kind) != kind):
        return  # a kind that is none has been told of: perhaps it was to be etcd
    for key, wanted in (("cut", lost.cut_s > 0), ("watchdog", lost.watchdog), ("reservation", lost.reservation)):
        if wanted:
            what = f'"{key}" has no effect with the {kind} store, only with etcd'
            document.problem(("lost", key), what, f"Remove it: {_INSTEAD[kind]}")


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
    elif store.command and (what := path_problem(store.command[0])):
        document.problem(("store", "command", 0), f'"{store.command[0]}" {what}', "Write the program from / on")


def _check_sanlock(store: Store, document: Document) -> None:
    for key, wrong, what, remedy in (
        ("kind", not store.device, "the sanlock store has no device", 'Set device = "/dev/disk/by-id/..."'),
        ("host_id", not 1 <= store.host_id <= 32, "the sanlock store needs a host_id", "Set 1 to 32, its own on each"),
        ("cluster", len(store.cluster) > 48, "sanlock's names have at most 48 characters", "Shorten it"),
        ("io_timeout", store.io_timeout_s not in range(1, 61), "sanlock counts whole seconds, 60 at most", 'Set "10s"'),
    ):
        if wrong:
            document.problem(("store", key), what, remedy)
