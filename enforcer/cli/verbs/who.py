# SPDX-License-Identifier: GPL-2.0-or-later
"""``enforcer who [DEVICE|NAME]``: who holds what, as the store tells it and as this node's kernel sees it.

With a name, every layer of the devices that it means is shown side by side, the disks themselves included. That takes a
few seconds where a mark on a disk has to be watched, so without a name the disks are not read.
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Mapping

from enforcer.audit.loose import mapping, mappings, number, text, texts
from enforcer.cli.client import Client
from enforcer.cli.output import Output
from enforcer.model.errors import EnforcerError, Exit
from enforcer.model.escape import for_terminal
from enforcer.model.resource import ResourceId

SUMMARY = "show who holds which lease; of a device, what every layer says of it"
WATCH_S = 25.0  # enforcerd looks at disks for up to a dozen seconds
EXAMPLE = "enforcer who /dev/sdb1"


def arguments(parser: ArgumentParser) -> None:
    parser.add_argument("name", nargs="?", metavar="DEVICE|NAME", help="a device, LUN, alias or node")
    parser.add_argument("--json", action="store_true", help="one object")


def run(options: Namespace, output: Output) -> int:
    data = Client(options.socket).ask("who")
    if options.name:
        data = select(data, options.name)
        if not data["leases"] and not data["devices"] and not data["nodes"]:
            raise EnforcerError(
                f"nothing is known of {for_terminal(options.name)}",
                hint="enforcer who, without a name, shows everything",
            )
    if options.name and data["devices"]:
        devices = [text(device, "dev") for device in mappings(data, "devices")]
        told = Client(options.socket, timeout=WATCH_S).ask("layers", {"devices": devices})
        more = [line for each in mappings(told, "layers") for line in texts(each, "disagreements")]
        if number(told, "left_out"):
            more.append(f"{number(told, 'left_out')} more devices were not looked at: name one of them")
        said = dict.fromkeys((*texts(data, "disagreements"), *more))
        data = {**data, "layers": list(mappings(told, "layers")), "disagreements": list(said)}
    if options.json:
        output.json({"schema": 1, **data})
        return Exit.OK
    from enforcer.cli import render, sides

    output.draw(*(sides.drawn(data) if data.get("layers") else render.who_tables(data)))
    return Exit.OK


def select(data: Mapping[str, object], name: str) -> dict[str, object]:
    """The part of the answer that concerns a device, a LUN, or a node."""
    short = name.removeprefix("/dev/")
    devices = [device for device in mappings(data, "devices") if _is(device, name, short)]
    resources = [ResourceId.parse(r) for device in devices for r in texts(device, "resources")]
    resources.append(ResourceId.parse(name))
    leases = [
        lease
        for lease in mappings(data, "leases")
        if text(mapping(lease, "holder"), "node") == name
        or any(ResourceId.parse(text(lease, "resource")).meets(resource) for resource in resources)
    ]
    luns = {resource.lun for resource in resources}
    nodes = [
        node for node in mappings(data, "nodes") if text(node, "node") == name or luns.intersection(texts(node, "luns"))
    ]
    names = tuple(f"{text(device, 'name')}: " for device in devices)
    said = [
        line
        for line in texts(data, "disagreements")
        if line.startswith(names) or any(lun in line for lun in luns if lun)
    ]
    return {"leases": leases, "devices": devices, "nodes": nodes, "disagreements": said}


def _is(device: Mapping[str, object], name: str, short: str) -> bool:
    resources = texts(device, "resources")
    known = {text(device, "dev"), text(device, "name"), *texts(device, "aliases"), *resources}
    known.update(resource.partition("/")[0] for resource in resources)
    return name in known or short in known
