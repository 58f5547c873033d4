# SPDX-License-Identifier: GPL-2.0-or-later
"""``enforcer fence confirm NODE --boot-id ID``: state that one boot of a node is silent for ever.
``enforcer fence run NODE``: have it switched off by its agent, which makes that true and proves it.

Nobody can check the statement, and a false one destroys a filesystem. The boot id makes it one about a
certain past: were the node started again meanwhile, the statement would not be about its new life. So it has
to be given, and is never guessed; who forgets it is shown the candidates.
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from enforcer.audit.loose import mapping, mappings, text, texts
from enforcer.cli.client import Client
from enforcer.cli.output import Output
from enforcer.model.errors import EnforcerError, Exit, UsageError
from enforcer.model.escape import for_terminal

SUMMARY = "confirm that a node was fenced, or fence it, so that its leases may be taken over"
CONFIRM = "confirm that a node was fenced, so that its leases may be taken over"
RUN = "switch a node off by its fence agent, so that its leases may be taken over"
EXAMPLE = "enforcer fence confirm node-1 --boot-id 1a2b3c4d-0000-4000-8000-000000000000"

LONGEST_S = 5000.0  # the calls of an agent, and the end of a session: who is tired of waiting may go


def arguments(parser: ArgumentParser) -> None:
    verbs = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    confirm = verbs.add_parser(
        "confirm", help=CONFIRM, description=f"{CONFIRM}. Do it only when you have seen that it is off."
    )
    confirm.add_argument("node", metavar="NODE")
    confirm.add_argument("--boot-id", metavar="ID", help="of the boot that ended")
    confirm.add_argument("--force", action="store_true", help="even if the node still looks alive")
    confirm.add_argument("--json", action="store_true", help="one object")
    switch = verbs.add_parser("run", help=RUN, description=f"{RUN}. It is left off.")
    switch.add_argument("node", metavar="NODE")
    switch.add_argument("--alive", action="store_true", help="even if the node renews its session")
    switch.add_argument("--was-off", action="store_true", help="you answer for it if its agent says it was off already")
    switch.add_argument("--json", action="store_true", help="one object")


def run(options: Namespace, output: Output) -> int:
    if options.action == "run":
        return _run(options, output)
    client = Client(options.socket)
    if not options.boot_id:
        hint = _hint(client, options)
        raise UsageError("--boot-id is missing: say which boot of the node has ended", hint=hint)
    request = {"node": options.node, "boot_id": options.boot_id, "force": options.force}
    data = client.ask("fence-confirm", request)
    if options.json:
        output.json({"schema": 1, **data})
        return Exit.OK
    output.line(f"{for_terminal(options.node)}: boot {for_terminal(options.boot_id)} is confirmed as fenced")
    for resource in texts(data, "resources"):
        output.line(f"  may be taken over: {resource}")
    return Exit.OK


def _run(options: Namespace, output: Output) -> int:
    request = {"node": options.node, "alive": options.alive, "was_off": options.was_off}
    data = Client(options.socket, timeout=LONGEST_S).ask("fence-run", request)
    if options.json:
        output.json({"schema": 1, **data})
        return Exit.OK
    name = for_terminal(options.node)
    boots = " and ".join(for_terminal(boot) for boot in texts(data, "boot_ids"))
    how = "off already, says" if data.get("was_off") is True else "switched off by"
    output.line(f"{name}: {how} {for_terminal(text(data, 'agent'))}; boot {boots} is recorded as fenced")
    for resource in texts(data, "resources"):
        output.line(f"  may be taken over: {resource}")
    output.line(f"{name} is left off: find out what was wrong, then switch it on by hand")
    return Exit.OK


def _hint(client: Client, options: Namespace) -> str:
    try:
        leases = mappings(client.ask("who"), "leases")
    except EnforcerError:
        return "enforcer who shows the boot id with each stranded lease"
    boots = {
        text(mapping(lease, "holder"), "boot_id")
        for lease in leases
        if text(mapping(lease, "holder"), "node") == options.node and text(lease, "liveness") != "live"
    }
    if not boots:
        return f"{for_terminal(options.node)} holds no lease that waits for a fencing (enforcer who)"
    name = for_terminal(options.node)
    return " or ".join(f"enforcer fence confirm {name} --boot-id {boot}" for boot in sorted(boots))
