# SPDX-License-Identifier: GPL-2.0-or-later
"""gfs_clusterd on a socket, a proxy that keeps lines back, and a peer that says whatever a test wants it to."""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

from lab_cluster import GFS_CLUSTERD, Node, external

from enforcer.cluster.external_store import ExternalStore
from enforcer.model.lease import Denied, Holder, Standing

Json = dict[str, Any]
ME = Holder("node-1", "boot-of-node-1", "s1")
OTHER = {"node": "node-2", "boot_id": "boot-of-node-2", "session": "s1"}


def serve(shared: Path, socket: Path) -> subprocess.Popen[bytes]:
    """A gfs_clusterd that listens."""
    command = [sys.executable, "-I", "-S", str(GFS_CLUSTERD), str(shared), "--socket", str(socket)]
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL)
    end = time.monotonic() + 10
    while not socket.exists() or socket.stat().st_mode & 0o777 != 0o600:
        assert time.monotonic() < end and process.poll() is None
        time.sleep(0.005)
    time.sleep(0.01)  # listen() follows
    return process


async def must_not_know(node: Node, *names: str, budget_s: float = 2.0) -> str:
    """The reason of a refusal that is no statement about anybody."""
    answer = await node.take(*names, budget_s=budget_s)
    assert isinstance(answer, Denied), answer
    assert answer.standing is Standing.UNKNOWN
    assert answer.remedy
    assert answer.reason.startswith("the external lease store /"), answer.reason
    return answer.reason


async def soon(true: Callable[[], Awaitable[bool]]) -> bool:
    """Whether it becomes true within a few seconds."""
    end = time.monotonic() + 5
    while not await true():
        if time.monotonic() > end:
            return False
        await asyncio.sleep(0.02)
    return True


class LineProxy:
    """Between a store and its peer: requests that ``hold`` picks go on when ``go`` is set, the others at once."""

    def __init__(self, path: Path, peer: Path) -> None:
        self.path, self.peer = path, peer
        self.hold: Callable[[Json], bool] = lambda request: False
        self.held: list[Json] = []
        self.calls: list[Json] = []
        self.meeting, self.go = asyncio.Event(), asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> LineProxy:
        self._server = await asyncio.start_unix_server(self._serve, str(self.path))
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        up_reader, up_writer = await asyncio.open_unix_connection(str(self.peer))
        self._spawn(self._back(up_reader, writer))
        while line := await reader.readline():
            request = json.loads(line)
            self.calls.append(request)
            if self.hold(request):
                self.held.append(request)
                self.meeting.set()
                self._spawn(self._later(up_writer, line))
            else:
                up_writer.write(line)
        up_writer.close()

    async def _back(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while line := await reader.readline():
            writer.write(line)

    async def _later(self, writer: asyncio.StreamWriter, line: bytes) -> None:
        await self.go.wait()
        writer.write(line)

    def _spawn(self, work: Any) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def lease(resource: str, token: int = 7, **other: Any) -> Json:
    """One record as a peer tells it."""
    mine = {"node": ME.node, "boot_id": ME.boot_id, "session": ME.session}
    common = {"mode": "EX", "holder": mine, "since": "2026-01-01T00:00:00Z", "guarantee": "none", "facts": {}}
    return {"resource": resource, "token": token, "liveness": "live", **common, **other}


def grant(resource: str, token: int = 7, **other: Any) -> Json:
    """A grant of one LUN as this schema wants it, but for what a test puts into it."""
    last = {resource: {"node": ME.node, "token": token}}
    told = {"token": token, "kept": False, "leases": [lease(resource, token)], "taken_over": [], "last": last}
    return {"answer": "granted", **told, **other}


class Script:
    """A peer on a socket: ``says`` gives the answer to a request, as an object or as raw bytes; None is silence."""

    def __init__(self, path: Path, says: Callable[[Json], Json | bytes | None]) -> None:
        self.path, self.says = path, says
        self.calls: list[Json] = []
        self.greetings = 0

    def refused(self) -> list[Json]:
        """What was given back."""
        return [call for call in self.calls if call["call"] == "refused"]

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while line := await reader.readline():
                request = json.loads(line)
                if request["call"] == "hello":
                    self.greetings += 1
                    said: Json | bytes | None = {"answer": "hello", "peer": "a script", "optional": []}
                    said = said if self.says is None else (self.says(request) or said)
                else:
                    self.calls.append(request)
                    said = self.says(request)
                if isinstance(said, dict):
                    said = json.dumps({"schema": 1, "id": request["id"], **said}).encode() + b"\n"
                if said is not None:
                    writer.write(said)
        writer.close()


@contextlib.asynccontextmanager
async def scripted(shared: Path, says: Callable[[Json], Json | bytes | None]) -> AsyncIterator[tuple[Node, Script]]:
    """One node at a peer that says what ``says`` gives."""
    script = Script(shared / "script.sock", says)
    server = await asyncio.start_unix_server(script.serve, str(script.path))
    node = Node(ME, ExternalStore(ME, "test", shared, path=str(script.path)))
    await node.store.open()
    try:
        yield node, script
    finally:
        await node.store.close()
        server.close()


def behind_a_proxy(shared: Path, scenario: Callable[[Node, Node, LineProxy], Awaitable[Any]]) -> None:
    """One node whose lines can be kept back, another that sees what becomes of it."""

    async def run() -> None:
        async with LineProxy(shared / "proxy.sock", shared / "peer.sock") as proxy:
            one = Node(ME, external(ME, shared, path=str(proxy.path)))
            other = Holder("node-2", "boot-of-node-2", "s1")
            two = Node(other, external(other, shared))
            try:
                await one.store.open()
                await two.store.open()
                await scenario(one, two, proxy)
            finally:
                await one.store.close()
                await two.store.close()

    process = serve(shared / "gfs", shared / "peer.sock")
    try:
        asyncio.run(run())
    finally:
        process.kill()
        process.wait()


async def held(node: Node) -> dict[str, tuple[str, int]]:
    return {str(h.lease.resource): (h.lease.holder.node, h.lease.token) for h in await node.store.leases()}
