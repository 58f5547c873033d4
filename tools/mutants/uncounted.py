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
        "            held.uncounted |= any(self._devices.known[dev].device.in_use for dev in devices)\n",
        "",
        COUNTED + "test_who_writes_uncounted_keeps_a_lease_that_was_refused_or_is_just_taken_up",
    ),
    Mutant(
        "uncounted-behind-a-count",
        "A use that is counted hides none that is not.",
        "enforcer/daemon/reconcile.py",
        "            self._devices.note_use(dev, sentence)  #",
        "            self._devices.note_use(dev, sentence if self._leases.uses_of(dev)[0] <= 0 else '')  #",
        "tests/unit/daemon/test_daemon_reconcile.py::test_behind_a_use_that_is_counted_another_one_is_found",
    ),
    Mutant(
        "cancelled-ask-uncounted",
        "A grant whose ask was cancelled is not given back while something claims its device.",
        "enforcer/workflow/leases.py",
        "            devices = self._devices.counted_for(resource)  # a grant whose",
        "            _ = self._devices.counted_for(resource)  # a grant whose",
        COUNTED + "test_a_grant_whose_ask_was_cancelled_is_not_given_back_while_something_claims_its_device",
    ),
    Mutant(
        "way-back-under-a-claim",
        "A cut disk comes back only if nothing claims what lies on it, seen in /proc or not.",
        "enforcer/workflow/wayback.py",
        "                await asyncio.to_thread(claimed, each.dev)",
        "                False",
        "tests/unit/workflow/test_wayback.py::test_a_disk_comes_back_when_nothing_uses_it_and_the_session_lives",
    ),
)
