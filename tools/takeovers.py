# SPDX-License-Identifier: GPL-2.0-or-later
"""How long a disk is out of use when its holder goes, each figure beside the same of sanlock.

sanlock's times are its own arithmetic, and those of two of its hosts (3.8.5) on one file without emulation: a release
took up to 3 ms, an acquire up to 16 ms, of the lease alone. It knows no waiting: who wants a lease asks again.
"""

from __future__ import annotations

import re

from tools.figures import Figure
from tools.lab.vm import CommandFailed, Node

SANLOCK_HANDOVER_S = 0.003 + 0.016
IO_TIMEOUT_S = 10  # sanlock's default
_PRINTED = re.compile(r"a holder that silences itself is taken over within ([0-9.]+) s")


def sanlock_dead_s(io_timeout_s: int = IO_TIMEOUT_S) -> int:
    """When a host whose renewals have stopped counts as dead (sanlock's src/timeouts.c, calc_host_dead_seconds)."""
    return 8 * io_timeout_s + 60


def printed_s(node: Node) -> float:
    """The longest takeover, as enforcerd said when it loaded its settings. Raises CommandFailed if it did not."""
    found = _PRINTED.findall(node.get("/run/enforcerd.log").decode(errors="replace"))
    if not found:
        raise CommandFailed(f"{node.name}: enforcerd has not said how long a takeover takes")
    return float(found[-1])


def released(took_s: float, source: str, beside_s: float | None = None) -> Figure:
    """After a clean release. ``beside_s``: sanlock's own in the same run; without emulation if there is none."""
    if beside_s is None:
        beside = "sanlock, not emulated: release, acquire"
        return Figure("takeover after a clean release, etcd", took_s, "s", beside, SANLOCK_HANDOVER_S, source)
    return Figure("takeover after a clean release, sanlock", took_s, "s", "sanlock's clients alone", beside_s, source)


def died(after: str, took_s: float, worst_s: float) -> Figure:
    """After the end of a holder that promised to be silent; ``after`` says how it ended."""
    source = f"from then to the other node's mount; printed before: within {worst_s:g} s"
    beside = f"sanlock: a host is dead, io_timeout {IO_TIMEOUT_S} s"
    return Figure(f"takeover after {after} (at most {worst_s:g} s)", took_s, "s", beside, sanlock_dead_s(), source)
