# SPDX-License-Identifier: GPL-2.0-or-later
"""The keeper's duties on one loop: renew the session, tell the kernel until when, watch the daemon's progress."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from pathlib import Path

from enforcer import settings
from enforcer.cluster.etcd_access import EtcdAccess
from enforcer.cluster.etcd_http import EtcdRefused
from enforcer.cluster.etcd_session import EtcdSession
from enforcer.cluster.identity import holder, node_name, promise_nothing, write_session
from enforcer.cluster.same_cluster import SameCluster
from enforcer.keeper.lifeline import Lifeline
from enforcer.keeper.progress import Progress
from enforcer.keeper.revoker import end_if_hung
from enforcer.kernel import abi
from enforcer.kernel.tables import Tables, open_pinned
from enforcer.lost.files import write_deadline
from enforcer.model.clock import boot_ns
from enforcer.model.errors import EnforcerError, LeaseLost, StoreUnavailable
from enforcer.settings import Settings, StoreKind

log = logging.getLogger("enforcer-keeper")
RETRY_S = 1.0


class Keeper:
    """Renews and probes until it is stopped."""

    def __init__(self, chosen: Settings) -> None:
        self._settings = chosen
        self._run_dir, self._pins = Path(chosen.paths.run_dir), Path(chosen.paths.bpffs)
        self._holder = holder(node_name(chosen.node.name), self._run_dir)
        self._progress = Progress(self._run_dir, chosen.keeper.restart, chosen.keeper.progress_timeout_s)
        self._tables: Tables | None = None
        self._pinned_as = 0
        self._access: EtcdAccess | None = None
        self._tiers = chosen.lost.tiers(Path("/proc/cpuinfo").read_text())
        self._lifeline = Lifeline(chosen.lost.watchdog, self._tiers, pins=self._pins, run_dir=self._run_dir)
        self._promised = self._lifeline.tiers  # as the daemon was told
        self._told_ns = -1  # the deadline that the revoker was told
        self._stop = asyncio.Event()

    def stop(self) -> None:
        """End soon. The session is left to run out: ending it while leases are held would strand them."""
        self._stop.set()

    def reload(self) -> None:
        """Go by the endpoints, certificates and user that the settings name now; the session goes on."""
        try:
            store = settings.load(self._settings.file or None, fencing=False).store
            changed = self._access is not None and self._access.change(store)
        except EnforcerError as error:
            log.error("the settings were not read again, those before stay in force: %s", error)
            return
        log.info("reload: %s", f"etcd is reached by {' '.join(store.endpoints)} now" if changed else "nothing changed")

    async def run(self) -> None:
        """Both duties, side by side."""
        duties = [asyncio.ensure_future(self._watch_daemon()), asyncio.ensure_future(self._watch_revoker())]
        if self._settings.store.kind is StoreKind.ETCD:
            promise_nothing(self._run_dir)  # what the keeper before us could, this one perhaps cannot
            duties.append(asyncio.ensure_future(self._keep_session()))
            self._lifeline.start()
        if self._settings.store.kind is StoreKind.SANLOCK:
            from enforcer.keeper import renewals  # its checksums load OpenSSL, which would be locked in memory whole

            duties.append(asyncio.ensure_future(renewals.follow(self._settings.store, self._until_next)))
        stopping = asyncio.ensure_future(self._stop.wait())
        done, _ = await asyncio.wait([*duties, stopping], return_when=asyncio.FIRST_COMPLETED)
        for duty in (*duties, stopping):
            duty.cancel()
        await asyncio.gather(*duties, return_exceptions=True)
        self._lifeline.end()
        for ended in done:
            if ended is not stopping and not ended.cancelled():
                ended.result()  # raises what ended a duty

    async def _keep_session(self) -> None:
        store = self._settings.store
        access = self._access = EtcdAccess(store)
        ttl_s, tiers = int(store.deadlines().ttl_s), self._tiers
        same = SameCluster(access, Path(self._settings.paths.state_dir), store.cluster)
        session = EtcdSession(same, store.cluster, self._holder, ttl_s=ttl_s, tiers=tiers)
        told = ""
        ours = False  # until the first answer the kernel's deadline is that of the keeper before us, and stays
        try:
            while True:
                try:
                    if session.facts is None:
                        opened = await session.open()
                        self._write_deadline(session.deadline_ns)  # nothing is promised before its end is known
                        self._promised = self._lifeline.tiers
                        write_session(self._run_dir, opened, tiers=self._promised)
                        log.info(
                            "session of %s is open, ttl %d s",
                            self._holder.node,
                            session.facts.ttl_s if session.facts else 0,
                        )
                    else:
                        await session.renew(budget_s=store.renew_s)
                    told, ours = "", True
                    self._lifeline.until(session.last_pet_ns)
                    await self._until_next(session.deadline_ns, store.renew_s, session)
                    continue
                except LeaseLost as lost:
                    told, ours = self._tell(told, f"the session is lost: {lost}"), True
                except (StoreUnavailable, EtcdRefused) as error:
                    told = self._tell(told, f"not renewed: {error}")
                # the last deadline stays: it passes by itself, and until then what is live may go on
                if session.facts is None:
                    write_session(self._run_dir, None, told)
                    self._lifeline.until(session.last_pet_ns if ours else None)
                self._write_deadline(session.deadline_ns if ours else None)
                await asyncio.sleep(RETRY_S)
        finally:
            await access.close()

    async def _until_next(self, deadline_ns: int | None, pause_s: float, session: EtcdSession | None = None) -> None:
        """Wait for the next renewal; a gate that comes into force meanwhile is told at once, and so is the daemon
        what became of the watchdog of ``session``."""
        end_ns = boot_ns() + int(pause_s * 1e9)
        told_as = -1
        while boot_ns() < end_ns:
            if told_as != self._pinned_as or self._gate_inode() != self._pinned_as:
                self._write_deadline(deadline_ns)
                told_as = self._pinned_as
            if session is not None:
                if self._lifeline.tiers != self._promised:
                    write_session(self._run_dir, session.facts, tiers=self._lifeline.tiers)
                    self._promised = self._lifeline.tiers
                self._lifeline.tell()
            await asyncio.sleep(min(0.2, pause_s))

    def _gate_inode(self) -> int:
        try:
            return (self._pins / "maps" / "deadline").stat().st_ino
        except OSError:
            return 0

    def _tell(self, told: str, now: str) -> str:
        if now != told:
            log.warning("%s", now)
        return now

    def _write_deadline(self, deadline_ns: int | None) -> None:
        """Tell the revoker, and the kernel, if a gate is in force; a later one is told at the next renewal.

        None changes nothing.
        """
        try:
            if deadline_ns is not None and deadline_ns != self._told_ns:
                tiers = self._tiers
                write_deadline(self._run_dir, deadline_ns, cut_s=tiers.cut_s, watchdog_s=tiers.watchdog_s)
                self._told_ns = deadline_ns
            inode = self._gate_inode()
            if not inode:
                self._tables, self._pinned_as = None, 0
                return
            if self._tables is None or inode != self._pinned_as:
                self._tables, self._pinned_as = open_pinned(self._pins), inode
                self._tables.introduce(1, os.getpid())
            if deadline_ns is not None:
                self._tables.deadline.put(0, abi.Deadline(deadline_ns=deadline_ns, renewed_ns=boot_ns()))
        except (EnforcerError, OSError) as error:
            log.error("the kernel's deadline could not be written: %s", error)
            self._tables, self._pinned_as = None, 0

    async def _watch_daemon(self) -> None:
        while True:
            await asyncio.sleep(1.0)
            if not await asyncio.to_thread(self._progress.check):
                await asyncio.to_thread(self._progress.rescue)

    async def _watch_revoker(self) -> None:
        while True:
            await asyncio.sleep(1.0)
            await asyncio.to_thread(end_if_hung, self._run_dir)


async def serve(keeper: Keeper) -> None:
    """Run until SIGTERM or SIGINT; SIGHUP reads the way to the store again."""
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, keeper.stop)
    loop.add_signal_handler(signal.SIGHUP, keeper.reload)
    await keeper.run()
