# SPDX-License-Identifier: GPL-2.0-or-later
"""What Pacemaker's state means for one use: a pure function.

The traps that it knows (each was seen, and each is a test):

- A node that was lost reads ``online=false unclean=false`` where stonith is off, and what ran on it ``Stopped``, while
  it may have everything mounted still. ``expected_up`` tells it from one that left in good order or was fenced.
- Two nodes are quorate on both sides of a cut. So without stonith both must be there.
- Without stonith, or without startup-fencing, a node that nobody has seen since the others started reads like one that
  was shut down. A lease store still has its leases; without one, all nodes must be there.
- Between the loss of a node and its fencing its resource still reads ``Started`` on it. That fencing is awaited is the
  better answer, so it comes first.

In maintenance, of the cluster, of this node or of the one resource, Pacemaker keeps its hands off and has no agent to
insist on. Then its administrator is who acts: the view objects to what it still knows (quorum, fencing, active
elsewhere), and a lease store decides. Without one nobody would know of the use, so it is refused. In standby a node
gets no resources, so there a managed one stays refused; other devices are no business of standby.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from enforcer.cluster.corosync import Votes
from enforcer.cluster.pacemaker_state import BEGINNING, ENDING, Configuration, Managed, Member, Running, State
from enforcer.cluster.view import Opinion, Site, Stance, Use
from enforcer.model.resource import UseKind


@dataclass(frozen=True, slots=True)
class Picture:
    """All that is known at one moment. ``locate``: what a device path means on this node now, None for nothing."""

    votes: Votes
    state: State
    configuration: Configuration
    locate: Callable[[str], Site | None]
    lease_store: bool  # a store for several nodes decides beside us

    @property
    def me(self) -> Member | None:
        """This node. Corosync and Pacemaker agree on the number of a node, whatever its name."""
        return next((m for m in self.state.members if m.id == str(self.votes.node_id)), None)


def decide(picture: Picture, use: Use) -> Opinion:
    """The opinion about one use, by this picture."""
    me = picture.me
    if me is None:
        return _objects("Pacemaker does not know this node")
    mine, exact = _meeting(picture, use)
    ending = next((r for r in exact if r.role in ENDING and r.nodes == (me.name,)), None)
    if ending is not None and use.kind in (UseKind.WRITE_OPEN, UseKind.DM_LOAD) and not _elsewhere(mine, me):
        # whatever else is wrong, a stop that fails would only make it worse; what it writes to it has a lease for
        return Opinion(Stance.NO_OBJECTION, f"{ending.id} is being stopped here by the cluster", resource=ending.id)
    trouble = membership(picture, me) or unproven(picture)
    if trouble is not None:
        return trouble
    if mine:
        return _managed(picture, me, use, mine, exact)
    return Opinion(Stance.NO_OBJECTION, "Pacemaker does not manage it")


def membership(picture: Picture, me: Member) -> Opinion | None:
    """Why this node may not act at all."""
    if not picture.votes.quorate or not picture.state.with_quorum:
        votes = picture.votes
        return _objects(f"no quorum: {votes.total} of {votes.expected} votes", "corosync-quorumtool -s")
    if me.unclean:
        return _objects("this node is unclean: the cluster is about to fence it", "crm_mon -1")
    if not me.online or me.pending:
        return _objects("this node has not joined the cluster yet", "crm_mon -1")
    return None


def unproven(picture: Picture) -> Opinion | None:
    """Somebody may still write of whom the cluster has lost sight."""
    state, votes = picture.state, picture.votes
    lost = {m.name for m in state.members if m.unclean or (not m.online and m.expected_up)}
    lost |= {f.node for f in state.fencings if not f.done}
    if lost:
        names = sorted(lost)
        remedy = f"when it is off for certain: stonith_admin --confirm {names[0]}" if state.stonith else "crm_mon -1"
        return Opinion(Stance.OBJECTS, f"fencing not confirmed for {', '.join(names)}", remedy, names[0])
    away = sorted(m.name for m in state.members if not m.online)
    blind = not state.stonith or not picture.configuration.startup_fencing
    if blind and votes.two_node and (away or votes.total < votes.expected):
        who = ", ".join(away) or "the other node"
        return _objects(f"{who} is away, and of two nodes without stonith both sides are quorate", "enable stonith")
    if blind and away and not picture.lease_store:
        return _objects(f"{', '.join(away)} is away, and without stonith nothing proves it silent", "enable stonith")
    return None


def _managed(picture: Picture, me: Member, use: Use, mine: list[Running], exact: list[Running]) -> Opinion:
    elsewhere = _elsewhere(mine, me)
    if elsewhere is not None:
        node = next(n for n in elsewhere.nodes if n != me.name)
        doing = f" ({elsewhere.role.lower()})" if elsewhere.role in BEGINNING | ENDING else ""
        remedy = f"crm_resource --resource {elsewhere.id} --move --node {me.name}"
        said = f"{elsewhere.id} is active on {node}{doing}"
        return Opinion(Stance.OBJECTS, said, remedy, node, elsewhere.id)
    at_work = next((r for r in exact if r.role in BEGINNING and me.name in r.nodes), None)
    if at_work is not None:
        return _vouches(at_work, f"is {at_work.role.lower()} here by the cluster")
    first = exact[0] if exact else mine[0]
    here = next((r for r in mine if me.name in r.nodes), None)
    if use.running and here is not None:
        return _vouches(here, "is active here")
    broken = next((r for r in mine if r.blocked or r.failed), None)
    if broken is not None:
        said, remedy = f"{broken.id} has failed", f"crm_resource --resource {broken.id} --cleanup"
        return Opinion(Stance.OBJECTS, said, remedy, resource=broken.id)
    if picture.state.maintenance or me.maintenance or not all(r.managed for r in mine):
        if picture.lease_store:
            return Opinion(Stance.NO_OBJECTION, f"{first.id} is in maintenance", resource=first.id)
        said = f"{first.id} is in maintenance, and there is no lease store to tell others of its use"
        return Opinion(Stance.OBJECTS, said, 'configure [store] kind = "etcd"', resource=first.id)
    if me.standby:
        return Opinion(Stance.OBJECTS, f"this node is in standby, and {first.id} is managed by the cluster")
    where = "is active here, and" if here is not None else "is managed by the cluster:"
    said = f"{first.id} {where} only the cluster's own agent may use it"
    return Opinion(Stance.OBJECTS, said, f"to do it by hand: crm_resource -r {first.id} --meta -p is-managed -v false")


def _elsewhere(mine: list[Running], me: Member) -> Running | None:
    """What is active on another node and must not be here too."""
    return next((r for r in mine if any(node != me.name for node in r.nodes)), None)


def _meeting(picture: Picture, use: Use) -> tuple[list[Running], list[Running]]:
    """Instances of resources whose devices this use meets, and those among them that it is a use *of*.

    The latter are the ones that name this very device, or else whatever is as wide as the use or wider: a use of the
    whole disk is not what the start of a filesystem on its partition is about. Instances that may be active together
    are left out where they run elsewhere.
    """
    found: list[tuple[Running, bool, bool]] = []
    for managed in picture.configuration.managed:
        sites = [site for path in managed.devices if (site := picture.locate(path)) is not None]
        group = any(f"vg:{name}" in use.aliases for name in managed.volume_groups)
        same = any(site.dev == use.dev for site in sites)
        meets = any(a.meets(b) for site in sites for a in site.resources for b in use.resources)
        wide = group or any(_all_of(use, site) for site in sites)
        if same or group or meets:
            found += [(instance, same, wide) for instance in _instances(picture, managed)]
    exact = [instance for instance, same, _ in found if same] or [instance for instance, _, wide in found if wide]
    return [instance for instance, _, _ in found], exact


def _instances(picture: Picture, managed: Managed) -> list[Running]:
    known = [r for r in picture.state.running if r.id == managed.id]
    if not known:  # configured, and not yet in the state: nothing is known of it
        return [Running(managed.id, "Stopped", managed=True, failed=False, blocked=False, nodes=())]
    me = picture.me
    if managed.shareable and me is not None and all(r.cloned for r in known):
        here = [r for r in known if set(r.nodes) <= {me.name}]
        return here or [Running(managed.id, "Stopped", managed=True, failed=False, blocked=False, nodes=())]
    return known


def _all_of(use: Use, site: Site) -> bool:
    """True if all of the use lies within the site."""
    within = (any(a.lun == b.lun and b.path[: len(a.path)] == a.path for a in site.resources) for b in use.resources)
    return bool(use.resources) and all(within)


def _objects(reason: str, remedy: str = "") -> Opinion:
    return Opinion(Stance.OBJECTS, reason, remedy)


def _vouches(resource: Running, doing: str) -> Opinion:
    return Opinion(Stance.VOUCHES, f"{resource.id} {doing}", resource=resource.id)
