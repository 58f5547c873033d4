# SPDX-License-Identifier: GPL-2.0-or-later
"""The guard's decision as the daemon understands it: the reference model of ``enf_decide()`` in ``bpf/decide.h``.

It exists twice on purpose. A property test compiles the C side for the host and compares both on every input.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

from enforcer.kernel.abi import GuardFlag, State


class Decision(IntEnum):
    PASS = 0
    REFUSE = 1
    WOULD_REFUSE = 2
    PASS_BEFORE_ASK = 3


@dataclass(frozen=True, slots=True)
class Question:
    """All that the guard looks at; times in nanoseconds of the boot clock."""

    state: State
    guard_flags: GuardFlag
    now_ns: int
    deadline_ns: int
    claim: bool
    in_mount: bool
    asked: bool
    refused: bool
    unknown_allow: bool
    early: bool = False  # of a type that may open its members before it can ask
    cluster: bool = False  # the open of a cluster filesystem that was permitted as such


def live(state: State, flags: GuardFlag, now_ns: int, deadline_ns: int) -> bool:
    """True if the lease is ours and, where it hangs on the node's session, the deadline has not passed."""
    return state is State.LIVE and (GuardFlag.DEADLINE not in flags or now_ns < deadline_ns)


def covers(flags: GuardFlag, cluster: bool) -> bool:
    """True unless the lease is one that other nodes may have too, and this use does not work under their locks."""
    return GuardFlag.CLUSTER not in flags or cluster


def decide(q: Question) -> Decision:
    """Same inputs, same answer as the kernel."""
    if q.in_mount and q.refused:
        return Decision.REFUSE
    if not q.claim or q.state is State.UNGUARDED:
        return Decision.PASS
    if live(q.state, q.guard_flags, q.now_ns, q.deadline_ns) and covers(q.guard_flags, q.cluster):
        return Decision.PASS
    if q.in_mount and q.early and not q.asked and q.state is not State.ELSEWHERE:
        return Decision.PASS_BEFORE_ASK
    if q.state is State.UNKNOWN and q.unknown_allow:
        return Decision.PASS
    return Decision.WOULD_REFUSE if GuardFlag.AUDIT in q.guard_flags else Decision.REFUSE
