# SPDX-License-Identifier: GPL-2.0-or-later
"""The daemon between its pure functions: what it knows at which moment, and in which order it does what they say.

``Node.doing`` is where it stands: close, look, give up: on the way to giving back; put, delete: it waits for the store;
the names of ``tools/model/reserve.py``: it speaks with the storage. What follows from an event ``model/lifecycle.py``
decides; what a mode covers ``workflow/sharing.py``; what a release may delete ``cluster/conflicts.py``.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

from enforcer.cluster.conflicts import under_token
from enforcer.kernel.abi import State as Entry
from enforcer.model.lease import Lease
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
from enforcer.model.resource import Mode
from enforcer.workflow.holdings import mode_known
from enforcer.workflow.sharing import covers
from tools.model import reserve
from tools.model.machines import Next, stop_ns
from tools.model.state import NAMES, Answer, Message, Node, Scenario, Violation, World, holder
from tools.model.store import AT_ONCE, granted, noted, request, ruled, sent


def daemon(world: World, n: int, scenario: Scenario) -> Iterator[Next]:
    """What enforcerd can do next."""
    node = world.nodes[n]
    if not node.daemon:
        yield "enforcerd starts", started(world, n)
    elif node.doing == "close":
        after, _ = _step(node, Unused())
        yield "enforcerd: closes the guard's table to give back", world.having(n, after._replace(doing="look"))
    elif node.doing == "look":
        yield from _look(world, n, scenario)
    elif node.doing == "give up":
        if node.late is None:
            label = "enforcerd: gives its reservation up"
            yield from _release(reserve.given_up(world, n), n, scenario, label)
        yield from _no_answer(world, n, world.having(n, node._replace(doing="")), scenario)
    elif node.doing in reserve.STEPS:
        label, after_step, outcome = reserve.following(world, n, scenario)
        if outcome is not None:
            after_step = _permitted(after_step, n, scenario) if outcome else _denied(after_step, n)
        yield f"enforcerd: {label}", after_step
        yield from _no_answer(world, n, _denied(world, n), scenario)
    elif node.doing:
        if node.answer is not None:
            yield "enforcerd: the store's answer arrives", _answered(world, n, scenario)
        given_up = _step(node._replace(doing="", answer=None), NotGranted())[0]
        yield "enforcerd: waits no longer for the store", world.having(n, given_up)
        if node.use == 0 and node.doing == "put":
            yield from _meanwhile(world, n, scenario)
    else:
        if node.use == 0:
            yield from _ask(world, n, scenario)
        if _idle(node, scenario):
            _, actions = _step(node, Unused())
            if Action.LOOK in actions:
                yield "enforcerd: finds that nothing uses it", world.having(n, node._replace(doing="close"))
        yield from _reconcile(world, n, scenario)


def _no_answer(world: World, n: int, after: World, scenario: Scenario) -> Iterator[Next]:
    """Of the storage: what it was told is lost, or, if that is what fails in this history, carried out some time."""
    yield "enforcerd: waits no longer for the storage", after
    command = reserve.under_way(world, n)
    if command is not None and world.faults and n not in scenario.steady and world.nodes[n].late is None:
        late = after.having(n, after.nodes[n]._replace(late=command))._replace(faults=world.faults - 1)
        yield f"enforcerd: waits no longer for the storage to {command.what}", late


def started(world: World, n: int) -> World:
    """The daemon begins, and knows nothing."""
    return world.having(n, _published(world.nodes[n]._replace(daemon=True)))


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
    return node._replace(entry=entry, shared=entry is Entry.LIVE and node.mode is Mode.CW)


def _held(node: Node) -> bool:
    return node.life.phase not in (Phase.FREE, Phase.ACQUIRING)


def _idle(node: Node, scenario: Scenario) -> bool:
    """What the kernel's counts and the permits say."""
    counted = node.use == 2 or (node.use == 3 and "release-at-fentry" not in scenario.breaks)
    return not counted and not node.permit


# ---- asking


def _ask(world: World, n: int, scenario: Scenario) -> Iterator[Next]:
    for claim in scenario.wants[n]:
        what = f" for {claim.mode}" if len(scenario.wants[n]) > 1 else ""
        node = world.nodes[n]
        after, actions = _step(node, Asked(stop_ns(node.t0) > 0))
        if Action.PERMIT in actions and covers(node.mode, claim.mode):
            permitted = after._replace(use=1, using=claim.mode, permit=True)
            yield f"enforcerd: asks nobody{what}, it is live here", world.having(n, permitted)
        else:
            yield from _ask_store(world, n, after, scenario, claim.mode, what)


def _ask_store(world: World, n: int, after: Node, scenario: Scenario, mode: Mode, what: str) -> Iterator[Next]:
    node, store, resource = world.nodes[n], world.store, scenario.resource(n)
    session = store.sessions[n]
    if len(world.flying) >= AT_ONCE or session is None or not node.session:
        return  # too much under way, or denied: no session
    if (session.boot, session.created) != (node.boot, node.session) or (n, node.boot) in store.fenced:
        return  # denied: no live session
    after = noted(after, world, n)
    ruling = ruled(world, n, after, scenario, mode)
    if ruling.blocking:
        denied = world.having(n, _step(after, NotGranted())[0])
        if denied != world:
            yield f"enforcerd: asks the store{what}, which denies", denied
        return
    token = ruling.permit({resource: node.sure})
    after = after._replace(doing="put", asked=mode, answer=None)
    if token is not None:
        answer = Answer(token, ruling.fresh({resource: node.told}), ruling.wanted[resource])
        known = _answered(world.having(n, after._replace(answer=answer)), n, scenario)
        yield f"enforcerd: asks the store{what}, which knows it as ours", known
        return
    yield (
        f"enforcerd: asks the store{what}, and sends its write",
        sent(world.having(n, after), request(world, n, ruling, node.told, scenario)),
    )


def _meanwhile(world: World, n: int, scenario: Scenario) -> Iterator[Next]:
    """While it asks for more than it has, what it has permits others."""
    node = world.nodes[n]
    if Action.PERMIT not in _step(node, Asked(stop_ns(node.t0) > 0))[1]:
        return
    for claim in scenario.wants[n]:
        if covers(node.mode, claim.mode):
            permitted = node._replace(use=1, using=claim.mode, permit=True)
            yield f"enforcerd: asks nobody for {claim.mode}, it is live here", world.having(n, permitted)


def _answered(world: World, n: int, scenario: Scenario) -> World:
    node = world.nodes[n]
    assert node.answer is not None
    kind, (token, fresh, mode), asked = node.doing, node.answer, node.asked
    node = node._replace(doing="", answer=None)
    if token < 0:  # something had changed: the product reads once more, here as an ask or a release of its own
        return world.having(n, _step(node, NotGranted())[0])
    if kind == "delete":
        return world.having(n, _step(node, Released())[0])
    shared = node.mode is Mode.CW and asked is Mode.EX and _held(node)
    late = shared and not _idle(node, scenario)
    alone = shared and not late
    idle = _idle(node, scenario) or alone
    life, actions = _step_of(node.life, Granted(token, fresh or alone, idle, scenario.reserving))
    stale = Action.FRESHEN in actions
    known = mode_known(node.mode, mode, fresh=stale) if _held(node) else mode
    node = node._replace(life=life, mode=known)
    node = node if stale else _published(node)
    if Action.REFUSE in actions:
        return world.having(n, node)
    node = node._replace(sure=token, told=token)
    if late:
        return world.having(n, _published(node))
    if stop_ns(node.t0) <= 0:
        return world.having(n, node)  # denied: the kernel knows no deadline; what is stale stays so
    node = node._replace(using=asked if node.use == 0 else node.using, permit=True)
    if scenario.reserving and node.late is not None:
        return _denied(world.having(n, node), n)
    if scenario.reserving:
        return world.having(n, node._replace(doing=reserve.STEPS[0]))
    return _permitted(world.having(n, node), n, scenario)


def _permitted(world: World, n: int, scenario: Scenario) -> World:
    """Nothing that it has in memory is older than the grant; then the table and the permit. Raises Violation."""
    token = world.nodes[n].life.token
    if token < world.disk.highest:
        raise Violation(f"{NAMES[n]} is permitted under a lower token than was used already")
    if world.disk.highest:
        world = world._replace(disk=world.disk._replace(highest=token))
    if scenario.reserving:
        world = granted(world, n, world.nodes[n].boot, Mode.EX)
    node = world.nodes[n]._replace(doing="")
    if node.life.stale:
        others = any(g.node != n and g.mode is Mode.CW for g in world.disk.granted)
        node = _step(node._replace(old=others), Freshened())[0]
    return world.having(n, _published(node._replace(use=max(node.use, 1), permit=node.use < 2)))


def _denied(world: World, n: int) -> World:
    return world.having(n, world.nodes[n]._replace(doing="", permit=False))


# ---- giving back


def _look(world: World, n: int, scenario: Scenario) -> Iterator[Next]:
    node = world.nodes[n]._replace(doing="")
    after, actions = _step(node, Looked(_idle(node, scenario)))
    if Action.RELEASE not in actions:
        yield "enforcerd: finds a use, and keeps it", world.having(n, after)
        return
    if scenario.reserving:
        yield "enforcerd: finds no use", world.having(n, after._replace(doing="give up"))
        return
    yield from _release(world.having(n, after), n, scenario, "enforcerd: finds no use")


def _release(world: World, n: int, scenario: Scenario, label: str) -> Iterator[Next]:
    node, record, wanted = world.nodes[n]._replace(doing="", sure=0), world.store.records[n], scenario.resource(n)
    node = node._replace(told=0 if node.told == node.life.token else node.told)
    ours = (
        {wanted: Lease(wanted, record.mode, holder(n, node.boot), record.token, "")}
        if record is not None and record.boot == node.boot
        else {}
    )
    if record is None or not under_token(ours, [wanted], node.life.token):
        yield f"{label}, and the store knows no such lease", world.having(n, _step(node, Released())[0])
    elif len(world.flying) < AT_ONCE:
        waiting = world.having(n, node._replace(doing="delete", answer=None))
        yield f"{label}, and sends the release", sent(waiting, Message("delete", n, node.boot, record.revision))


# ---- what is true is looked for again


def _reconcile(world: World, n: int, scenario: Scenario) -> Iterator[Next]:
    node, store = world.nodes[n], world.store
    session, record = store.sessions[n], store.records[n]
    able = session is not None and session.created == node.session and (n, node.boot) not in store.fenced
    if not node.adopted:
        if able:
            yield "enforcerd: takes up what it held before", _adopted(world, n, scenario)
        return
    mine = record if record is not None and record.boot == node.boot else None
    if (mine.token if mine else 0) != node.life.token:
        after = noted(node, world, n)
        if mine is not None:
            after = after._replace(mode=mode_known(node.mode, mine.mode, fresh=False) if _held(node) else mine.mode)
        after = _step(after, Stored(mine.token if mine else None))[0]
    else:
        after = _published(node)
    if after != node:
        yield "enforcerd: reads what the store has", world.having(n, after)


def _adopted(world: World, n: int, scenario: Scenario) -> World:
    node, store = world.nodes[n], world.store
    record, records = store.records[n], list(store.records)
    idle = node.use in (0, 1) or not (node.use == 2 or "release-at-fentry" not in scenario.breaks)
    after = node._replace(adopted=True)
    if record is not None and record.boot != node.boot:
        records[n] = None  # that kernel is gone
    elif record is not None:
        revision = store.revision + 1
        records[n] = record._replace(revision=revision)
        store = store._replace(revision=revision, written=revision)
        after = _step(after._replace(sure=record.token, mode=record.mode), Adopted(record.token, idle))[0]
    store = store._replace(records=tuple(records))
    return world._replace(store=store).having(n, _published(after))
