# SPDX-License-Identifier: GPL-2.0-or-later
"""Whatever a server says, the client gives a well-formed answer, a refusal, or StoreUnavailable in time."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import Awaitable, Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lab_cluster import EtcdServer

from enforcer.cluster.etcd_api import Etcd, get_prefix
from enforcer.cluster.etcd_http import EtcdClient, EtcdRefused
from enforcer.cluster.etcd_session import SessionFacts
from enforcer.cluster.etcd_store import EtcdStore
from enforcer.model.errors import BadConfiguration, EnforcerError, StoreUnavailable
from enforcer.model.lease import Claim, Denied, Holder
from enforcer.model.resource import ResourceId


def talk(answer: bytes, speak: Callable[[EtcdClient], Awaitable[object]], *, then_hang: bool = False) -> object:
    """Let a client speak to a server that says ``answer`` to everything and hangs up (or does not)."""

    async def run() -> object:
        async def say(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            try:
                await reader.readuntil(b"\r\n\r\n")
                writer.write(answer)
                await writer.drain()
                if then_hang:
                    await reader.read()
            except (OSError, EOFError):
                pass
            finally:
                writer.close()

        server = await asyncio.start_server(say, "127.0.0.1", 0)
        client = EtcdClient([f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"], per_try_s=0.1)
        try:
            return await speak(client)
        finally:
            await client.close()
            server.close()

    return asyncio.run(run())


def http(body: bytes, status: str = "200 OK") -> bytes:
    return b"HTTP/1.1 %s\r\nContent-Length: %d\r\n\r\n%s" % (status.encode(), len(body), body)


async def acquire(client: EtcdClient) -> object:
    me = Holder("n", "b", "s")
    store = EtcdStore(client, "c", me, session=lambda: SessionFacts(1, 1, 9), ttl_s=9)
    return await store.acquire(frozenset({Claim(ResourceId("a"))}), {}, budget_s=0.04)


FIELDS = (
    *("header", "revision", "cluster_id", "responses", "response_range", "kvs", "key", "value", "count"),
    *("succeeded", "create_revision", "mod_revision", "error", "code", "http_code", "message"),
)
leaves = st.none() | st.booleans() | st.integers() | st.floats() | st.sampled_from(["5", "L2E=", "-1", "x"])
json_values = st.recursive(
    leaves,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(FIELDS), inner, max_size=5),
    max_leaves=12,
)


@settings(max_examples=60, deadline=None)
@given(st.one_of(st.binary(max_size=120), json_values.map(lambda v: http(json.dumps(v).encode()))))
def test_no_answer_of_a_stranger_becomes_a_permit_or_a_crash(answer: bytes) -> None:
    assert isinstance(talk(answer, acquire), Denied)


@pytest.mark.parametrize(
    "answer",
    [
        http(b"[" * 100_000),
        http(b'{"a": ' + b"9" * 5000 + b"}"),
        b"HTTP/1.1 200 OK\r\nContent-Length: 99999999\r\n\r\n{",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffffffff\r\n{}",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}X\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 1000 + b"\r\n{}",
        b"A" * 200_000,
        http(b'{"error": "etcdserver: no leader", "code": 14}', "503 Service Unavailable"),
    ],
)
def test_a_malformed_answer_is_no_answer(answer: bytes) -> None:
    async def speak(client: EtcdClient) -> object:
        with pytest.raises(StoreUnavailable):
            await client.call("/kv/range", {}, budget_s=0.1)
        return None

    talk(answer, speak)


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (http(b'{"error":"etcdserver: permission denied","code":7}', "403 Forbidden"), "permission denied"),
        (http(b"CommonName of client will be ignored\x1b[2J", "400 Bad Request"), "will be ignored [2J"),
        (http(b'{"error":{"grpc_code":16,"http_code":401,"message":"invalid token"}}'), "invalid token"),
        (b"HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTP request to an HTTPS server.", "to an HTTPS server"),
    ],
)
def test_a_permanent_error_is_told_at_once_in_the_servers_words(answer: bytes, said: str) -> None:
    async def speak(client: EtcdClient) -> object:
        begun = time.monotonic()
        with pytest.raises(EtcdRefused) as refused:
            await client.call("/kv/range", {}, budget_s=5)
        assert time.monotonic() - begun < 1
        return str(refused.value)

    assert said in str(talk(answer, speak))


@pytest.mark.parametrize("head", ["Content-Length: 16777217\r\n\r\n", "Transfer-Encoding: chunked\r\n\r\n1000001\r\n"])
def test_an_answer_beyond_all_measure_is_not_read(head: str) -> None:
    async def speak(client: EtcdClient) -> object:
        with pytest.raises(StoreUnavailable, match="beyond all measure"):
            await client.call("/kv/range", {}, budget_s=0.1)
        return None

    talk(b"HTTP/1.1 200 OK\r\n" + head.encode(), speak)


def test_a_write_without_an_answer_is_not_sent_again() -> None:
    async def speak(client: EtcdClient) -> object:
        begun = time.monotonic()
        with pytest.raises(StoreUnavailable):
            await client.call("/kv/txn", {}, budget_s=5, retry=False)
        return time.monotonic() - begun

    took = talk(b"", speak)
    assert isinstance(took, float)
    assert took < 1


def test_a_snapshot_that_lacks_a_part_permits_nothing() -> None:
    empty = {"header": {"revision": "5", "cluster_id": "1"}, "succeeded": True, "responses": []}
    assert isinstance(talk(http(json.dumps(empty).encode()), acquire), Denied)


def test_a_server_that_stops_in_mid_answer_is_given_up_in_time() -> None:
    async def speak(client: EtcdClient) -> object:
        begun = time.monotonic()
        with pytest.raises(StoreUnavailable, match="no answer within"):
            await client.call("/kv/range", {}, budget_s=0.3)
        return time.monotonic() - begun

    took = talk(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{", speak, then_hang=True)
    assert isinstance(took, float)
    assert took < 0.5


def test_the_last_moment_of_a_budget_hides_no_reason() -> None:
    async def run() -> None:
        async def say(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            with contextlib.suppress(OSError, EOFError):
                await reader.readuntil(b"\r\n\r\n")
                if not told:
                    told.append(True)
                    writer.write(http(b'{"error": "too many requests", "code": 8}', "503 Service Unavailable"))
                await reader.read()
            writer.close()

        told: list[bool] = []
        server = await asyncio.start_server(say, "127.0.0.1", 0)
        client = EtcdClient([f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"], per_try_s=0.5)
        with pytest.raises(StoreUnavailable, match="too many requests"):
            await client.call("/kv/range", {}, budget_s=0.5)
        server.close()

    asyncio.run(run())


def test_a_store_that_goes_back_in_time_is_no_store() -> None:
    def snapshot(revision: int, cluster: str) -> bytes:
        found = {"response_range": {}}
        header = {"revision": str(revision), "cluster_id": cluster}
        return http(json.dumps({"header": header, "succeeded": True, "responses": [found]}).encode())

    async def speak(client: EtcdClient) -> object:
        etcd = Etcd(client)
        await etcd.read([get_prefix("a/")], budget_s=1)
        etcd._highest = 8
        with pytest.raises(StoreUnavailable, match="back in time"):
            await etcd.read([get_prefix("a/")], budget_s=1)
        etcd._highest, etcd._cluster_id = 7, "2"
        with pytest.raises(StoreUnavailable, match="another one"):
            await etcd.read([get_prefix("a/")], budget_s=1)
        return None

    talk(snapshot(7, "1"), speak)


def test_concurrent_calls_do_not_mix_and_connections_are_used_again(etcd: EtcdServer) -> None:
    async def run() -> None:
        client = EtcdClient([etcd.url])
        calls = [client.call("/lease/grant", {"TTL": "5", "ID": str(n)}, budget_s=3) for n in range(901, 931)]
        answers = await asyncio.gather(*calls)
        assert [int(str(a["ID"])) for a in answers] == list(range(901, 931))
        kept = [c for idle in client._idle.values() for c in idle]
        assert 0 < len(kept) <= 4
        await client.call("/kv/range", {"key": "YQ=="}, budget_s=3)
        assert {id(c) for idle in client._idle.values() for c in idle} == {id(c) for c in kept}
        await client.close()

    asyncio.run(run())


@pytest.mark.parametrize("url", ["etcd:2379", "http://", "http://h:99999", "http://h:1/v3", "https://h:2379"])
def test_endpoints_that_cannot_work_are_refused_at_once(url: str) -> None:
    with pytest.raises(BadConfiguration) as refused:
        EtcdClient([url])
    assert isinstance(refused.value, EnforcerError)
