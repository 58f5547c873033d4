# SPDX-License-Identifier: GPL-2.0-or-later
"""What is said to an external lease store and what of its answers is believed (docs/external-protocol.md).

One JSON object per line, each with the number of the schema. The peer may be anybody's program, so nothing that it
says is taken on trust: unknown keys, a wrong type, a token that is no token, a name that is not printable make the
whole answer worthless, never a part of it. Texts for people are escaped here, once, on their way in.

Pure: no I/O, no clock. Every function that reads raises :class:`Nonsense` with a clause that names the field.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from enforcer.model.escape import for_terminal, to_json
from enforcer.model.lease import Guarantee, HeldLease, Holder, Lease, Liveness, NodeRecord
from enforcer.model.resource import Mode, ResourceId

SCHEMA = 1
LINE_BYTES = 1 << 20  # of one message, either way
MOST_TOKEN = (1 << 63) - 1
NAME_CHARS, RESOURCE_CHARS, TEXT_CHARS = 255, 1024, 300
CALLS = ("hello", "authorise", "gone", "refused", "who", "adopt", "forget", "fenced", "publish")
OPTIONAL = ("prepare", "mounted")  # sent only to a peer that named them in its hello

T = TypeVar("T")
Json = Mapping[str, Any]
Turns = Mapping[str, tuple[str, int]]  # LUN -> node and token of the last grant on it


class Nonsense(ValueError):
    """An answer that this schema does not allow."""


@dataclass(frozen=True, slots=True)
class Grant:
    """``granted``: all records of the set, what had to go for it, and the last grants on its LUNs."""

    token: int
    kept: bool  # nothing was written: it was ours already, as wanted
    leases: tuple[HeldLease, ...]
    taken_over: tuple[HeldLease, ...]
    last: Turns


@dataclass(frozen=True, slots=True)
class State:
    """``state``: all that the peer knows, at one moment."""

    leases: tuple[HeldLease, ...]
    nodes: tuple[NodeRecord, ...]
    fenced: Mapping[tuple[str, str], str]  # (node, boot id) -> since, RFC 3339
    last: Turns


def request(number: int, call: str, body: Json) -> bytes:
    """One line. Raises Nonsense if it is longer than a peer has to read."""
    line = to_json({"schema": SCHEMA, "id": number, "call": call, **body}).encode() + b"\n"
    if len(line) > LINE_BYTES:
        raise Nonsense(f"the request is longer than {LINE_BYTES} bytes")
    return line


def holder_body(holder: Holder) -> dict[str, str]:
    """A holder as it stands in a message."""
    return {"node": holder.node, "boot_id": holder.boot_id, "session": holder.session}


def names(resources: Iterable[ResourceId]) -> list[str]:
    """Resources as they stand in a message."""
    return [str(resource) for resource in sorted(resources)]


def parse_line(line: bytes) -> tuple[int, dict[str, Any]]:
    """One answer, as its id and the rest. What is wrong here cannot be laid at any request's door."""
    try:
        value = json.loads(line, object_pairs_hook=_object, parse_constant=_no_constant)
    except Nonsense:
        raise
    except (ValueError, RecursionError) as error:
        raise Nonsense(f"a line that is no JSON ({for_terminal(str(error), 80)})") from None
    if not isinstance(value, dict):
        raise Nonsense("a line that is no JSON object")
    if type(value.get("schema")) is not int or value["schema"] != SCHEMA:
        told = for_terminal(repr(value.get("schema")), 40)
        raise Nonsense(f"schema {told}, and this enforcer speaks {SCHEMA}")
    number = value.get("id")
    if type(number) is not int or number < 1:
        raise Nonsense("an answer without the id of a request")
    del value["schema"], value["id"]
    return number, value


def answer(body: Json) -> str:
    """Which answer it is."""
    return _text(body, "answer", NAME_CHARS)


def read_hello(body: Json) -> tuple[str, frozenset[str]]:
    """The peer's own name and version, and which optional calls it wants."""
    _only(body, "peer", "optional")
    wanted = frozenset(_strings(body, "optional"))
    if not wanted <= set(OPTIONAL):
        raise Nonsense('"optional" names a call that is none')
    return _text(body, "peer", NAME_CHARS), wanted


def read_why(body: Json) -> tuple[str, str]:
    """Reason and remedy of ``unknown`` and ``lost``: one clause for people, and what to type."""
    _only(body, "reason", "remedy")
    return _shown(body, "reason").rstrip("."), _shown(body, "remedy", empty=True)


def read_grant(body: Json) -> Grant:
    _only(body, "token", "kept", "leases", "taken_over", "last")
    if not isinstance(body.get("kept"), bool):
        raise Nonsense('"kept" is not true or false')
    return Grant(_token(body), body["kept"], _leases(body, "leases"), _leases(body, "taken_over"), _turns(body))


def read_leases(body: Json) -> tuple[HeldLease, ...]:
    """Of ``blocked``, ``changed`` and ``leases``."""
    _only(body, "leases")
    return _leases(body, "leases")


def read_released(body: Json) -> frozenset[ResourceId]:
    """Of ``released``: what was held under the token and is not any more."""
    _only(body, "resources")
    return frozenset(_resource(name) for name in _strings(body, "resources"))


def read_state(body: Json) -> State:
    _only(body, "leases", "nodes", "fenced", "last")
    nodes = _each(body, "nodes", _node)
    if len({node.holder.node for node in nodes if node.live}) < sum(node.live for node in nodes):
        raise Nonsense("one node is live twice")
    return State(_leases(body, "leases"), nodes, dict(_each(body, "fenced", _fact)), _turns(body))


def read_done(body: Json) -> None:
    _only(body)


# -- parts ----------------------------------------------------------------------------------------------------


def _object(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise Nonsense("an object with one key twice")
    return found


def _no_constant(name: str) -> Any:
    raise Nonsense(f"{name}, which is no JSON")


def _only(body: Json, *keys: str) -> None:
    if strange := sorted(body.keys() - {"answer", *keys}):
        raise Nonsense(f'the unknown key "{for_terminal(strange[0], 40)}"')


def _text(body: Json, key: str, limit: int) -> str:
    value = body.get(key)
    if not isinstance(value, str) or not 0 < len(value) <= limit or not value.isprintable():
        raise Nonsense(f'"{key}" is not a printable text of 1 to {limit} characters')
    return value


def _shown(body: Json, key: str, *, empty: bool = False) -> str:
    value = body.get(key)
    if not isinstance(value, str) or not (value.strip() or empty):
        raise Nonsense(f'"{key}" is not a text')
    return for_terminal(value.strip(), TEXT_CHARS)


def _token(body: Json) -> int:
    value = body.get("token")
    if type(value) is not int or not 0 < value <= MOST_TOKEN:
        raise Nonsense('"token" is not a number from 1 to 2^63-1')
    return value


def _resource(name: str) -> ResourceId:
    if not 0 < len(name) <= RESOURCE_CHARS or not name.isprintable() or not all(name.split("/")):
        raise Nonsense("a resource without a printable name")
    return ResourceId.parse(name)


def _each(body: Json, key: str, read: Callable[[Json], T]) -> tuple[T, ...]:
    values = body.get(key)
    if not isinstance(values, list) or not all(isinstance(value, dict) for value in values):
        raise Nonsense(f'"{key}" is not a list of objects')
    return tuple(read(value) for value in values)


def _strings(body: Json, key: str) -> list[str]:
    values = body.get(key)
    if not isinstance(values, list) or not all(isinstance(v, str) and v.isprintable() for v in values):
        raise Nonsense(f'"{key}" is not a list of printable texts')
    return values


def _leases(body: Json, key: str) -> tuple[HeldLease, ...]:
    found = _each(body, key, _lease)
    if len({(held.lease.resource, held.lease.holder.node) for held in found}) < len(found):
        raise Nonsense("one node has two records of one resource")
    return tuple(sorted(found, key=lambda held: (held.lease.resource, held.lease.holder.node)))


def _lease(body: Json) -> HeldLease:
    _only(body, "resource", "mode", "holder", "token", "since", "guarantee", "facts", "liveness")
    facts = body.get("facts")
    if not isinstance(facts, dict) or len(facts) > 32 or not all(isinstance(v, str) for v in facts.values()):
        raise Nonsense('"facts" are not at most 32 texts')
    lease = Lease(
        _resource(_text(body, "resource", RESOURCE_CHARS)),
        _word(body, "mode", Mode),
        _holder(body.get("holder")),
        _token(body),
        _text(body, "since", 64),
        _word(body, "guarantee", Guarantee),
        {for_terminal(key, 64): for_terminal(value, TEXT_CHARS) for key, value in facts.items()},
    )
    return HeldLease(lease, _word(body, "liveness", Liveness))


def _word(body: Json, key: str, choices: Callable[[str], T]) -> T:
    try:
        return choices(_text(body, key, NAME_CHARS))
    except Nonsense:
        raise
    except ValueError:
        raise Nonsense(f'"{key}" is none of its words') from None


def _holder(value: object) -> Holder:
    if not isinstance(value, dict):
        raise Nonsense('"holder" is no object')
    _only(value, "node", "boot_id", "session")
    return Holder(*(_text(value, key, NAME_CHARS) for key in ("node", "boot_id", "session")))


def _node(body: Json) -> NodeRecord:
    _only(body, "holder", "policy", "luns", "live")
    policy, live = body.get("policy"), body.get("live")
    if not isinstance(policy, str) or len(policy) > NAME_CHARS or not policy.isprintable():
        raise Nonsense('"policy" is not a printable text')
    if not isinstance(live, bool):
        raise Nonsense('"live" is not true or false')
    return NodeRecord(_holder(body.get("holder")), policy, tuple(sorted(_strings(body, "luns"))), live)


def _fact(body: Json) -> tuple[tuple[str, str], str]:
    _only(body, "node", "boot_id", "since")
    return (_text(body, "node", NAME_CHARS), _text(body, "boot_id", NAME_CHARS)), _text(body, "since", 64)


def _turns(body: Json) -> Turns:
    value = body.get("last")
    if not isinstance(value, dict):
        raise Nonsense('"last" is no object')
    found: dict[str, tuple[str, int]] = {}
    for lun, turn in value.items():
        if not isinstance(turn, dict) or _resource(lun).path:
            raise Nonsense('"last" does not say node and token by LUN')
        _only(turn, "node", "token")
        found[lun] = (_text(turn, "node", NAME_CHARS), _token(turn))
    return found
