# SPDX-License-Identifier: GPL-2.0-or-later
"""``make bench``: what a verdict costs, in two tables for people and one line of JSON.

First the parts of a verdict that need no kernel, on this machine: they say which part could ever be the slow one, and
no more, for what a caller waits for is more than these. Then the whole (:mod:`tools.figures`), in two virtual machines
with Debian's kernel: it takes a gate in force and a second node, so this machine's own kernel would not do.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import struct
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

from enforcer.cluster.sqlite_store import SqliteStore
from enforcer.kernel import fuse
from enforcer.model.intent import Caller, Intent
from enforcer.model.lease import Claim, Granted, Holder
from enforcer.model.resource import Device, DevNum, ResourceId, UseKind
from enforcer.policy import parse
from enforcer.policy.engine import Action, decide
from enforcer.policy.rules import Policy

ROOT = Path(__file__).resolve().parent.parent
MANY_RULES = 200


@dataclass(frozen=True, slots=True)
class Result:
    """One row."""

    what: str
    count: int
    per_second: float
    microseconds: float  # of one, on average


def timed(what: str, work: Callable[[], object], seconds: float) -> Result:
    """Do ``work`` again and again for about ``seconds``, after one that does not count."""
    work()
    count, began = 0, time.perf_counter()
    while True:
        work()
        count += 1
        passed = time.perf_counter() - began
        if passed >= seconds:
            return Result(what, count, count / passed, passed / count * 1e6)


def _policies() -> tuple[Policy, Policy]:
    few = parse.parse((ROOT / "policy/10-san.toml.example").read_bytes())
    san = next(rule for rule in few.rules if rule.id == "san")
    others = (replace(san, id=f"other-{n}", match=replace(san.match, target=(f"/srv/{n}",))) for n in range(MANY_RULES))
    return few, replace(few, rules=(*others, san), digest="")


def _decisions(seconds: float) -> Iterator[Result]:
    name = ResourceId("wwn-0x5000c500a1b2c3d4", ("p1",))
    device = Device(DevNum(8, 17), "sdb1", (name,), (str(name), name.lun, "sdb1", "/dev/sdb1"))
    caller = Caller(pid=1, tid=1, uid=0, comm="mount", exe="/usr/bin/mount", unit="session-1.scope")
    intent = Intent(1, UseKind.MOUNT, caller, "ext4", "/dev/sdb1", "/srv/db", dev=device.dev, device=device)
    few, many = _policies()
    for policy in (few, many):
        assert decide(policy, intent).action is Action.LEASE
        yield timed(f"policy decision, {len(policy.rules)} rules", partial(decide, policy, intent), seconds)


def _upcall(seconds: float) -> Result:
    body = struct.pack("<II", 24, 0) + b"user.enforcer.ask\0"
    data = struct.pack("<IIQQIIIHH", 40 + len(body), 22, 7, 2, 0, 0, 42, 0, 0) + body

    def work() -> None:
        request = fuse.parse(data)
        fuse.xattr(request)
        fuse.answer(request.unique, bytes(24))

    return timed("upcall request read and answered", work, seconds)


def _leases(seconds: float) -> Iterator[Result]:
    async def all_of(place: Path) -> list[Result]:
        store = SqliteStore(
            Holder("node-1", "boot", "session"), place / "leases.sqlite", multi_attached=lambda _lun: False
        )
        await store.open()
        results = []
        for size in (1, 8):
            claims = frozenset(Claim(ResourceId(f"wwn-{number}")) for number in range(size))
            count, began = 0, time.perf_counter()
            while (passed := time.perf_counter() - began) < seconds or not count:
                granted = await store.acquire(claims, {}, budget_s=5)
                assert isinstance(granted, Granted), granted
                await store.release(frozenset(claim.resource for claim in claims), granted.token)
                count += 1
            what = f"sqlite, a set of {size} acquired and released"
            results.append(Result(what, count, count / passed, passed / count * 1e6))
        await store.close()
        return results

    with tempfile.TemporaryDirectory(dir="/var/tmp") as place:  # not /tmp, which may be memory: a commit is an fsync
        yield from asyncio.run(all_of(Path(place)))


def measure(seconds: float = 1.0) -> list[Result]:
    """All rows, about ``seconds`` each."""
    return [*_decisions(seconds), _upcall(seconds), *_leases(seconds)]


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.bench",
        description="Measure what a verdict costs.",
        epilog="example: python -m tools.bench --kernel 6.18 --json /tmp/figures.json",
    )
    parser.add_argument("--kernel", default="6.12", metavar="SERIES", help="kernel of the virtual machines")
    parser.add_argument("--no-machines", action="store_true", help="only what needs no kernel")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the line of JSON there too")
    options = parser.parse_args(arguments)
    results = measure()
    print(f"{'':<44}{'per second':>12}{'us each':>12}")
    for result in results:
        print(f"{result.what:<44}{result.per_second:>12,.0f}{result.microseconds:>12,.1f}", flush=True)
    found: dict[str, object] = {
        "schema": 2,
        "cpus": os.cpu_count(),
        "machine": platform.machine(),
        "python": platform.python_version(),
        "results": [asdict(result) for result in results],
    }
    if not options.no_machines:
        found |= _in_machines(options.kernel)
    line = json.dumps(found)
    print(line)
    if options.json:
        options.json.write_text(line + "\n")
    return 0


def _in_machines(series: str) -> dict[str, object]:
    """Boot a lab, measure, draw; what there is for the line of JSON. Raises LostVM, CommandFailed."""
    from rich.console import Console

    from tools import figures
    from tools.lab.cluster import Cluster

    print(f"\ntwo virtual machines with Debian's kernel {series} boot", flush=True)
    with Cluster(series) as cluster:
        kernel, accel = cluster.lab.kernel.version, cluster.nodes[0].accel
        taken = figures.measure(cluster, lambda what: print(f"  {what}", flush=True))
    emulated = ", CPUs emulated: only the ratios mean something" if accel.startswith("tcg") else ""
    print()
    Console().print(figures.table(taken, f"Linux {kernel}{emulated}"))
    return {"kernel": kernel, "accel": accel, "figures": figures.as_json(taken)}


if __name__ == "__main__":
    sys.exit(main())
