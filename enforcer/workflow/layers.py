# SPDX-License-Identifier: GPL-2.0-or-later
"""One device as every layer has it, and where two layers tell different stories: facts in, sentences out, no I/O.

No layer is right by itself. The store knows who asked it, the kernel's table what it was told, /proc what is mounted in
some namespace, the disk who wrote on it last. Whoever looks for the cause of a refusal, or for a double use, needs them
side by side; so each sentence names both layers and what each of them says. Nothing is decided here.

A name on the disk is a host name, one in the store a node's: they are held against each other by what this node knows
of itself and by the fact ``host`` that a lease bears where the two differ. A key of a reservation is told by the token
that it carries, or by the initiator that registered it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from enforcer.cluster.view import Quorum
from enforcer.model.lease import HeldLease, Lease, Liveness
from enforcer.model.resource import ResourceId

HOST = "host"  # the fact of a lease that tells its holder's host name, where that is not the node's
OWNERSHIP = "lvm-system-id"  # says whose it is, not that it is used


@dataclass(frozen=True, slots=True)
class Sign:
    """One mark on the disk. ``moves``: None if it was not watched, or is of a kind that never moves."""

    layer: str
    owner: str | None
    says: str
    moves: bool | None = None


@dataclass(frozen=True, slots=True)
class Key:
    """The SCSI reservation in force. ``key`` is 0 for types that all registrants hold; ``ours``: we may write."""

    key: int
    kind: str
    holders: tuple[str, ...] = ()  # initiators
    ours: bool = False


@dataclass(frozen=True, slots=True)
class Layers:
    """What each layer says of one device of this node. ``None`` stands for a layer that did not answer."""

    name: str
    node: str  # this one
    resources: tuple[ResourceId, ...] = ()
    enforced: bool = True  # guarded, by a rule that refuses
    stored: tuple[HeldLease, ...] | None = ()  # every lease that meets the device's resources
    state: str = "free"  # of the kernel's table
    token: int = 0
    deadline_left_s: float | None = None  # None: leases hang on no session
    uses: int = 0
    found: str = ""  # in /proc and sysfs, one clause: "mounted at /srv"
    signs: tuple[Sign, ...] = ()
    key: Key | None = None
    quorum: Quorum = Quorum.NONE
    runs_on: tuple[str, ...] | None = None  # None: no cluster manager manages it
    own_names: frozenset[str] = field(default_factory=frozenset)  # of this node, in the words of marks

    def ours(self) -> tuple[Lease, ...]:
        return tuple(h.lease for h in self.stored or () if h.lease.holder.node == self.node)

    def others(self) -> tuple[HeldLease, ...]:
        return tuple(h for h in self.stored or () if h.lease.holder.node != self.node)

    def holders(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(h.lease.holder.node for h in self.stored or ()))


def compare(it: Layers) -> tuple[str, ...]:
    """Every disagreement about one device, the worst first."""
    if it.stored is None:
        return ()  # said once for all of them: without the store there is nothing to hold the rest against
    return tuple(f"{it.name}: {said}" for said in (*_use(it), *_kernel(it), *_marks(it), *_key(it), *_view(it)))


def _store_says(it: Layers) -> str:
    if not it.stored:
        return "the store says that nobody holds it"
    told = [f"{h.lease.holder.node} (token {h.lease.token}, {h.liveness})" for h in it.stored]
    return f"the store says that {' and '.join(told)} holds it"


def _use(it: Layers) -> Iterator[str]:
    """A use here without a lease of ours."""
    if not it.enforced or it.ours() or not (it.uses > 0 or it.found):
        return
    use = it.found or f"counted {it.uses} times as in use by the kernel"
    loud = "IN USE ON TWO NODES: " if any(h.liveness is Liveness.LIVE for h in it.others()) else ""
    yield f"{loud}{use} here, and {_store_says(it)}"


def _kernel(it: Layers) -> Iterator[str]:
    tokens = {lease.token for lease in it.ours()}
    if it.state == "live" and not tokens:
        yield f"the kernel's table says live under token {it.token}, and {_store_says(it)}"
    elif it.state == "live" and it.token not in tokens:
        yield f"the kernel's table says token {it.token}, and {_store_says(it)}"
    elif it.state == "elsewhere" and tokens and not it.others():
        yield f"the kernel's table says that it is held elsewhere, and {_store_says(it)}"
    if it.state == "live" and it.deadline_left_s is not None and it.deadline_left_s <= 0:
        yield f"live in the kernel's table, but its deadline passed {-it.deadline_left_s:.0f} s ago: nothing new starts"


def _marks(it: Layers) -> Iterator[str]:
    for sign in it.signs:
        owner = _node(sign.owner, it)
        alive = ", and it is being written now" if sign.moves else ""
        if it.stored:
            if owner is not None and owner not in it.holders():
                yield f"{_store_says(it)}, and {sign.says}{alive}"
        elif sign.layer == OWNERSHIP:
            continue
        elif sign.moves:
            yield f"{_store_says(it)}, but {sign.says}{alive}"
        elif owner is not None and not (owner == it.node and it.found):
            yield f"{_store_says(it)}, and {sign.says}; it stands still, so it may be left over from a crash"


def _key(it: Layers) -> Iterator[str]:
    if it.key is None:
        return
    held = ", ".join(it.key.holders) or f"key {it.key.key:#x}"
    says = f"the SCSI reservation ({it.key.kind}) is held by {held}"
    by_token = next((h.lease.holder.node for h in it.stored or () if h.lease.token == it.key.key), None)
    if by_token is not None:
        return  # the key is the token: the very lease
    if it.ours() and not it.key.ours:
        yield f"{_store_says(it)}, and {says}: the storage would refuse our writes"
    elif it.key.ours and it.others() and not it.ours():
        yield f"{_store_says(it)}, and the SCSI reservation ({it.key.kind}) is {it.node}'s"
    elif not it.stored and not it.key.ours:
        yield f"{_store_says(it)}, and {says}"


def _view(it: Layers) -> Iterator[str]:
    if it.quorum in (Quorum.LOST, Quorum.UNKNOWN) and it.ours():
        what = "has no quorum here" if it.quorum is Quorum.LOST else "does not say whether there is a quorum"
        yield f"{_store_says(it)}, and the cluster manager {what}"
    if it.runs_on and it.holders() and not set(it.runs_on) & set(it.holders()):
        yield f"{_store_says(it)}, and the cluster manager runs it on {', '.join(it.runs_on)}"


def _node(owner: str | None, it: Layers) -> str | None:
    """The node that a mark means, or the name as it stands there."""
    if owner is None or owner in it.own_names:
        return None if owner is None else it.node
    return hosts(it.stored or ()).get(owner, owner)


def hosts(stored: tuple[HeldLease, ...]) -> Mapping[str, str]:
    """Host name -> node, as the leases tell."""
    return {h.lease.facts[HOST]: h.lease.holder.node for h in stored if HOST in h.lease.facts}
