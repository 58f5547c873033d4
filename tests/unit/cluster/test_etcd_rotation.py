# SPDX-License-Identifier: GPL-2.0-or-later
"""Other endpoints and renewed certificates cost no session and no lease.

The keeper is the real one, on directories of the test; the store reads the session where the daemon reads it.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import signal
import uuid
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import trustme
from lab_cluster import EtcdServer
from lab_tls import Pki, Secured, put, secured

from enforcer import settings
from enforcer.cluster.etcd_access import EtcdAccess
from enforcer.cluster.etcd_session import EtcdSession, SessionFacts
from enforcer.cluster.etcd_store import EtcdStore
from enforcer.cluster.identity import holder, read_session
from enforcer.keeper import duties
from enforcer.keeper.duties import Keeper
from enforcer.model.clock import boot_ns
from enforcer.model.lease import Claim, Granted
from enforcer.model.resource import ResourceId
from tools.lab.etcd import EtcdServer as Members


@dataclass
class NodeOne:
    """Its settings file, and what its keepers told the kernel."""

    where: Path
    cluster: str = field(default_factory=lambda: f"test-{uuid.uuid4().hex}")
    told: list[tuple[int, int | None]] = field(default_factory=list)  # (when, deadline), boot clock ns
    _store: EtcdStore | None = None

    @property
    def file(self) -> Path:
        return self.where / "enforcer.toml"

    @property
    def session(self) -> SessionFacts | None:
        return read_session(self.where / "run")[0]

    def configure(self, *endpoints: str, **more: str) -> None:
        store = {"kind": "etcd", "cluster": self.cluster, "ttl": "10s", "renew": "200ms", **more}
        lines = [f"{key} = {json.dumps(value)}" for key, value in {**store, "endpoints": endpoints}.items()]
        paths = f'[paths]\nrun_dir = "{self.where}/run"\nstate_dir = "{self.where}"\nbpffs = "{self.where}/no-gate"\n'
        self.file.write_text('[node]\nname = "node-1"\n[store]\n' + "\n".join(lines) + "\n" + paths)

    @contextlib.asynccontextmanager
    async def keeper(self) -> AsyncIterator[None]:
        """Run one as its main program does, signals and all."""
        keeper = Keeper(settings.load(self.file))
        keeper._write_deadline = lambda deadline: self.told.append((boot_ns(), deadline))
        keeping = asyncio.create_task(duties.serve(keeper))
        try:
            yield
        finally:
            keeper.stop()
            await keeping

    async def take(self) -> int:
        """The token of "a" as the daemon has it, which was told of the settings as well."""
        chosen = settings.load(self.file).store
        if self._store is None:
            self._access = EtcdAccess(chosen)
            me = holder("node-1", self.where / "run")
            self._store = EtcdStore(self._access, self.cluster, me, session=lambda: self.session, ttl_s=10)
        self._access.change(chosen)
        answer = await self._store.acquire(frozenset({Claim(ResourceId("a"))}), {}, budget_s=5)
        await self._store.close()
        assert isinstance(answer, Granted), answer
        return answer.token

    async def renewals(self, count: int = 2) -> None:
        """So many deadlines that are later than all before."""
        last = max((deadline or 0 for _, deadline in self.told), default=0)
        await until(lambda: len({d for _, d in self.told if d is not None and d > last}) >= count)


async def until(true: Callable[[], object]) -> None:
    async with asyncio.timeout(10):
        while not true():  # noqa: ASYNC110, there is no event to wait for
            await asyncio.sleep(0.02)


@pytest.fixture
def one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> NodeOne:
    monkeypatch.setattr(duties, "RETRY_S", 0.05)
    monkeypatch.setattr("enforcer.cluster.etcd_tls.LOOK_EVERY_S", 0.1)
    monkeypatch.setitem(EtcdSession._look.__kwdefaults__, "budget_s", 0.5)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # a keeper that does not heed it must not end the tests
    return NodeOne(tmp_path)


def reload() -> None:
    os.kill(os.getpid(), signal.SIGHUP)


def never_gave_up(node: NodeOne) -> bool:
    """No deadline was taken back, and each was told while the one before was still to come."""
    deadlines = [(when, deadline) for when, deadline in node.told if deadline is not None]
    pairs = itertools.pairwise(deadlines)
    return all(before[1] <= after[1] and after[0] < before[1] for before, after in pairs)


def test_other_endpoints_keep_session_and_lease(one: NodeOne, members: Members) -> None:
    urls = [member.url for member in members.members]

    async def scenario() -> None:
        one.configure(urls[0])
        async with one.keeper():
            await one.renewals()
            session, token = one.session, await one.take()
            one.configure(*urls[1:])
            reload()
            await one.renewals()
            members.kill(0)
            await one.renewals()
            assert one.session == session
        await asyncio.to_thread(members.start)
        one.configure(urls[0])
        async with one.keeper():  # and over a restart
            await one.renewals()
            assert one.session == session
            assert (await one.take(), one.session) == (token, session)
        assert never_gave_up(one)

    asyncio.run(scenario())


def test_endpoints_that_are_wrong_move_no_deadline_and_can_be_corrected(
    one: NodeOne, etcd: EtcdServer, caplog: pytest.LogCaptureFixture
) -> None:
    dead = "http://127.0.0.1:9"

    async def scenario() -> None:
        one.configure(etcd.url)
        async with one.keeper():
            await one.renewals()
            session, token = one.session, await one.take()
            one.file.write_text(one.file.read_text().replace("http:", "htp:"))
            reload()
            await until(lambda: f"those before stay in force: {one.file}:" in caplog.text)
            assert "is not an endpoint" in caplog.text
            await one.renewals()
        one.configure(dead)
        before = len(one.told)
        async with one.keeper():
            await until(lambda: "not renewed: the lease store did not answer" in caplog.text)
            await until(lambda: len(one.told) > before)
            assert {deadline for _, deadline in one.told[before:]} == {None}, "the deadline of the keeper before holds"
            one.configure(etcd.url)
            reload()
            await one.renewals()
            assert (await one.take(), one.session) == (token, session)
        assert never_gave_up(one)

    asyncio.run(scenario())


def test_another_etcd_cluster_is_not_believed(
    one: NodeOne, etcd: EtcdServer, members: Members, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario() -> None:
        one.configure(etcd.url)
        async with one.keeper():
            await one.renewals()
            session = one.session
            one.configure(members.url)
            reload()
            await until(lambda: "not renewed: this is another etcd cluster" in caplog.text)
            assert one.session == session
            one.configure(etcd.url)
            reload()
            await one.renewals()
            assert one.session == session
        assert never_gave_up(one)

    asyncio.run(scenario())


@pytest.mark.parametrize("which", ["key", "password_file"])
def test_a_reload_with_a_file_that_cannot_be_used_changes_nothing(
    one: NodeOne, etcd_password: Secured, tmp_path: Path, caplog: pytest.LogCaptureFixture, which: str
) -> None:
    cert, key = Pki(tmp_path / "own", etcd_password.pki.authority).issue("node", "node-1.example")
    store = etcd_password.store
    files = {"ca": store.ca, "cert": str(cert), "key": str(key), "password_file": store.password_file}

    async def scenario() -> None:
        one.configure(etcd_password.server.url, username=store.username, **files)
        async with one.keeper():
            await one.renewals()
            session = one.session
            missing = str(tmp_path / "missing")
            one.configure(etcd_password.server.url, username=store.username, **{**files, which: missing})
            reload()
            await until(
                lambda: f"those before stay in force: the lease store cannot be used: {missing} " in caplog.text
            )
            await one.renewals()
            assert one.session == session
        assert never_gave_up(one)

    asyncio.run(scenario())


def test_certificates_renewed_on_both_sides_under_another_authority_cost_nothing(one: NodeOne, tmp_path: Path) -> None:
    made = secured(tmp_path / "etcd", client_cert=True)
    cert, key, ca = (Path(path) for path in (made.store.cert, made.store.key, made.store.ca))
    files = {"cert": str(cert), "key": str(key), "ca": str(ca)}

    async def scenario() -> None:
        one.configure(made.server.url, **files)
        async with one.keeper():
            await one.renewals()
            session, token = one.session, await one.take()
            second = Pki(tmp_path / "second", trustme.CA())
            new_cert, new_key = second.issue("node", "node-1.example")
            put(cert, new_cert.read_bytes())  # for a moment they do not belong together
            await asyncio.sleep(0.3)
            await one.renewals()
            for fresh in second.issue("server", "127.0.0.1"):
                put(made.pki.where / fresh.name, fresh.read_bytes(), mode=0o600)
            put(key, new_key.read_bytes(), mode=0o600)
            put(ca, second.ca.read_bytes())
            made.server.kill()  # it reads its authorities only when it starts
            await asyncio.to_thread(made.server.start)
            await one.renewals()
            assert (await one.take(), one.session) == (token, session)
        assert never_gave_up(one)

    try:
        asyncio.run(scenario())
    finally:
        made.server.kill()
