# SPDX-License-Identifier: GPL-2.0-or-later
"""A node of the lab that promises to cut itself off, so that others may take over by time."""

from __future__ import annotations

import time

from tools.lab.cluster import Cluster
from tools.lab.vm import CommandFailed, Node

CUT = '[lost]\nhypervisor_pauses = "no"\ncut = "6s"\n'


def promise(node: Node, cluster: Cluster) -> None:
    """From the next lease on, until the node boots again. Raises CommandFailed.

    It is a virtual machine, of which the settings say that nobody pauses it.
    """
    text = node.get("/etc/enforcer/enforcer.toml").decode()
    node.put("/etc/enforcer/enforcer.toml", text.replace("[lost]\n", CUT))
    node.spawn("exec /bin/bash /run/start-revoker")
    node.run("kill $(pgrep -f '[e]nforcer.keeper.main'); sleep 0.3", check=True)
    node.spawn("exec /bin/bash /run/start-keeper")
    end = time.monotonic() + 20
    while (lost := cluster.ask(node, "status")["lost"])["guarantee"] != "cut":
        if time.monotonic() > end:
            raise CommandFailed(f"{node.name} promises no cut: {lost}")
        time.sleep(0.3)
