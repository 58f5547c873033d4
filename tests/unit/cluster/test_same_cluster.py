# SPDX-License-Identifier: GPL-2.0-or-later
"""Which etcd cluster holds the leases outlives every restart; no other one is believed."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from lab_cluster import EtcdServer

from enforcer.cluster.etcd_api import Etcd, get
from enforcer.cluster.etcd_http import EtcdClient
from enforcer.cluster.same_cluster import FILE, SameCluster
from enforcer.model.errors import StoreUnavailable


class Answers:
    """An etcd that says this, whatever is asked."""

    def __init__(self, answer: Mapping[str, Any]) -> None:
        self.answer = dict(answer)

    async def call(self, _path: str, _body: object, *, budget_s: float, retry: bool = True) -> dict[str, Any]:
        return self.answer

    async def close(self) -> None: ...


TXN = {"header": {"cluster_id": "17"}}
KEEPALIVE = {"result": {"header": {"cluster_id": "17"}, "ID": "1"}}


def ask(place: Path, answer: Mapping[str, Any], cluster: str = "san") -> object:
    """A process that begins, asks once and ends."""
    return asyncio.run(SameCluster(Answers(answer), place, cluster).call("/kv/txn", {}, budget_s=1))


def test_a_real_etcd_is_remembered(tmp_path: Path, etcd: EtcdServer) -> None:
    async def scenario() -> None:
        for _ in range(2):
            client = Etcd(SameCluster(EtcdClient([etcd.url]), tmp_path, "san"))
            await client.read([get("/x")], budget_s=2)
            await client.client.close()

    asyncio.run(scenario())
    (known,) = json.loads((tmp_path / FILE).read_text()).values()
    assert int(known) > 0 and [path.name for path in tmp_path.iterdir()] == [FILE]


@pytest.mark.parametrize("first", [TXN, KEEPALIVE])
@pytest.mark.parametrize("other", [{"header": {"cluster_id": "18"}}, {"result": {"header": {"cluster_id": "18"}}}])
def test_another_cluster_is_no_answer_even_after_a_restart(
    tmp_path: Path, first: Mapping[str, Any], other: Mapping[str, Any]
) -> None:
    assert ask(tmp_path, first) == first
    for _ in range(2):
        with pytest.raises(StoreUnavailable, match=r"another etcd cluster \(18\)") as refused:
            ask(tmp_path, other)
    assert "put right the endpoints" in refused.value.hint and f"rm {tmp_path / FILE}" in refused.value.hint
    assert ask(tmp_path, first) == first, "and the right one is believed again"
    assert ask(tmp_path, other, "another name") == other, "which is another cluster by our own word"


def test_an_answer_without_an_id_proves_nothing(tmp_path: Path) -> None:
    assert ask(tmp_path, {"grantedTTL": "3"}) and not (tmp_path / FILE).exists()


@pytest.mark.parametrize("content", ["", "{", "[]", '{"san": 17}', '{"san": ""}', "\0"])
def test_what_is_damaged_denies(tmp_path: Path, content: str) -> None:
    (tmp_path / FILE).write_text(content)
    with pytest.raises(StoreUnavailable, match="is not known"):
        ask(tmp_path, TXN)


def test_what_cannot_be_written_denies(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreUnavailable, match="is not known"):
        ask(tmp_path / "file", TXN)
