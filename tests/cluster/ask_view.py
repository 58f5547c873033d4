# SPDX-License-Identifier: GPL-2.0-or-later
"""Run inside a node of the lab: asks the view of that node about a device, once or again and again, in lines of JSON.

``agent`` does what the gate does with the mount of the cluster's own agent: exit code 0 only if it vouches for it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
import time
from dataclasses import asdict
from pathlib import Path

from enforcer.cluster.pacemaker import PacemakerView
from enforcer.cluster.view import Site, Stance, Use
from enforcer.model.errors import StoreUnavailable
from enforcer.model.resource import DevNum, ResourceId


def locate(path: str) -> Site | None:
    try:
        number = Path(path).stat().st_rdev
    except OSError:
        return None
    dev = DevNum(os.major(number), os.minor(number))
    return Site(dev, (ResourceId(f"lun-{dev.major}-{dev.minor}"),))


def say(**fields: object) -> None:
    print(json.dumps(fields), flush=True)


async def main(verb: str, device: str, options: dict[str, str]) -> int:
    store = options.get("store", "yes") == "yes"
    view = PacemakerView(locate, lease_store=store, changed=lambda quorate: say(pushed=quorate))
    site = locate(device)
    use = Use(site.dev, site.resources) if site else Use(None, (ResourceId("lun-other"),))
    while True:
        began = time.monotonic()
        opinion, quorum = await view.opinion(use), await view.quorum()
        took = round(time.monotonic() - began, 3)
        fenced = list[str]()
        with contextlib.suppress(StoreUnavailable):
            fenced = [each.node for each in await view.fencings() if each.done]
        say(**asdict(opinion), quorum=quorum, health=(await view.health()).said, fenced=fenced, took=took)
        if verb == "watch":
            await asyncio.sleep(0.1)
            continue
        await view.close()
        return 0 if verb == "once" or opinion.stance is Stance.VOUCHES else 1


if __name__ == "__main__":
    sys.exit(asyncio.run(main(sys.argv[1], sys.argv[2], dict(word.split("=", 1) for word in sys.argv[3:]))))
