# SPDX-License-Identifier: GPL-2.0-or-later
"""One resource on one node, from the first ask to the last release: (state, event) -> (state, actions), pure.

``workflow/leases.py`` asks here what follows from what happened and does it; ``tools/model`` drives the same
function through every order of events for two nodes. So what is explored is what runs.

The rules, each of which a mutant breaks:

- Nothing is permitted but what is live, not stale, and under a session whose deadline has not passed.
- Giving back closes the guard's table first, looks for uses second, and tells the store last. A use that is found leads
  back to live; once the store was told, only a grant does.
- A token only grows. A lower one than ever seen comes from a store that forgot (restored from a copy, made anew), and
  nothing that it says is known.
- What the store does not know any more is never live, whatever we think.

Time enters twice: whoever asks says whether the session is live at that moment, and :func:`phase_at` tells what a live
lease has become by the clock alone, because nobody may be there to run an event when a deadline passes.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum, StrEnum

from enforcer.model.lease import SELF_FENCING, Guarantee


class Phase(StrEnum):
    """Where a lease of this node stands."""

    FREE = "free"  # nothing of ours
    ACQUIRING = "acquiring"  # the store was asked
    LIVE = "live"
    CLOSING = "closing"  # nothing new starts; perhaps it is being given back, perhaps it is gone
    TAKEN_OVER = "taken over"  # the store does not know it as ours any more; what uses it here goes on to count
    EXPIRING = "expiring"  # by the clock: every renewal that may fail has failed
    LOST = "lost"  # by the clock: the deadline has passed, and what used it is silenced
    STRANDED = "stranded"  # by the clock: the deadline has passed, and nothing silences what uses it


class Action(Enum):
    """What the caller has to do, in this order."""

    PERMIT = "the use may begin"
    ASK = "ask the store for the set"
    REFUSE = "deny: nothing that the store says is known"
    FRESHEN = "drop cached blocks, then tell Freshened, and only then permit and publish"
    PUBLISH = "write the guard's table"
    LOOK = "count the uses again and open every device exclusively, then tell Looked"
    RELEASE = "tell the store, then tell Released if it answered"


@dataclass(frozen=True, slots=True)
class State:
    """What this node believes. ``doubt``: once closing, only a grant leads back to live."""

    phase: Phase = Phase.FREE
    token: int = 0  # 0: none
    highest: int = 0  # token ever seen
    stale: bool = False  # another node may have written since: cached blocks must go before it is used
    doubt: bool = False

    @property
    def live(self) -> bool:
        """What the guard's table is told; the deadline is its own affair."""
        return self.phase is Phase.LIVE


@dataclass(frozen=True, slots=True)
class Asked:
    """Somebody wants to use it; ``session_live``: the deadline in the kernel has not passed."""

    session_live: bool


@dataclass(frozen=True, slots=True)
class Granted:
    """The store's answer. ``fresh``: others could write since; ``idle``: nothing uses it here; ``reserves``: what is
    not live has to be reserved at the storage before it is used, whatever was there, for it may be given up half."""

    token: int
    fresh: bool
    idle: bool
    reserves: bool = False


@dataclass(frozen=True, slots=True)
class NotGranted:
    """The store said no, or nothing."""


@dataclass(frozen=True, slots=True)
class Freshened:
    """No cached block is older than the grant, or it was in use here all the time."""


@dataclass(frozen=True, slots=True)
class Adopted:
    """This daemon began, and the store has a lease of this boot; ``idle``: nothing uses it here."""

    token: int
    idle: bool


@dataclass(frozen=True, slots=True)
class Stored:
    """What a read of the store says of ours; None: no lease."""

    token: int | None


@dataclass(frozen=True, slots=True)
class Unused:
    """Neither a use nor a permit is left, as it seems."""


@dataclass(frozen=True, slots=True)
class Looked:
    """After the table said CLOSING. A doubt is a use."""

    unused: bool


@dataclass(frozen=True, slots=True)
class Released:
    """The store answered that it does not know this token any more."""


Event = Asked | Granted | NotGranted | Freshened | Adopted | Stored | Unused | Looked | Released
Step = tuple[State, tuple[Action, ...]]
_NOTHING: tuple[Action, ...] = ()
_PUBLISH = (Action.PUBLISH,)


def step(state: State, event: Event) -> Step:
    """What follows. An event that does not fit the state changes nothing."""
    match event:
        case Asked(session_live):
            if state.live and not state.stale and session_live:
                return state, (Action.PERMIT,)
            free = state.phase is Phase.FREE
            return (replace(state, phase=Phase.ACQUIRING) if free else state), (Action.ASK,)
        case Granted(token, fresh, idle, reserves):
            unsure = (fresh and (idle or not state.live)) or (reserves and not state.live)
            return _granted(state, token, stale=state.stale or unsure)
        case NotGranted():
            return (replace(state, phase=Phase.FREE) if state.phase is Phase.ACQUIRING else state), _NOTHING
        case Freshened():
            return (replace(state, stale=False), _PUBLISH) if state.phase is not Phase.FREE else (state, _NOTHING)
        case Adopted(token, idle):
            return _known(state, token, stale=idle)
        case Stored(token):
            return _gone(state) if token is None else _known(state, token, stale=True)
        case Unused():
            if state.live:
                return replace(state, phase=Phase.CLOSING, doubt=False), (Action.PUBLISH, Action.LOOK)
            held = state.phase in (Phase.CLOSING, Phase.TAKEN_OVER)
            return state, (Action.PUBLISH, Action.LOOK) if held else _NOTHING
        case Looked(unused):
            return _looked(state, unused)
        case Released():
            return State(highest=state.highest), _PUBLISH


def _granted(state: State, token: int, *, stale: bool) -> Step:
    if token < state.highest:
        return _unknown(state, token), (Action.REFUSE, Action.PUBLISH)
    after = State(Phase.LIVE, token, token, stale)
    return after, (Action.FRESHEN, Action.PERMIT, Action.PUBLISH) if stale else (Action.PERMIT, Action.PUBLISH)


def _gone(state: State) -> Step:
    """The store has no lease of ours. After a release without an answer that is what was to be expected."""
    if state.phase in (Phase.FREE, Phase.ACQUIRING) or (state.phase is Phase.CLOSING and state.doubt):
        return state, _NOTHING
    return replace(state, phase=Phase.TAKEN_OVER, doubt=True), _PUBLISH


def _known(state: State, token: int, *, stale: bool) -> Step:
    """The store has a lease of ours; ``stale`` if we knew of none."""
    if token < state.highest:
        return _unknown(state, token), _PUBLISH
    if state.phase in (Phase.FREE, Phase.ACQUIRING):
        return State(Phase.LIVE, token, token, stale), _PUBLISH
    return replace(state, token=token, highest=token), _PUBLISH


def _unknown(state: State, token: int) -> State:
    """The store forgot: its lease is given back when nothing uses it, and nothing starts under it."""
    return State(Phase.CLOSING, token, state.highest, True, True)


def _looked(state: State, unused: bool) -> Step:
    if state.phase not in (Phase.CLOSING, Phase.TAKEN_OVER):
        return state, _NOTHING
    if unused:
        return replace(state, doubt=True), (Action.RELEASE,)
    if state.phase is Phase.CLOSING and not state.doubt:
        return replace(state, phase=Phase.LIVE), _PUBLISH
    return state, _PUBLISH


def phase_at(
    state: State, now_ns: int, *, expiring_ns: int, stop_ns: int, in_use: bool, guarantee: Guarantee = Guarantee.NONE
) -> Phase:
    """What the state is by the clock; both times as :class:`enforcer.model.deadlines.Deadlines` counts them."""
    if not state.live or now_ns < expiring_ns:
        return state.phase
    if now_ns < stop_ns:
        return Phase.EXPIRING
    return Phase.STRANDED if in_use and guarantee not in SELF_FENCING else Phase.LOST
