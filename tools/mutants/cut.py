# SPDX-License-Identifier: GPL-2.0-or-later
"""What a lease promises, and the cut that keeps it."""

from __future__ import annotations

from tools.mutants.row import Mutant

REVOKER = "tests/unit/revoker/test_revoker.py::"
PROMISES = "tests/unit/workflow/test_promises.py::"
GUARANTEE = "tests/unit/lost/test_lost_guarantee.py::"

MUTANTS = (
    Mutant(
        "cut-of-filesystems-only",
        "After its session, the storage sees no write of a node that promised a cut: not of a raw writer, nor of swap.",
        "enforcer/revoker/cut.py",
        "        disk.cut()\n        waiting = frozenset(COUNTS)\n",
        "        return\n        waiting = frozenset(COUNTS)\n",
        "tests/vm/test_89_cut.py::test_who_loses_the_store_writes_nothing_after_its_session",
    ),
    Mutant(
        "cut-not-proven",
        "A cut that is not proven by the end of its budget resets the machine.",
        "enforcer/revoker/cut.py",
        "if open_ := [name for name, done in proven.items() if not done.is_set()]:",
        "if open_ := [name for name, done in proven.items() if done is None]:",
        REVOKER + "test_what_is_still_on_its_way_at_the_end_of_the_budget_resets_the_machine",
    ),
    Mutant(
        "cut-blind-to-flushes",
        "What the driver still has on its way is no silence, even if the block layer does not count it.",
        "enforcer/revoker/disks.py",
        'COUNTS = ("device/device_busy", "inflight")',
        'COUNTS = ("inflight",)',
        REVOKER + "test_what_is_still_on_its_way_at_the_end_of_the_budget_resets_the_machine",
    ),
    Mutant(
        "cut-begins-late",
        "The cut begins at the keeper's deadline.",
        "enforcer/revoker/cut.py",
        "        return self._deadline.stop_ns if",
        "        return self._deadline.stop_ns + 2_000_000_000 if",
        REVOKER + "test_what_is_promised_is_cut_at_the_deadline_and_not_before",
    ),
    Mutant(
        "cut-waits-for-a-word",
        "A promise of which no deadline is known is kept at once.",
        "enforcer/revoker/cut.py",
        "self._deadline.stop_ns if self._deadline is not None else 0\n",
        "self._deadline.stop_ns if self._deadline is not None else None\n",
        REVOKER + "test_a_promise_without_a_session_is_kept_at_once",
    ),
    Mutant(
        "cut-once",
        "What comes back by itself after the cut is cut again.",
        "enforcer/revoker/cut.py",
        "if boot_ns() - self._cut.get(disk.name, 0) > AGAIN_NS]",
        "if disk.name not in self._cut]",
        REVOKER + "test_what_comes_back_by_itself_or_is_promised_late_is_cut_too",
    ),
    Mutant(
        "cut-unopened",
        "A promised disk that cannot be opened is not one that is cut.",
        "enforcer/revoker/cut.py",
        "        if self._unknown:\n            self.give_up(self._unknown)\n",
        "",
        REVOKER + "test_a_disk_that_cannot_be_opened_is_not_one_that_is_cut",
    ),
    Mutant(
        "promise-not-told",
        "The revoker knows the disks of a lease before the guard lets anything be written under it.",
        "enforcer/workflow/leases.py",
        "        self._tell(held.lease for held in self._held.values())\n        grips =",
        "        grips =",
        PROMISES + "test_the_revoker_hears_before_the_guard_does",
    ),
    Mutant(
        "promise-forgotten",
        "A daemon that starts forgets no promise of the one before it.",
        "enforcer/workflow/promises.py",
        "        if not self._adopted():\n",
        "        if self._told and not self._adopted():\n",
        PROMISES + "test_a_daemon_that_starts_forgets_no_promise",
    ),
    Mutant(
        "promise-raised",
        "What is in use already never comes to promise more.",
        "enforcer/cluster/etcd_store.py",
        "                promised = Guarantee.NONE  # what is in use",
        "                pass  # what is in use",
        "tests/unit/cluster/test_etcd_takeover.py::test_what_is_held_already_never_comes_to_promise_more",
    ),
    Mutant(
        "promise-uncuttable",
        "No cut is promised of a disk whose state cannot be set.",
        "enforcer/workflow/promises.py",
        "if not self._is_scsi(disk.name):",
        "if not disk.name:",
        PROMISES + "test_no_cut_is_promised_of_what_cannot_be_cut",
    ),
    Mutant(
        "promise-of-the-system",
        "No cut is promised of a disk that the system stands on.",
        "enforcer/workflow/promises.py",
        "if why := self._systems(disk):",
        "if why := disk.problem:",
        PROMISES + "test_no_cut_is_promised_of_what_cannot_be_cut",
    ),
    Mutant(
        "promise-of-a-dead-revoker",
        "A revoker that gives no sign of life is promised nothing for.",
        "enforcer/lost/files.py",
        "return now_ns - self.beat_ns > DEAD_NS",
        "return now_ns < self.beat_ns",
        GUARANTEE + "test_a_revoker_counts_only_while_it_is_seen_at_work",
    ),
    Mutant(
        "promise-on-virtual-machines",
        "A machine that may be paused with its clock promises nothing.",
        "enforcer/model/guarantee.py",
        "    if tiers.pauses:\n",
        "    if tiers.pauses and not tiers.cut_s:\n",
        GUARANTEE + "test_a_promise_is_made_only_while_all_that_keeps_it_is_there",
    ),
    Mutant(
        "no-time-for-the-cut",
        "The kernel's deadline leaves time for the cut and the watchdog before the session ends.",
        "enforcer/cluster/etcd_session.py",
        "watchdog_s=self._tiers.watchdog_s, cut_s=self._tiers.cut_s)",
        "watchdog_s=self._tiers.watchdog_s)",
        GUARANTEE + "test_the_deadline_leaves_time_for_what_was_promised",
    ),
    Mutant(
        "cut-does-not-count",
        "Settings whose cut does not fit into the ttl are refused.",
        "enforcer/settings/sections.py",
        "cut_s=most.cut_s, watchdog_s=most.watchdog_s)",
        "watchdog_s=most.watchdog_s)",
        "tests/unit/policy/test_settings.py::test_what_must_be_done_before_the_end_must_fit",
    ),
    Mutant(
        "guarantee-not-recorded",
        "The lease in the store bears what its holder promised, and the taker waits by it.",
        "enforcer/cluster/etcd_grants.py",
        "write_lease(me, mode, since, promised, facts)) for key",
        "write_lease(me, mode, since, Guarantee.NONE, facts)) for key",
        "tests/unit/cluster/test_etcd_takeover.py::"
        "test_who_promised_silence_is_taken_over_when_its_time_is_over_and_stays_out",
    ),
    Mutant(
        "back-while-in-use",
        "A disk that was cut off comes back only when nothing uses it here.",
        "enforcer/workflow/wayback.py",
        "if not over or any(self._busy(device.dev) for device in over):",
        "if not over:",
        "tests/unit/workflow/test_wayback.py::test_a_disk_comes_back_when_nothing_uses_it_and_the_session_lives",
    ),
    Mutant(
        "one-cut-fences-all",
        "Who was taken over because it promised a cut is not silent on a disk of which it promised nothing.",
        "enforcer/cluster/etcd_grants.py",
        "promised=True",
        "promised=False",
        "tests/unit/cluster/test_etcd_takeover.py::test_what_was_promised_for_one_disk_says_nothing_of_another",
    ),
    Mutant(
        "revoker-ends-at-once",
        "At shutdown the revoker stays until what was promised is cut.",
        "enforcer/revoker/cut.py",
        "return keeper_runs or not self._promises or not",
        "return keeper_runs or self._promises is not None or not",
        "tests/unit/revoker/test_revoker.py::test_it_ends_only_when_nobody_relies_on_it",
    ),
)
