# SPDX-License-Identifier: GPL-2.0-or-later
"""[lost] of the settings: what silences this node when it cannot renew its session any more."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from enforcer.model.guarantee import Tiers, clock_may_stop


class Pauses(StrEnum):
    """May this machine be paused together with its clock? Then no promise about time can be kept."""

    AUTO = "auto"  # yes on a virtual machine
    YES = "yes"
    NO = "no"


@dataclass(frozen=True, slots=True)
class Lost:
    """[lost]"""

    cut_s: float = field(
        default=0.0,
        metadata={"help": "Time for the cut of leased devices, 3s say; 0s for no cut", "key": "cut", "kind": "budget"},
    )
    hypervisor_pauses: Pauses = field(
        default=Pauses.AUTO,
        metadata={
            "help": "Whether this machine can be paused or migrated: auto (yes if it is a virtual one), yes or no",
            "key": "",
            "kind": "pauses",
        },
    )
    watchdog: str = field(
        default="",
        metadata={
            "help": "Watchdog device that nothing else uses, as /dev/watchdog1; none if empty",
            "key": "",
            "kind": "path",
        },
    )
    watchdog_timeout_s: float = field(
        default=10.0,
        metadata={
            "help": "After how long without a sign of life the watchdog resets this machine",
            "key": "watchdog_timeout",
            "kind": "duration",
        },
    )

    reservation: tuple[str, ...] = field(
        default=(),
        metadata={
            "help": "LUNs that are reserved at the storage for their holder, as wwn-0x5000c5*",
            "key": "",
            "kind": "strings",
        },
    )

    @property
    def most(self) -> Tiers:
        """What would be promised at most, wherever this file is used: what the arithmetic must have room for."""
        return Tiers(self.cut_s, self.watchdog_timeout_s if self.watchdog else 0.0)

    def tiers(self, cpuinfo: str) -> Tiers:
        """What is left time for on the machine with this /proc/cpuinfo; W only once the watchdog is really held."""
        stops = (
            clock_may_stop(cpuinfo) if self.hypervisor_pauses is Pauses.AUTO else self.hypervisor_pauses is Pauses.YES
        )
        return Tiers(pauses=True) if stops else self.most
