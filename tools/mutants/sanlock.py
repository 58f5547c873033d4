# SPDX-License-Identifier: GPL-2.0-or-later
"""The sanlock lease store: writes that come late, copies that rot, hosts that are set up twice."""

from __future__ import annotations

from tools.mutants.row import Mutant

STORE, AREA, MOMENT, INIT, RENEWALS = (
    "enforcer/cluster/sanlock_store.py",
    "enforcer/cluster/sanlock_area.py",
    "enforcer/cluster/sanlock_moment.py",
    "enforcer/cluster/sanlock_init.py",
    "enforcer/keeper/renewals.py",
)
TESTS = "tests/unit/cluster/test_sanlock_store.py"
NOT_WRITTEN = f"{TESTS}::test_nothing_is_written_under_a_lease_that_was_given_away_nor_for_a_caller_who_has_gone"
COPIES = f"{TESTS}::test_one_damaged_copy_harms_nobody_and_two_are_unknown_never_what_was_before"
SET_BACK = f"{TESTS}::test_an_area_or_a_lease_that_was_set_back_is_not_believed"
INIT_TEST = (
    "tests/unit/cluster/test_sanlock_init.py"
    "::test_a_blank_disk_becomes_a_store_and_one_in_use_or_with_anything_on_it_is_refused"
)
WATCHED = "tests/unit/cluster/test_sanlock_renewals.py"

MUTANTS = (
    Mutant(
        "sanlock-late-write-counts",
        "A write to the shared disk counts only if the lease was still ours after it.",
        AREA,
        "            self._still(fd, lease)\n            if max(self._headers(fd)[1].values()) != sequence:\n",
        "            if False:\n",
        f"{TESTS}::test_a_write_that_comes_after_the_lease_was_given_away_undoes_nothing_and_is_told",
    ),
    Mutant(
        "sanlock-writes-without-lease",
        "Nothing is written under a lease that sanlock has given away.",
        AREA,
        "            self._still(fd, lease)\n            if time.monotonic() >= end_s:\n",
        "            if time.monotonic() >= end_s:\n",
        NOT_WRITTEN,
    ),
    Mutant(
        "sanlock-writes-for-nobody",
        "Nothing is begun to be written for a caller whose time is over.",
        AREA,
        "            if time.monotonic() >= end_s:\n",
        "            if False:\n",
        NOT_WRITTEN,
    ),
    Mutant(
        "sanlock-reads-unfinished",
        "What is written to the shared disk and does not count yet is read by nobody.",
        STORE,
        "                    if before == after and not after.held:\n",
        "                    if before == after:\n",
        f"{TESTS}::test_nobody_reads_what_is_written_and_does_not_count_yet",
    ),
    Mutant(
        "sanlock-back-in-history",
        "If the newest records are gone, older ones of another host do not count.",
        AREA,
        "        places = [place for place, sequence in found.items() if sequence == highest]\n",
        "        places = sorted(found, key=lambda place: -found[place])\n",
        f"{TESTS}::test_if_the_newest_bodies_are_gone_the_older_ones_of_another_host_do_not_count",
    ),
    Mutant(
        "sanlock-lost-headers",
        "A host without a good header is damage, not a host that never wrote.",
        AREA,
        "            if not any((host_id, copy) in found for copy in COPIES):\n",
        "            if False:\n",
        COPIES,
    ),
    Mutant(
        "sanlock-one-copy",
        "Two copies of the records are good before a grant is told.",
        AREA,
        "            for copy in worse_first:\n",
        "            for copy in worse_first[:1]:\n",
        COPIES,
    ),
    Mutant(
        "sanlock-stays-half",
        "Records of which one copy is good are written anew by the next step.",
        STORE,
        "                if after != now.records or not image.whole:\n",
        "                if after != now.records:\n",
        f"{TESTS}::test_a_half_written_change_is_written_whole_by_whoever_comes_next",
    ),
    Mutant(
        "sanlock-set-back",
        "An area with lower numbers than this node has seen is not believed.",
        STORE,
        "        if image.sequence < known:\n",
        "        if False:\n",
        SET_BACK,
    ),
    Mutant(
        "sanlock-number-twice",
        "A lease of sanlock whose number was written under already is not written under again.",
        STORE,
        "                if token <= image.sequence:\n",
        "                if False:\n",
        SET_BACK,
    ),
    Mutant(
        "sanlock-keeps-late-write",
        "Records of ours that nobody was told of are written anew, never simply kept.",
        STORE,
        "            if token := ruling.permit(self._sure):\n",
        "            if token := ruling.held_token:\n",
        f"{TESTS}::test_a_disk_that_hangs_denies_in_time_and_what_it_writes_later_is_not_kept",
    ),
    Mutant(
        "sanlock-fenced-goes-on",
        "A boot that was confirmed fenced gets nothing from the shared disk.",
        MOMENT,
        "    if (me.node, me.boot_id) in now.records.fenced:\n",
        "    if False:\n",
        f"{TESTS}::test_a_node_that_was_confirmed_fenced_by_force_gets_nothing_and_is_taken_over",
    ),
    Mutant(
        "sanlock-two-of-a-name",
        "A node name or a host id that another live node has is refused at start.",
        MOMENT,
        "        if (other.node, other.boot_id) in busy or (other.node in now.witness.present and not proven):\n",
        "        if False:\n",
        f"{TESTS}::test_two_nodes_with_one_host_id_or_one_name_are_refused_at_start",
    ),
    Mutant(
        "sanlock-init-over-data",
        "A disk with anything on it is not made into a store.",
        AREA,
        '                if _pread(fd, at, MIB).strip(b"\\0"):\n',
        '                if at < MIB and _pread(fd, at, MIB).strip(b"\\0"):\n',
        INIT_TEST,
    ),
    Mutant(
        "sanlock-init-over-leases",
        "A store in which somebody holds a lease is not made anew.",
        INIT,
        "(leases := sanlock_records.load(area.read().body).leases)",
        "(leases := sanlock_records.load(area.read().body).leases[:0])",
        INIT_TEST,
    ),
    Mutant(
        "sanlock-deadline-from-the-answer",
        "The deadline counts from before sanlock's renewal, not from when it was seen.",
        RENEWALS,
        "            self.renewed_ns = self._last[1]\n",
        "            self.renewed_ns = began_ns\n",
        f"{WATCHED}::test_t0_is_never_later_than_the_last_renewal_nor_older_than_one_read",
    ),
    Mutant(
        "sanlock-renewed-by-another",
        "What another host writes under our host id is no renewal of ours.",
        RENEWALS,
        "and delta.timestamp and ours:",
        "and delta.timestamp:",
        f"{WATCHED}::test_what_another_host_writes_and_a_lock_space_that_was_left_renew_nothing",
    ),
)
