# SPDX-License-Identifier: GPL-2.0-or-later
"""A fresh store of each kind for every test, on one real etcd for all."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from lab_cluster import Cluster, EtcdServer, serve


@pytest.fixture(scope="session")
def etcd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EtcdServer]:
    """One server for all tests; each test uses a cluster name of its own in it."""
    server = serve(tmp_path_factory.mktemp("etcd"))
    yield server
    server.go_on()
    server.process.kill()
    server.process.wait()


@pytest.fixture(params=["sqlite", "etcd"])
def cluster(request: pytest.FixtureRequest, tmp_path: Path) -> Cluster:
    """A fresh store of each kind."""
    if request.param == "sqlite":
        return Cluster("sqlite", tmp_path / "leases.db")
    return Cluster("etcd", request.getfixturevalue("etcd").url)


@pytest.fixture
def etcd_cluster(etcd: EtcdServer) -> Cluster:
    """A fresh etcd store."""
    return Cluster("etcd", etcd.url)
