# SPDX-License-Identifier: GPL-2.0-or-later
"""Mutants of what keeps a lease although the kernel counts no use of it."""

from __future__ import annotations

from tools.mutants.row import Mutant

COUNTED = "tests/unit/workflow/test_leases_counted.py::"

MUTANTS = (
    Mutant(
        "uncounted-map-forgotten",
        "A map in use since before the kernel counted keeps its LUN when its paths go.",
        "enforcer/workflow/devices.py",
        "        return dev in self._adopted or (counts",
        "        return (counts",
        "tests/unit/workflow/test_leases_multipath.py"
        "::test_a_map_that_was_in_use_before_keeps_the_lease_without_its_paths",
    ),
    Mutant(
        "uncounted-map-idle",
        "A map in use since before the kernel counted needs its lease back before it gets a path.",
        "enforcer/workflow/resolver.py",
        "        used = self._leases.uses.busy(known.dev) or known.in_use\n",
        "        used = self._leases.uses.busy(known.dev)\n",
        "tests/unit/workflow/test_leases_multipath.py::test_what_a_map_may_take_without_a_lease",
    ),
    Mutant(
        "uncounted-writer-forgotten",
        "Who was found writing uncounted keeps the lease, however it was taken.",
        "enforcer/workflow/leases.py",
        "            held.uncounted |= self._devices.used_uncounted(devices)\n",
        "",
        COUNTED + "test_who_writes_uncounted_keeps_a_lease_that_was_refused_or_is_just_taken_up",
    ),
    Mutant(
        "adopt-freshens-a-grant",
        "What is granted while old leases are taken up is read anew before it is used.",
        "enforcer/workflow/leases.py",
        "        for resource in new:\n",
        "        for resource in list(self._held):\n",
        COUNTED + "test_what_is_granted_while_old_leases_are_taken_up_is_not_called_fresh",
    ),
    Mutant(
        "way-back-under-a-claim",
        "A cut disk comes back only if nothing claims what lies on it, seen in /proc or not.",
        "enforcer/workflow/wayback.py",
        "            for device in over:  # by what",
        "            for device in over[:0]:  # by what",
        "tests/unit/workflow/test_wayback.py::test_a_disk_comes_back_when_nothing_uses_it_and_the_session_lives",
    ),
    Mutant(
        "hung-disk-asked-again",
        "A disk that does not answer keeps one thread of the daemon, however often it is asked.",
        "enforcer/workflow/patience.py",
        "            while len(before := self._asked.get(about, set())) >= self._at_once:\n",
        "            while len(before := self._asked.get(about, set())) >= 99:\n",
        "tests/unit/workflow/test_patience.py::test_one_that_hangs_keeps_one_thread_and_the_next_answer_is_a_new_one",
    ),
    Mutant(
        "hung-disk-asked-for-each-lease",
        "So does one whose lease is to be given back.",
        "enforcer/workflow/vacancy.py",
        "await self._claims.ask(dev, look, DISK_S)",
        "await asyncio.wait_for(asyncio.to_thread(look), DISK_S)",
        "tests/unit/workflow/test_patience.py::test_a_disk_that_hangs_keeps_its_lease_and_one_thread",
    ),
    Mutant(
        "way-back-asks-again",
        "So does one that was cut off.",
        "enforcer/workflow/wayback.py",
        "await self._claims.ask(device.dev, look, CLAIM_S)",
        "await asyncio.wait_for(asyncio.to_thread(look), CLAIM_S)",
        "tests/unit/workflow/test_wayback.py::test_a_disk_that_does_not_answer_keeps_one_thread_and_no_other_disk",
    ),
    Mutant(
        "adopted-as-counted",
        "Who writes uncounted beside somebody who is counted keeps the lease over a restart of the daemon.",
        "enforcer/workflow/leases.py",
        "            held.uncounted = held.readopted = True  # perhaps",
        "            held.readopted = True  # perhaps",
        COUNTED + "test_who_writes_uncounted_beside_one_who_is_counted_keeps_the_lease_over_a_restart",
    ),
    Mutant(
        "adopted-for-who-waits",
        "Who only waits for a verdict while old leases are taken up uses nothing yet.",
        "enforcer/workflow/leases.py",
        "if any(self._uses.beyond(dev, waiting(dev)) for dev",
        "if any(self._uses.beyond(dev, 0) for dev",
        COUNTED + "test_who_waits_while_old_leases_are_taken_up_uses_nothing_yet",
    ),
    Mutant(
        "map-of-an-unknown-lun",
        "A map that is in use, of a LUN that is not known, needs the lease of the path's LUN before it gets the path.",
        "enforcer/workflow/resolver.py",
        "            return not used  # what",
        "            return True  # what",
        "tests/unit/workflow/test_leases_multipath.py::test_what_a_map_may_take_without_a_lease",
    ),
    Mutant(
        "lost-map-forgotten",
        "A map that lost its paths before a restart keeps what was held: nobody can tell which LUN it waits for.",
        "enforcer/workflow/leases.py",
        "        if held.permits or (held.readopted and self._vacancy.lost_in_use()):",
        "        if held.permits:",
        "tests/unit/workflow/test_leases_multipath.py::test_a_map_that_lost_its_paths_before_a_restart_keeps_what_was_held",
    ),
    Mutant(
        "looks-at-the-machine-for-each",
        "One look at the machine serves all leases that go at once.",
        "enforcer/workflow/vacancy.py",
        "        found = await self._seen()\n",
        "        found = await asyncio.to_thread(usage.scan)\n",
        COUNTED + "test_one_look_at_the_machine_serves_all_leases_that_go_at_once",
    ),
    Mutant(
        "hung-superblock-asked-again",
        "A disk whose superblock cannot be read in time is refused, and keeps few threads.",
        "enforcer/workflow/resolver.py",
        "await self._superblocks.ask(dev, partial(self._companions, question, dev), READ_S)",
        "await asyncio.wait_for(asyncio.to_thread(self._companions, question, dev), READ_S)",
        "tests/unit/workflow/test_judge_sets.py"
        "::test_a_disk_whose_superblock_cannot_be_read_in_time_is_refused_and_keeps_few_threads",
    ),
    Mutant(
        "map-forgotten-in-a-thread",
        "Only the loop writes the guard's table, or what is older could be written over what is newer.",
        "enforcer/workflow/resolver.py",
        "        table = dmtable.read_table(question.tid, question.arg)\n",
        "        table = dmtable.read_table(question.tid, question.arg)\n"
        "        self._devices.expect_table(self._devices.map_of(table))\n",
        "tests/unit/workflow/test_judge_sets.py::test_the_guards_table_is_written_by_the_loop_alone",
    ),
)
