# SPDX-License-Identifier: GPL-2.0-or-later
"""What the chaos run must find in the product, and wrong lines in its own plan and check."""

from __future__ import annotations

from tools.mutants.row import Mutant

RUN = "tests/chaos/test_chaos.py::test_nobody_writes_but_the_holder"
UNIT = "tests/unit/plumbing/test_chaos.py"
ACCUSED = f"{UNIT}::test_a_write_of_anybody_else"

LAB = (
    Mutant(
        "chaos-gate-passes",
        "A write of a node that was never asked for is seen in the storage's log.",
        "bpf/gate.h",
        "\tif (state == ENF_UNGUARDED)\n",
        "\tif (1)\n",
        RUN,
    ),
    Mutant(
        "chaos-stranded-taken-over",
        "A node that goes on writing after another was granted its lease is seen in the storage's log.",
        "enforcer/cluster/conflicts.py",
        "held.liveness in (Liveness.FENCED, Liveness.REBOOTED, Liveness.SILENT)",
        "held.liveness is not Liveness.LIVE",
        RUN,
    ),
)

HEARD = (
    Mutant(
        "taken-over-and-not-heard",
        "A node that gets no session any more reads what was taken over from it.",
        "enforcer/daemon/reconcile.py",
        "        await self._leases.refresh()  # first: ",
        "        self._session and await self._store.publish(self._devices.luns(), self._policy().digest)\n"
        "        await self._leases.refresh()  # first: ",
        "tests/unit/daemon/test_daemon_reconcile.py::test_a_node_without_a_session_hears_that_it_was_taken_over",
    ),
)

CHECK = (
    Mutant(
        "chaos-early-write-excused",
        "A write before its grant was sent for is wrong.",
        "tools/chaos/check.py",
        "bisect.bisect_right(begins.get(key, []), write.at_s)",
        "len(begins.get(key, []))",
        ACCUSED,
    ),
    Mutant(
        "chaos-late-write-excused",
        "A write after its release was heard of is wrong.",
        "tools/chaos/check.py",
        "    return write.at_s <= ended\n",
        "    return True\n",
        ACCUSED,
    ),
    Mutant(
        "chaos-another-boots-lease",
        "A write under a lease that was granted to an earlier boot of the node is wrong.",
        "tools/chaos/check.py",
        "    if write.connected_s > clock.latest(tenure.first):\n",
        "    if False:\n",
        ACCUSED,
    ),
    Mutant(
        "chaos-two-holders",
        "Two holders at one revision are wrong.",
        "tools/chaos/check.py",
        "    found = [*_together(tenures, clock), *_tokens(tenures, clock)]\n",
        "    found = [*_tokens(tenures, clock)]\n",
        f"{UNIT}::test_two_holders_at_once",
    ),
    Mutant(
        "chaos-time-of-hearing",
        "A revision was made by the time at which any later one was heard of.",
        "tools/chaos/history.py",
        "            self._heard[index] = min(self._heard[index], self._heard[index + 1])\n",
        "            self._heard[index] = self._heard[index]\n",
        f"{UNIT}::test_a_revision_was_made_between_the_beat_before_and_what_was_heard",
    ),
    Mutant(
        "chaos-history-from-now",
        "No revision of the store is missed, from the first one on.",
        "tools/chaos/watch.py",
        '"start_revision": str(since)',
        '"start_revision": str(since - since)',
        "tests/chaos/test_chaos_watch.py::test_every_revision_is_heard_at_a_time_that_can_be_relied_on",
    ),
    Mutant(
        "chaos-hand-over-counts",
        "A lease that was given back and then granted to another is not a takeover.",
        "tools/chaos/history.py",
        "    won = Won.FREE if before == node else Won.HANDED_OVER\n",
        "    won = Won.FREE if before == node else Won.TAKEN_OVER\n",
        f"{UNIT}::test_how_a_lease_was_won",
    ),
    Mutant(
        "chaos-violation-is-fine",
        "A run with a violation is no good run.",
        "tools/chaos/report.py",
        '        found = [f"{v.lun}: {v.what}" for v in self.verdict.violations[:5]]\n',
        "        found = list[str]()\n",
        f"{UNIT}::test_a_run_that_is_no_good_says_why",
    ),
)

PLAN = (
    Mutant(
        "chaos-plan-unseeded",
        "The same seed is the same plan.",
        "tools/chaos/plan.py",
        "_steps(random.Random(seed), faults)",
        "_steps(random.Random(), faults)",
        f"{UNIT}::test_a_seed_is_a_plan_and_a_shorter_run_is_its_beginning",
    ),
    Mutant(
        "chaos-cells-left-out",
        "Each deal has every fault in every state.",
        "tools/chaos/plan.py",
        "        dealt += mild[index * len(mild) // len(rows) : (index + 1) * len(mild) // len(rows)]\n",
        "        dealt += [rng.choice(mild) for _ in range(len(mild) // len(rows))]\n",
        f"{UNIT}::test_every_fault_meets_every_state_once_in_each_deal",
    ),
    Mutant(
        "chaos-both-nodes-off",
        "A node whose boot has ended is left alone while it boots.",
        "tools/chaos/plan.py",
        "node, left_alone, row = 3 - node, BOOT_STEPS, False",
        "node, left_alone, row = 3 - node, 0, False",
        f"{UNIT}::test_what_is_taken_over_stays_so_until_its_node_boots",
    ),
)

MUTANTS = (*LAB, *HEARD, *CHECK, *PLAN)
