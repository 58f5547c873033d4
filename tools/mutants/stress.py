# SPDX-License-Identifier: GPL-2.0-or-later
"""The rows of :mod:`tools.mutants` for what lies beside the straight road: sets, stacks, signals, outages, names, etcd.

Some faults are missing because a second layer catches them: a claim inside the kernel that is not counted, or that an
umount ends too early (the exclusive open refuses to give the lease back).
"""

from __future__ import annotations

from tools.mutants.row import Mutant

USES, STACKS, SETS = "tests/vm/test_55_uses.py", "tests/vm/test_58_stacks.py", "tests/vm/test_50_sets.py"
OUTAGES, SIGNALS = "tests/vm/test_42_outages.py", "tests/vm/test_70_signals.py"
SOURCES, NAMES = "tests/vm/test_64_sources.py", "tests/vm/test_66_names.py"
FIGURES = "tests/vm/test_85_figures.py"

STORAGE_MUTANTS = (
    Mutant(
        "stopped-time-counts",
        "A caller that was stopped has the time of any other to come back once it goes on: one ask, one record.",
        "enforcer/workflow/asks.py",
        "                stopped_ns = now_ns\n",
        "                continue\n",
        "tests/unit/workflow/test_workflow_asks.py::test_a_caller_that_goes_on_has_time_to_come_back",
    ),
    Mutant(
        "companion-overlooked",
        "The foreign member, journal or log alone is enough for a refusal.",
        "enforcer/workflow/resolver.py",
        "        return Resolved(intent, found.problem, others)\n",
        "        return Resolved(intent, found.problem)\n",
        f"{SETS}::test_a_free_set_mounts_at_the_first_try_under_one_token",
        (f"{SETS}::test_a_free_set_mounts_at_the_first_try_under_one_token[xfs with a log device]",),
    ),
    Mutant(
        "refused-member-missing",
        "A member that the guard has refused refuses the mount: one intent, one record.",
        "bpf/guard.h",
        "\t\tf->refused = error;",
        "\t\t;",
        f"{SETS}::test_the_foreign_companion_alone_is_enough",
        (f"{SETS}::test_the_foreign_companion_alone_is_enough[btrfs, member named by fsconfig]",),
    ),
    Mutant(
        "buffered-write-uncounted",
        "The other node gets the device only after the last byte of a buffered write.",
        "bpf/gate.h",
        "counted = count_file(file, dev, write ? BLK_OPEN_WRITE : 0, exclusive);",
        "counted = !exclusive || count_file(file, dev, write ? BLK_OPEN_WRITE : 0, exclusive);",
        f"{USES}::test_a_buffered_write_keeps_the_device_until_its_last_byte",
    ),
    Mutant(
        "release-at-fentry",
        "A use counts until its last close has flushed, not until it begins to.",
        "bpf/ledger.h",
        'SEC("lsm/file_free_security")\n',
        'SEC("fentry/bdev_release")\n',
        f"{USES}::test_a_use_counts_until_its_last_close_has_flushed",
    ),
    Mutant(
        "turns-unread",
        "Who reads without a lease sees what the other node wrote.",
        "enforcer/workflow/freshness.py",
        "        return found\n",
        "        return set()\n",
        f"{USES}::test_who_reads_without_a_lease_sees_what_the_other_node_wrote",
    ),
    Mutant(
        "map-without-a-name",
        "A LUN is refused by every name that it has, that of its multipath map too.",
        "enforcer/storage/identity.py",
        "    if kind is Kind.MULTIPATH and len(below) > 1:\n",
        "    if kind is Kind.MULTIPATH:\n"
        '        return frozenset(), ""\n'
        "    if kind is Kind.MULTIPATH and len(below) > 1:\n",
        f"{STACKS}::test_a_lun_is_refused_by_every_name_that_it_has",
        (f"{STACKS}::test_a_lun_is_refused_by_every_name_that_it_has",),
    ),
    Mutant(
        "number-is-identity",
        "Another LUN under the same device number inherits nothing.",
        "bpf/ledger.h",
        "\tbpf_map_delete_elem(&guard, &number); /* a reused number has no identity: born unknown */\n",
        "",
        f"{STACKS}::test_another_lun_under_the_same_number_inherits_nothing",
    ),
    Mutant(
        "partition-inherits-nothing",
        "A partition that appears is guarded at once, as its disk is.",
        "bpf/ledger.h",
        "\tif (whole && whole != bdev) {\n",
        "\tif (0) {\n",
        f"{STACKS}::test_a_partition_that_appears_is_guarded_at_once",
    ),
    Mutant(
        "partitions-believed",
        "A partition that is not in the table on the disk is refused.",
        "enforcer/storage/parttable.py",
        "    return listed is not None and",
        "    return True or listed is not None and",
        f"{STACKS}::test_a_partition_that_is_not_in_the_table_on_the_disk_is_refused",
    ),
)

OUTAGE_MUTANTS = (
    Mutant(
        "outage-takes-anew",
        "After an outage of the daemon the lease is re-adopted with the same token.",
        "enforcer/cluster/etcd_store.py",
        "                        token=s.lease.token,\n",
        "                        token=None,\n",
        f"{OUTAGES}::test_no_mount_is_disturbed_and_the_token_stays",
    ),
    Mutant(
        "signal-drops-the-ask",
        "A waiter that a signal disturbs ends with the verdict: one ask, one record.",
        "enforcer/workflow/asks.py",
        "        self._start(self._watch_left(pending, pending.left_ns))\n",
        "        self._forget(pending)\n",
        f"{SIGNALS}::test_a_disturbed_waiter_ends_with_the_verdict",
        (f"{SIGNALS}::test_a_disturbed_waiter_ends_with_the_verdict[SIGURG]",),
    ),
)

NAME_MUTANTS = (
    Mutant(
        "no-device-no-errno",
        "A refused source without a device is really refused through fsconfig(2).",
        "bpf/gate.h",
        "\tif (!has_dev || f->flags & ENF_FRAME_OPENED)\n",
        "\tif (f->flags & ENF_FRAME_OPENED)\n",
        f"{SOURCES}::test_a_source_without_a_device_is_refused_by_its_rule",
        (f"{SOURCES}::test_a_source_without_a_device_is_refused_by_its_rule[fsconfig-12]",),
    ),
    Mutant(
        "holder-untold",
        "A refusal by the guard alone leaves one record with the holder.",
        "enforcer/daemon/reactions.py",
        "blocking=blocking,",
        "blocking=(),",
        f"{SOURCES}::test_an_opener_inside_the_kernel_is_refused_with_holder_and_hint",
    ),
    Mutant(
        "names-unescaped",
        "A hostile name reaches neither a terminal nor the log unescaped.",
        "enforcer/model/escape.py",
        "    if len(text) <= limit and text.isprintable():\n",
        "    if len(text) <= limit:\n",
        f"{NAMES}::test_hostile_devices_and_lease_facts_are_shown_escaped_by_every_verb",
    ),
    Mutant(
        "type-asked",
        "A thousand tmpfs mounts ask nobody.",
        "bpf/gate.h",
        "\tif (how == ENF_FS_PASS) {\n",
        "\tif (0) {\n",
        f"{FIGURES}::test_a_thousand_tmpfs_mounts_ask_nobody",
    ),
    Mutant(
        "swap-unguards-the-disk",
        "Swap that is switched on under a lease does not unguard the partitions beside it.",
        "enforcer/storage/system.py",
        "            if reason == SWAP and self._guarded(dev):\n",
        "            if False:\n",
        "tests/unit/storage/test_storage_use.py::test_swap_on_a_guarded_device_makes_nothing_the_systems",
    ),
    Mutant(
        "swap-forgotten-with-its-rule",
        "Swap that was guarded once is none of the node's own until it is off, whatever the table says by then.",
        "enforcer/workflow/guarded_swap.py",
        "        if dev in before or self._all or",
        "        if self._all or",
        "tests/unit/workflow/test_workflow_devices.py::test_guarded_swap_is_remembered_until_it_is_off",
    ),
    Mutant(
        "swap-forgotten-unseen",
        "Who could not see all active swap forgets none.",
        "enforcer/workflow/devices.py",
        "at_everything=not found.unresolved",
        "at_everything=True",
        "tests/unit/workflow/test_workflow_devices.py::test_guarded_swap_is_remembered_until_it_is_off",
    ),
    Mutant(
        "swap-forgotten-as-guarded",
        "What the table has as guarded when swap is found on it is not the system's.",
        "enforcer/workflow/devices.py",
        "guarded=self._swap.was_guarded)",
        "guarded=lambda _: False)",
        "tests/unit/workflow/test_workflow_devices.py"
        "::test_swap_is_the_systems_unless_the_table_says_that_it_was_guarded",
    ),
    Mutant(
        "keeper-grows",
        "The keeper stays below 30 MB.",
        "enforcer/keeper/main.py",
        "    _stay_small(chosen.store.endpoints)\n",
        "",
        f"{FIGURES}::test_the_processes_stay_small",
    ),
)

MEMBERS, ETCD = "tests/unit/cluster/test_etcd_members.py", "tests/vm/test_80_etcd.py"
LOST_LEADER = "test_a_lost_leader_costs_no_session_no_lease_and_no_deadline"
NO_QUORUM = "test_a_lost_quorum_is_told_as_such_and_moves_no_deadline"
PULSES = "test_members_that_answer_now_and_then_deny_in_time_and_never_say_free"

ETCD_MUTANTS = (
    Mutant(
        "no-rotation",
        "A member that is lost is left for another: no lease, session or moment is lost with a leader.",
        "enforcer/cluster/etcd_http.py",
        "                self._at += 1\n",
        "                pass\n",
        f"{MEMBERS}::{LOST_LEADER}",
    ),
    Mutant(
        "patient-with-one-member",
        "A member that hangs is left for another within the budget of the call.",
        "enforcer/cluster/etcd_http.py",
        "PER_TRY_S = 0.7\n",
        "PER_TRY_S = 7.0\n",
        f"{MEMBERS}::{LOST_LEADER}",
    ),
    Mutant(
        "silence-drops-the-session",
        "A renewal without an answer takes nothing from the deadline that was reached before.",
        "enforcer/keeper/duties.py",
        '                    told = self._tell(told, f"not renewed: {error}")\n',
        "                    session.facts = None\n"
        '                    told = self._tell(told, f"not renewed: {error}")\n',
        f"{MEMBERS}::{LOST_LEADER}",
    ),
    Mutant(
        "slow-is-free",
        "A store that does not answer in time is no free device.",
        "enforcer/cluster/etcd_store.py",
        "            return Denied(Standing.UNKNOWN, str(error), remedy=error.hint)\n",
        "            return Granted(1, (), False)\n",
        f"{MEMBERS}::{PULSES}",
    ),
    Mutant(
        "revoked-is-free",
        "A session that the store ended by mistake frees no lease of its holder.",
        "enforcer/cluster/conflicts.py",
        "    return held.liveness in (Liveness.FENCED, Liveness.REBOOTED, Liveness.SILENT)\n",
        "    return held.liveness is not Liveness.LIVE\n",
        f"{MEMBERS}::test_a_session_that_the_store_ended_by_mistake_costs_no_lease",
    ),
    Mutant(
        "no-quorum-untold",
        "A lost quorum is told as such.",
        "enforcer/cluster/etcd_http.py",
        'answer.get("leader", "0") not in ("0", 0)',
        'answer.get("leader", "0") is not None',
        f"{MEMBERS}::{NO_QUORUM}",
    ),
    Mutant(
        "reason-after-the-time-out",
        "The reason of a silence comes before the caller's own time-out, which knows none.",
        "enforcer/cluster/etcd_http.py",
        "min(SPARE_S, budget_s / 8)",
        "0.0",
        f"{MEMBERS}::{NO_QUORUM}",
    ),
    Mutant(
        "out-of-reach-untold",
        "A store of which no member answers is told as out of reach.",
        "enforcer/cluster/etcd_http.py",
        "        if not answering:\n",
        "        if not known:\n",
        f"{MEMBERS}::test_a_restart_of_all_members_keeps_sessions_and_tokens",
    ),
    Mutant(
        "second-half-unbounded",
        "A renewal whose look at the record gets no answer tells why, within its budget.",
        "enforcer/cluster/etcd_session.py",
        "self._look(budget_s=max(0.0, end - clock()))",
        "self._look()",
        "tests/unit/cluster/test_etcd_session.py::test_a_renewal_whose_second_half_is_silent_tells_why_and_moves_no_deadline",
    ),
    Mutant(
        "waits-twice",
        "Who has waited for another of the same LUN while the store was silent is denied with it, in time.",
        "enforcer/workflow/turns.py",
        "            if left_s < LAST_TRY_S and when_ns > asked_ns:\n",
        "            if left_s < 0 and when_ns > asked_ns:\n",
        "tests/unit/workflow/test_leases_taken.py::test_who_waited_for_its_turn_while_the_store_was_silent_is_denied_in_time_for_the_same_reason",
    ),
    Mutant(
        "no-deadline",
        "The kernel's deadline passes without anybody's help.",
        "bpf/decide.h",
        "	return !(guard_flags & ENF_GUARD_DEADLINE) || now_ns < deadline_ns;\n",
        "	return now_ns || deadline_ns || guard_flags;\n",
        f"{ETCD}::test_without_a_quorum_mounts_are_refused_and_the_kernel_stops_by_itself",
    ),
    Mutant(
        "lease-ends-with-the-session",
        "A lease's record outlives the session of its holder.",
        "enforcer/cluster/etcd_store.py",
        "                    grant_ops(self._layout, ruling, promised, facts, since),\n",
        "                    [{k: {**v, 'lease': str(self._session().lease_id)} if k == 'request_put' else v\n"
        "                      for k, v in op.items()}\n"
        "                     for op in grant_ops(self._layout, ruling, promised, facts, since)],\n",
        f"{ETCD}::test_a_lease_outlives_the_session_of_its_holder",
    ),
    Mutant(
        "keeper-invents-time",
        "A node that cannot renew may begin nothing any more once its session is over.",
        "enforcer/keeper/duties.py",
        "                self._write_deadline(session.deadline_ns if ours else None)\n"
        "                await asyncio.sleep(RETRY_S)\n",
        "                self._write_deadline(boot_ns() + int(store.ttl_s * 1e9))\n"
        "                await asyncio.sleep(RETRY_S)\n",
        f"{ETCD}::test_a_lease_outlives_the_session_of_its_holder",
    ),
    Mutant(
        "no-rotation-in-the-guest",
        "A leader that is lost costs no lease on a node, and a free LUN is mounted once there is another.",
        "enforcer/cluster/etcd_http.py",
        "                self._at += 1\n",
        "                pass\n",
        f"{ETCD}::test_a_lost_leader_costs_no_lease",
    ),
)

MUTANTS = (*STORAGE_MUTANTS, *OUTAGE_MUTANTS, *NAME_MUTANTS, *ETCD_MUTANTS)
