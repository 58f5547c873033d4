# SPDX-License-Identifier: GPL-2.0-or-later
"""Real sanlock daemons side by side, one for each host, over images that they share.

They run without privilege (``SANLOCK_PRIVILEGED=0``, ``SANLOCK_RUN_DIR``; src/env.c) and without a watchdog, so a host
that was stopped is not reset here. With an io_timeout of 1 s a host joins in 3 s, and is dead 68 s after a renewal.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import time
import uuid
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from enforcer.cluster.sanlock_area import BODIES_AT, LOCK, LOCK_AT, Area
from enforcer.cluster.sanlock_records import Records
from enforcer.cluster.sanlock_socket import SanlockDaemon, Space
from enforcer.cluster.sanlock_store import SanlockStore
from enforcer.model.lease import Holder

IO_TIMEOUT_S = 1
HOSTS, BODY_BYTES = 8, 1 << 16
FIRST_TOKEN = 1_000_000
JOIN_S = 30.0  # it takes 3 s, on a machine that has nothing else to do


@dataclass
class SanlockHost:
    """The daemon of one host."""

    number: int
    place: Path
    process: subprocess.Popen[bytes] | None = None

    @property
    def socket(self) -> str:
        return str(self.place / "sanlock.sock")

    def start(self) -> None:
        program = shutil.which("sanlock", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
        if program is None:
            pytest.fail("these tests need a real sanlock: apt install sanlock")
        self.place.mkdir(exist_ok=True)
        command = [program, "daemon", "-D", "-w", "0", "-h", "0", "-l", "0", "-e", f"host-{self.number}"]
        with open(self.place / "log", "wb") as log:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, "SANLOCK_PRIVILEGED": "0", "SANLOCK_RUN_DIR": str(self.place)},
            )
        end = time.monotonic() + 10
        while not Path(self.socket).exists():
            if self.process.poll() is not None or time.monotonic() > end:
                pytest.fail(f"sanlock did not start: {(self.place / 'log').read_text()[-500:]}")
            time.sleep(0.01)

    def signal(self, number: signal.Signals) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def kill(self) -> None:
        """As if the machine had lost its power."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None
            Path(self.socket).unlink(missing_ok=True)


@dataclass
class SanlockHosts:
    """As many hosts as a test asks for; those that run are used again."""

    place: Path
    hosts: dict[int, SanlockHost] = field(default_factory=dict)

    def host(self, number: int) -> SanlockHost:
        host = self.hosts.setdefault(number, SanlockHost(number, self.place / f"host-{number}"))
        if host.process is None:
            host.start()
        return host

    def stop(self) -> None:
        for host in self.hosts.values():
            host.kill()


@dataclass
class Disk:
    """One shared image, formatted by the first host; nodes get host ids in the order in which they boot."""

    hosts: SanlockHosts
    place: Path
    ahead: int = 2  # so many hosts begin to join at once, because each takes its time
    name: str = field(default_factory=lambda: uuid.uuid4().hex)
    numbers: dict[str, int] = field(default_factory=dict)
    joined: set[int] = field(default_factory=set)

    @property
    def device(self) -> str:
        return str(self.place / "shared.img")

    def space(self, number: int) -> Space:
        return Space(self.name, self.device, number, IO_TIMEOUT_S)

    async def format(self) -> None:
        Path(self.device).touch()
        os.truncate(self.device, BODIES_AT + 2 * HOSTS * BODY_BYTES)
        await SanlockDaemon(self.hosts.host(1).socket).format(self.space(1), LOCK, LOCK_AT, budget_s=10)
        area = Area(self.device, self.name)
        await asyncio.to_thread(area.format, Records().dump(), FIRST_TOKEN, HOSTS, BODY_BYTES)
        for number in range(1, self.ahead + 1):
            self.joined.add(number)
            await SanlockDaemon(self.hosts.host(number).socket).join(self.space(number), budget_s=10)

    async def open(self, holder: Holder, number: int = 0) -> SanlockStore:
        """A store on a host that has joined."""
        if not Path(self.device).exists():
            await self.format()
        number = number or self.numbers.setdefault(holder.node, len(self.numbers) + 1)
        state = self.place / f"state-{number}"
        state.mkdir(exist_ok=True)
        store = SanlockStore(holder, self.space(number), state, socket=self.hosts.host(number).socket)
        await store.open()
        self.joined.add(number)
        async with asyncio.timeout(JOIN_S):
            while store.trouble:  # noqa: ASYNC110, it looks for itself
                await asyncio.sleep(0.05)
        return store

    async def leave(self, number: int, *, wait: bool = True) -> None:
        await SanlockDaemon(self.hosts.host(number).socket).leave(self.space(number), budget_s=30, wait=wait)
        self.joined.discard(number)

    async def close(self) -> None:
        for number in sorted(self.joined):
            await self.leave(number, wait=False)
