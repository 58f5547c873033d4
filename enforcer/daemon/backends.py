# SPDX-License-Identifier: GPL-2.0-or-later
"""What the settings name, as objects: the lease store, the board beside it, the word of the cluster manager.

Nothing here waits for anybody: a store that is out of reach denies later, and does not keep the daemon from starting.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from enforcer.cluster.board import Board, NoBoard
from enforcer.cluster.etcd_access import EtcdAccess
from enforcer.cluster.etcd_board import EtcdBoard
from enforcer.cluster.etcd_store import EtcdStore
from enforcer.cluster.external_store import ExternalStore
from enforcer.cluster.identity import read_session
from enforcer.cluster.pacemaker import PacemakerView
from enforcer.cluster.same_cluster import SameCluster
from enforcer.cluster.sanlock_socket import Space
from enforcer.cluster.sanlock_store import SanlockStore
from enforcer.cluster.sqlite_store import SqliteStore
from enforcer.cluster.store import LeaseStore
from enforcer.cluster.view import ClusterView, NoCluster
from enforcer.model.lease import Guarantee, Holder
from enforcer.model.resource import ResourceId
from enforcer.policy.rules import Policy
from enforcer.settings import Settings, StoreKind, ViewKind
from enforcer.workflow.consent import locate, vouched
from enforcer.workflow.devices import Devices


def make_access(settings: Settings) -> EtcdAccess | None:
    """The way to etcd, which a reload may change; None for every other store."""
    return EtcdAccess(settings.store) if settings.store.kind is StoreKind.ETCD else None


def make_store(
    settings: Settings,
    me: Holder,
    access: EtcdAccess | None,
    *,
    multi_attached: Callable[[str], bool],
    guarantee: Callable[[frozenset[ResourceId]], Guarantee],
) -> LeaseStore:
    """The store; not open yet. ``multi_attached`` is for that of one node, ``guarantee`` for etcd."""
    store, state_dir = settings.store, Path(settings.paths.state_dir)
    if access is not None:
        return EtcdStore(
            SameCluster(access, state_dir, store.cluster),
            store.cluster,
            me,
            session=lambda: read_session(Path(settings.paths.run_dir))[0],
            ttl_s=store.ttl_s,
            guarantee=guarantee,
        )
    if store.kind is StoreKind.EXTERNAL:
        return ExternalStore(me, store.cluster, state_dir, command=store.command, path=store.socket)
    if store.kind is StoreKind.SANLOCK:
        return SanlockStore(me, Space(store.cluster, store.device, store.host_id, int(store.io_timeout_s)), state_dir)
    return SqliteStore(me, Path(store.path or state_dir / "leases.sqlite"), multi_attached=multi_attached)


def make_board(settings: Settings, me: Holder, access: EtcdAccess | None) -> Board:
    """Where uses on two nodes are told; only etcd has a place for it."""
    if access is None:
        return NoBoard()
    cluster = settings.store.cluster
    return EtcdBoard(SameCluster(access, Path(settings.paths.state_dir), cluster), cluster, me)


def make_view(settings: Settings, devices: Callable[[], Devices], changed: Callable[[bool], None]) -> ClusterView:
    """The cluster manager; ``changed`` hears of its quorum."""
    if settings.cluster.view is ViewKind.NONE:
        return NoCluster()
    return PacemakerView(
        lambda path: locate(path, devices().resolve),
        lease_store=settings.store.kind is not StoreKind.SQLITE,
        changed=changed,
    )


def is_multi_attached(lun: str, devices: Devices, policy: Policy) -> bool:
    """For the one-node store: does the hardware or a rule say that other nodes see this LUN?

    It does not matter for what the cluster manager vouches for.
    """
    if vouched(lun):
        return False
    for device in devices.on_lun(lun):
        known = devices.known[device.dev]
        rule = policy.rule(known.guarding.rule) if known.guarding.rule else None
        stated = rule.multi_attached if rule is not None else None
        if stated or (stated is None and device.attached_by != "local"):
            return True
    return False
