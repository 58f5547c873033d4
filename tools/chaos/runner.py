# SPDX-License-Identifier: GPL-2.0-or-later
"""Does the steps of a plan to the lab's two nodes.

Each node has LUNs of its own at which it writes all the time, so that every node that dies leaves leases to be taken
over; the steps are about a few others. What is fenced by word is silent by then, and the runner knows why: its power
is off, or all its writers have ended but one that is stopped, and its own deadline has passed.
"""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

from tools.chaos import uses
from tools.chaos.faults import ACTS, Scene
from tools.chaos.plan import Hold, LeaseState, Step, Use
from tools.chaos.uses import Missed, Standing, User
from tools.lab import ways
from tools.lab.cluster import Cluster
from tools.lab.disk import SharedDisk
from tools.lab.vm import CommandFailed, Node

TTL_S, RENEW_S = 10, 2.0
CHECK_EVERY = 15  # steps
HURT_S = 1.0  # how long a fault lasts; under a live lease so long that a renewal falls into it
PATIENCE_S = 20.0  # for a state to come about, and for a store that was just silent
WWN = 0x5000C50015EA7200
MORE_DISKS = tuple(SharedDisk(f"chaos{n}", 16 << 20, wwn=WWN + n, serial=f"CHAOS{n}") for n in range(1, 6))
POLICY = """
[defaults]
deadline = "15s"

[[rule]]
id      = "san"
mode    = "enforce"
on      = ["mount", "swap", "write-open", "dm-load", "loop"]
match   = { device = ["wwn-0x5000c5*"] }
"""


@dataclass
class Machine:
    """One of the two nodes, and what the runner has going on there."""

    number: int
    node: Node
    homes: tuple[SharedDisk, ...]
    at_home: dict[str, User] = field(default_factory=dict)  # by the LUN's name
    booting: Future[None] | None = None
    fenced: bool = False  # this boot was confirmed fenced
    stopped: User | None = None  # whose lease was taken over

    @property
    def name(self) -> str:
        return f"node-{self.number}"

    @property
    def up(self) -> bool:
        return self.booting is None


@dataclass
class Tally:
    """What was done."""

    steps: int = 0
    cells: Counter[tuple[str, LeaseState]] = field(default_factory=Counter)
    rivals: Counter[str] = field(default_factory=Counter)  # granted, refused, undecided
    missed: list[str] = field(default_factory=list)
    notes: list[tuple[float, str]] = field(default_factory=list)


class Runner:
    """``cluster`` must have MORE_DISKS, POLICY and TTL_S. All methods may raise LostVM."""

    def __init__(self, cluster: Cluster, say: Callable[[str], None]) -> None:
        self.cluster, self.say, self.tally = cluster, say, Tally()
        assert cluster.lab.etcd is not None
        self.etcd = cluster.lab.etcd
        one, two = cluster.nodes
        first, second, *homes = MORE_DISKS
        self.targets = (first, second, cluster.ext4)
        self.machines = {
            1: Machine(1, one, (cluster.xfs, homes[0])),
            2: Machine(2, two, (homes[1], homes[2])),
        }
        self.disks = (*self.targets, *(disk for m in self.machines.values() for disk in m.homes))
        self._boots = ThreadPoolExecutor(2)
        self._stamp = ways.build(cluster.lab.workdir, "stamp")

    def __enter__(self) -> Runner:
        for machine in self.machines.values():
            ways.bring(machine.node, self._stamp)
        one = self.machines[1].node
        one.run(f"mkfs.ext4 -qF {one.device(self.cluster.ext4)}", check=True)
        for machine in self.machines.values():
            self._settle_in(machine)
        return self

    def __exit__(self, *_: object) -> None:
        self._boots.shutdown(wait=True)

    def run(self, steps: Sequence[Step], well: Callable[[], bool]) -> None:
        """All steps, in order; ends early as soon as ``well()``, asked now and then, says no."""
        for step in steps:
            self._one(step)
            self.tally.steps += 1
            if (step.outlasts or step.number % CHECK_EVERY == 0) and not well():
                return
        for machine in self.machines.values():
            self._booted(machine)
            for user in machine.at_home.values():
                user.end()
        time.sleep(2)

    def note(self, what: str) -> None:
        """For the time line."""
        self.tally.notes.append((time.time(), what))

    # -- one step

    def _one(self, step: Step) -> None:
        for again in (False, True):
            began = time.monotonic()
            try:
                said = self._try(step)
            except Missed as missed:
                self.tally.missed.append(f"step {step.number}, {step}: {missed}")
                said = f"missed: {missed}"
            self.say(f"{step.number:4} {step} ({said}; {time.monotonic() - began:.0f} s)")
            if not said.startswith("missed") or again:
                return

    def _try(self, step: Step) -> str:
        me, other = self.machines[step.node], self.machines[3 - step.node]
        disk = self.targets[step.lun]
        self._fit(me, fenced=step.state is LeaseState.TAKEN_OVER)
        if step.fault.ends_boot or step.outlasts or (step.state is LeaseState.TAKEN_OVER and not me.fenced):
            self._fit(other)  # without it nobody takes over, or wants to
        if step.fault.ends_boot and not me.fenced:
            for home in me.at_home.values():
                self._until(home.open, f"{me.name} does not write at home")
        scene = Scene(self.cluster, me.node, self.etcd)
        inflict, lift = ACTS[step.fault.name]
        boot_id, rivals, user = me.node.boot_id, list[User](), None
        with contextlib.ExitStack() as undo:
            if step.state is LeaseState.TAKEN_OVER:
                self._take_over(me, other, disk)
            else:
                user = self._bring(step, me, disk, undo)
            if other.up and not other.fenced:
                rivals.append(uses.begin(other.node, disk, step.use, patience_s=1, count=5))
            if me.fenced:
                rivals.append(uses.begin(me.node, disk, Use.RAW, patience_s=1, count=5))
            self.note(f"{step.fault.name} on {me.name}, whose lease is {step.state}")
            inflict(scene)
            if not step.fault.ends_boot:
                undo.callback(lift, scene)
            self.tally.cells[step.cell] += 1
            hurt_s = RENEW_S + HURT_S if step.state is LeaseState.LIVE else HURT_S
            time.sleep(TTL_S + 2 if step.outlasts else hurt_s)
            if step.outlasts and other.up:
                late = uses.begin(other.node, disk, step.use, patience_s=2, count=5)
                self.tally.rivals[uses.outcome(late, PATIENCE_S)] += 1
        self.note(f"{step.fault.name} is over")
        if step.fault.ends_boot:
            rivals = [rival for rival in rivals if rival.node is not me.node]
        outcomes = Counter(uses.outcome(rival, PATIENCE_S) for rival in rivals)
        self.tally.rivals += outcomes
        if step.fault.ends_boot:
            self._succeed(me, other, disk, step.use, boot_id)
        elif user is not None:
            user.end()
        return ", ".join(f"rival {what}" for what in outcomes) or "no rival"

    def _bring(self, step: Step, me: Machine, disk: SharedDisk, undo: contextlib.ExitStack) -> User:
        """Bring a lease into the state. Raises Missed."""
        user: User | None = None
        try:
            self._until(lambda: not self._records(disk), f"somebody still has {disk.name}")
            if step.state is not LeaseState.ACQUIRING:
                user = uses.begin(me.node, disk, step.use)
                self._until(user.open, "no lease")
            undo.enter_context(self._held(step.hold, me.node))
            if user is None:
                user = uses.begin(me.node, disk, step.use)
            if step.state is LeaseState.CLOSING:
                user.end()
            device = user.device
            self._until(lambda: self._is(step.state, me.node, device), f"not {step.state}")
        except Missed:
            if user is not None:
                undo.callback(user.end)
            raise
        return user

    def _is(self, state: LeaseState, node: Node, device: str) -> bool:
        now: Standing = uses.peek(node, device)
        match state:
            case LeaseState.ACQUIRING:
                asked = self.cluster.ask(node, "status").get("counters", {}).get("waiting", 0)
                return now.state != uses.LIVE and asked > 0
            case LeaseState.EXPIRING:
                if now.left_s <= 0:
                    raise Missed("it had expired before anybody looked")
                return now.expiring(TTL_S, RENEW_S)
            case LeaseState.CLOSING:
                return now.state == uses.CLOSING
            case _:
                return now.state == uses.LIVE and now.left_s > 0

    @contextlib.contextmanager
    def _held(self, hold: Hold, node: Node) -> Iterator[None]:
        """The node's requests to the store find no answer meanwhile."""
        if hold is Hold.STORE:
            self.etcd.pause()
        elif hold is Hold.LINK:
            node.link(False)
        try:
            yield
        finally:
            if hold is Hold.STORE:
                self.etcd.resume()
            elif hold is Hold.LINK and node.alive:
                node.link(True)

    # -- takeover

    def _take_over(self, me: Machine, other: Machine, disk: SharedDisk) -> None:
        """What this node holds of the LUN is another's now, and the node runs on. Raises Missed."""
        if me.fenced:
            return
        for user in me.at_home.values():
            user.end()
        me.at_home.clear()
        self._until(lambda: not self._records(disk), f"somebody still has {disk.name}")
        self._until(lambda: not self._all_records(me.name), f"{me.name} still has something")
        me.stopped = uses.begin(me.node, disk, Use.RAW)
        self._until(me.stopped.open, "no lease")
        me.stopped.stop()
        device = me.stopped.device
        with self._held(Hold.LINK, me.node):
            self._until(lambda: f"/enforcer/lab/node/{me.name}" not in self.etcd.records("/enforcer/lab/node/"), "live")
            self._until(lambda: uses.peek(me.node, device).left_s < 0, "its deadline has not passed")
            self._confirm(other, me, me.node.boot_id, force=False)
            me.fenced = True
            taken = uses.begin(other.node, disk, Use.RAW, patience_s=5, count=5)
            if uses.outcome(taken, PATIENCE_S) != "granted":
                raise Missed("not taken over")
        self._until(lambda: uses.peek(me.node, device).state != uses.LIVE, f"{me.name} does not hear of it")

    def _succeed(self, me: Machine, other: Machine, disk: SharedDisk, use: Use, boot_id: str) -> None:
        """The power of ``me`` is off: the other takes over what it had, and it boots."""
        if not me.fenced:
            self._confirm(other, me, boot_id, force=True)
            takers = [uses.begin(other.node, home, Use.RAW, patience_s=10, count=5) for home in me.homes]
            takers.append(uses.begin(other.node, disk, use, patience_s=10, count=5))
            for taker in takers:
                uses.outcome(taker, PATIENCE_S)
        me.at_home.clear()
        me.booting = self._boots.submit(self._boot, me)

    def _confirm(self, by: Machine, whom: Machine, boot_id: str, *, force: bool) -> None:
        self.note(f"{whom.name} is confirmed fenced")
        said = {"error": "not asked"}

        def confirmed() -> bool:
            nonlocal said
            said = self.cluster.ask(by.node, "fence-confirm", node=whom.name, boot_id=boot_id, force=force)
            return bool(said) and "error" not in said

        try:
            self._until(confirmed, "not confirmed")
        except Missed as missed:
            raise Missed(f"{missed}: {said.get('error')}") from None

    def _boot(self, machine: Machine) -> None:
        machine.node.start()
        self.cluster.configure(machine.node)
        ways.bring(machine.node, self._stamp)
        self.cluster.start(machine.node)
        self.cluster.ready(machine.node, 180)
        machine.fenced, machine.stopped = False, None

    # -- between steps

    def _fit(self, machine: Machine, *, fenced: bool = False) -> None:
        """The node is up and its daemons have recovered; ``fenced``: it may be confirmed fenced."""
        self._booted(machine)
        if machine.fenced and fenced:
            return
        if machine.fenced:
            machine.node.power_off()
            machine.booting = self._boots.submit(self._boot, machine)
            self._booted(machine)
        end = time.monotonic() + 90
        while True:
            status = self.cluster.ask(machine.node, "status")
            reached = status.get("enforcing") and status["store"]["reachable"]
            if reached and (status["keeper"]["deadline_in_s"] or 0) > RENEW_S:
                break
            if time.monotonic() > end:
                log = machine.node.run("tail -n 15 /run/enforcerd.log /run/keeper.log 2>&1").out
                raise CommandFailed(f"{machine.name} has not recovered within 90 s: {status}\n{log}")
            time.sleep(0.3)
        self._settle_in(machine)

    def _booted(self, machine: Machine) -> None:
        if machine.booting is not None:
            machine.booting.result()
            machine.booting = None

    def _settle_in(self, machine: Machine) -> None:
        """Write at home, if it does not."""
        for disk in machine.homes:
            user = machine.at_home.get(disk.name)
            if user is None or user.spawned.wait(0) is not None:
                machine.at_home[disk.name] = uses.begin(machine.node, disk, Use.RAW, patience_s=60)

    def _records(self, disk: SharedDisk) -> list[str]:
        """Keys of the leases of a LUN, as the store has them."""
        return list(self.etcd.records(f"/enforcer/lab/res/wwn-0x{disk.wwn:016x}/"))

    def _all_records(self, node: str) -> list[str]:
        return [key for key in self.etcd.records("/enforcer/lab/res/") if key.endswith(f"/{node}")]

    @staticmethod
    def _until(holds: Callable[[], bool], otherwise: str, timeout_s: float = PATIENCE_S) -> None:
        end = time.monotonic() + timeout_s
        while not holds():
            if time.monotonic() > end:
                raise Missed(f"{otherwise} after {timeout_s:.0f} s")
            time.sleep(0.1)
