# SPDX-License-Identifier: GPL-2.0-or-later
"""What can happen next in the model's world, and what must never have happened.

Nothing is decided here that the product decides. What lies around its functions is in four modules: machines.py,
store.py, enforcerd.py, reserve.py. :data:`BREAKS` are the assumptions about it, each of which can be taken away.
"""

from __future__ import annotations

from collections.abc import Iterator

from enforcer.model.lifecycle import Phase
from enforcer.workflow.sharing import covers
from tools.model.enforcerd import daemon, started
from tools.model.machines import Next, caller, faults, keeper, takes, tick
from tools.model.reserve import carried_out
from tools.model.state import NAMES, Grant, Node, Record, Scenario, Violation, World
from tools.model.store import arrived, told

BREAKS = {
    "guard-not-attached": "every open passes, whoever asked",
    "release-at-fentry": "a use ends for the kernel's counts when its last close begins, not when it has flushed",
    "stale-token": "the store deletes for a release whatever token it names",
    "hypervisor-pauses": "machines whose lease promises a cut may be paused, and their clocks with them",
    "session-ended-early": "the store may end a session before its time, while its lease promises a cut",
    "cut-fails": "what has the device open goes on to write after the deadline",
    "reservation-unchecked": "the storage takes writes of whoever sends them, whoever has the reservation",
}


def successors(world: World, scenario: Scenario) -> Iterator[Next]:
    """(what happened, world after it) for each event that is possible. Raises Violation for one that must not be."""
    yield "one second passes", tick(world, scenario)
    for place, message in enumerate(world.flying):
        rest = world.flying[:place] + world.flying[place + 1 :]
        yield f"store: {told(message)}", arrived(world._replace(flying=rest), message, scenario)
        if world.faults:
            again = arrived(world._replace(faults=world.faults - 1), message, scenario)
            yield f"store: {told(message)}; a copy is still under way", again
    for n, node in enumerate(world.nodes):
        if node.on and not node.paused:
            for label, after in _steps(world, n, scenario):
                yield f"{NAMES[n]}: {label}", after
        if node.late is not None:
            yield f"storage: carries out what {NAMES[n]} has given up: {node.late.what}", carried_out(world, n)
        for label, after in faults(world, n, scenario):
            yield f"{NAMES[n]}: {label}", after


def _steps(world: World, n: int, scenario: Scenario) -> Iterator[Next]:
    if n not in scenario.steady:
        yield from keeper(world, n)
    yield from daemon(world, n, scenario)
    yield from caller(world, n, scenario)


def check(world: World, scenario: Scenario) -> None:
    """Raises Violation if a disk was written that another node was granted, or a use outlived its lease."""
    for n, node in enumerate(world.nodes):
        if not node.on or node.use < 2 or not takes(world, n, scenario):
            continue
        if scenario.reserving and world.disk.holder is None:
            raise Violation(f"{NAMES[n]} uses the device, and nobody has reserved it")
        mine = [g for g in world.disk.granted if (g.node, g.boot) == (n, node.boot)]
        if not mine and not node.paused:
            raise Violation(f"{NAMES[n]} writes after a higher token went to {_whose(world.disk.granted)}")
        record = world.store.records[n]
        # where the storage parts them, a use may outlast its record: it ends for the disk when the successor's begins
        if not scenario.reserving and (record is None or record.boot != node.boot):
            raise Violation(f"{NAMES[n]} uses the device, and the store has no lease of it")
    if not scenario.reserving:
        for n, record in enumerate(world.store.records):
            if record is not None and world.nodes[n].on and world.nodes[n].use > 1:
                _check_modes(world, n, record)


def _check_modes(world: World, n: int, record: Record) -> None:
    node = world.nodes[n]
    if not covers(record.mode, node.using):
        raise Violation(f"{NAMES[n]} uses the device in {node.using}, and its lease is {record.mode}")
    other = world.nodes[1 - n]
    if other.on and other.use > 1 and not record.mode.compatible(other.using):
        raise Violation(f"{NAMES[n]} has the device in {record.mode}, and {NAMES[1 - n]} has it open in {other.using}")


def _whose(granted: frozenset[Grant]) -> str:
    names = [NAMES[g.node] + (", booted anew" if g.boot > 1 else "") for g in sorted(granted)]
    return " and ".join(names) or "nobody"


def settled(world: World) -> bool:
    """True if nobody waits for anything."""
    return not any(n.on and _waits(n) for n in world.nodes)


def _waits(node: Node) -> bool:
    if node.paused or node.doing or node.renewal or node.use in (1, 3):
        return True
    # what was taken over is over when its use is, which may take for ever: the storage refuses what it writes
    return node.life.phase in (Phase.ACQUIRING, Phase.CLOSING) or (
        node.life.phase is Phase.TAKEN_OVER and node.use == 0
    )


def calm(world: World, scenario: Scenario) -> Next | None:
    """What happens next if nothing goes wrong any more: every message arrives, everybody goes on. None if settled."""
    if world.flying:
        message, *rest = world.flying
        return f"store: {told(message)}", arrived(world._replace(flying=tuple(rest)), message, scenario)
    for n, node in enumerate(world.nodes):
        if not node.on:
            continue
        if node.late is not None:
            return f"storage: carries out what {NAMES[n]} has given up", carried_out(world, n)
        if node.paused:
            return f"{NAMES[n]}: goes on", world.having(n, node._replace(paused=False))
        if not node.daemon:
            return f"{NAMES[n]}: enforcerd starts", started(world, n)
        options = list(_steps(world, n, scenario))
        for prefix in ("keeper: the answer", "enforcerd: ", "a permitted open", "its last close ends"):
            for label, after in options:
                if label.startswith(prefix) and after != world and not _again(node, label):
                    return f"{NAMES[n]}: {label}", after
    return None


def _again(node: Node, label: str) -> bool:
    """An unanswered wait is given up only if there is no answer, and what is free stays free in a calm world."""
    if label.startswith("enforcerd: waits no longer"):
        return node.answer is not None
    return label.startswith(("enforcerd: asks", "enforcerd: reads what")) or (
        label.startswith("enforcerd: finds that") and node.life.live
    )
