# SPDX-License-Identifier: GPL-2.0-or-later
"""The chaos run's watcher against a real etcd of three members: nothing is missed, and the times that it gives hold."""

from __future__ import annotations

import base64
import json
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tools.chaos.watch import BEAT, Watch
from tools.lab.etcd import EtcdError, EtcdServer


@pytest.fixture
def etcd(tmp_path: Path) -> Iterator[EtcdServer]:
    server = EtcdServer(tmp_path, 3)
    server.start()
    yield server
    server.stop()


def write(etcd: EtcdServer, member: int, path: str, key: str, value: object = None) -> int:
    """One put or delete; its revision."""
    body = {"key": base64.b64encode(key.encode()).decode()}
    if path.endswith("put"):
        body["value"] = base64.b64encode(json.dumps(value).encode()).decode()
    end = time.monotonic() + 20
    while True:
        try:
            request = urllib.request.Request(f"{etcd.members[member].url}/v3{path}", json.dumps(body).encode())
            with urllib.request.urlopen(request, timeout=5) as answer:
                return int(json.load(answer)["header"]["revision"])
        except OSError as error:  # no leader just now
            if time.monotonic() > end:
                raise EtcdError(f"{key} is not written: {error}") from error


def test_every_revision_is_heard_at_a_time_that_can_be_relied_on(etcd: EtcdServer) -> None:
    written: dict[int, tuple[float, float]] = {}

    def put(member: int, value: int) -> None:
        before_s = time.time()
        revision = write(etcd, member, "/kv/put", "/enforcer/lab/res/x", {"n": value})
        written[revision] = before_s, time.time()

    put(0, 1)
    with Watch(etcd) as watch:
        put(1, 2)
        time.sleep(0.5)
        etcd.pause(0)
        put(1, 3)
        etcd.resume(0)
        etcd.kill(1)
        put(2, 4)
        etcd.start()
        etcd.pause(2)
        put(1, 5)
        etcd.resume(2)
        deleted = write(etcd, 0, "/kv/deleterange", "/enforcer/lab/res/x")
        asked_s = time.time()
        while not watch.heard_until(asked_s):
            assert time.time() < asked_s + 20
            time.sleep(0.05)
        changes, clock = watch.changes(), watch.clock()
    assert all(change.key != BEAT for change in changes)
    told = [change.value["n"] if change.value else 0 for change in changes]  # a put without an answer is sent again
    assert list(dict.fromkeys(told)) == [1, 2, 3, 4, 5, 0]
    assert {*written, deleted} <= {change.revision for change in changes}
    for revision, (before_s, after_s) in written.items():
        assert clock.earliest(revision) <= after_s and clock.latest(revision) >= before_s
    second = sorted(written)[1]
    assert clock.earliest(deleted) > written[second][1] and clock.latest(deleted) < asked_s + 20
