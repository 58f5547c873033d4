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
        "        used = self._leases.busy(known.dev) or known.in_use\n",
        "        used = self._leases.busy(known.dev)\n",
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
        "        return not any([await self._claimed(device.dev) for device in over])\n",
        "        return True\n",
        "tests/unit/workflow/test_wayback.py::test_a_disk_comes_back_when_nothing_uses_it_and_the_session_lives",
    ),
    Mutant(
        "way-back-asks-again",
        "A cut disk that does not answer keeps one thread of the daemon, not one a second.",
        "enforcer/workflow/wayback.py",
        "        if before is not None and not before.done():\n            return True\n",
        "",
        "tests/unit/workflow/test_wayback.py::test_a_disk_that_does_not_answer_keeps_one_thread_and_no_other_disk",
    ),
)
