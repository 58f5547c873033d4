# SPDX-License-Identifier: GPL-2.0-or-later
"""A fresh store of each kind for every test, on one real etcd for all."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from lab_cluster import Cluster, EtcdServer, serve
from lab_engines import Engine, Etcd, EtcdMembers, External, Sanlock, Sqlite
from lab_sanlock import Disk, SanlockHosts
from lab_tls import Secured, secured

from enforcer.cluster import external_store
from tools.lab.etcd import EtcdServer as Members


@pytest.fixture(scope="session")
def etcd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EtcdServer]:
    """One server for all tests; each test uses a cluster name of its own in it."""
    server = serve(tmp_path_factory.mktemp("etcd"))
    yield server
    server.go_on()
    server.kill()


@pytest.fixture(scope="session")
def three(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Members]:
    """Three members for all tests that hurt them; fast elections, so that none need wait long."""
    members = Members(tmp_path_factory.mktemp("etcd3"), 3, election_ms=300)
    members.start()
    yield members
    members.stop()


@pytest.fixture
def members(three: Members) -> Iterator[Members]:
    """All three up and led at the beginning, whatever the test before has done to them."""
    three.resume()
    three.start()
    three.leader()
    yield three
    three.resume()


@pytest.fixture(scope="session")
def etcd_cert(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    """A server that wants client certificates."""
    made = secured(tmp_path_factory.mktemp("etcd-cert"), client_cert=True)
    yield made
    made.server.kill()


@pytest.fixture(scope="session")
def etcd_password(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    """A server on which authentication is enabled, for user and password over TLS."""
    made = secured(tmp_path_factory.mktemp("etcd-password"), user="node")
    yield made
    made.server.kill()


@pytest.fixture(scope="session")
def sanlock_hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SanlockHosts]:
    """Daemons for all tests; each test has a disk of its own."""
    hosts = SanlockHosts(tmp_path_factory.mktemp("sanlock"))
    yield hosts
    hosts.stop()


@pytest.fixture(params=["sqlite", "etcd", "etcd-cert", "etcd-password", "external", "sanlock"])
def cluster(request: pytest.FixtureRequest, tmp_path: Path) -> Cluster:
    """A fresh store of each kind, and etcd reached in each way."""
    if request.param == "sqlite":
        return Cluster("sqlite", tmp_path / "leases.db")
    if request.param in ("etcd-cert", "etcd-password"):
        made = request.getfixturevalue(request.param.replace("-", "_"))
        return Cluster("etcd", made.server.url, access=made.store)
    if request.param == "external":
        # its program is started beside five other tests
        request.getfixturevalue("monkeypatch").setattr(external_store, "CALL_S", 10.0)
        return Cluster("external", tmp_path)
    if request.param == "sanlock":
        return Cluster("sanlock", tmp_path, disk=Disk(request.getfixturevalue("sanlock_hosts"), tmp_path, ahead=8))
    return Cluster("etcd", request.getfixturevalue("etcd").url)


@pytest.fixture
def engine(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Engine:
    """What is behind a fresh store of the kind that the test names, for faults in it."""
    if request.param == "sqlite":
        return Sqlite(Cluster("sqlite", tmp_path / "leases.db"))
    if request.param == "external":
        return External(Cluster("external", tmp_path))
    if request.param == "sanlock":
        disk = Disk(request.getfixturevalue("sanlock_hosts"), tmp_path)
        return Sanlock(Cluster("sanlock", tmp_path, disk=disk), monkeypatch)
    if request.param == "etcd-members":
        return EtcdMembers(Cluster("etcd", ""), request.getfixturevalue("members"))
    server = request.getfixturevalue("etcd")
    return Etcd(Cluster("etcd", server.url), server)


@pytest.fixture
def etcd_cluster(etcd: EtcdServer) -> Cluster:
    """A fresh etcd store."""
    return Cluster("etcd", etcd.url)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A real sanlock counts in its own seconds: what waits for one is a suite of its own."""
    for item in items:
        called = getattr(item, "callspec", None)
        if "sanlock_hosts" in getattr(item, "fixturenames", ()) or (
            called and "sanlock" in (called.params.get("cluster"), called.params.get("engine"))
        ):
            item.add_marker("sanlock")
