# SPDX-License-Identifier: GPL-2.0-or-later
"""Machines and what runs on them beside the daemon: clocks, faults, the keeper, the guard, who uses the device.

Until when a node may write says ``model/deadlines.py``; what the guard lets through ``kernel/decide.py``, which a test
holds against the C code.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

from enforcer.kernel.abi import GuardFlag
from enforcer.kernel.abi import State as Entry
from enforcer.kernel.decide import Decision, Question, decide
from enforcer.model.lifecycle import State
from enforcer.model.resource import Mode
from tools.model.state import FIGURES, NAMES, OVER, TICK_NS, TTL, WAITED, Node, Scenario, Session, Violation, World

Next = tuple[str, World]


# ---- time and faults


def tick(world: World, scenario: Scenario) -> World:
    """One second passes."""
    before = world.store.sessions
    sessions = tuple(s._replace(left=s.left - 1) if s is not None and s.left > 1 else None for s in before)
    nodes = [_older(node, scenario) if node.on and not node.paused else node for node in world.nodes]
    for n in scenario.steady:
        if before[n] is not None:
            sessions = tuple(before[i] if i == n else s for i, s in enumerate(sessions))
            nodes[n] = nodes[n]._replace(t0=0)
    return world._replace(store=world.store._replace(sessions=sessions), nodes=(nodes[0], nodes[1]))


def _older(node: Node, scenario: Scenario) -> Node:
    t0 = min(node.t0 + 1, OVER)
    cut = scenario.self_fencing and "cut-fails" not in scenario.breaks
    silent = cut and FIGURES.silent_ns(-t0 * TICK_NS) <= 0
    renewal = node.renewal and (min(node.renewal[0] + 1, OVER), node.renewal[1])
    absent = tuple((boot, min(age + 1, WAITED)) for boot, age in node.absent)
    return node._replace(t0=t0, renewal=renewal, absent=absent, use=0 if silent and node.use > 1 else node.use)


def faults(world: World, n: int, scenario: Scenario) -> Iterator[Next]:
    """What can go wrong on a node, and what mends it."""
    node, cut = world.nodes[n], scenario.self_fencing
    if not node.on:
        yield "boots", world.having(n, Node(boot=node.boot + 1, keeper=1, adopted=False))
        if world.store.sessions[n] is None and (n, node.boot) not in world.store.fenced:
            store = world.store._replace(fenced=world.store.fenced | {(n, node.boot)})
            yield "its fencing is confirmed", world._replace(store=store)
        return
    if node.paused:
        yield "goes on", world.having(n, node._replace(paused=False))
    if not world.faults or n in scenario.steady:
        return
    less = world._replace(faults=world.faults - 1)
    if world.store.sessions[n] is not None and ("session-ended-early" in scenario.breaks or not cut):
        yield "its session is ended too early", less.session(n, None)
    yield "loses its power", less.having(n, Node(on=False, boot=node.boot))
    if node.paused:
        return
    if "hypervisor-pauses" in scenario.breaks or not cut:
        yield "is paused, and its clock stands still", less.having(n, node._replace(paused=True))
    if node.daemon:
        dead = node._replace(
            daemon=False, life=State(), sure=0, told=0, permit=False, doing="", answer=None, absent=(), adopted=False
        )
        yield "enforcerd dies", less.having(n, dead)
    if node.keeper:
        yield "the keeper dies", less.having(n, node._replace(keeper=0, renewal=None))


# ---- the keeper


def keeper(world: World, n: int) -> Iterator[Next]:
    """The process that renews the session and writes the deadline."""
    node, store = world.nodes[n], world.store
    if not node.keeper:
        yield "the keeper starts", world.having(n, node._replace(keeper=1))
        return
    if node.renewal is not None:
        age, created = node.renewal
        yield "keeper: the answer arrives", world.having(n, _answered(node, age, created))
        if age:
            yield "keeper: waits no longer for the answer", world.having(n, node._replace(renewal=None))
        return
    session, fenced = store.sessions[n], (n, node.boot) in store.fenced
    if node.keeper == 2:
        good = session is not None and session.created == node.session and not fenced
        if good and node.t0 == 0:
            return  # renewed in this very second
        if good and session is not None:
            world = world.session(n, session._replace(left=TTL))
        renewal = (0, node.session if good else 0)
        yield "keeper: a renewal reaches the store", world.having(n, node._replace(renewal=renewal))
    elif not fenced and session is None:
        created = store.revision + 1
        world = world._replace(store=store._replace(revision=created)).session(n, Session(node.boot, TTL, created))
        yield "keeper: a session is opened in the store", world.having(n, node._replace(renewal=(0, created)))
    elif not fenced and session is not None and session.boot == node.boot:
        world = world.session(n, session._replace(left=TTL))
        found = node._replace(renewal=(0, session.created))
        yield "keeper: its session is found in the store", world.having(n, found)


@cache
def _renewed(t0: int, age: int) -> int:
    """The age of the new t0, by the arithmetic of the keeper; now is 0."""
    return min(OVER, -(FIGURES.renewed_ns(-t0 * TICK_NS, -age * TICK_NS, 0) // TICK_NS))


def _answered(node: Node, age: int, created: int) -> Node:
    if not created:  # lost
        return node._replace(renewal=None, keeper=1, session=0, t0=OVER)
    return node._replace(renewal=None, keeper=2, session=created, t0=_renewed(node.t0, age))


@cache
def stop_ns(t0: int) -> int:
    """The kernel's deadline of a renewal of that age; now is 0, and so is a deadline that is not there."""
    return FIGURES.stop_ns(-t0 * TICK_NS) if t0 < OVER else 0


# ---- who uses the device


def caller(world: World, n: int, scenario: Scenario) -> Iterator[Next]:
    """Opens and closes. Raises Violation for one that would read what is not true any more."""
    node = world.nodes[n]
    if node.use in (0, 1):
        what = "a permitted open" if node.use else "an open that nobody asked about"
        using = node.using if node.use else _unasked(n, scenario)
        cluster = bool(node.use) and using is Mode.CW
        passed = "guard-not-attached" in scenario.breaks or _guard(node.entry, node.shared, node.t0, cluster)
        reads_old = (
            node.old and using is not Mode.CW and takes(world, n, scenario)
        )  # what is refused there harms nobody
        if passed and reads_old and "guard-not-attached" not in scenario.breaks:
            raise Violation(f"{NAMES[n]} opens the device with blocks in its cache that another node has changed")
        if passed:
            yield f"{what} passes the guard", world.having(n, node._replace(use=2, using=using, permit=False))
        elif node.use:
            yield f"{what} is refused by the guard", world.having(n, node._replace(use=0, permit=False))
    elif node.use == 2:
        yield "its last close begins to flush", world.having(n, node._replace(use=3))
    else:
        yield "its last close ends", world.having(n, node._replace(use=0))


def _unasked(n: int, scenario: Scenario) -> Mode:
    """Whoever asks nobody writes, unless the device is write-protected."""
    return Mode.PR if all(claim.mode is Mode.PR for claim in scenario.wants[n]) else Mode.EX


@cache
def _guard(entry: Entry, shared: bool, t0: int, cluster: bool) -> bool:
    flags = GuardFlag.DEADLINE | (GuardFlag.CLUSTER if shared else GuardFlag(0))
    asked = Question(entry, flags, 0, max(0, stop_ns(t0)), True, False, False, False, False, cluster=cluster)
    return decide(asked) is Decision.PASS


def takes(world: World, n: int, scenario: Scenario) -> bool:
    """True if the storage carries out what this node writes."""
    return world.disk.holder in (None, n) or "reservation-unchecked" in scenario.breaks
