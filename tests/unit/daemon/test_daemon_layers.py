# SPDX-License-Identifier: GPL-2.0-or-later
"""The verb ``layers``: everything that is known of a device in one answer, whichever layer is silent."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from lab_node import ME, PART, SECOND, B, Node, run

from enforcer.cluster.board import DoubleUse
from enforcer.cluster.view import NoCluster, Opinion, Quorum, Stance, Use
from enforcer.daemon import layered
from enforcer.model.errors import UsageError
from enforcer.storage.usage import Usage, Writer
from enforcer.workflow import looking as module
from enforcer.workflow.layers import Sign
from enforcer.workflow.looking import Looking, OnDisk

MMP = Sign("ext4-mmp", "node-9\x1b", "its MMP block: mounted on node-9\x1b", moves=True)


@pytest.fixture
def parts(node: Node, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """node-1 as the verbs see it; its disks are what ``signs`` says."""
    looking = Looking("node-1", tmp_path)
    signs: dict[object, OnDisk] = {}

    async def disks(devices: list[Any]) -> dict[object, OnDisk]:
        return {each.dev: signs.get(each.dev, OnDisk()) for each in devices}

    monkeypatch.setattr(looking, "disks", disks)
    monkeypatch.setattr(module.usage, "scan", lambda: dict(node.used))
    return SimpleNamespace(
        tables=node.tables,
        devices=node.devices,
        leases=node.leases,
        store=node.store,
        holder=ME,
        asks=SimpleNamespace(pending_on=lambda dev: node.waiting),
        conflicts=SimpleNamespace(known=()),
        deadline_left_s=lambda: None,
        looking=looking,
        view=NoCluster(),
        signs=signs,
    )


def layers(parts: Any, *devices: object) -> list[dict[str, Any]]:
    answer = run(layered.verb(parts)({"devices": [str(dev) for dev in devices]}))
    told = json.loads(json.dumps(answer))
    assert told["left_out"] == 0
    found: list[dict[str, Any]] = told["layers"]
    return found


def test_every_layer_is_in_the_answer(node: Node, parts: Any) -> None:
    node.waiting = 0
    node.store.hold(B)
    node.used[SECOND] = Usage(mounted_at=["/srv"], writers=[Writer(7, "dd")])
    parts.signs[SECOND] = OnDisk((MMP,))
    parts.conflicts.known = (DoubleUse("node-1", "boot-1", B, "sdb is mounted at /srv", ("node-2",)),)
    first, second = layers(parts, SECOND, PART, "9:9")
    it = second if second["name"] == "sdb" else first
    assert it["store"]["leases"][0]["holder"]["node"] == "node-2" and it["enforcerd"] == []
    assert it["kernel"]["state"] == "free" and it["proc"]["writers"] == [{"pid": 7, "comm": "dd"}]
    assert it["disk"]["marks"][0]["owner"] == "node-9\\x1b" and it["disk"]["reservation"] is None
    assert it["cluster"] == {"kind": "none", "quorum": "none", "runs_on": None}
    assert [use["node"] for use in it["conflicts"]] == ["node-1"]
    loud, use, mark = it["disagreements"]
    assert "IN USE ON TWO NODES" in loud and "mounted at /srv here" in use and "being written now" in mark


class Pacemaker(NoCluster):
    """It runs what was asked for on node-2, and has no quorum."""

    name = "pacemaker"

    async def quorum(self) -> Quorum:
        return Quorum.LOST

    async def opinion(self, _use: Use) -> Opinion:
        return Opinion(Stance.OBJECTS, "it runs on node-2", holder="node-2", resource="fs")


def test_the_cluster_manager_is_asked(node: Node, parts: Any) -> None:
    node.waiting = 0
    node.store.hold(B, ME)
    node.count(SECOND, uses=1)
    parts.view = Pacemaker()
    (it,) = layers(parts, SECOND)
    assert it["cluster"] == {"kind": "pacemaker", "quorum": "lost", "runs_on": ["node-2"]}
    assert any("runs it on node-2" in sentence for sentence in it["disagreements"])


def test_who_waits_is_no_use(node: Node, parts: Any) -> None:
    node.store.hold(B)
    node.count(SECOND, uses=1)
    node.waiting = 1
    (it,) = layers(parts, SECOND)
    assert it["disagreements"] == [] and it["kernel"]["uses"] == 0
    node.waiting = 0
    (it,) = layers(parts, SECOND)
    assert "IN USE ON TWO NODES" in it["disagreements"][0]


def test_a_silent_store_hides_no_other_layer(node: Node, parts: Any) -> None:
    node.waiting = 0
    node.store.out_of_reach = True
    parts.signs[SECOND] = OnDisk(unread="Input/output error")
    (it,) = layers(parts, SECOND)
    assert it["store"]["trouble"] == "the lease store did not answer" and it["disagreements"] == []
    assert it["disk"]["unread"] == "Input/output error" and it["kernel"]["state"] == "free"


def test_a_request_without_devices_is_a_mistake(parts: Any) -> None:
    with pytest.raises(UsageError):
        run(layered.verb(parts)({}))
