# SPDX-License-Identifier: GPL-2.0-or-later
"""How the daemons of a node end, as shell for the guest: told to, or killed. Each waits until it is over."""

from __future__ import annotations

import sys

from tools.lab.cluster import CHECKOUT

GATE_DOWN = (
    "kill $(cat /run/enforcer/enforcerd.lock); while ! flock -n /run/enforcer/enforcerd.lock true; do sleep 0.1; done;"
    f"cd {CHECKOUT}; {sys.executable} -m enforcer.daemon.main --detach"
)
DAEMON_KILLED = "kill -9 $(cat /run/enforcer/enforcerd.lock); sleep 0.5; rm -f /run/enforcer/control.sock"
KEEPER = "pgrep -f '[e]nforcer.keeper.main'"
KEEPER_KILLED = f"kill -9 $({KEEPER}); while ! flock -n /run/enforcer/keeper.lock true; do sleep 0.1; done"
