# SPDX-License-Identifier: GPL-2.0-or-later
"""What can happen next in the model's world, and what must never have happened.

Nothing is decided here that the product decides: who is in the way, who is taken over and which token a release may
delete say ``cluster/conflicts.py``; what follows from an event ``model/lifecycle.py``; until when a node may write
``model/deadlines.py``; what the kernel's guard lets through ``kernel/decide.py`` (which a test holds against the C
code). Here is what lies around them: an etcd that compares and writes, a network that keeps, delays and repeats, a
kernel that counts opens, machines that die and stop. :data:`BREAKS` are the assumptions of that, each of which can be
taken away.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

from enforcer.cluster.conflicts import Absences, Ruling, Witness, judge, under_token
from enforcer.kernel.abi import GuardFlag
from enforcer.kernel.abi import State as Entry
from enforcer.kernel.decide import Decision, Question, decide
from enforcer.model.lease import Claim, Guarantee, HeldLease, Holder, Lease
from enforcer.model.lifecycle import (
    Action,
    Adopted,
    Asked,
    Event,
    Freshened,
    Granted,
    Looked,
    NotGranted,
    Phase,
    Released,
    State,
    Stored,
    Unused,
    step,
)
from enforcer.model.resource import ResourceId
from tools.model.state import FIGURES, NAMES, OVER, TICK_NS, TTL, WAITED, Message, Node, Scenario, Session, World
from tools.model.state import Record as StoredLease

BREAKS = {
    "guard-not-attached": "every open passes, whoever asked",
    "release-at-fentry": "a use ends for the kernel's counts when its last close begins, not when it has flushed",
    "stale-token": "the store deletes for a release whatever token it names",
    "hypervisor-pauses": "machines whose lease promises a cut may be paused, and their clocks with them",
    "session-ended-early": "the store may end a session before its time, while its lease promises a cut",
    "cut-fails": "what has the device open goes on to write after the deadline",
}
AT_ONCE = 3  # requests that may be under way
Next = tuple[str, World]


class Violation(Exception):
    """Something that must never happen; the argument says what."""


def successors(world: World, scenario: Scenario) -> Iterator[Next]:
    """(what happened, world after it) for each event that is possible. Raises Violation for one that must not be."""
    yield "one second passes", _tick(world, scenario)
    for place, message in enumerate(world.flying):
        rest = world.flying[:place] + world.flying[place + 1 :]
        yield f"store: {_told(message)}", _deliver(world._replace(flying=rest), message, scenario)
        if world.faults:
            again = _deliver(world._replace(faults=world.faults - 1), message, scenario)
            yield f"store: {_told(message)}; a copy is still under way", again
    for n, node in enumerate(world.nodes):
        if node.on and not node.paused:
            for label, after in _steps(world, n, scenario):
                yield f"{NAMES[n]}: {label}", after
        for label, after in _faults(world, n, scenario):
            yield f"{NAMES[n]}: {label}", after


def _steps(world: World, n: int, scenario: Scenario) -> Iterator[Next]:
    if n not in scenario.steady:
        yield from _keeper(world, n)
    yield from _daemon(world, n, scenario)
    yield from _caller(world, n, scenario)


def check(world: World) -> None:
    """Raises Violation if a disk was written that another node was granted, or a use outlived its lease."""
    for n, node in enumerate(world.nodes):
        if not node.on or node.use < 2:
            continue
        if world.store.granted != (n, node.boot) and not node.paused:
            raise Violation(f"{NAMES[n]} writes after a higher token went to {_who(world.store.granted)}")
        record = world.store.records[n]
        if record is None or record.boot != node.boot:
            raise Violation(f"{NAMES[n]} uses the device, and the store has no lease of it")


def settled(world: World) -> bool:
    """True if nobody waits for anything."""
    waiting = (Phase.ACQUIRING, Phase.CLOSING, Phase.TAKEN_OVER)
    return not any(
        n.on and (n.paused or n.doing or n.renewal or n.use in (1, 3) or n.life.phase in waiting) for n in world.nodes
    )


def calm(world: World, scenario: Scenario) -> Next | None:
    """What happens next if nothing goes wrong any more: every message arrives, everybody goes on. None if settled."""
    if world.flying:
        message, *rest = world.flying
        return f"store: {_told(message)}", _deliver(world._replace(flying=tuple(rest)), message, scenario)
    for n, node in enumerate(world.nodes):
        if not node.on:
            continue
        if node.paused:
            return f"{NAMES[n]}: goes on", _with(world, n, node._replace(paused=False))
        if not node.daemon:
            return f"{NAMES[n]}: enforcerd starts", _with(world, n, _daemon_starts(node))
        wanted = ("keeper: the answer", "enforcerd: ", "a permitted open", "its last close ends")
        options = list(_steps(world, n, scenario))
        for prefix in wanted:
            for label, after in options:
                useful = not label.startswith(("enforcerd: asks", "enforcerd: reads")) or node.life.phase is Phase.FREE
                if label.startswith(prefix) and useful and after != world and not _again(node, label):
                    return f"{NAMES[n]}: {label}", after
    return None


def _again(node: Node, label: str) -> bool:
    """An unanswered wait is given up only if there is no answer, and what is free stays free in a calm world."""
    if label.startswith("enforcerd: waits no longer"):
        return node.answer is not None
    return label.startswith(("enforcerd: asks", "enforcerd: reads")) or (
        label.startswith("enforcerd: finds that") and node.life.live
    )


def _with(world: World, n: int, node: Node) -> World:
    return world._replace(nodes=(node, world.nodes[1]) if n == 0 else (world.nodes[0], node))


def _who(granted: tuple[int, int] | None) -> str:
    return "nobody" if granted is None else NAMES[granted[0]] + (", booted anew" if granted[1] > 1 else "")


def _told(message: Message) -> str:
    what = "a grant is asked for" if message.kind == "put" else "a release arrives"
    return f"{what} by {NAMES[message.node]}"


# ---- time and machines


def _tick(world: World, scenario: Scenario) -> World:
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
    cut = scenario.guarantee is not Guarantee.NONE and "cut-fails" not in scenario.breaks
    silent = cut and FIGURES.silent_ns(-t0 * TICK_NS) <= 0
    renewal = node.renewal and (min(node.renewal[0] + 1, OVER), node.renewal[1])
    absent = tuple((boot, min(age + 1, WAITED)) for boot, age in node.absent)
    return node._replace(t0=t0, renewal=renewal, absent=absent, use=0 if silent and node.use > 1 else node.use)


def _faults(world: World, n: int, scenario: Scenario) -> Iterator[Next]:
    node, cut = world.nodes[n], scenario.guarantee is not Guarantee.NONE
    if not node.on:
        yield "boots", _with(world, n, Node(boot=node.boot + 1, keeper=1, adopted=False))
        if world.store.sessions[n] is None and (n, node.boot) not in world.store.fenced:
            store = world.store._replace(fenced=world.store.fenced | {(n, node.boot)})
            yield "its fencing is confirmed", world._replace(store=store)
        return
    if node.paused:
        yield "goes on", _with(world, n, node._replace(paused=False))
    if not world.faults or n in scenario.steady:
        return
    less = world._replace(faults=world.faults - 1)
    if world.store.sessions[n] is not None and ("session-ended-early" in scenario.breaks or not cut):
        sessions = tuple(None if i == n else s for i, s in enumerate(world.store.sessions))
        yield "its session is ended too early", less._replace(store=world.store._replace(sessions=sessions))
    yield "loses its power", _with(less, n, Node(on=False, boot=node.boot))
    if node.paused:
        return
    if "hypervisor-pauses" in scenario.breaks or not cut:
        yield "is paused, and its clock stands still", _with(less, n, node._replace(paused=True))
    if node.daemon:
        dead = node._replace(
            daemon=False, life=State(), sure=0, told=0, permit=False, doing="", answer=None, absent=(), adopted=False
        )
        yield "enforcerd dies", _with(less, n, dead)
    if node.keeper:
        yield "the keeper dies", _with(less, n, node._replace(keeper=0, renewal=None))


# ---- the keeper


def _keeper(world: World, n: int) -> Iterator[Next]:
    node, store = world.nodes[n], world.store
    if not node.keeper:
        yield "the keeper starts", _with(world, n, node._replace(keeper=1))
        return
    if node.renewal is not None:
        age, created = node.renewal
        yield "keeper: the answer arrives", _with(world, n, _answered(node, age, created))
        if age:
            yield "keeper: waits no longer for the answer", _with(world, n, node._replace(renewal=None))
        return
    session, fenced = store.sessions[n], (n, node.boot) in store.fenced
    if node.keeper == 2:
        good = session is not None and session.created == node.session and not fenced
        if good and node.t0 == 0:
            return  # renewed in this very second
        if good and session is not None:
            world = _session(world, n, session._replace(left=TTL))
        yield (
            "keeper: a renewal reaches the store",
            _with(world, n, node._replace(renewal=(0, node.session if good else 0))),
        )
    elif not fenced and session is None:
        created = store.revision + 1
        world = _session(world._replace(store=store._replace(revision=created)), n, Session(node.boot, TTL, created))
        yield "keeper: a session is opened in the store", _with(world, n, node._replace(renewal=(0, created)))
    elif not fenced and session is not None and session.boot == node.boot:
        world = _session(world, n, session._replace(left=TTL))
        yield "keeper: its session is found in the store", _with(world, n, node._replace(renewal=(0, session.created)))


def _session(world: World, n: int, session: Session) -> World:
    sessions = (session, world.store.sessions[1]) if n == 0 else (world.store.sessions[0], session)
    return world._replace(store=world.store._replace(sessions=sessions))


@cache
def _renewed(t0: int, age: int) -> int:
    """The age of the new t0, by the arithmetic of the keeper; now is 0."""
    return min(OVER, -(FIGURES.renewed_ns(-t0 * TICK_NS, -age * TICK_NS, 0) // TICK_NS))


@cache
def _stop_ns(t0: int) -> int:
    return FIGURES.stop_ns(-t0 * TICK_NS) if t0 < OVER else 0


def _answered(node: Node, age: int, created: int) -> Node:
    if not created:  # lost
        return node._replace(renewal=None, keeper=1, session=0, t0=OVER)
    return node._replace(renewal=None, keeper=2, session=created, t0=_renewed(node.t0, age))


# ---- who uses the device


def _caller(world: World, n: int, scenario: Scenario) -> Iterator[Next]:
    node = world.nodes[n]
    if node.use in (0, 1):
        passed = _guard(node.entry, node.t0, scenario)
        label = "a permitted open" if node.use else "an open that nobody asked about"
        if passed and node.old and "guard-not-attached" not in scenario.breaks:
            raise Violation(f"{NAMES[n]} opens the device with blocks in its cache that another node has changed")
        if passed:
            yield f"{label} passes the guard", _with(world, n, node._replace(use=2, permit=False))
        elif node.use:
            yield f"{label} is refused by the guard", _with(world, n, node._replace(use=0, permit=False))
    elif node.use == 2:
        yield "its last close begins to flush", _with(world, n, node._replace(use=3))
    else:
        yield "its last close ends", _with(world, n, node._replace(use=0))


@cache
def _guard(entry: Entry, t0: int, scenario: Scenario) -> bool:
    if "guard-not-attached" in scenario.breaks:
        return True
    asked = Question(entry, GuardFlag.DEADLINE, 0, max(0, _stop_ns(t0)), True, False, False, False, False)
    return decide(asked) is Decision.PASS


def _idle(node: Node, scenario: Scenario) -> bool:
    """What the kernel's counts and the permits say."""
    counted = node.use == 2 or (node.use == 3 and "release-at-fentry" not in scenario.breaks)
    return not counted and not node.permit


# ---- enforcerd


def _daemon(world: World, n: int, scenario: Scenario) -> Iterator[Next]:
    node = world.nodes[n]
    if not node.daemon:
        yield "enforcerd starts", _with(world, n, _daemon_starts(node))
    elif node.doing == "close":
        after, _ = _step(node, Unused())
        yield "enforcerd: closes the guard's table to give back", _with(world, n, after._replace(doing="look"))
    elif node.doing == "look":
        yield from _look(world, n, scenario)
    elif node.doing:
        if node.answer is not None:
            yield "enforcerd: the store's answer arrives", _with(world, n, _store_answered(node))
        given_up = _step(node._replace(doing="", answer=None), NotGranted())[0]
        yield "enforcerd: waits no longer for the store", _with(world, n, given_up)
    else:
        if node.use == 0:
            yield from _ask(world, n, scenario)
        if _idle(node, scenario):
            _, actions = _step(node, Unused())
            if Action.LOOK in actions:
                yield "enforcerd: finds that nothing uses it", _with(world, n, node._replace(doing="close"))
        yield from _reconcile(world, n, scenario)


def _daemon_starts(node: Node) -> Node:
    return _published(node._replace(daemon=True))


@cache
def _step_of(life: State, event: Event) -> tuple[State, tuple[Action, ...]]:
    return step(life, event)


def _step(node: Node, event: Event) -> tuple[Node, tuple[Action, ...]]:
    """The product's decision, and its table if that is to be written now."""
    life, actions = _step_of(node.life, event)
    node = node._replace(life=life)
    return (_published(node) if Action.PUBLISH in actions and Action.FRESHEN not in actions else node), actions


def _published(node: Node) -> Node:
    life = node.life
    closing = life.phase in (Phase.CLOSING, Phase.TAKEN_OVER)
    entry = Entry.FREE if life.stale else Entry.LIVE if life.live else Entry.CLOSING if closing else Entry.FREE
    return node._replace(entry=entry)


def _holder(n: int, boot: int) -> Holder:
    return Holder(NAMES[n], f"boot-{boot}", "session")


@cache
def _judged(
    n: int,
    boot: int,
    wants: tuple[ResourceId, ...],
    records: tuple[StoredLease | None, ...],
    sessions: tuple[int, ...],
    fenced: frozenset[tuple[int, int]],
    absent: tuple[tuple[int, int], ...],
    guarantee: Guarantee,
) -> tuple[Ruling, tuple[int, ...], tuple[int, ...]]:
    """The product's ruling, the records that it takes over, and whom it silences."""
    me = _holder(n, boot)
    away = Absences({(NAMES[1 - n], f"boot-{other}"): -age * TICK_NS for other, age in absent})
    witness = Witness(
        {NAMES[i]: _holder(i, live) for i, live in enumerate(sessions) if live},
        {(NAMES[i], f"boot-{dead}") for i, dead in fenced},
        away.gone(0, FIGURES),
    )
    leases = [
        Lease(wants[i], Claim(wants[i]).mode, _holder(i, record.boot), record.token, "", guarantee)
        for i, record in enumerate(records)
        if record is not None
    ]
    ruling = judge([Claim(wants[n])], me, [HeldLease(le, witness.liveness(le.holder, le.guarantee)) for le in leases])
    taken = tuple(sorted(NAMES.index(h.lease.holder.node) for h in ruling.taken_over))
    return ruling, taken, tuple(sorted(NAMES.index(name) for name, _ in ruling.silenced))


def _ask(world: World, n: int, scenario: Scenario) -> Iterator[Next]:
    node, store = world.nodes[n], world.store
    after, actions = _step(node, Asked(_stop_ns(node.t0) > 0))
    if Action.PERMIT in actions:
        yield "enforcerd: asks nobody, it is live here", _with(world, n, after._replace(use=1, permit=True))
        return
    if len(world.flying) >= AT_ONCE:
        return
    session = store.sessions[n]
    if session is None or session.boot != node.boot or session.created != node.session or not node.session:
        return  # denied: no live session
    if (n, node.boot) in store.fenced:
        return
    after = _noted(after, world, n)
    ruling, taken, silenced = _judged(
        n,
        node.boot,
        scenario.wants,
        store.records,
        tuple(s.boot if s else 0 for s in store.sessions),
        store.fenced,
        after.absent,
        scenario.guarantee,
    )
    if ruling.blocking:
        denied = _with(world, n, _step(after, NotGranted())[0])
        if denied != world:
            yield "enforcerd: asks the store, which denies", denied
        return
    token = ruling.permit({scenario.wants[n]: node.sure})
    fresh = ruling.fresh({scenario.wants[n]: node.told})
    if token is not None:
        answered = _store_answered(after._replace(doing="put", answer=(token, fresh)))
        yield "enforcerd: asks the store, which knows it as ours", _with(world, n, answered)
        return
    request = Message("put", n, node.boot, store.revision, session.created, taken, silenced, fresh)
    sent = _with(world, n, after._replace(doing="put", answer=None))
    yield "enforcerd: asks the store, and sends its write", _fly(sent, request)


def _fly(world: World, message: Message) -> World:
    return world._replace(flying=tuple(sorted({*world.flying, message})))


def _noted(node: Node, world: World, n: int) -> Node:
    """Every read tells who has no session."""
    other, record = 1 - n, world.store.records[1 - n]
    present = {NAMES[other]: _holder(other, 0)} if world.store.sessions[other] is not None else {}
    known = Absences({(NAMES[other], str(boot)): -age for boot, age in node.absent})
    holders = [Holder(NAMES[other], str(record.boot), "")] if record is not None else []
    after = known.noted(present, holders, 0).since_ns
    return node._replace(absent=tuple(sorted((int(boot), -since) for (_, boot), since in after.items())))


def _store_answered(node: Node) -> Node:
    assert node.answer is not None
    kind, (token, fresh) = node.doing, node.answer
    node = node._replace(doing="", answer=None)
    if token < 0:  # something had changed: the product reads once more, here as an ask or a release of its own
        return _step(node, NotGranted())[0]
    if kind == "delete":
        return _step(node, Released())[0]
    idle = node.use in (0, 1)
    node, actions = _step(node, Granted(token, fresh, idle))
    if Action.REFUSE in actions:
        return node
    node = node._replace(sure=token, told=token)
    if _stop_ns(node.t0) <= 0:
        return node  # denied: the kernel knows no deadline; what is stale stays so
    if Action.FRESHEN in actions:
        node = _step(node._replace(old=False), Freshened())[0]
    return _published(node._replace(use=max(node.use, 1), permit=node.use < 2))


def _look(world: World, n: int, scenario: Scenario) -> Iterator[Next]:
    node, record = world.nodes[n]._replace(doing=""), world.store.records[n]
    token = node.life.token
    after, actions = _step(node, Looked(_idle(node, scenario)))
    if Action.RELEASE not in actions:
        yield "enforcerd: finds a use, and keeps it", _with(world, n, after)
        return
    after = after._replace(told=0 if after.told == token else after.told, sure=0)
    wanted = scenario.wants[n]
    ours = (
        {wanted: Lease(wanted, Claim(wanted).mode, _holder(n, node.boot), record.token, "")}
        if record is not None and record.boot == node.boot
        else {}
    )
    if record is None or not under_token(ours, [wanted], token):
        yield "enforcerd: finds no use, and the store knows no such lease", _with(world, n, _step(after, Released())[0])
    elif len(world.flying) < AT_ONCE:
        sent = _with(world, n, after._replace(doing="delete", answer=None))
        yield (
            "enforcerd: finds no use, and sends the release",
            _fly(sent, Message("delete", n, node.boot, record.revision)),
        )


def _reconcile(world: World, n: int, scenario: Scenario) -> Iterator[Next]:
    node, store = world.nodes[n], world.store
    session, record = store.sessions[n], store.records[n]
    able = session is not None and session.created == node.session and (n, node.boot) not in store.fenced
    idle = node.use in (0, 1) or not (node.use == 2 or "release-at-fentry" not in scenario.breaks)
    if not node.adopted:
        if not able:
            return
        records = list(store.records)
        after = node._replace(adopted=True)
        if record is not None and record.boot != node.boot:
            records[n] = None  # that kernel is gone
        elif record is not None:
            revision = store.revision + 1
            records[n] = record._replace(revision=revision)
            store = store._replace(revision=revision, written=revision)
            after = _step(after._replace(sure=record.token), Adopted(record.token, idle))[0]
        store = store._replace(records=tuple(records))
        yield "enforcerd: takes up what it held before", _with(world._replace(store=store), n, _published(after))
        return
    token = record.token if record is not None and record.boot == node.boot else None
    if (token or 0) != node.life.token:
        after = _step(_noted(node, world, n), Stored(token))[0]
        if after != node:
            yield "enforcerd: reads what the store has", _with(world, n, after)


# ---- the store


def _deliver(world: World, message: Message, scenario: Scenario) -> World:
    n, store = message.node, world.store
    node = world.nodes[n]
    waits = node.on and node.boot == message.boot and node.doing == message.kind and node.answer is None
    if message.kind == "delete":
        record = store.records[n]
        stale = "stale-token" in scenario.breaks
        done = record is not None and (record.revision == message.revision or stale)
        answer = (0, False) if done else (-1, False)
        if done:
            records = tuple(None if i == n else r for i, r in enumerate(store.records))
            world = world._replace(store=store._replace(records=records, revision=store.revision + 1))
        return _with(world, n, node._replace(answer=answer)) if waits else world
    session = store.sessions[n]
    unchanged = (
        store.written <= message.revision
        and session is not None
        and session.created == message.session
        and (n, message.boot) not in store.fenced
        and all(store.sessions[i] is None for i in message.silenced)
    )
    if not unchanged:
        return _with(world, n, node._replace(answer=(-1, False))) if waits else world
    token = store.revision + 1
    silenced = {(i, r.boot) for i in message.silenced if (r := store.records[i]) is not None}
    records = tuple(
        StoredLease(message.boot, token, token) if i == n else None if i in message.taken else r
        for i, r in enumerate(store.records)
    )
    store = store._replace(
        records=records, revision=token, written=token, granted=(n, message.boot), fenced=store.fenced | silenced
    )
    world = world._replace(store=store)
    if waits:
        world = _with(world, n, node._replace(answer=(token, message.fresh)))
    other = world.nodes[1 - n]
    return _with(world, 1 - n, other._replace(old=True)) if other.on else world
