# SPDX-License-Identifier: GPL-2.0-or-later
"""How a node makes itself the holder of the storage's reservation, one command after the other: ``_round()`` of
``workflow/reserving.py``, in whose every gap the other node may do something, or this one be paused.

Which key and which command say ``key_for()`` and ``move()`` of ``storage/reservations.py``. The storage is as SPC-4 has
it for Write Exclusive: it takes the writes of the holder alone, and the holder changes by PREEMPT, which names its key.
"""

from __future__ import annotations

from functools import cache

from enforcer.model.lease import Guarantee, Lease
from enforcer.model.resource import Mode, ResourceId
from enforcer.storage.reservations import Move, is_kept, key_for, key_of, move
from tools.model.state import Command, Disk, Key, Scenario, World, holder

STEPS = ("read the holder", "register", "read again", "ask the store", "reserve", "preempt")


def following(world: World, n: int, scenario: Scenario) -> tuple[str, World, bool | None]:
    """(what happens, world after it, True if this node is the holder now, False if it must not be, else None)."""
    node, disk = world.nodes[n], world.disk
    lease, there = _lease(n, node.boot, node.life.token, scenario.resource(n)), disk.reserved()
    match node.doing:
        case "read the holder":
            kept = is_kept(key_for(lease, _number(there, scenario.resource(n))))
            after = node._replace(doing="register", mine=Key(n, node.life.token, kept))
            return "reads whose the reservation is", world.having(n, after), None
        case "register":
            assert node.mine is not None
            disk = _done(disk, n, Command("register", node.mine))
            return "registers its key", world.having(n, node._replace(doing="read again"))._replace(disk=disk), None
        case "read again":
            after = node._replace(doing="ask the store", there=there)
            return "reads again whose the reservation is", world.having(n, after), None
        case "ask the store":
            return _asked(world, n, lease, scenario)
    after = node._replace(doing=STEPS[0], mine=None, there=None)
    assert node.mine is not None
    disk = _done(disk, n, Command(node.doing, node.mine, node.there))
    return f"tells the storage to {node.doing}", world.having(n, after)._replace(disk=disk), None


def _done(disk: Disk, n: int, command: Command) -> Disk:
    what, mine, victim = command
    if what == "register":
        return disk._replace(keys=tuple(mine if i == n else key for i, key in enumerate(disk.keys)))
    if disk.keys[n] != mine:
        return disk
    if what == "reserve" and disk.holder is None:
        return disk._replace(holder=n)
    if what == "preempt" and victim in disk.keys:
        keys = tuple(key if key != victim or i == n else None for i, key in enumerate(disk.keys))
        return disk._replace(keys=keys, holder=n if disk.reserved() == victim else disk.holder)
    if what == "unregister":
        keys = tuple(None if i == n else key for i, key in enumerate(disk.keys))
        return disk._replace(keys=keys, holder=None if disk.holder == n else disk.holder)
    return disk


def under_way(world: World, n: int) -> Command | None:
    """The command that changes something at the storage and that this node waits for."""
    node, key = world.nodes[n], world.disk.keys[n]
    if node.doing == "give up":
        return Command("unregister", key) if key is not None and not key.kept else None
    if node.doing in ("register", "reserve", "preempt") and node.mine is not None:
        return Command(node.doing, node.mine, node.there)
    return None


def carried_out(world: World, n: int) -> World:
    """What the node waits for no longer."""
    node = world.nodes[n]
    disk = world.disk if node.late is None else _done(world.disk, n, node.late)
    return world.having(n, node._replace(late=None))._replace(disk=disk)


def _asked(world: World, n: int, lease: Lease, scenario: Scenario) -> tuple[str, World, bool | None]:
    node, record, resource = world.nodes[n], world.store.records[n], scenario.resource(n)
    ours = record is not None and (record.boot, record.token) == (node.boot, node.life.token)
    mine, there = _number(node.mine, resource), _number(node.there, resource)
    assert mine is not None
    chosen = move(lease, mine, there, ours=ours, in_use=node.use > 1)
    label = "looks into the store once more"
    if isinstance(chosen, str):
        return f"{label}, and denies", world, False
    if chosen is Move.NOTHING:
        return f"{label}, and has the reservation", world, True
    doing = {Move.RESERVE: "reserve", Move.PREEMPT: "preempt"}.get(chosen, STEPS[0])
    return label, world.having(n, node._replace(doing=doing)), None


def given_up(world: World, n: int) -> World:
    """After the last use: nothing happens if what is registered is kept."""
    command = under_way(world, n)
    return world if command is None else world._replace(disk=_done(world.disk, n, command))


@cache
def _lease(n: int, boot: int, token: int, resource: ResourceId) -> Lease:
    return Lease(resource, Mode.EX, holder(n, boot), token, "", Guarantee.RESERVATION)


@cache
def _number(key: Key | None, resource: ResourceId) -> int | None:
    return None if key is None else key_of(_lease(key.node, 0, key.token, resource), kept=key.kept)
