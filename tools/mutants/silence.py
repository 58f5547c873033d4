# SPDX-License-Identifier: GPL-2.0-or-later
"""What silences a node that lost its session: the watchdog, and the storage's own reservation."""

from __future__ import annotations

from tools.mutants.row import Mutant

RESERVING = "tests/unit/workflow/test_reserving.py::"
DOG = "tests/unit/keeper/test_keeper_watchdog.py::"

MUTANTS = (
    Mutant(
        "dog-fed-late",
        "The watchdog bites before the node's last moment, whenever the keeper hangs.",
        "enforcer/keeper/feeding.py",
        "    return (now_ns < last_pet_ns and not refused) or not in_use()\n",
        "    return not refused or not in_use()\n",
        DOG + "test_it_bites_in_time_if_the_keeper_is_killed_or_hangs_at_any_moment",
    ),
    Mutant(
        "dog-whole-time",
        "The meal that a close gives to a watchdog whose keeper had hung still leaves it time to bite.",
        "enforcer/keeper/watchdog.py",
        "    return max(1, int(watchdog_s / 2))\n",
        "    return max(1, int(watchdog_s))\n",
        DOG + "test_a_hung_keeper_that_is_killed_later_wins_no_time_beyond_the_end",
    ),
    Mutant(
        "dog-late-meal",
        "A keeper that starts too late does not touch it.",
        "enforcer/keeper/feeding.py",
        "            if not may_feed(self._clock_ns(), self.last_pet_ns,",
        "            if not may_feed(self.last_pet_ns - 1, self.last_pet_ns,",
        DOG + "test_a_keeper_that_starts_too_late_does_not_touch_it",
    ),
    Mutant(
        "dog-spares-nobody",
        "A node that uses nothing is not reset.",
        "enforcer/keeper/feeding.py",
        "    return (now_ns < last_pet_ns and not refused) or not in_use()\n",
        "    return now_ns < last_pet_ns and not refused\n",
        DOG + "test_a_node_that_uses_nothing_lives_on",
    ),
    Mutant(
        "dog-doubt",
        "If it cannot be told whether something is in use, the watchdog is not fed.",
        "enforcer/keeper/feeding.py",
        "        except Exception:  # a doubt is a use\n            return True\n",
        "        except Exception:  # a doubt is a use\n            return False\n",
        DOG + "test_a_doubt_about_uses_and_a_cut_that_failed_are_not_fed",
    ),
    Mutant(
        "dog-stopped-in-use",
        "A keeper that ends while something is in use leaves the watchdog running.",
        "enforcer/keeper/feeding.py",
        "        if self._busy():\n            device.leave()\n            return False\n",
        "        if self._busy():\n            device.stop()\n            return False\n",
        DOG + "test_an_orderly_end_stops_it_only_if_nothing_is_in_use",
    ),
    Mutant(
        "dog-uncounted-use",
        "A live lease counts as a use, whatever the kernel has counted.",
        "enforcer/keeper/feeding.py",
        "        if entry.state == State.LIVE:\n            return True\n",
        "",
        DOG + "test_what_counts_as_a_use",
    ),
    Mutant(
        "reserve-unasked",
        "After the storage was read the store is asked whether the lease is still ours.",
        "enforcer/workflow/reserving.py",
        "        ours = await self._ours(lease)\n",
        "        ours = await self._ours(lease) or True\n",
        RESERVING + "test_a_node_that_was_paused_anywhere_writes_nothing_after_its_successor",
    ),
    Mutant(
        "reserve-given-up",
        "Once somebody was preempted the reservation is never given up: he may still have something to write.",
        "enforcer/storage/reservations.py",
        "    return key_of(lease, kept=there is not None and _outlives(there, lease))\n",
        "    return key_of(lease)\n",
        RESERVING + "test_it_is_given_up_with_the_last_use_unless_somebody_was_preempted",
    ),
    Mutant(
        "reserve-left-behind",
        "What this node has registered is given up whatever the lease's record promises by then.",
        "enforcer/workflow/reserving.py",
        "        if lease.resource.path:\n            return",
        "        if lease.resource.path or lease.guarantee is Guarantee.NONE:\n            return",
        RESERVING + "test_nothing_stays_behind_of_a_lease_whose_record_promises_it_no_more",
    ),
    Mutant(
        "reserve-late-look",
        "A look at the keys that hangs, and comes back late, ends no registration that was made since.",
        "enforcer/workflow/reserving.py",
        "        for key in await self._at(lun, dev, _registered):\n"
        "            if same_node(key, like) and not is_kept(key):\n"
        "                await self._at(lun, dev, _unregister(key))\n",
        "        ends = lambda port: [port.unregister(k) for k in _registered(port) if same_node(k, like)]\n"
        "        await self._at(lun, dev, ends)\n",
        RESERVING + "test_a_look_that_comes_back_late_ends_nothing_that_was_registered_since",
    ),
    Mutant(
        "reserve-late-give-up",
        "A give-up that was itself given up is waited for, or it ends the reservation of the next mount.",
        "enforcer/workflow/reserving.py",
        "        if self._commands.unanswered(lease.resource.lun):\n            return UNANSWERED",
        "        self._commands = Commands()\n        if False:\n            return UNANSWERED",
        RESERVING + "test_a_give_up_that_was_given_up_ends_no_reservation_that_is_in_use_again",
    ),
    Mutant(
        "reserve-late-command",
        "A command that was given up is remembered until it was carried out.",
        "enforcer/workflow/commands.py",
        "            if turn.acquire(blocking=False):\n                ended()\n",
        "            ended()\n",
        RESERVING + "test_nothing_goes_on_before_a_command_that_was_given_up_was_carried_out",
    ),
    Mutant(
        "reserve-half-given-up",
        "What was given up half, and cannot be reserved again, permits nobody without another ask.",
        "enforcer/workflow/leases.py",
        "                reserves = lease.guarantee is Guarantee.RESERVATION\n",
        "                reserves = False\n",
        "tests/unit/workflow/test_leases_doubtful.py::test_what_could_not_be_reserved_again_is_asked_about_again",
    ),
    Mutant(
        "reserve-earlier-boot",
        "What an earlier boot has reserved is ended when its LUN appears, whatever the store has forgotten by then.",
        "enforcer/workflow/leases.py",
        "        if held is None:\n            await self._reservations.end_earlier(",
        "        if held is None and False:\n            await self._reservations.end_earlier(",
        "tests/unit/workflow/test_leases_adopted.py::test_what_an_earlier_boot_reserved_is_ended_when_its_lun_appears",
    ),
    Mutant(
        "reserve-this-boot",
        "What this boot has reserved is not taken for an earlier one's by the next daemon.",
        "enforcer/workflow/reserving.py",
        "        self._earlier.over(lun)\n        before = ",
        "        before = ",
        RESERVING + "test_what_may_be_of_this_boot_is_not_ended",
    ),
    Mutant(
        "reserve-keeps-all",
        "A storage that does not end one reservation keeps no other lease when the daemon ends.",
        "enforcer/workflow/leases.py",
        "in list(self._held):\n            with contextlib.suppress(EnforcerError, OSError, TimeoutError):",
        "in list(self._held):\n            with contextlib.suppress(EnforcerError):",
        "tests/unit/workflow/test_parting.py::test_a_storage_that_does_not_end_its_reservation_keeps_no_other_lease",
    ),
    Mutant(
        "reserve-no-verdict",
        "Whoever asks for what cannot be given back has a verdict all the same.",
        "enforcer/workflow/leases.py",
        "left_over(wanted, want):\n            with contextlib.suppress(EnforcerError, OSError, TimeoutError):",
        "left_over(wanted, want):\n            with contextlib.suppress(EnforcerError):",
        "tests/unit/workflow/test_leases_shared.py::"
        "test_what_cannot_be_given_back_before_the_mount_leaves_its_caller_a_verdict",
    ),
    Mutant(
        "reserve-stranger",
        "A reservation of somebody whom our store does not know is left alone.",
        "enforcer/storage/reservations.py",
        "    if not is_key(there):\n",
        "    if not is_key(mine):\n",
        RESERVING + "test_a_reservation_of_a_stranger_is_left_alone",
    ),
    Mutant(
        "preempted-by-anybody",
        "Only who makes itself the holder of the reservation takes over from a holder of one.",
        "enforcer/cluster/conflicts.py",
        "preempted = preempts and record.liveness",
        "preempted = record.liveness",
        "tests/unit/cluster/test_conflicts.py::test_a_reservation_is_taken_over_by_who_preempts_and_is_no_fencing",
    ),
    Mutant(
        "old-mount-takes-it-back",
        "A mount of before it was taken over is a use: it does not get the reservation back.",
        "enforcer/workflow/reserving.py",
        "self._devices.on_lun(lun)) > counted\n",
        "self._devices.on_lun(lun)) > 1\n",
        "tests/unit/workflow/test_reserving.py::test_what_still_uses_it_here_does_not_get_it_back",
    ),
    Mutant(
        "promise-while-watching",
        "Where a rule only watches, nothing is promised and so nothing is cut.",
        "enforcer/workflow/promises.py",
        "if any(known.guarding.audit for",
        "if any(False and known for",
        "tests/unit/workflow/test_promises.py::test_nothing_is_promised_where_a_rule_only_watches",
    ),
)
