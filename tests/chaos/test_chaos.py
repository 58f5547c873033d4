# SPDX-License-Identifier: GPL-2.0-or-later
"""Two nodes, three members of etcd, a fault at each moment of a lease's life: every write is one of the holder.

The seed is always the same, so that a failure is of the change and not of the dice; ``make chaos`` throws them.
"""

from __future__ import annotations

import pytest

from tools.chaos import report, session
from tools.chaos.__main__ import STEPS


@pytest.mark.timeout(1200)
def test_nobody_writes_but_the_holder(request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]) -> None:
    seed, steps = request.config.getoption("--seed"), request.config.getoption("--steps") or STEPS
    with capsys.disabled():
        print()
        result, lines = session.run(
            seed, steps, request.config.getoption("--kernel"), lambda line: print(f"  {line}", flush=True)
        )
        print("\n".join(["", report.summary(result), *lines]), flush=True)
    problems = result.problems()
    assert not problems, problems
