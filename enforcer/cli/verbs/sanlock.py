# SPDX-License-Identifier: GPL-2.0-or-later
"""``enforcer sanlock init DEVICE``: make a shared disk into the record area of a cluster, once, on one node.

It asks sanlock, not enforcerd, which cannot start with such a store before this was done. A device that holds anything
at all is refused; so is an area of ours that a host is in. Which cluster, and sanlock's io_timeout, the settings say.
"""

from __future__ import annotations

import asyncio
from argparse import ArgumentParser, Namespace

from enforcer.cli.output import Output
from enforcer.model.errors import Exit
from enforcer.model.escape import for_terminal

SUMMARY = "make a shared disk into the lease store of a cluster"
EXAMPLE = "enforcer sanlock init /dev/disk/by-id/wwn-0x6001405a8c6d1b2f"


def arguments(parser: ArgumentParser) -> None:
    verbs = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    init = verbs.add_parser("init", help=SUMMARY, description=f"{SUMMARY}. Once, on one node; sanlock must run.")
    init.add_argument("device", metavar="DEVICE", help="blank, and the same disk on all nodes")
    init.add_argument("--config", metavar="FILE", help="settings, if not /etc/enforcer/enforcer.toml")
    init.add_argument("--sanlock-socket", metavar="PATH", help="of the daemon, if not the usual one")


def run(options: Namespace, output: Output) -> int:
    from enforcer.cluster import sanlock_init
    from enforcer.settings import load

    store = load(options.config).store
    asyncio.run(sanlock_init.make(options.device, store.cluster, int(store.io_timeout_s), options.sanlock_socket or ""))
    shown = for_terminal(options.device)
    output.line(f"{shown} holds the leases of the cluster {for_terminal(store.cluster)} now")
    output.line(f'  on every node: [store] kind = "sanlock", device = "{shown}", and a host_id of its own')
    return Exit.OK
