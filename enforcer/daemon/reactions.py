# SPDX-License-Identifier: GPL-2.0-or-later
"""What the daemon does about events of the kernel that nobody asks about: uses that begin and end, devices that come
and change, and refusals that the guard gave by itself. The last get their record here, so that an intent refused
without an ask still has one, with the holder as far as the store's last word tells it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from enforcer.cluster import conflicts
from enforcer.kernel.abi import Alarm, EventFlag, EventKind, Op, State
from enforcer.kernel.events import KernelEvent
from enforcer.model.escape import from_bytes
from enforcer.model.intent import Caller, Effect, Intent, Source, Verdict
from enforcer.model.lease import HeldLease, Liveness
from enforcer.model.resource import UseKind
from enforcer.policy.rules import Policy
from enforcer.workflow import callers
from enforcer.workflow.devices import Devices
from enforcer.workflow.leases import Leases

log = logging.getLogger(__name__)
_WHY = {
    State.UNKNOWN: "the device has not been classified yet",
    State.FREE: "no lease is held here",
    State.CLOSING: "the lease is being given back",
    State.ELSEWHERE: "another node holds it",
    State.LIVE: "the lease's deadline has passed",
}
_ALARMS = {
    Alarm.TASKS_FULL: "too many tasks at once: the guard is strict everywhere until enforcerd restarts",
    Alarm.NO_FRAME: "a mount went unseen: the guard is strict everywhere until enforcerd restarts",
    Alarm.UNLEASED_SUPERBLOCK: "a superblock without a live lease was refused",
    Alarm.USES_FULL: "a use could not be counted: its lease is kept until the node reboots",
    Alarm.REFUSED_BUT_MOUNTED: "a refused mount joined a live superblock and was undone",
    Alarm.NESTED_TOO_DEEP: "mounts or opens nest deeper than can be followed: the guard is strict everywhere",
}


class Reactions:
    """Handles kernel events. ``record(intent, verdict)`` writes a record, ``notice(kind, text)`` a remark."""

    def __init__(
        self,
        devices: Devices,
        leases: Leases,
        policy: Callable[[], Policy],
        record: Callable[[Intent, Verdict], object],
        notice: Callable[[str, str], None],
        store_name: str,
    ) -> None:
        self._devices, self._leases, self._policy = devices, leases, policy
        self._record, self._notice, self._store = record, notice, store_name
        self._unanswered: dict[int, Intent] = {}
        self.counts = {"guard_refusals": 0, "guard_would": 0, "alarms": 0, "unanswered": 0}

    def handle(self, event: KernelEvent) -> None:
        """React to one event; called on the loop, in order."""
        match event.kind:
            case EventKind.USE_END | EventKind.SB_GONE:
                self._leases.wake()
            case EventKind.MOUNT_DONE:
                self._mount_done(event)
            case EventKind.DEVICE_ADDED | EventKind.DEVICE_CHANGED:
                asyncio.get_running_loop().call_later(0.05, self._look_at, event)
            case EventKind.GUARD_REFUSED | EventKind.GUARD_WOULD:
                self._guard(event)
            case EventKind.NO_ANSWER:
                self._no_answer(event)
            case EventKind.UMOUNT:
                verdict = self._verdict(
                    Effect.PERMIT, 0, Source.POLICY, "an umount is never refused for want of an answer"
                )
                self._record(self._intent(event, UseKind.UMOUNT), verdict)
            case EventKind.ALARM:
                self._alarm(event)

    def _mount_done(self, event: KernelEvent) -> None:
        if event.intent:
            self._leases.permit_over(event.intent)
        unanswered = self._unanswered.pop(event.intent, None)
        if unanswered is not None:
            failed = f"; the mount itself failed (errno {-event.error})" if event.error else ""
            reason = "nobody answered, and the device is not guarded" + failed
            self._record(replace(unanswered, dev=event.dev), self._verdict(Effect.PERMIT, 0, Source.FAIL_MODE, reason))
        elif EventFlag.JOINED in event.flags and not event.error:
            numbered = self._intent(event, UseKind.MOUNT)
            self._record(
                numbered,
                self._verdict(Effect.PERMIT, 0, Source.GUARD, "joins a superblock that is live here already"),
            )
        self._leases.wake()

    def _look_at(self, event: KernelEvent) -> None:
        if Path(f"/sys/dev/block/{event.dev}").exists():
            self._devices.classify(event.dev)

    def _guard(self, event: KernelEvent) -> None:
        would = event.kind is EventKind.GUARD_WOULD
        self.counts["guard_would" if would else "guard_refusals"] += 1
        unanswered = self._unanswered.pop(event.intent, None)
        kind = UseKind.MOUNT if EventFlag.IN_MOUNT in event.flags else UseKind.WRITE_OPEN
        intent = replace(unanswered, dev=event.dev) if unanswered else self._intent(event, kind)
        known = self._devices.known.get(event.dev)
        if known is not None:
            intent = replace(intent, device=known.device)
        reason = _WHY.get(State(event.state), "no live lease") if event.state in set(State) else "no live lease"
        blocking: tuple[HeldLease, ...] = ()
        if known is not None and event.state in (State.FREE, State.ELSEWHERE):
            held = self._leases.held_by_others(known.device)
            blocking = tuple(other for other in held if not conflicts.may_take_over(other))
        if blocking:
            reason = conflicts.refusal(blocking).reason
        fail_mode = EventFlag.FAIL_MODE in event.flags
        if fail_mode:
            reason = f"enforcerd did not answer and {reason}"
        verdict = self._verdict(
            Effect.WOULD_REFUSE if would else Effect.REFUSE,
            -event.error,
            Source.FAIL_MODE if fail_mode else Source.GUARD,
            reason,
        )
        if known is not None:
            verdict = replace(
                verdict,
                rule=known.guarding.rule,
                default=known.guarding.default,
                blocking=blocking,
                remedy="" if fail_mode else _remedy(event.state, blocking, intent),
            )
        self._record(intent, verdict)

    def _no_answer(self, event: KernelEvent) -> None:
        self.counts["unanswered"] += 1
        kind = callers.use_kind(event.mode, event.syscall_nr) if event.mode in set(Op) else UseKind.MOUNT
        intent = self._intent(event, kind)
        if event.error:
            self._record(
                intent,
                self._verdict(Effect.REFUSE, -event.error, Source.FAIL_MODE, "enforcerd did not answer"),
            )
        else:
            self._unanswered[event.intent] = intent
            while len(self._unanswered) > 1024:
                self._unanswered.pop(next(iter(self._unanswered)))

    def _alarm(self, event: KernelEvent) -> None:
        self.counts["alarms"] += 1
        sentence = _ALARMS.get(Alarm(event.mode), "unknown alarm") if event.mode in set(Alarm) else "unknown alarm"
        log.critical("%s (device %s, %s[%d])", sentence, event.dev, from_bytes(event.comm), event.tgid)
        self._notice("alarm", sentence)

    def _intent(self, event: KernelEvent, kind: UseKind) -> Intent:
        caller = Caller(
            pid=event.tgid,
            tid=event.tid,
            uid=event.uid,
            comm=from_bytes(event.comm),
            mount_ns=event.mount_ns,
            syscall=callers.syscall_name(event.syscall_nr) if event.syscall_nr else "",
        )
        dev = event.dev if event.dev.to_kernel() else None
        known = self._devices.known.get(event.dev)
        return Intent(
            id=event.intent,
            kind=kind,
            caller=caller,
            fstype=from_bytes(event.fstype),
            dev=dev,
            device=known.device if known else None,
            source=f"/dev/{known.device.name}" if known else "",
            asked_ns=0,
        )

    def _verdict(self, effect: Effect, number: int, source: Source, reason: str) -> Verdict:
        return Verdict(effect, number, source, reason, generation=self._policy().generation, store=self._store)


def _remedy(state: int, blocking: tuple[HeldLease, ...], intent: Intent) -> str:
    """What to type after a refusal by the guard alone.

    An opener inside the kernel (nvmet, LIO, bcache, drbd) cannot ask for a lease, but it works under one that is live,
    and its own open then keeps that lease. Any open for writing takes it.
    """
    if blocking and not any(other.liveness is Liveness.LIVE for other in blocking):
        return conflicts.refusal(blocking).remedy
    match state:
        case State.LIVE:
            return "systemctl status enforcer-keeper"
        case State.FREE | State.ELSEWHERE if intent.kind is not UseKind.MOUNT and intent.device is not None:
            name = f"/dev/{intent.device.name.replace('!', '/')}"
            holders = ", ".join(dict.fromkeys(other.lease.holder.node for other in blocking))
            first = f"end its use on {holders}; then hold" if blocking else "hold"
            return f"{first} {name} open for writing while it is taken: exec 9<>{name}; try again; exec 9>&-"
        case State.FREE | State.ELSEWHERE if blocking:
            return "enforcer who"
    return "try again"
