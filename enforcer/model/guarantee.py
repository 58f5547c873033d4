# SPDX-License-Identifier: GPL-2.0-or-later
"""Which guarantee a new lease of this node may bear: facts in, promise and reason out, without I/O.

A guarantee is a promise to nodes that cannot ask us any more: they take over by the clock alone. So it is made only
while everything that keeps it is at work, and time for it is left before the session ends (``model/deadlines.py``).
"""

from __future__ import annotations

from dataclasses import dataclass

from enforcer.model.lease import Guarantee


@dataclass(frozen=True, slots=True)
class Tiers:
    """What the keeper leaves time for before the end of the session. Zero: that tier is not there."""

    cut_s: float = 0.0
    watchdog_s: float = 0.0
    pauses: bool = False  # the machine may be paused with its clock, so nothing is promised


@dataclass(frozen=True, slots=True)
class Ready:
    """Whether what keeps the promise is at work now; "" or why it is not."""

    revoker: str = "enforcer-revoker is not running"
    devices: str = ""  # "sda2 lies on vda, which cannot be cut"


@dataclass(frozen=True, slots=True)
class Offer:
    """The promise, and why it is no better one, in one clause."""

    guarantee: Guarantee
    reason: str = ""


def offer(tiers: Tiers | None, ready: Ready) -> Offer:
    """What a lease that is asked for now may promise; ``tiers`` is None without a session of the keeper's."""
    if tiers is None:
        return Offer(Guarantee.NONE, "this node has no session whose end could be foreseen")
    if tiers.pauses:
        return Offer(Guarantee.NONE, "this machine may be paused together with its clock (hypervisor_pauses)")
    why = "no cut is configured" if not tiers.cut_s else ready.revoker or ready.devices
    if not why:
        return Offer(Guarantee.CUT)
    if tiers.watchdog_s:
        return Offer(Guarantee.WATCHDOG, why)
    return Offer(Guarantee.NONE, why)


def clock_may_stop(cpuinfo: str) -> bool:
    """True on a virtual machine, by the CPU's flag (X86_FEATURE_HYPERVISOR), and where that cannot be told.

    Only x86 tells it in /proc/cpuinfo.
    """
    flags = next((line.partition(":")[2].split() for line in cpuinfo.splitlines() if line.startswith("flags")), None)
    return flags is None or "hypervisor" in flags
