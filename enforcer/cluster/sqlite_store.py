# SPDX-License-Identifier: GPL-2.0-or-later
"""The embedded lease store: one node, one file, nothing to install.

It keeps the uses of one node apart and survives the daemon. It knows nothing of other nodes, so it refuses
every LUN that another node sees too: a permit from here would be a guess. A record can then only be stale in
one way, by a reboot of this very machine, and a lease never expires (``ttl_s`` is None).

SQLite's own guarantees do the work: WAL, ``synchronous=FULL``, one ``BEGIN IMMEDIATE`` transaction for each
decision (https://sqlite.org/lang_transaction.html). All calls run in one thread, so that a slow disk holds up
nobody else; a job whose time is over before it commits rolls back.

The token counter starts at the time of day in seconds instead of 1: if an administrator has to remove a
damaged file, tokens go on growing.
"""

from __future__ import annotations

import asyncio
import json
import os
import sqlite3
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from enforcer.cluster.conflicts import Witness, check_fence, judge, refusal
from enforcer.model.errors import EnforcerError, LeaseLost, StoreUnavailable
from enforcer.model.lease import (
    Claim,
    Denied,
    Granted,
    Guarantee,
    HeldLease,
    Holder,
    Lease,
    NodeRecord,
    Standing,
)
from enforcer.model.resource import Mode, ResourceId

T = TypeVar("T")

CALL_S = 3.0  # seconds for calls that bring no budget
VERSION = 1  # of the schema, in PRAGMA user_version
APPLICATION = 0x656E6663  # "enfc", in PRAGMA application_id

SCHEMA = f"""
begin immediate;
create table if not exists counter (token integer not null);
insert into counter select unixepoch() where not exists (select 1 from counter);
create table if not exists lease (
    lun text not null, path text not null, node text not null, boot_id text not null, session text not null,
    mode text not null, token integer not null, since text not null, guarantee text not null,
    facts text not null,
    primary key (lun, path, node)) without rowid;
create table if not exists node (
    node text primary key, boot_id text not null, session text not null, policy text not null,
    luns text not null) without rowid;
create table if not exists fenced (
    node text not null, boot_id text not null, by text not null, at text not null, primary key (node, boot_id)
    ) without rowid;
pragma user_version = {VERSION};
pragma application_id = {APPLICATION};
commit;
"""

# What a primary result code (https://sqlite.org/rescode.html) means to an administrator: sentence, remedy.
TROUBLE = {
    sqlite3.SQLITE_BUSY: ("is locked by another process", "only one enforcerd may use it"),
    sqlite3.SQLITE_READONLY: (
        "cannot be written",
        "check its owner, and whether its filesystem is read-only",
    ),
    sqlite3.SQLITE_FULL: ("cannot grow: the disk is full", "free space on its filesystem"),
    sqlite3.SQLITE_CANTOPEN: (
        "cannot be opened",
        "check that its directory exists and that root may write there",
    ),
    sqlite3.SQLITE_CORRUPT: (
        "is damaged",
        "end all guarded uses of this node, move it away, restart enforcerd",
    ),
    sqlite3.SQLITE_NOTADB: (
        "is no database",
        "end all guarded uses of this node, move it away, restart enforcerd",
    ),
    sqlite3.SQLITE_IOERR: ("cannot be read or written: I/O error", "look for disk errors in the kernel log"),
}


class SqliteStore:
    """The LeaseStore in a file. ``multi_attached`` tells whether another node sees a LUN too."""

    name = "sqlite"

    def __init__(self, holder: Holder, path: Path, *, multi_attached: Callable[[str], bool]) -> None:
        self.ttl_s: float | None = None
        self.gone_after_s = 0.0  # nobody renews here
        self.holder = holder
        self.path = path
        self._multi_attached = multi_attached
        self._told: dict[ResourceId, int] = {}  # tokens that this process handed out
        self._db: sqlite3.Connection | None = None
        self._closed = False
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="lease-db")

    async def open(self) -> None:
        """Raises StoreUnavailable, with sentence and remedy, for a file that cannot be used."""
        await self._in_thread(self._open, CALL_S)
        await self._write(self._register)

    async def close(self) -> None:
        """The store cannot be opened again. To close it twice does no harm."""
        if not self._closed:
            self._closed = True
            await asyncio.get_running_loop().run_in_executor(self._thread, self._close)
            self._thread.shutdown(wait=False)

    async def acquire(self, claims: frozenset[Claim], facts: Mapping[str, str], *, budget_s: float) -> Granted | Denied:
        if not claims:
            return Denied(Standing.UNKNOWN, "nothing was asked for")
        if any(self._multi_attached(lun) for lun in sorted({claim.resource.lun for claim in claims})):
            return Denied(
                Standing.UNKNOWN,
                "no lease store for a multi-attached device",
                remedy='configure [store] kind = "etcd"',
            )
        try:
            answer = await self._write(lambda db: self._acquire(db, claims, facts), budget_s)
        except EnforcerError as error:
            return Denied(Standing.UNKNOWN, str(error), remedy=error.hint)
        if isinstance(answer, Granted):  # told only now that it is committed
            self._told.update((lease.resource, answer.token) for lease in answer.leases)
        return answer

    def _acquire(self, db: sqlite3.Connection, claims: frozenset[Claim], facts: Mapping[str, str]) -> Granted | Denied:
        held = [found for lun in {c.resource.lun for c in claims} for found in self._held(db, lun)]
        ruling = judge(claims, self.holder, held)
        if ruling.blocking:
            return refusal(ruling.blocking)
        token = ruling.held_token
        if token is not None:
            leases = tuple(ruling.mine[resource] for resource in ruling.wanted)
        else:
            db.execute("update counter set token = token + 1")
            (token,) = db.execute("select token from counter").fetchone()
            since = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
            leases = tuple(
                Lease(resource, mode, self.holder, token, since, Guarantee.NONE, dict(facts))
                for resource, mode in ruling.wanted.items()
            )
            for gone in ruling.taken_over:
                _delete(db, gone.lease)
            for lease in leases:
                _insert(db, lease)
        return Granted(token, leases, ruling.fresh(self._told))

    async def release(self, resources: frozenset[ResourceId], token: int) -> None:
        def work(db: sqlite3.Connection) -> list[str]:
            ours = {h.lease.resource: h.lease for h in self._held(db) if self._same_boot(h.lease.holder)}
            mine = {r: ours[r] for r in resources if r in ours and ours[r].token == token}
            for lease in mine.values():
                _delete(db, lease)
            return [str(resource) for resource in sorted(resources - mine.keys())]

        lost = await self._write(work)
        for resource in resources:
            if self._told.get(resource) == token:
                del self._told[resource]
        if lost:
            raise LeaseLost(f"not held under token {token} any more: {', '.join(lost)}")

    async def leases(self, lun: str | None = None) -> tuple[HeldLease, ...]:
        return await self._read(lambda db: tuple(self._held(db, lun)))

    async def last_grants(self) -> Mapping[str, tuple[str, int]]:
        return {}  # one node: nobody else was granted anything

    async def fences(self) -> Mapping[tuple[str, str], str]:
        def work(db: sqlite3.Connection) -> Mapping[tuple[str, str], str]:
            present = self._witness(db).present.values()
            rows = db.execute("select node, boot_id, at from fenced").fetchall()
            renewing = {(holder.node, holder.boot_id) for holder in present}
            return {(n, b): at.replace(" ", "T") + "Z" for n, b, at in rows if (n, b) not in renewing}

        return await self._read(work)

    async def nodes(self) -> tuple[NodeRecord, ...]:
        def work(db: sqlite3.Connection) -> tuple[NodeRecord, ...]:
            rows = db.execute("select node, boot_id, session, policy, luns from node order by node").fetchall()
            return tuple(
                NodeRecord(Holder(node, boot, session), policy, tuple(json.loads(luns)), boot == self.holder.boot_id)
                for node, boot, session, policy, luns in rows
            )

        return await self._read(work)

    async def publish(self, luns: frozenset[str], policy_digest: str) -> None:
        values = (policy_digest, json.dumps(sorted(luns)), self.holder.node)
        await self._write(lambda db: db.execute("update node set policy = ?, luns = ? where node = ?", values))

    async def fence_confirm(self, node: str, boot_id: str, by: str, *, force: bool = False) -> None:
        def work(db: sqlite3.Connection) -> None:
            holders = [held.lease.holder for held in self._held(db)]
            check_fence(self._witness(db), holders, self.holder, node, boot_id, force=force)
            db.execute("insert or ignore into fenced values (?, ?, ?, datetime())", (node, boot_id, by))
            db.execute("delete from node where node = ? and boot_id = ?", (node, boot_id))

        await self._write(work)

    async def adopt(self) -> tuple[Lease, ...]:
        def work(db: sqlite3.Connection) -> tuple[Lease, ...]:
            me = self.holder
            db.execute(
                "update lease set session = ? where node = ? and boot_id = ?",
                (me.session, me.node, me.boot_id),
            )
            return tuple(h.lease for h in self._held(db) if h.lease.holder == me)

        return await self._write(work)

    async def forget_old_boots(self) -> tuple[Lease, ...]:
        def work(db: sqlite3.Connection) -> tuple[Lease, ...]:
            me = self.holder
            mine = [h.lease for h in self._held(db) if h.lease.holder.node == me.node]
            old = tuple(lease for lease in mine if not self._same_boot(lease.holder))
            for lease in old:
                _delete(db, lease)
            db.execute("delete from fenced where node = ? and boot_id <> ?", (me.node, me.boot_id))
            return old

        return await self._write(work)

    def _held(self, db: sqlite3.Connection, lun: str | None = None) -> list[HeldLease]:
        columns = "lun, path, node, boot_id, session, mode, token, since, guarantee, facts"
        where, values = ("", ()) if lun is None else ("where lun = ?", (lun,))
        witness = self._witness(db)
        rows = db.execute(f"select {columns} from lease {where} order by lun, path, node", values).fetchall()
        leases = [_lease(row) for row in rows]
        return [HeldLease(lease, witness.liveness(lease.holder)) for lease in leases]

    def _witness(self, db: sqlite3.Connection) -> Witness:
        """Alive is what runs in the present boot of this machine; nothing can be known of anybody else."""
        rows = db.execute("select node, boot_id, session from node").fetchall()
        present = {row[0]: Holder(*row) for row in rows if row[1] == self.holder.boot_id}
        fenced = {(row[0], row[1]) for row in db.execute("select node, boot_id from fenced").fetchall()}
        return Witness({**present, self.holder.node: self.holder}, fenced)

    def _register(self, db: sqlite3.Connection) -> None:
        me = self.holder
        db.execute("insert or replace into node values (?, ?, ?, '', '[]')", (me.node, me.boot_id, me.session))

    def _same_boot(self, other: Holder) -> bool:
        return other.node == self.holder.node and other.boot_id == self.holder.boot_id

    async def _write(self, work: Callable[[sqlite3.Connection], T], budget_s: float = CALL_S) -> T:
        return await self._transaction("begin immediate", work, budget_s)

    async def _read(self, work: Callable[[sqlite3.Connection], T], budget_s: float = CALL_S) -> T:
        return await self._transaction("begin", work, budget_s)

    async def _transaction(self, begin: str, work: Callable[[sqlite3.Connection], T], budget_s: float) -> T:
        end = time.monotonic() + budget_s

        def job() -> T:
            db, left = self._db, end - time.monotonic()
            if db is None:
                raise StoreUnavailable(f"the lease database {self.path} is not open", hint="enforcer doctor")
            if left <= 0:
                raise self._late(budget_s)
            try:
                db.execute(f"pragma busy_timeout = {int(left * 900)}")
                db.execute(begin)
                result = work(db)
                if time.monotonic() >= end:
                    raise self._late(budget_s)
                db.execute("commit")
                return result
            finally:
                if db.in_transaction:
                    db.rollback()

        return await self._in_thread(job, budget_s)

    async def _in_thread(self, job: Callable[[], T], budget_s: float) -> T:
        try:
            running = asyncio.get_running_loop().run_in_executor(self._thread, job)
            return await asyncio.wait_for(running, budget_s)
        except TimeoutError:
            raise self._late(budget_s) from None
        except (sqlite3.Error, OSError, ValueError, TypeError, RuntimeError) as error:
            raise self._unavailable(error) from error

    def _late(self, budget_s: float) -> StoreUnavailable:
        return StoreUnavailable(
            f"the lease store did not answer: {self.path} took longer than {budget_s:.1f} s",
            hint="look for disk errors in the kernel log",
        )

    def _unavailable(self, error: Exception) -> StoreUnavailable:
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        sentence, hint = TROUBLE.get(code, (f"cannot be used: {error}", "enforcer doctor"))
        if isinstance(error, OSError):
            sentence, hint = f"cannot be opened: {error.strerror}", TROUBLE[sqlite3.SQLITE_CANTOPEN][1]
        return StoreUnavailable(f"the lease database {self.path} {sentence}", hint=hint)

    def _open(self) -> None:
        flags = os.O_CREAT | os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC
        os.close(os.open(self.path, flags, 0o600))  # never through a symlink, never readable by others
        db = sqlite3.connect(self.path, isolation_level=None, check_same_thread=False, timeout=CALL_S * 0.9)
        try:
            (version,) = db.execute("pragma user_version").fetchone()
            (application,) = db.execute("pragma application_id").fetchone()
            if version > VERSION or application not in (0, APPLICATION):
                raise StoreUnavailable(
                    f"the lease database {self.path} is not of this version (schema {version})",
                    hint="install the version of enforcer that wrote it, or configure another [store] path",
                )
            db.execute("pragma journal_mode = wal")
            db.execute("pragma synchronous = full")
            if db.execute("pragma quick_check(1)").fetchone() != ("ok",):
                sentence, hint = TROUBLE[sqlite3.SQLITE_CORRUPT]
                raise StoreUnavailable(f"the lease database {self.path} {sentence}", hint=hint)
            db.executescript(SCHEMA)
        except BaseException:
            db.close()
            raise
        self._db = db

    def _close(self) -> None:
        if self._db is not None:
            self._db.close()
            self._db = None


def _lease(row: tuple[str, str, str, str, str, str, int, str, str, str]) -> Lease:
    """Raises ValueError, TypeError for a row that this version did not write."""
    lun, path, node, boot_id, session, mode, token, since, guarantee, facts = row
    return Lease(
        ResourceId(lun, tuple(path.split("/")) if path else ()),
        Mode(mode),
        Holder(node, boot_id, session),
        int(token),
        since,
        Guarantee(guarantee),
        dict(json.loads(facts)),
    )


def _insert(db: sqlite3.Connection, lease: Lease) -> None:
    who, what = lease.holder, lease.resource
    values = (
        what.lun,
        "/".join(what.path),
        who.node,
        who.boot_id,
        who.session,
        lease.mode.value,
        lease.token,
    )
    facts = json.dumps(dict(lease.facts))
    db.execute(
        "insert or replace into lease values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (*values, lease.since, lease.guarantee.value, facts),
    )


def _delete(db: sqlite3.Connection, lease: Lease) -> None:
    key = (lease.resource.lun, "/".join(lease.resource.path), lease.holder.node)
    db.execute("delete from lease where lun = ? and path = ? and node = ?", key)
