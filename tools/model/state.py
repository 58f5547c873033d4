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
from enforcer.model.lease import SELF_FENCING, Claim, Guarantee, Holder
from enforcer.model.lifecycle import Phase, State, phase_at
from enforcer.model.resource import Mode, ResourceId

NAMES = ("node-1", "node-2")
TICK_NS = 1_000_000_000
FIGURES = Deadlines(ttl_s=3.0, renew_s=0.6)
TTL = 3  # ticks
OVER = TTL  # an age at which every deadline has passed, and at which it is not counted on
WAITED = -(-FIGURES.taker_waits_ns() // TICK_NS)  # ticks after which an absence is not counted on


AHEAD = 1000  # a token that the store will not reach


class Violation(Exception):
    """Something that must never happen; the argument says what."""


class Message(NamedTuple):
    """A request to the store that is still under way, perhaps for ever. ``revision``: what its compare names."""

    kind: str  # put or delete
    node: int
    boot: int
    revision: int
    session: int = 0
    mode: Mode = Mode.EX
    taken: tuple[int, ...] = ()  # whose records go
    absent: tuple[int, ...] = ()  # whose sessions must be gone
    silenced: tuple[int, ...] = ()  # whose boots get a fencing fact
    fresh: bool = False


class Record(NamedTuple):
    """A lease in the store, of one node on the one LUN."""

    boot: int
    token: int
    revision: int
    mode: Mode = Mode.EX


class Session(NamedTuple):
    boot: int
    left: int  # ticks
    created: int  # revision


class Grant(NamedTuple):
    node: int
    boot: int
    mode: Mode = Mode.EX


class Store(NamedTuple):
    revision: int = 1
    written: int = 0  # the last put below the LUN
    sessions: tuple[Session | None, ...] = (None, None)
    records: tuple[Record | None, ...] = (None, None)
    fenced: frozenset[tuple[int, int]] = frozenset()  # (node, boot)


class Key(NamedTuple):
    """Under which a node is registered at the storage: ``storage/reservations.py`` makes a number of it."""

    node: int
    token: int
    kept: bool


class Command(NamedTuple):
    """To the storage, of a node: register, reserve, preempt (``victim``), unregister."""

    what: str
    mine: Key
    victim: Key | None = None


class Disk(NamedTuple):
    """The storage. ``granted`` is its memory of who may write: to whom the highest token went, and who shares it."""

    granted: frozenset[Grant] = frozenset()
    keys: tuple[Key | None, ...] = (None, None)
    holder: int | None = None  # of the Write Exclusive reservation
    highest: int = 0  # token under which it was used; 0: the store's own order is enough

    def reserved(self) -> Key | None:
        """The key of the reservation in force."""
        return None if self.holder is None else self.keys[self.holder]


class Answer(NamedTuple):
    """Of the store: a token, 0 for a deletion, -1 if something has changed and it has to be read once more."""

    token: int
    fresh: bool = False
    mode: Mode = Mode.EX


class Node(NamedTuple):
    """One machine. ``use``: 0 none, 1 permitted, 2 open, 3 its last close is flushing."""

    on: bool = True
    paused: bool = False
    boot: int = 1
    entry: Entry = Entry.FREE  # the guard's table
    shared: bool = False  # and its flag: the lease covers a cluster filesystem alone
    t0: int = OVER  # ticks since the renewal that the kernel's deadline counts from
    use: int = 0
    using: Mode = Mode.EX  # what that use is
    old: bool = False  # cached blocks are older than what another node could write
    keeper: int = 1  # 0 dead, 1 without a session, 2 with one
    session: int = 0  # what the keeper told the daemon: create revision
    renewal: tuple[int, int] | None = None  # (ticks since it was sent, create revision in the answer or 0: lost)
    daemon: bool = True
    adopted: bool = True
    life: State = State()
    mode: Mode = Mode.EX  # of the lease that it holds
    sure: int = 0
    told: int = 0
    permit: bool = False
    doing: str = ""  # see tools/model/enforcerd.py; put, delete: waits for the store
    asked: Mode = Mode.EX  # what for
    answer: Answer | None = None
    mine: Key | None = None  # while it reserves: its own key, and the key that it found last
    there: Key | None = None
    late: Command | None = None  # which the storage has not carried out, and nobody waits for
    absent: tuple[tuple[int, int], ...] = ()  # (boot of the other node, ticks since its session was seen gone)


class World(NamedTuple):
    store: Store
    nodes: tuple[Node, Node]
    flying: tuple[Message, ...] = ()
    faults: int = 0  # that may still happen
    disk: Disk = Disk()

    def having(self, n: int, node: Node) -> World:
        """The same world with another node ``n``."""
        return self._replace(nodes=(node, self.nodes[1]) if n == 0 else (self.nodes[0], node))

    def session(self, n: int, session: Session | None) -> World:
        """The same world with another session of node ``n``."""
        sessions = (session, self.store.sessions[1]) if n == 0 else (self.store.sessions[0], session)
        return self._replace(store=self.store._replace(sessions=sessions))


@dataclass(frozen=True, slots=True, eq=False)
class Scenario:
    """Where a search begins. ``wants``: what each node asks for, each on one resource, in one mode or in several;
    ``steady``: nodes of which nothing fails and whose renewals are answered every second; ``breaks``: assumptions that
    do not hold in it.
    """

    name: str
    start: World
    guarantee: Guarantee
    wants: tuple[tuple[Claim, ...], tuple[Claim, ...]]
    steady: frozenset[int] = frozenset()
    breaks: frozenset[str] = frozenset()

    def resource(self, n: int) -> ResourceId:
        """What the node's lease is of."""
        return self.wants[n][0].resource

    @property
    def self_fencing(self) -> bool:
        """True if leases promise that their holder silences itself."""
        return self.guarantee in SELF_FENCING

    @property
    def reserving(self) -> bool:
        """True if their holder reserves the LUN at the storage before it is used."""
        return self.guarantee is Guarantee.RESERVATION


def holder(n: int, boot: int) -> Holder:
    """As the product names it."""
    return Holder(NAMES[n], f"boot-{boot}", "session")


def phase(world: World, n: int, guarantee: Guarantee) -> Phase | None:
    """Where the node's lease stands, as the product tells it; None for a node that is off."""
    node = world.nodes[n]
    if not node.on:
        return None
    times = {"expiring_ns": FIGURES.expiring_ns(-node.t0 * TICK_NS), "stop_ns": FIGURES.stop_ns(-node.t0 * TICK_NS)}
    return phase_at(node.life, 0, **times, in_use=node.use > 1, guarantee=guarantee)


def canonical(world: World) -> World:
    """The same situation with the smallest revisions, and nothing in what nobody looks at."""
    one, two = (_tidy(node) for node in world.nodes)
    if one is not world.nodes[0] or two is not world.nodes[1]:
        world = world._replace(nodes=(one, two))
    store, nodes = world.store, (one, two)
    used = {0, -1, store.revision, store.written}
    for session, record in zip(store.sessions, store.records, strict=True):
        if session is not None:
            used.add(session.created)
        if record is not None:
            used.update((record.token, record.revision))
    for node in nodes:
        used.update((node.session, node.life.token, node.life.highest, node.sure, node.told))
        if node.answer is not None:
            used.add(node.answer.token)
        if node.renewal is not None:
            used.add(node.renewal[1])
        keys = (node.mine, node.there, *(node.late[1:] if node.late else ()))
        used.update(key.token for key in keys if isinstance(key, Key))
    for message in world.flying:
        used.update((message.revision, message.session))
    used.update(key.token for key in world.disk.keys if key is not None)
    used.add(world.disk.highest)
    used.discard(AHEAD)
    order = sorted(used)
    if order[-1] == len(order) - 2:
        return world
    rank = {revision: place - 1 for place, revision in enumerate(order)} | {AHEAD: AHEAD}
    sessions = tuple(s and s._replace(created=rank[s.created]) for s in store.sessions)
    records = tuple(r and r._replace(token=rank[r.token], revision=rank[r.revision]) for r in store.records)
    first, second = (_ranked(node, rank) for node in nodes)
    flying = tuple(sorted(m._replace(revision=rank[m.revision], session=rank[m.session]) for m in world.flying))
    store = store._replace(
        revision=rank[store.revision], written=rank[store.written], sessions=sessions, records=records
    )
    keys, highest = tuple(_rekeyed(key, rank) for key in world.disk.keys), rank[world.disk.highest]
    disk = world.disk._replace(keys=keys, highest=highest)
    return world._replace(store=store, nodes=(first, second), flying=flying, disk=disk)


def _tidy(node: Node) -> Node:
    if node.use == 0 and node.using is not Mode.EX:
        node = node._replace(using=Mode.EX)
    if node.mode is not Mode.EX and node.life.phase in (Phase.FREE, Phase.ACQUIRING):
        node = node._replace(mode=Mode.EX)
    if not node.doing and (node.asked is not Mode.EX or node.mine or node.there):
        node = node._replace(asked=Mode.EX, mine=None, there=None)
    return node


def _rekeyed(key: Key | None, rank: dict[int, int]) -> Key | None:
    return key and key._replace(token=rank[key.token])


def _reordered(command: Command, rank: dict[int, int]) -> Command:
    mine = command.mine._replace(token=rank[command.mine.token])
    return Command(command.what, mine, _rekeyed(command.victim, rank))


def _ranked(node: Node, rank: dict[int, int]) -> Node:
    life = node.life
    return node._replace(
        session=rank[node.session],
        sure=rank[node.sure],
        told=rank[node.told],
        life=State(life.phase, rank[life.token], rank[life.highest], life.stale, life.doubt),
        answer=node.answer and node.answer._replace(token=rank[node.answer.token]),
        renewal=node.renewal and (node.renewal[0], rank[node.renewal[1]]),
        mine=_rekeyed(node.mine, rank),
        there=_rekeyed(node.there, rank),
        late=node.late and _reordered(node.late, rank),
    )


def free(faults: int) -> World:
    """Two nodes at work, nothing held."""
    both = (Session(1, TTL, 1), Session(1, TTL, 2))
    one, two = (Node(t0=0, keeper=2, session=session.created) for session in both)
    return canonical(World(Store(revision=2, sessions=both), (one, two), (), faults))


def forgotten(faults: int) -> World:
    """The store was restored from a copy: the first node has had higher tokens than it gives."""
    world = free(faults)
    one = world.nodes[0]._replace(life=State(highest=AHEAD))
    return canonical(world.having(0, one)._replace(disk=Disk(highest=AHEAD)))


def held(faults: int, mode: Mode = Mode.EX) -> World:
    """The first node has a mount."""
    return _mounted(free(faults), 0, mode, 3)


def unmounted(faults: int) -> World:
    """The first node has unmounted a cluster filesystem, and has its lease still; the second one had it, too."""
    world = held(faults, Mode.CW)
    return canonical(world.having(0, world.nodes[0]._replace(use=0)))


def shared(faults: int) -> World:
    """Both nodes have a cluster filesystem mounted."""
    return _mounted(_mounted(free(faults), 0, Mode.CW, 3), 1, Mode.CW, 4)


def reserved(faults: int) -> World:
    """The first node has a mount, and the storage knows it as the holder of the reservation."""
    world = held(faults)
    return world._replace(disk=Disk(world.disk.granted, (Key(0, 3, False), None), 0, 3))


def parting(faults: int) -> World:
    """The first node has unmounted it, and gives the reservation up, and then the lease."""
    world = reserved(faults)
    one = world.nodes[0]._replace(use=0, entry=Entry.CLOSING, life=State(Phase.CLOSING, 3, 3, doubt=True))
    return canonical(world.having(0, one._replace(doing="give up")))


def stalled(faults: int) -> World:
    """That one has been paused for so long that its session is gone, and the second node has waited its time."""
    world = reserved(faults).session(0, None)
    one, two = world.nodes
    return world.having(0, one._replace(paused=True)).having(1, two._replace(absent=((1, WAITED),)))


def outrun(faults: int) -> World:
    """The first node was paused between its grant and its reservation; the second one has taken it over and a mount."""
    world = _mounted(stalled(faults), 1, Mode.EX, 4)
    one, two = world.nodes
    life, key = State(Phase.LIVE, 3, 3, stale=True), Key(0, 3, False)
    one = one._replace(entry=Entry.FREE, use=0, life=life, permit=True, doing="ask the store", mine=key, old=True)
    store = world.store._replace(records=(None, world.store.records[1]))
    disk = Disk(frozenset({Grant(1, 1)}), (key, Key(1, 4, False)), 1, 4)
    return canonical(world._replace(store=store, nodes=(one, two._replace(old=False)), disk=disk))


def _mounted(world: World, n: int, mode: Mode, token: int) -> World:
    node = world.nodes[n]._replace(
        entry=Entry.LIVE,
        shared=mode is Mode.CW,
        use=2,
        using=mode,
        old=mode is Mode.CW,
        life=State(Phase.LIVE, token, token),
        mode=mode,
        sure=token,
        told=token,
    )
    other = world.nodes[1 - n]._replace(old=True)
    records = tuple(Record(1, token, token, mode) if i == n else r for i, r in enumerate(world.store.records))
    store = world.store._replace(revision=token, written=token, records=records)
    disk = world.disk._replace(granted=world.disk.granted | {Grant(n, 1, mode)})
    return canonical(world.having(1 - n, other).having(n, node)._replace(store=store, disk=disk))
