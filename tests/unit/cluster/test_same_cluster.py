# SPDX-License-Identifier: GPL-2.0-or-later
"""Which etcd cluster holds the leases outlives every restart; no other one is believed."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from lab_cluster import EtcdServer

from enforcer.cluster.etcd_api import Etcd, get, put
from enforcer.cluster.etcd_http import EtcdClient
from enforcer.cluster.same_cluster import FILE, SameCluster
from enforcer.model.errors import StoreUnavailable
from tools.lab.etcd import EtcdServer as Members


class Answers:
    """An etcd that says this, whatever is asked."""

    def __init__(self, answer: Mapping[str, Any]) -> None:
        self.answer = dict(answer)

    async def call(self, _path: str, _body: object, *, budget_s: float, retry: bool = True) -> dict[str, Any]:
        return self.answer

    async def close(self) -> None: ...


TXN = {"header": {"cluster_id": "17"}}
KEEPALIVE = {"result": {"header": {"cluster_id": "17"}, "ID": "1"}}


def ask(place: Path, answer: Mapping[str, Any], cluster: str = "san", path: str = "/kv/txn") -> object:
    """A process that begins, asks once and ends."""

    async def scenario() -> object:
        same = SameCluster(Answers(answer), place, cluster)
        try:
            return await same.call(path, {}, budget_s=1)
        finally:
            await same.close()

    return asyncio.run(scenario())


def test_a_real_etcd_is_remembered(tmp_path: Path, etcd: EtcdServer) -> None:
    async def scenario() -> None:
        for _ in range(2):
            client = Etcd(SameCluster(EtcdClient([etcd.url]), tmp_path, "san"))
            await client.read([get("/x")], budget_s=2)
            await client.client.close()

    asyncio.run(scenario())
    (known,) = json.loads((tmp_path / FILE).read_text()).values()
    assert int(known["id"]) > 0 and known["revision"] > 0 and [path.name for path in tmp_path.iterdir()] == [FILE]


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


def at(revision: int) -> dict[str, Any]:
    return {"header": {"cluster_id": "17", "revision": str(revision)}}


def test_an_etcd_that_was_set_back_is_believed_no_more_not_even_when_it_has_caught_up(tmp_path: Path) -> None:
    """Restored from a copy: what it knows of leases is old, whatever its revision is later."""
    for revision in (7, 9, 9):
        ask(tmp_path, at(revision))
    ask(tmp_path, {"result": at(3)}, path="/lease/keepalive")  # of a member that lags behind
    ask(tmp_path, at(3), "another name")
    for revision in (8, 8, 20):
        with pytest.raises(StoreUnavailable, match=r"went back in time \(revision 8 after 9\)") as refused:
            ask(tmp_path, at(revision))
        assert f"rm {tmp_path / FILE}" in refused.value.hint
    (tmp_path / FILE).unlink()
    ask(tmp_path, at(20))


def test_a_real_etcd_that_was_made_anew_has_the_same_id_and_is_not_believed(tmp_path: Path) -> None:
    place = tmp_path / "etcd"
    place.mkdir()
    server = Members(place)

    async def scenario() -> None:
        client = Etcd(SameCluster(EtcdClient([server.url]), tmp_path, "san"))
        await client.write([], [put("/x", b"held")], budget_s=2)
        await client.client.close()

    server.start()
    try:
        asyncio.run(scenario())
        asyncio.run(scenario())
        server.stop()
        shutil.rmtree(place / server.members[0].name)
        server.start()
        with pytest.raises(StoreUnavailable, match="went back in time"):
            asyncio.run(scenario())
    finally:
        server.stop()


@pytest.mark.parametrize("content", ["", "{", "[]", '{"san": 17}', '{"san": {"id": "17"}}', "\0"])
def test_what_is_damaged_denies(tmp_path: Path, content: str) -> None:
    (tmp_path / FILE).write_text(content)
    with pytest.raises(StoreUnavailable, match="is not known"):
        ask(tmp_path, TXN)


def test_a_full_disk_takes_nothing_from_a_node_that_knows_its_cluster(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The keeper starts anew, say: the session must be renewed all the same."""
    ask(tmp_path, at(7))
    monkeypatch.setattr(SameCluster, "_save", full)
    assert believed(tmp_path, at(7)) and believed(tmp_path, at(9))


def test_what_was_set_back_is_not_believed_later_either_if_that_cannot_be_written_down(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask(tmp_path, at(9))
    monkeypatch.setattr(SameCluster, "_save", full)
    answers = Answers(at(8))
    same = SameCluster(answers, tmp_path, "san")

    async def scenario() -> None:
        for revision in (8, 20, 21):
            answers.answer = at(revision)
            with pytest.raises(StoreUnavailable):
                await same.call("/kv/txn", {}, budget_s=1)

    asyncio.run(scenario())


def believed(place: Path, answer: Mapping[str, Any]) -> bool:
    try:
        return ask(place, answer) == answer
    except StoreUnavailable:
        return False


def full(*_: object) -> None:
    raise OSError(28, "No space left on device")


def test_what_cannot_be_written_denies(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreUnavailable, match="is not known"):
        ask(tmp_path / "file", TXN)
