# SPDX-License-Identifier: GPL-2.0-or-later
"""The store and the way to it: it compares and writes in one step; the network keeps, delays and repeats.

Who is in the way, and who is taken over, says ``cluster/conflicts.py``; it is asked here with what a read finds.
"""

from __future__ import annotations

from functools import cache

from enforcer.cluster.conflicts import Absences, Ruling, Witness, judge
from enforcer.model.lease import HeldLease, Holder, Lease
from enforcer.model.resource import Mode
from tools.model.state import (
    FIGURES,
    NAMES,
    TICK_NS,
    Answer,
    Grant,
    Message,
    Node,
    Record,
    Scenario,
    Store,
    World,
    holder,
)

AT_ONCE = 3  # requests that may be under way


def sent(world: World, message: Message) -> World:
    """The same world with one more request under way."""
    return world._replace(flying=tuple(sorted({*world.flying, message})))


def told(message: Message) -> str:
    """A request in words."""
    what = "a grant is asked for" if message.kind == "put" else "a release arrives"
    return f"{what} by {NAMES[message.node]}"


def noted(node: Node, world: World, n: int) -> Node:
    """Every read tells who has no session."""
    other, record = 1 - n, world.store.records[1 - n]
    present = {NAMES[other]: holder(other, 0)} if world.store.sessions[other] is not None else {}
    known = Absences({(NAMES[other], str(boot)): -age for boot, age in node.absent})
    holders = [Holder(NAMES[other], str(record.boot), "")] if record is not None else []
    after = known.noted(present, holders, 0).since_ns
    return node._replace(absent=tuple(sorted((int(boot), -since) for (_, boot), since in after.items())))


def ruled(world: World, n: int, node: Node, scenario: Scenario, wanted: Mode) -> Ruling:
    """What the product makes of one read of the store: node ``n`` wants its resource in this mode."""
    store = world.store
    sessions = tuple(s.boot if s else 0 for s in store.sessions)
    return _ruled(n, node.boot, wanted, store.records, sessions, store.fenced, node.absent, scenario)


@cache
def _ruled(
    n: int,
    boot: int,
    wanted: Mode,
    records: tuple[Record | None, ...],
    sessions: tuple[int, ...],
    fenced: frozenset[tuple[int, int]],
    absent: tuple[tuple[int, int], ...],
    scenario: Scenario,
) -> Ruling:
    away = Absences({(NAMES[1 - n], f"boot-{other}"): -age * TICK_NS for other, age in absent})
    witness = Witness(
        {NAMES[i]: holder(i, live) for i, live in enumerate(sessions) if live},
        {(NAMES[i], f"boot-{dead}") for i, dead in fenced},
        away.gone(0, FIGURES),
    )
    leases = [
        Lease(scenario.resource(i), record.mode, holder(i, record.boot), record.token, "", scenario.guarantee)
        for i, record in enumerate(records)
        if record is not None
    ]
    claims = [claim for claim in scenario.wants[n] if claim.mode is wanted]
    held = [HeldLease(lease, witness.liveness(lease.holder, lease.guarantee)) for lease in leases]
    return judge(claims, holder(n, boot), held, preempts=scenario.reserving)


def request(world: World, n: int, ruling: Ruling, told_before: int, scenario: Scenario) -> Message:
    """The write that a ruling leads to."""
    session, store, resource = world.store.sessions[n], world.store, scenario.resource(n)
    assert session is not None
    return Message(
        "put",
        n,
        world.nodes[n].boot,
        store.revision,
        session.created,
        ruling.wanted[resource],
        tuple(sorted(NAMES.index(h.lease.holder.node) for h in ruling.taken_over)),
        tuple(sorted(NAMES.index(name) for name in ruling.absent)),
        tuple(sorted(NAMES.index(name) for name, _ in ruling.silenced)),
        ruling.fresh({resource: told_before}),
    )


def arrived(world: World, message: Message, scenario: Scenario) -> World:
    """The request is carried out, and answered if its sender still waits for it."""
    n, node = message.node, world.nodes[message.node]
    waits = node.on and node.boot == message.boot and node.doing == message.kind and node.answer is None
    changed, answer = (_deleted if message.kind == "delete" else _put)(world.store, message, scenario)
    world = world._replace(store=changed)
    if waits:
        world = world.having(n, node._replace(answer=answer))
    if answer.token <= 0 or scenario.reserving:
        return world  # where the storage is told, nobody writes before that
    return granted(world, n, message.boot, message.mode)


def _deleted(store: Store, message: Message, scenario: Scenario) -> tuple[Store, Answer]:
    n, record = message.node, store.records[message.node]
    if record is None or (record.revision != message.revision and "stale-token" not in scenario.breaks):
        return store, Answer(-1)
    records = tuple(None if i == n else r for i, r in enumerate(store.records))
    return store._replace(records=records, revision=store.revision + 1), Answer(0)


def _put(store: Store, message: Message, _scenario: Scenario) -> tuple[Store, Answer]:
    n, session = message.node, store.sessions[message.node]
    unchanged = (
        store.written <= message.revision
        and session is not None
        and session.created == message.session
        and (n, message.boot) not in store.fenced
        and all(store.sessions[i] is None for i in message.absent)
    )
    if not unchanged:
        return store, Answer(-1)
    token = store.revision + 1
    silenced = {(i, r.boot) for i in message.silenced if (r := store.records[i]) is not None}
    mine = Record(message.boot, token, token, message.mode)
    records = tuple(mine if i == n else None if i in message.taken else r for i, r in enumerate(store.records))
    store = store._replace(records=records, revision=token, written=token, fenced=store.fenced | silenced)
    return store, Answer(token, message.fresh, message.mode)


def granted(world: World, n: int, boot: int, mode: Mode) -> World:
    """From now on this node may write, and whoever cannot share it with that mode must not any more."""
    grant, disk = Grant(n, boot, mode), world.disk
    if grant in disk.granted:
        stay = disk.granted
    else:
        stay = frozenset({grant, *(g for g in disk.granted if g.node != n and g.mode.compatible(mode))})
    world = world._replace(disk=disk._replace(granted=stay))
    other = world.nodes[1 - n]
    return world.having(1 - n, other._replace(old=True)) if other.on and mode is not Mode.PR else world
