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
from tools.model.state import Key, Scenario, World, holder

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
            keys = tuple(node.mine if i == n else key for i, key in enumerate(disk.keys))
            after = node._replace(doing="read again")
            return "registers its key", world.having(n, after)._replace(disk=disk._replace(keys=keys)), None
        case "read again":
            after = node._replace(doing="ask the store", there=there)
            return "reads again whose the reservation is", world.having(n, after), None
        case "ask the store":
            return _asked(world, n, lease, scenario)
    if node.mine == disk.keys[n]:
        if node.doing == "reserve" and disk.holder is None:
            disk = disk._replace(holder=n)
        elif node.doing == "preempt" and node.there in disk.keys:
            keys = tuple(key if key != node.there or i == n else None for i, key in enumerate(disk.keys))
            disk = disk._replace(keys=keys, holder=n if disk.reserved() == node.there else disk.holder)
    after = node._replace(doing=STEPS[0], mine=None, there=None)
    return f"tells the storage to {node.doing}", world.having(n, after)._replace(disk=disk), None


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
    """After the last use: nothing happens if the key has another name, as one has that is kept."""
    disk = world.disk
    if disk.keys[n] != Key(n, world.nodes[n].life.token, False):
        return world
    keys = tuple(None if i == n else key for i, key in enumerate(disk.keys))
    return world._replace(disk=disk._replace(keys=keys, holder=None if disk.holder == n else disk.holder))


@cache
def _lease(n: int, boot: int, token: int, resource: ResourceId) -> Lease:
    return Lease(resource, Mode.EX, holder(n, boot), token, "", Guarantee.RESERVATION)


@cache
def _number(key: Key | None, resource: ResourceId) -> int | None:
    return None if key is None else key_of(_lease(key.node, 0, key.token, resource), kept=key.kept)
