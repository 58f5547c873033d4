# SPDX-License-Identifier: GPL-2.0-or-later
"""One run from the boot of the machines to its verdict."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from tools.chaos import check, report
from tools.chaos.history import Clock, Tenure, Write, tenures
from tools.chaos.plan import plan
from tools.chaos.runner import MORE_DISKS, POLICY, TTL_S, Runner
from tools.chaos.watch import Watch
from tools.lab.cluster import Cluster
from tools.lab.vm import CommandFailed, GuestError

RES = "/enforcer/lab/res/"


class Inconclusive(Exception):
    """The times of the two records cannot be compared."""


@dataclass
class Evidence:
    """The two records that the check reads."""

    runner: Runner
    watch: Watch

    def read(self) -> tuple[list[Tenure], list[Write], Clock]:
        """As they are now. The store is asked last: of every write that is told, all that was granted before it is.

        Raises CommandFailed.
        """
        writes = [
            Write(r.at_s, f"wwn-0x{d.wwn:016x}", r.node.replace("node", "node-"), r.connected_s, r.offset, r.count)
            for d in self.runner.disks
            for r in d.requests()
            if r.changes
        ]
        asked_s = time.time()
        while not self.watch.heard_until(asked_s):
            if time.time() > asked_s + 30:
                raise CommandFailed("the store's revisions are not heard of any more")
            time.sleep(0.1)
        return tenures(self.watch.changes(), RES), writes, self.watch.clock()

    def well(self) -> bool:
        """Nothing wrong so far."""
        return not check.check(*self.read()).violations


def run(seed: int, steps: int, kernel: str, say: Callable[[str], None]) -> tuple[report.Result, list[str]]:
    """The result, and the time line of each violation. Raises LostVM, Inconclusive."""
    began, offset_s, failed = time.monotonic(), time.time() - time.monotonic(), ""
    planned = plan(seed, steps)
    with Cluster(kernel, policy=POLICY, disks=MORE_DISKS, ttl_s=TTL_S, say=say) as cluster:
        assert cluster.lab.etcd is not None
        with Watch(cluster.lab.etcd) as watch, Runner(cluster, say) as runner:
            evidence = Evidence(runner, watch)
            try:
                runner.run(planned, evidence.well)
            except (CommandFailed, GuestError) as error:
                failed = str(error)
            except KeyboardInterrupt:  # what was done is judged all the same
                failed = "interrupted"
            held, writes, clock = evidence.read()
    step_s = time.time() - time.monotonic() - offset_s
    if abs(step_s) > report.CLOCK_STEP_S:
        raise Inconclusive(f"the host's clock was set by {step_s:.3f} s")
    tally = runner.tally
    result = report.Result(
        seed=seed,
        planned=steps,
        steps=tally.steps,
        seconds=time.monotonic() - began,
        reached=tally.cells,
        rivals=tally.rivals,
        missed=tuple(tally.missed),
        verdict=check.check(held, writes, clock),
        failed=failed,
    )
    lines: list[str] = []
    for violation in result.verdict.violations[:3]:
        lines += ["", f"VIOLATION on {violation.lun}:"]
        lines += check.time_line(violation, held, writes, clock, tally.notes)
    return result, lines
