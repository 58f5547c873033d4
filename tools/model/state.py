# SPDX-License-Identifier: GPL-2.0-or-later
"""What the model's world is at one moment: small, hashable, and without absolute times.

Time is counted in ticks of one second. A node's times are ages by its own clock (which stands still while it is
paused), the store's are what is left. Revisions are renumbered by :func:`canonical` and boots are counted, so two
histories that led to the same situation are one state.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from enforcer.kernel.abi import State as Entry
from enforcer.model.deadlines import Deadlines
from enforcer.model.lease import Guarantee
from enforcer.model.lifecycle import Phase, State, phase_at
from enforcer.model.resource import ResourceId

NAMES = ("node-1", "node-2")
TICK_NS = 1_000_000_000
FIGURES = Deadlines(ttl_s=3.0, renew_s=0.6)
TTL = 3  # ticks
OVER = TTL  # an age at which every deadline has passed, and at which it is not counted on
WAITED = -(-FIGURES.taker_waits_ns() // TICK_NS)  # ticks after which an absence is not counted on


class Message(NamedTuple):
    """A request to the store that is still under way, perhaps for ever. ``revision``: what its compare names."""

    kind: str  # put or delete
    node: int
    boot: int
    revision: int
    session: int = 0
    taken: tuple[int, ...] = ()  # whose records go
    silenced: tuple[int, ...] = ()  # whose sessions must be gone, and whose boots get a fencing fact
    fresh: bool = False


class Record(NamedTuple):
    """A lease in the store, of one node on the one LUN."""

    boot: int
    token: int
    revision: int


class Session(NamedTuple):
    boot: int
    left: int  # ticks
    created: int  # revision


class Store(NamedTuple):
    revision: int = 1
    written: int = 0  # the last put below the LUN
    sessions: tuple[Session | None, ...] = (None, None)
    records: tuple[Record | None, ...] = (None, None)
    fenced: frozenset[tuple[int, int]] = frozenset()  # (node, boot)
    granted: tuple[int, int] | None = None  # the disk's memory: to whom the highest token went


class Node(NamedTuple):
    """One machine. ``use``: 0 none, 1 permitted, 2 open, 3 its last close is flushing."""

    on: bool = True
    paused: bool = False
    boot: int = 1
    entry: Entry = Entry.FREE  # the guard's table
    t0: int = OVER  # ticks since the renewal that the kernel's deadline counts from
    use: int = 0
    old: bool = False  # cached blocks are older than another node's grant
    keeper: int = 1  # 0 dead, 1 without a session, 2 with one
    session: int = 0  # what the keeper told the daemon: create revision
    renewal: tuple[int, int] | None = None  # (ticks since it was sent, create revision in the answer or 0: lost)
    daemon: bool = True
    adopted: bool = True
    life: State = State()
    sure: int = 0
    told: int = 0
    permit: bool = False
    doing: str = ""  # close, look: about to; put, delete: what the daemon waits for
    answer: tuple[int, bool] | None = None  # (token, fresh) of a grant; (0, _) for a deletion; token -1: once more
    absent: tuple[tuple[int, int], ...] = ()  # (boot of the other node, ticks since its session was seen gone)


class World(NamedTuple):
    store: Store
    nodes: tuple[Node, Node]
    flying: tuple[Message, ...] = ()
    faults: int = 0  # that may still happen


@dataclass(frozen=True, slots=True)
class Scenario:
    """Where a search begins. ``steady``: nodes of which nothing fails and whose renewals are answered every second;
    ``breaks``: assumptions that do not hold in it.
    """

    name: str
    start: World
    guarantee: Guarantee
    wants: tuple[ResourceId, ResourceId]
    steady: frozenset[int] = frozenset()
    breaks: frozenset[str] = frozenset()


def phase(world: World, n: int, guarantee: Guarantee) -> Phase | None:
    """Where the node's lease stands, as the product tells it; None for a node that is off."""
    node = world.nodes[n]
    if not node.on:
        return None
    times = {"expiring_ns": FIGURES.expiring_ns(-node.t0 * TICK_NS), "stop_ns": FIGURES.stop_ns(-node.t0 * TICK_NS)}
    return phase_at(node.life, 0, **times, in_use=node.use > 1, guarantee=guarantee)


def canonical(world: World) -> World:
    """The same situation with the smallest revisions."""
    store, nodes = world.store, world.nodes
    used = {0, -1, store.revision, store.written}
    for session, record in zip(store.sessions, store.records, strict=True):
        if session is not None:
            used.add(session.created)
        if record is not None:
            used.update((record.token, record.revision))
    for node in nodes:
        used.update((node.session, node.life.token, node.life.highest, node.sure, node.told))
        if node.answer is not None:
            used.add(node.answer[0])
        if node.renewal is not None:
            used.add(node.renewal[1])
    for message in world.flying:
        used.update((message.revision, message.session))
    order = sorted(used)
    if order[-1] == len(order) - 2:
        return world
    rank = {revision: place - 1 for place, revision in enumerate(order)}
    sessions = tuple(s and s._replace(created=rank[s.created]) for s in store.sessions)
    records = tuple(r and r._replace(token=rank[r.token], revision=rank[r.revision]) for r in store.records)
    first, second = (_ranked(node, rank) for node in nodes)
    flying = tuple(sorted(m._replace(revision=rank[m.revision], session=rank[m.session]) for m in world.flying))
    store = store._replace(
        revision=rank[store.revision], written=rank[store.written], sessions=sessions, records=records
    )
    return world._replace(store=store, nodes=(first, second), flying=flying)


def _ranked(node: Node, rank: dict[int, int]) -> Node:
    life = node.life
    return node._replace(
        session=rank[node.session],
        sure=rank[node.sure],
        told=rank[node.told],
        life=State(life.phase, rank[life.token], rank[life.highest], life.stale, life.doubt),
        answer=node.answer and (rank[node.answer[0]], node.answer[1]),
        renewal=node.renewal and (node.renewal[0], rank[node.renewal[1]]),
    )


def free(faults: int) -> World:
    """Two nodes at work, nothing held."""
    both = (Session(1, TTL, 1), Session(1, TTL, 2))
    one, two = (Node(t0=0, keeper=2, session=session.created) for session in both)
    return canonical(World(Store(revision=2, sessions=both), (one, two), (), faults))


def held(faults: int) -> World:
    """The first node has a mount."""
    world = free(faults)
    life = State(Phase.LIVE, 3, 3)
    one = world.nodes[0]._replace(entry=Entry.LIVE, use=2, life=life, sure=3, told=3)
    two = world.nodes[1]._replace(old=True)
    store = world.store._replace(revision=3, written=3, records=(Record(1, 3, 3), None), granted=(0, 1))
    return canonical(world._replace(store=store, nodes=(one, two)))
