# SPDX-License-Identifier: GPL-2.0-or-later
"""``python -m tools.chaos [--seed N] [--steps N]``: a run of chaos in the lab, and its verdict.

Exit code 0 if every write was the holder's and every cell was reached, 1 if not, 2 if a virtual machine was lost or
the host's clock was set meanwhile: then nothing is proven either way.
"""

from __future__ import annotations

import argparse
import random
import signal
import sys
import time
from collections.abc import Sequence

from tools.chaos import report, session
from tools.chaos.plan import FAULTS, cells, plan
from tools.lab.vm import LostVM

STEPS = len(cells(FAULTS))


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tools.chaos", description="Faults at random, and who wrote when.")
    parser.add_argument("--seed", type=int, help="which plan (default: one at random)")
    parser.add_argument("--steps", type=int, default=STEPS, help=f"how many faults (default: {STEPS}, each cell once)")
    parser.add_argument("--kernel", default="6.12", help="series of the guests' kernel (default: 6.12)")
    parser.add_argument("--list", action="store_true", help="print the plan and do nothing")
    options = parser.parse_args(arguments)
    seed = random.randrange(1 << 20) if options.seed is None else options.seed
    if options.list:
        print("\n".join(f"{step.number:4} {step}" for step in plan(seed, options.steps)))
        return 0
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs begin with it ignored
    began = time.monotonic()

    def say(line: str) -> None:
        print(f"[{time.monotonic() - began:6.1f} s] {line}", flush=True)

    say(f"seed {seed}, {options.steps} steps")
    try:
        result, lines = session.run(seed, options.steps, options.kernel, say)
    except (LostVM, session.Inconclusive) as error:
        print(f"\nINCONCLUSIVE: {error}\nseed {seed}", file=sys.stderr)
        return 2
    print("\n".join(["", report.summary(result), *lines]), flush=True)
    for problem in result.problems():
        print(f"NOT WELL: {problem}", file=sys.stderr)
    return 1 if result.problems() else 0


if __name__ == "__main__":
    sys.exit(main())
