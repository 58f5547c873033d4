# SPDX-License-Identifier: GPL-2.0-or-later
"""What is behind a lease store, as far as a test can hurt it: each engine declares what its server is.

A claim that holds for every store needs the same fault in every engine. So an engine says in which ways its server can
be away, how an answer of it comes late, whether it keeps a history to clear up, and whether its nodes can fall silent.
What it does not declare it does not have: sqlite has no server, but another process can hold its lock; and nobody falls
silent in it, because it serves one node. Only etcd and sqlite keep what is over until they are told to clear up.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import lab_external
import pytest
from lab_cluster import Cluster, EtcdServer, Node, external

from enforcer.cluster import etcd_store, external_store, sanlock_area, sanlock_store
from enforcer.cluster.etcd_http import EtcdClient
from enforcer.cluster.sqlite_store import SqliteStore
from enforcer.model.errors import EnforcerError
from enforcer.model.lease import Holder
from tools.lab.etcd import EtcdServer as Members


class Absence(StrEnum):
    """How a server can be away."""

    KILLED = "killed"  # SIGKILL: connections end, new ones are refused
    STOPPED = "stopped"  # SIGSTOP: connections stay, nothing answers; what was sent is carried out when it goes on
    LOCKED = "locked"  # another process has the write lock
    WITHOUT_QUORUM = "without-quorum"


class Engine:
    """One engine under the nodes of one test."""

    module: ClassVar[ModuleType]  # with the CALL_S of calls that bring no budget
    absences: ClassVar[tuple[Absence, ...]] = (Absence.KILLED, Absence.STOPPED)
    shows_leases_alone: ClassVar[bool | None] = False  # without its server, from a file; None: if nobody was writing
    gives_back_late: ClassVar[bool] = False  # what was granted too late; else it is its asker's until that asks again
    late_share: ClassVar[float] = 1.5  # of the budget: the delay of each answer by which a grant comes too late
    keeps_history: ClassVar[bool] = False
    knows_silence: ClassVar[bool] = True
    budget_s: ClassVar[float] = 0.3
    ttl_s: ClassVar[float] = 0.0  # after which a node that does not renew is gone; 0: nothing is renewed by us

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.led_round = False  # nodes that boot from now on are connected through something that can be slow

    async def boot(self, name: str) -> Node:
        return await self.cluster.boot(name)

    async def away(self, how: Absence) -> None:
        """The server is away when this returns."""
        raise NotImplementedError

    async def back(self) -> None:
        """The server runs, whatever befell it. Twice does no harm."""

    async def slow(self, seconds: float) -> None:
        """Each answer takes so much longer from now on."""
        raise NotImplementedError

    async def compact(self) -> None:
        """Drop what is over."""
        raise NotImplementedError

    async def renew(self, node: Node) -> None:
        """What keeps a node alive, once."""

    async def silence(self, node: Node) -> None:
        """Nobody keeps it alive any more."""
        raise NotImplementedError

    def hurry(self, patch: pytest.MonkeyPatch) -> None:
        """Calls that bring no budget get this one."""
        patch.setattr(self.module, "CALL_S", self.budget_s)

    async def close(self) -> None:
        await self.back()
        await self.cluster.close()


class Sqlite(Engine):
    """No server: what can be in the way is another process with the lock, and a disk that commits slowly."""

    absences = (Absence.LOCKED,)
    shows_leases_alone = True
    keeps_history = True
    knows_silence = False
    _LOCK = "import sqlite3,sys; sqlite3.connect(sys.argv[1]).execute('begin immediate'); print(flush=True); input()"

    def __init__(self, cluster: Cluster) -> None:
        super().__init__(cluster)
        self._locker: subprocess.Popen[bytes] | None = None
        self._commit_s = 0.0

    async def away(self, how: Absence) -> None:
        await asyncio.to_thread(self._lock)

    def _lock(self) -> None:
        command = [sys.executable, "-I", "-S", "-c", self._LOCK, str(self.cluster.where)]
        self._locker = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self._locker.stdout is not None
        assert self._locker.stdout.readline() == b"\n"

    async def back(self) -> None:
        if self._locker is not None:
            self._locker.kill()
            self._locker.communicate()
            self._locker = None

    async def slow(self, seconds: float) -> None:
        self._commit_s = seconds

        def slowly(statement: str) -> None:
            if statement == "commit":
                time.sleep(self._commit_s)

        for node in self.cluster.nodes if seconds else ():  # SQLite's lock is taken by whoever sets it
            assert isinstance(node.store, SqliteStore) and node.store._db is not None
            node.store._db.set_trace_callback(slowly)

    async def compact(self) -> None:
        command = [sys.executable, "-I", "-S", "-c"]
        code = "import sqlite3,sys; db = sqlite3.connect(sys.argv[1], isolation_level=None, timeout=10)"
        code += "; [db.execute(x) for x in ('vacuum', 'pragma wal_checkpoint(truncate)')]"
        await asyncio.to_thread(subprocess.run, [*command, code, str(self.cluster.where)], check=True)

    def hurry(self, patch: pytest.MonkeyPatch) -> None:
        for call in (SqliteStore._write, SqliteStore._read):
            patch.setattr(call, "__defaults__", (self.budget_s,))


class Etcd(Engine):
    """One member."""

    module = etcd_store
    late_share = 0.6  # the read in time, the write not
    keeps_history = True
    ttl_s = 1.0

    def __init__(self, cluster: Cluster, server: EtcdServer) -> None:
        super().__init__(cluster)
        self._server, self._relay = server, Relay(lambda: asyncio.open_connection(*server.url[7:].split(":")))

    async def boot(self, name: str) -> Node:
        await self._relay.open()
        url = f"http://127.0.0.1:{self._relay.port}" if self.led_round else self._server.url
        return await self.cluster.boot(name, client=EtcdClient([url]))

    async def away(self, how: Absence) -> None:
        await asyncio.to_thread(self._server.kill if how is Absence.KILLED else self._server.stop)

    async def back(self) -> None:
        self._server.go_on()
        if self._server.process.poll() is not None:
            await asyncio.to_thread(self._server.start)

    async def slow(self, seconds: float) -> None:
        self._relay.delay_s = seconds

    async def compact(self) -> None:
        here = await asyncio.to_thread(self._post, "kv/range", {"key": "AA=="})
        revision = here["header"]["revision"]
        with contextlib.suppress(urllib.error.HTTPError):  # nothing was written since
            await asyncio.to_thread(self._post, "kv/compaction", {"revision": revision, "physical": True})
        await asyncio.to_thread(self._post, "maintenance/defragment", {})

    def _post(self, call: str, body: dict[str, Any]) -> Any:
        request = urllib.request.Request(f"{self._server.url}/v3/{call}", json.dumps(body).encode())
        with urllib.request.urlopen(request, timeout=10) as answer:
            return json.load(answer)

    async def renew(self, node: Node) -> None:
        assert node.session is not None
        try:
            await node.session.renew()
        except EnforcerError as error:
            raise AssertionError(f"a renewal failed: {error}") from error

    async def silence(self, node: Node) -> None:
        """Its TTL runs from the last renewal."""

    async def close(self) -> None:
        await super().close()
        await self._relay.close()


class EtcdMembers(Engine):
    """Three of them: what one has not, a quorum that can be lost."""

    module = etcd_store
    absences = (Absence.WITHOUT_QUORUM,)

    def __init__(self, cluster: Cluster, members: Members) -> None:
        super().__init__(cluster)
        self._members = members

    async def boot(self, name: str) -> Node:
        return await self.cluster.boot(name, client=EtcdClient([member.url for member in self._members.members]))

    async def away(self, how: Absence) -> None:
        for member in (0, 1):
            await asyncio.to_thread(self._members.kill, member)

    async def back(self) -> None:
        await asyncio.to_thread(self._members.start)


class External(Engine):
    """A gfs_clusterd for each node, on a socket, over one directory."""

    module = external_store
    gives_back_late = True

    def __init__(self, cluster: Cluster) -> None:
        super().__init__(cluster)
        self._shared = Path(cluster.where)
        self._peers: dict[str, subprocess.Popen[bytes]] = {}
        self._relays: list[Relay] = []

    async def boot(self, name: str) -> Node:
        await self._serve(name)
        path = self._socket(name)
        if self.led_round:
            self._relays.append(Relay(lambda: asyncio.open_unix_connection(str(self._socket(name)))))
            path = self._shared / f"{name}.relay"
            await self._relays[-1].open(path)
        holder = Holder(name, f"boot-of-{name}", "s1")
        node = Node(holder, external(holder, self._shared, path=str(path)))
        await node.store.open()
        self.cluster.nodes.append(node)
        return node

    def _socket(self, name: str) -> Path:
        return self._shared / f"{name}.peer"

    async def _serve(self, name: str) -> None:
        self._socket(name).unlink(missing_ok=True)
        self._peers[name] = await asyncio.to_thread(lab_external.serve, self._shared / "gfs", self._socket(name))

    async def away(self, how: Absence) -> None:
        for peer in self._peers.values():
            peer.send_signal(signal.SIGKILL if how is Absence.KILLED else signal.SIGSTOP)
            if how is Absence.KILLED:
                peer.wait()

    async def back(self) -> None:
        for name, peer in self._peers.items():
            peer.send_signal(signal.SIGCONT)
            if peer.poll() is not None:
                await self._serve(name)

    async def slow(self, seconds: float) -> None:
        for relay in self._relays:
            relay.delay_s = seconds

    async def silence(self, node: Node) -> None:
        peer = self._peers[node.holder.node]
        peer.kill()
        peer.wait()

    async def close(self) -> None:
        await super().close()
        for relay in self._relays:
            await relay.close()
        for peer in self._peers.values():
            peer.kill()
            peer.wait()


class Sanlock(Engine):
    """A daemon for each host; what is slow is the shared disk."""

    module = sanlock_store
    shows_leases_alone = None  # a host that dies with sanlock's lease in its hands is waited for
    budget_s = 1.5

    def __init__(self, cluster: Cluster, patch: pytest.MonkeyPatch) -> None:
        super().__init__(cluster)
        assert cluster.disk is not None
        self._hosts, self._patch, self._write = cluster.disk.hosts, patch, sanlock_area._pwrite

    async def away(self, how: Absence) -> None:
        for host in self._hosts.hosts.values():
            host.kill() if how is Absence.KILLED else host.signal(signal.SIGSTOP)

    async def back(self) -> None:
        for number, host in self._hosts.hosts.items():
            if host.process is not None:
                host.signal(signal.SIGCONT)
            await asyncio.to_thread(self._hosts.host, number)

    async def slow(self, seconds: float) -> None:
        until = time.monotonic() + seconds

        def slowly(fd: int, at: int, data: bytes) -> None:
            time.sleep(max(0.0, until - time.monotonic()))
            self._write(fd, at, data)

        self._patch.setattr(sanlock_area, "_pwrite", slowly)

    async def silence(self, node: Node) -> None:
        """It leaves; what sanlock makes of one that dies takes its own time, see test_sanlock_death.py."""
        await node.crash()


class Relay:
    """Passes bytes on to a server, and its answers ``delay_s`` later; connections come one by one."""

    def __init__(self, connect: Callable[[], Any]) -> None:
        self._connect, self.delay_s, self.port = connect, 0.0, 0
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def open(self, path: Path | None = None) -> None:
        """On a unix socket, or on a port of its own. Twice does no harm."""
        if self._server is None and path is not None:
            self._server = await asyncio.start_unix_server(self._serve, str(path))
        elif self._server is None:
            self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
            self.port = self._server.sockets[0].getsockname()[1]

    async def close(self) -> None:
        if self._server is not None:
            self._server.close()
        for task in self._tasks:
            task.cancel()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        up_reader, up_writer = await self._connect()
        both = [
            asyncio.create_task(self._pass(reader, up_writer)),
            asyncio.create_task(self._pass(up_reader, writer, late=True)),
        ]
        self._tasks.update(both)
        await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        for task in both:
            task.cancel()
        up_writer.close()
        writer.close()

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, late: bool = False) -> None:
        loop, when = asyncio.get_running_loop(), 0.0
        while chunk := await reader.read(1 << 16):
            when = max(when, loop.time() + (self.delay_s if late else 0.0))
            loop.call_at(when, writer.write, chunk)


ENGINES: dict[str, type[Engine]] = {"sqlite": Sqlite, "etcd": Etcd, "external": External, "sanlock": Sanlock}
WITH_ABSENCES: dict[str, type[Engine]] = {**ENGINES, "etcd-members": EtcdMembers}
