# SPDX-License-Identifier: GPL-2.0-or-later
"""A real etcd, nodes that open any store, and a proxy that loses or delays what passes through it."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.parse
import urllib.request
import uuid
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from lab_sanlock import Disk

from enforcer.cluster.etcd_access import EtcdAccess
from enforcer.cluster.etcd_http import Caller, EtcdClient
from enforcer.cluster.etcd_session import EtcdSession
from enforcer.cluster.etcd_store import EtcdStore
from enforcer.cluster.external_store import ExternalStore
from enforcer.cluster.sanlock_store import SanlockStore
from enforcer.cluster.sqlite_store import SqliteStore
from enforcer.cluster.store import LeaseStore
from enforcer.model.lease import Claim, Denied, Granted, Holder
from enforcer.model.resource import Mode, ResourceId
from enforcer.settings import Store

GFS_CLUSTERD = Path(__file__).resolve().parents[3] / "tools/examples/gfs_clusterd.py"


@dataclass
class EtcdServer:
    """One member on loopback, with a lease minimum of 1 s so that tests need not wait long."""

    url: str
    command: tuple[str, ...]
    health: str

    def start(self) -> None:
        """Run it, until it answers."""
        environment = {k: v for k, v in os.environ.items() if not k.startswith("ETCD")}
        self.process = subprocess.Popen(
            self.command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=environment,
        )
        end = time.monotonic() + 15
        while time.monotonic() < end and self.process.poll() is None:
            try:
                with urllib.request.urlopen(f"{self.health}/health", timeout=1) as answer:
                    if b"true" in answer.read():
                        return
            except OSError:
                time.sleep(0.02)
        self.kill()
        pytest.fail(f"etcd did not start: {' '.join(self.command)}")

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def stop(self) -> None:
        """Freeze it; back when every thread has stopped, for until then it may still answer."""
        self.process.send_signal(signal.SIGSTOP)
        tasks = Path(f"/proc/{self.process.pid}/task")
        while any(b") T " not in (task / "stat").read_bytes() for task in tasks.iterdir()):
            time.sleep(0.001)

    def go_on(self) -> None:
        self.process.send_signal(signal.SIGCONT)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def serve(data: Path, *, scheme: str = "http", options: Sequence[str] = ()) -> EtcdServer:
    program = shutil.which("etcd")
    if program is None:
        pytest.fail("these tests need a real etcd: apt install etcd-server")
    client, peer, health = (f"http://127.0.0.1:{_free_port()}" for _ in range(3))
    client = client.replace("http:", f"{scheme}:")
    command = [program, "--name", "one", "--data-dir", str(data / "etcd"), "--unsafe-no-fsync"]
    command += ["--listen-client-urls", client, "--advertise-client-urls", client]
    command += ["--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer]
    command += ["--initial-cluster", f"one={peer}", "--heartbeat-interval", "10", "--election-timeout", "100"]
    command += ["--logger", "zap", "--log-level", "error"]
    if scheme == "https":
        command += ["--listen-metrics-urls", health]  # /health without TLS
    server = EtcdServer(client, (*command, *options), health if scheme == "https" else client)
    server.start()
    return server


@dataclass
class Node:
    """One node with its store and, on etcd, its session."""

    holder: Holder
    store: LeaseStore
    client: Caller | None = None
    session: EtcdSession | None = None
    disk: Disk | None = None

    async def take(self, *names: str, mode: Mode = Mode.EX, budget_s: float = 5.0) -> Granted | Denied:
        claims = frozenset(Claim(ResourceId.parse(name), mode) for name in names)
        budget_s *= 3 if self.disk is not None else 1  # sanlock makes those who collide wait up to 1 s
        return await self.store.acquire(claims, {"fstype": "ext4"}, budget_s=budget_s)

    async def must_take(self, *names: str, mode: Mode = Mode.EX) -> Granted:
        answer = await self.take(*names, mode=mode)
        assert isinstance(answer, Granted), answer
        return answer

    async def give(self, token: int, *names: str) -> None:
        await self.store.release(frozenset(ResourceId.parse(name) for name in names), token)

    @property
    def lease_id(self) -> int:
        assert self.session is not None
        assert self.session.facts is not None
        return self.session.facts.lease_id

    async def crash(self) -> None:
        """The session ends as if its TTL had run out, or its peer is killed; leases stay."""
        if isinstance(self.store, ExternalStore):
            await kill(self.store)
            return
        if isinstance(self.store, SanlockStore):
            await self.store.close()
            assert self.disk is not None
            await self.disk.leave(self.disk.numbers[self.holder.node])
            return
        assert self.session is not None
        await self.session.end()


def external(holder: Holder, shared: Path, **peer: Any) -> ExternalStore:
    """A store at a gfs_clusterd of its own, over one shared directory."""
    state = shared / f"state-of-{urllib.parse.quote(holder.node, safe='')}"
    state.mkdir(parents=True, exist_ok=True)
    peer = peer or {"command": [sys.executable, "-I", "-S", str(GFS_CLUSTERD), str(shared / "gfs")]}
    return ExternalStore(holder, "test", state, **peer)


def process_of(store: ExternalStore) -> int:
    """The gfs_clusterd that this store has started."""
    line = store._peer._line
    assert line is not None and line.process is not None
    return line.process.pid


async def kill(store: ExternalStore) -> None:
    """SIGKILL to its gfs_clusterd, and back when the store has noticed."""
    line = store._peer._line
    assert line is not None and line.task is not None
    os.kill(process_of(store), signal.SIGKILL)
    await line.task


@dataclass
class Cluster:
    """Boots nodes on one store of the chosen kind."""

    kind: str
    where: str | Path
    ttl_s: int = 30
    nodes: list[Node] = field(default_factory=list)
    multi_attached: frozenset[str] = frozenset()
    disk: Disk | None = None  # of sanlock
    access: Store | None = None  # [store], for an etcd that wants more than an URL
    cluster: str = field(default_factory=lambda: f"test/{uuid.uuid4().hex}")

    def __post_init__(self) -> None:
        if self.access is not None:
            self.access = replace(self.access, cluster=self.cluster)

    async def boot(self, name: str, *, boot: str = "", session: str = "s1", client: Caller | None = None) -> Node:
        holder = Holder(name, boot or f"boot-of-{name}", session)
        if self.kind == "sqlite":
            node = Node(holder, SqliteStore(holder, Path(self.where), multi_attached=self.multi_attached.__contains__))
        elif self.kind == "external":
            node = Node(holder, external(holder, Path(self.where)))
        elif self.disk is not None:
            node = Node(holder, await self.disk.open(holder), disk=self.disk)
        else:
            client = client or (EtcdAccess(self.access) if self.access else EtcdClient([str(self.where)]))
            live = EtcdSession(client, self.cluster, holder, ttl_s=self.ttl_s)
            await live.open()
            store = EtcdStore(client, self.cluster, holder, session=lambda: live.facts, ttl_s=self.ttl_s)
            node = Node(holder, store, client, live)
        if self.disk is None:
            await node.store.open()
        self.nodes.append(node)
        return node

    async def close(self) -> None:
        for node in self.nodes:
            await node.store.close()
        if self.disk is not None:
            await self.disk.close()


Scenario = Callable[[Cluster], Awaitable[Any]]


def play(cluster: Cluster, scenario: Scenario) -> None:
    """Run one scenario in a loop of its own."""

    async def run() -> None:
        try:
            await scenario(cluster)
        finally:
            await cluster.close()

    asyncio.run(run())


async def until(true: Callable[[], Awaitable[bool]]) -> None:
    """Ask again and again, for ten seconds at most."""
    async with asyncio.timeout(10):
        while True:
            if await true():
                return
            await asyncio.sleep(0.1)


class Proxy:
    """A TCP proxy to one server: ``fate`` befalls the requests that ``wanted`` picks by their bytes."""

    def __init__(self, url: str) -> None:
        self.host, _, self.port = url.removeprefix("http://").partition(":")
        self.fate = "pass"  # pass | lose-answer | delay
        self.wanted: Callable[[bytes], bool] = lambda request: True
        self.met = 0
        self.meeting = asyncio.Event()
        self.go = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Proxy:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        up_reader, up_writer = await asyncio.open_connection(self.host, int(self.port))
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
                request = head + await reader.readexactly(length)
                chosen = self.fate != "pass" and self.wanted(request)
                self.met += chosen
                if chosen:
                    self.meeting.set()
                if chosen and self.fate == "delay":
                    await self.go.wait()
                up_writer.write(request)
                answer = await up_reader.readuntil(b"\r\n\r\n")
                if b"content-length:" in answer.lower():
                    rest = int(answer.lower().split(b"content-length:")[1].split(b"\r\n")[0])
                    answer += await up_reader.readexactly(rest)
                else:
                    answer += await up_reader.readuntil(b"0\r\n\r\n")
                if chosen:
                    break
                writer.write(answer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()
            up_writer.close()
