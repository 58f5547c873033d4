# SPDX-License-Identifier: GPL-2.0-or-later
"""The daemon put together: kernel, storage, policy, store and log on one loop.

Start is all or nothing: everything local is ready and the self-test has passed before READY is said. It does not
wait for the network: with the store out of reach, guarded devices are denied and the message says so.
"""

from __future__ import annotations

import asyncio
import contextlib
import grp
import logging
import os
from collections.abc import Coroutine, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from enforcer.audit.record import Origin
from enforcer.cluster.etcd_session import SLACK_S
from enforcer.cluster.identity import holder, node_name, read_session
from enforcer.daemon import layered, probe
from enforcer.daemon.backends import is_multi_attached, make_access, make_board, make_store, make_view
from enforcer.daemon.control import Control
from enforcer.daemon.hotplug import Hotplug
from enforcer.daemon.notify import notify
from enforcer.daemon.policies import load_policy, tell_fstypes
from enforcer.daemon.reactions import Reactions
from enforcer.daemon.reconcile import EVERY_S, Reconciler
from enforcer.daemon.recorder import Recorder
from enforcer.daemon.report import lost
from enforcer.daemon.verbs import Parts, Verbs
from enforcer.kernel import abi, program
from enforcer.kernel.events import EventStream
from enforcer.kernel.program import Attached
from enforcer.kernel.tables import Tables
from enforcer.kernel.upcall import UpcallServer
from enforcer.model.errors import EnforcerError
from enforcer.model.intent import Intent, Verdict
from enforcer.model.resource import UseKind
from enforcer.policy.rules import Implicit
from enforcer.settings import Settings, StoreKind
from enforcer.settings import load as load_settings
from enforcer.workflow.asks import Asks
from enforcer.workflow.consent import Consent
from enforcer.workflow.devices import Devices
from enforcer.workflow.fencing import Fences
from enforcer.workflow.judge import Judge
from enforcer.workflow.layers import HOST
from enforcer.workflow.leases import Leases
from enforcer.workflow.looking import Looking
from enforcer.workflow.parting import give_back
from enforcer.workflow.promises import Promises
from enforcer.workflow.reserving import Reservations
from enforcer.workflow.uses import Uses
from enforcer.workflow.wayback import WayBack

log = logging.getLogger(__name__)
WORKERS = 64


class Service:
    """One daemon. ``run()`` returns when ``stop()`` was called; the gate stays in force if it is pinned."""

    def __init__(self, settings: Settings, *, pinned: bool, audit_only: bool) -> None:
        self._settings, self._audit_only = settings, audit_only
        self._pins = Path(settings.paths.bpffs) if pinned else None
        self._run_dir, self._state_dir = Path(settings.paths.run_dir), Path(settings.paths.state_dir)
        self._holder = holder(node_name(settings.node.name), self._run_dir)
        self.policy = load_policy(settings, 1, audit_only=audit_only)
        self._access = make_access(settings)
        self._store = make_store(
            settings,
            self._holder,
            self._access,
            multi_attached=lambda lun: is_multi_attached(lun, self._devices, self.policy),
            guarantee=lambda resources: self._promises.guarantee(resources),
        )
        self._stop = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._failed = ""
        self._attached: Attached | None = None

    def _quorum_changed(self, quorate: bool) -> None:
        log.warning("the cluster has %s quorum", "a" if quorate else "no")
        self.recorder.notice("quorum", f"the cluster has {'a' if quorate else 'no'} quorum", {"quorate": quorate})

    async def run(self) -> None:
        """Start, serve until :meth:`stop`, end in order. Raises EnforcerError if it cannot start."""
        for directory in (self._run_dir, self._state_dir, Path(self._settings.paths.log_dir)):
            directory.mkdir(parents=True, exist_ok=True, mode=0o750 if directory != self._run_dir else 0o755)
        group = _group(self._settings.daemon.group)
        origin = Origin(self._holder.node, self._holder.boot_id)
        self.recorder = Recorder(Path(self._settings.paths.log_dir) / "audit.jsonl", origin, group)
        # a read of a dead disk may hang for ever: it must not keep the threads of everybody else
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(WORKERS, thread_name_prefix="work"))
        try:
            await self._start(group)
            notify("READY=1\nSTATUS=enforcing")
            if self._store.ttl_s:
                log.info("a holder that silences itself is taken over within %.1f s", self._worst_takeover_s())
            log.info(
                "ready: %d devices, %d of them guarded, policy generation %d",
                len(self._devices.known),
                sum(k.guarding.guarded for k in self._devices.known.values()),
                self.policy.generation,
            )
            await self._stop.wait()
            if self._failed:
                raise EnforcerError(self._failed, hint="systemctl restart enforcerd")
        finally:
            notify("STOPPING=1")
            await self._end()

    def _connection_lost(self) -> None:
        self._fail("the upcall connection was ended from outside")

    def _fail(self, why: str) -> None:
        """End, so that the service manager starts another that can serve."""
        self._failed = self._failed or why
        self._stop.set()

    def stop(self) -> None:
        """End soon."""
        self._stop.set()

    async def _start(self, group: int | None) -> None:
        store_dir = [str(self._state_dir), str(self._run_dir), self._settings.paths.log_dir]
        if device := self._settings.store.device:
            store_dir.append(device)  # sanlock writes to it on every node
        attached = self._attached = await asyncio.to_thread(program.load, program.object_path(), self._pins)
        tables = self._tables = Tables(attached.maps)
        deadline = self._settings.store.renews
        self._devices = Devices(
            tables,
            self._holder.node,
            policy=lambda: self.policy,
            keep=store_dir,
            deadline=deadline,
            run_dir=self._run_dir,
        )
        reservations = Reservations(
            self._devices,
            self._store,
            self._holder,
            patterns=self._settings.lost.reservation if deadline else (),
            scratch=self._run_dir,
            uses=Uses(tables, self._run_dir).of,
        )
        self._promises = Promises(self._devices, self._run_dir, adopted=self._adopted, reserved=reservations.promised)
        self._leases = Leases(
            self._store,
            self._devices,
            tables,
            me=self._holder,
            deadline_ns=self._deadline_ns,
            scratch=self._run_dir,
            tell=self._promises.tell,
            reservations=reservations,
        )
        if (host := os.uname().nodename) != self._holder.node:
            self._leases.facts_of_node = {HOST: host}
        if not attached.adopted:
            tables.configure(enforce=0)
        tell_fstypes(self.policy, self._tables)
        await asyncio.to_thread(self._devices.rescan)
        tables.introduce(0, os.getpid())
        await self._store.open()
        self._view = make_view(self._settings, lambda: self._devices, self._quorum_changed)
        consent = Consent(self._view, self._store, self._holder.node, self.recorder.notice)
        self._fences = Fences(self._settings.fencing, self._store, self._view, self._holder, self.recorder.notice)
        judge = Judge(
            self._holder.node,
            lambda: self.policy,
            self._devices,
            self._leases,
            self._store.name,
            tables,
            self._run_dir,
            consent,
            self._fences,
        )
        self._reactions = Reactions(
            self._devices,
            self._leases,
            lambda: self.policy,
            self.recorder.verdict,
            self.recorder.notice,
            self._store.name,
        )
        self._asks = Asks(
            tables,
            judge,
            lambda: self.policy,
            lambda u, v: self._upcall.verdict(u, v),
            self.recorder.noticed,
            self._answered,
            self._leases.permit_over,
        )
        self._upcall = UpcallServer(
            self._run_dir / "upcall", self._asked, self._asks.interrupted, self._connection_lost
        )
        await self._upcall.start()
        await self._point_at_anchor()
        self._events = EventStream(attached.maps["events"], self._reactions.handle)
        self._events.start()
        self._hotplug = Hotplug(self._devices, self._leases.partitions)
        self._reconciler = Reconciler(
            store=self._store,
            devices=self._devices,
            leases=self._leases,
            asks=self._asks,
            me=self._holder,
            policy=lambda: self.policy,
            notice=self.recorder.notice,
            session=(lambda: read_session(self._run_dir)[0]) if deadline else None,
            cache=self._state_dir / "seen.json",
            board=make_board(self._settings, self._holder, self._access),
            consent=consent,
        )
        await self._reconciler.once()
        tables.configure(enforce=1, strict=0, unknown_allow=int(self.policy.defaults.unknown is Implicit.ALLOW))
        await probe.drive()
        self._looking = Looking(self._holder.node, self._run_dir)
        verbs = Verbs(
            parts := Parts(
                attached=attached,
                tables=tables,
                devices=self._devices,
                leases=self._leases,
                asks=self._asks,
                reactions=self._reactions,
                recorder=self.recorder,
                store=self._store,
                view=self._view,
                holder=self._holder,
                run_dir=self._run_dir,
                audit_only=self._audit_only,
                warnings=self._reconciler.warnings,
                policy=lambda: self.policy,
                deadline_ns=self._deadline_ns,
                lost=self._lost,
                store_state=self._reconciler.state,
                looking=self._looking,
                conflicts=self._reconciler.conflicts,
                fences=self._fences,
            )
        )
        self._control = Control(
            self._run_dir / "control.sock",
            group=group,
            audit=self.recorder.log,
            reading={"status": verbs.status, "who": verbs.who, "layers": layered.verb(parts)},
            acting={
                "fence-confirm": verbs.fence_confirm,
                "fence-run": verbs.fence_run,
                "policy-reload": self._reload,
            },
        )
        await self._control.start()
        self._spawn(self._leases.run())
        self._spawn(self._reconciler.run())
        self._spawn(self._promises.run())
        back = WayBack(self._devices, self._run_dir, busy=self._leases.uses.busy, notice=self.recorder.notice)
        self._spawn(back.run())
        self._spawn(consent.run())
        self._spawn(self._watch_kernel())
        self.recorder.notice(
            "start",
            "enforcement began" if not attached.adopted else "enforcement went on",
            {"policy": self.policy.digest, "store": self._store.name, "adopted": attached.adopted},
        )

    async def _end(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if hasattr(self, "_control"):
            await self._control.close()
        if hasattr(self, "_looking"):
            self._looking.close()
        if hasattr(self, "_asks"):
            await self._asks.close()
        if hasattr(self, "_leases"):
            await give_back(self._leases, self._devices, self._find_uses)
        if hasattr(self, "_fences"):
            await self._fences.close()
        if hasattr(self, "_events"):
            self._events.close()
        if hasattr(self, "_upcall"):
            self._upcall.close()
        if self._attached is not None and self._attached.pinned is None:
            self._attached.detach()
            log.info("stopped: the gate is gone, nothing is refused any more")
        elif self._attached is not None:
            log.info(
                "stopped: the gate stays in force and refuses guarded devices until enforcerd runs again "
                "(enforcerd --detach ends it)"
            )
        self.recorder.notice("stop", "enforcerd stopped", {"gate stays": self._pins is not None})
        self.recorder.close()
        if hasattr(self, "_view"):
            await self._view.close()
        await self._store.close()

    async def _find_uses(self) -> None:
        if hasattr(self, "_reconciler"):
            await self._reconciler.find_uses()

    def _spawn(self, work: Coroutine[object, object, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        task.add_done_callback(self._task_ended)
        self._tasks.append(task)

    def _task_ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and task.exception() is not None:
            log.critical("a part of the daemon failed", exc_info=task.exception())
            self._fail(f"a part of the daemon failed: {task.exception()}")

    # -- asks ------------------------------------------------------------------------------------------------

    def _asked(self, tid: int, unique: int) -> None:
        raw = self._tables.asks.get(tid)
        if raw is not None and abi.c_text(raw.fstype) == probe.FSTYPE:
            reply = abi.Reply(nonce=raw.nonce, intent=raw.intent, verdict=-probe.ERRNO)
            self._upcall.verdict(unique, bytes(reply))
            return
        self._asks.asked(tid, unique)

    def _answered(self, intent: Intent, verdict: Verdict, began: int, extra: object) -> Future[bool] | None:
        if intent.kind in (UseKind.WRITE_OPEN, UseKind.SWAP):
            self._leases.permit_over(intent.id)  # the file is counted since before it was asked for
        return self.recorder.verdict(intent, verdict, began, extra)

    async def _point_at_anchor(self) -> None:
        pid, inode, device = await asyncio.to_thread(self._upcall.identity)
        self._tables.configure(anchor_pid=pid, anchor_ino=inode, anchor_dev=device)

    # -- the world outside -----------------------------------------------------------------------------------

    def _deadline_ns(self) -> int | None:
        if not self._settings.store.renews:
            return None
        element = self._tables.deadline.get(0)
        return int(element.deadline_ns) if element is not None else 0

    def _adopted(self) -> bool:
        return hasattr(self, "_reconciler") and self._reconciler.state()[1]

    def _lost(self) -> dict[str, object]:
        return lost(self._run_dir, self._worst_takeover_s() if self._store.ttl_s else None)

    def _worst_takeover_s(self) -> float:
        return self._settings.deadlines().worst_takeover_s(SLACK_S, EVERY_S)

    async def _watch_kernel(self) -> None:
        while True:
            await asyncio.sleep(1.0)
            if not Path(f"/proc/{self._upcall.anchor_pid}/exe").exists():
                log.error("the upcall anchor is gone; starting another")
                with contextlib.suppress(EnforcerError, OSError):
                    await self._upcall.start_anchor()
                    await self._point_at_anchor()

    async def _reload(self, _request: Mapping[str, object]) -> dict[str, object]:
        self.reload()
        return {
            "generation": self.policy.generation,
            "digest": self.policy.digest,
            "rules": len(self.policy.rules),
        }

    def reload(self) -> None:
        """Read the policy anew, and how the store is reached. Raises EnforcerError; what was in force then stays."""
        fresh = load_settings(self._settings.file or None).store
        policy = load_policy(self._settings, self.policy.generation + 1, audit_only=self._audit_only)
        if self._access is not None and fresh.kind is StoreKind.ETCD and self._access.change(fresh):
            log.info("etcd is reached by %s now", " ".join(fresh.endpoints))
        self.policy = policy
        tell_fstypes(self.policy, self._tables)
        self._tables.configure(unknown_allow=int(self.policy.defaults.unknown is Implicit.ALLOW))
        self._devices.reclassify()
        self._reconciler.look_for_uses()
        self.recorder.log.reopen()
        self.recorder.notice(
            "reload",
            f"policy generation {self.policy.generation} is in force",
            {"policy": self.policy.digest},
        )


def _group(name: str) -> int | None:
    try:
        return grp.getgrnam(name).gr_gid
    except KeyError:
        return None
