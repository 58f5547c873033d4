# SPDX-License-Identifier: GPL-2.0-or-later
"""The straight road: refused, permitted, waiting, dead daemon, races, witness.

Some faults are missing because a second layer catches them, so no test can see one alone: the refusal that
sb_alloc_security notes (the guard's table refuses too), the second look at the table after a permit (a stale verdict is
reached anew), O_CLOEXEC of the upcall's descriptor (the anchor closes what it has, and dies with the daemon), adoption
left out (the next look at the store picks up what is ours, token and all).
"""

from __future__ import annotations

from tools.mutants.row import Mutant, steps

PERMITTED, REFUSED = "tests/vm/test_10_permitted.py", "tests/vm/test_20_refused.py"
WAITING, DEAD = "tests/vm/test_30_waiting.py", "tests/vm/test_40_dead_daemon.py"
SETS, RACES, STORY = "tests/vm/test_50_sets.py", "tests/vm/test_60_races.py", "tests/vm/test_90_story.py"
EVERY_WAY = "test_every_way_of_the_second_node_is_refused_and_the_storage_saw_no_write"
DIRTY = f"{STORY}::test_a_dirty_journal_is_not_replayed"
TO_REFUSALS = steps(STORY, "test_the_first_node_mounts", EVERY_WAY)
TO_STRANDED = steps(
    STORY,
    "test_the_first_node_mounts",
    "test_another_mount_namespace_keeps_the_lease",
    "test_the_second_node_gets_it_at_the_first_try_with_a_higher_token",
    "test_the_second_node_has_dirty_journals",
    "test_it_is_powered_off",
    "test_its_other_leases_are_stranded",
)

STORY_MUTANTS = (
    Mutant(
        "guard-passes",
        "No way of the second node gets at the device: the guard refuses what no gate has judged.",
        "bpf/guard.h",
        "\tif (what != ENF_REFUSE)\n",
        "\tif (1)\n",
        f"{STORY}::{EVERY_WAY}",
        TO_REFUSALS,
    ),
    Mutant(
        "file-gate-passes",
        "No way of the second node gets at the device: an open for writing is judged when the file is opened.",
        "bpf/gate.h",
        "\tif (state == ENF_UNGUARDED)\n",
        "\tif (1)\n",
        f"{STORY}::{EVERY_WAY}",
        TO_REFUSALS,
    ),
    Mutant(
        "stranded-taken-over",
        "The lease of a node that is gone, but not proven silent, is nobody else's.",
        "enforcer/cluster/conflicts.py",
        "held.liveness in (Liveness.FENCED, Liveness.REBOOTED, Liveness.SILENT)",
        "held.liveness is not Liveness.LIVE",
        TO_STRANDED[-1],
        TO_STRANDED,
    ),
)

UNTOUCHED = (
    Mutant(
        "guard-passes-in-mounts",
        "A mount through fsconfig that was refused has not replayed a dirty journal before it hears of it.",
        "bpf/guard.h",
        "\tif (what != ENF_REFUSE)\n",
        "\tif (what != ENF_REFUSE || f)\n",
        DIRTY,
        (*TO_STRANDED, DIRTY),
    ),
    Mutant(
        "stranded-lun-taken-over",
        "A dirty journal that a dead node left on a whole LUN is not replayed by another one's mount.",
        "enforcer/cluster/conflicts.py",
        "    return held.liveness in (Liveness.FENCED, Liveness.REBOOTED, Liveness.SILENT)\n",
        "    return held.liveness is not Liveness.LIVE and not held.lease.resource.path\n",
        DIRTY,
        (*TO_STRANDED, DIRTY),
    ),
)

PERMITTED_MUTANTS = (
    Mutant(
        "reader-uncounted",
        "A mount that only reads holds the lease like any other, by either API.",
        "bpf/guard.h",
        "\t\t\tcount_file(ret, o->dev, mode, holder);\n",
        "\t\t\tif (mode & BLK_OPEN_WRITE)\n\t\t\t\tcount_file(ret, o->dev, mode, holder);\n",
        f"{PERMITTED}::test_each_api_mounts_a_free_filesystem",
    ),
    Mutant(
        "mount-kept",
        "The lease of a free device is given back after the last use.",
        "enforcer/workflow/leases.py",
        "        if held.permits or (",
        '        if held.permits or held.lease.facts.get("kind") == "mount" or (',
        f"{PERMITTED}::test_a_free_filesystem_mounts_at_the_first_try",
    ),
    Mutant(
        "table-load-not-asked",
        "A device-mapper table over a free device is loaded at the first try, under a lease.",
        "bpf/gate.h",
        "\tif ((cmd >> 8 & 0xff) != DM_IOCTL || (cmd & 0xff) != DM_TABLE_LOAD_CMD)\n",
        "\tif (1)\n",
        f"{PERMITTED}::test_a_free_device_can_be_written_and_stacked",
        steps(PERMITTED, "test_a_free_device_can_be_written_and_stacked[dmsetup]"),
    ),
    Mutant(
        "dd-not-held",
        "dd holds the lease while it writes, although it does not ask for the device exclusively.",
        "bpf/gate.h",
        "counted = count_file(file, dev, write ? BLK_OPEN_WRITE : 0, exclusive);",
        "counted = !exclusive || count_file(file, dev, write ? BLK_OPEN_WRITE : 0, exclusive);",
        f"{PERMITTED}::test_a_free_device_can_be_written_and_stacked",
        steps(PERMITTED, "test_a_free_device_can_be_written_and_stacked[dd]"),
    ),
    Mutant(
        "writer-uncounted",
        "An open file without O_EXCL keeps the lease for as long as it is open.",
        "bpf/gate.h",
        "counted = count_file(file, dev, write ? BLK_OPEN_WRITE : 0, exclusive);",
        "counted = !exclusive || count_file(file, dev, write ? BLK_OPEN_WRITE : 0, exclusive);",
        f"{SETS}::test_the_foreign_companion_alone_is_enough",
        steps(SETS, "test_the_foreign_companion_alone_is_enough[xfs with a log device]"),
    ),
)

ERRNO = (
    Mutant(
        "errno-of-the-verdict",
        "mount(2) fails with the errno of the rule.",
        "enforcer/workflow/judge.py",
        "errno=decision.errno or errno.EBUSY)\n",
        "errno=errno.EBUSY)\n",
        f"{REFUSED}::test_the_rules_errno_reaches_the_caller_through_both_apis",
    ),
    Mutant(
        "errno-of-the-guard",
        "fsconfig(2) fails with the errno of the rule.",
        "bpf/guard.h",
        "q.refused ? f->refused :",
        "q.refused ? -EBUSY :",
        f"{REFUSED}::test_the_rules_errno_reaches_the_caller_through_both_apis",
    ),
    Mutant(
        "nothing-told",
        "The refused caller reads one line on its terminal, with holder and event.",
        "enforcer/audit/tell.py",
        '        return os.write(fd, for_terminal(text, _LIMIT).encode("utf-8", "replace") + b"\\r\\n") > 0\n',
        "        return True\n",
        f"{REFUSED}::test_the_refused_caller_reads_one_line_on_its_terminal",
    ),
    Mutant(
        "told-by-mount-alone",
        "So does a caller of fsconfig(2).",
        "enforcer/daemon/recorder.py",
        "        if verdict.effect is Effect.REFUSE and began:\n",
        '        if verdict.effect is Effect.REFUSE and began and intent.caller.syscall == "mount":\n',
        f"{REFUSED}::test_the_refused_caller_reads_one_line_on_its_terminal",
    ),
)

WAITING_MUTANTS = (
    Mutant(
        "interrupt-ignored",
        "A mount that waits ends within a second of a signal.",
        "enforcer/kernel/upcall.py",
        "                if target in self._waiting:\n",
        "                if False:\n",
        f"{WAITING}::test_a_waiting_mount_ends_within_a_second_of_a_signal",
    ),
    Mutant(
        "anchor-keeps-the-connection",
        "Thirty-two waiters are answered within two seconds of the daemon's death.",
        "enforcer/kernel/anchor.py",
        "        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)\n"
        "        signal.pthread_sigmask(signal.SIG_SETMASK, [])\n"
        "        os.closerange(3, 4096)  # the FUSE device is O_CLOEXEC; the child must not hold it even until then\n",
        '        for fd in os.listdir("/proc/self/fd"):\n'
        '            if os.path.realpath(f"/proc/self/fd/{fd}") == "/dev/fuse":\n'
        "                os.set_inheritable(int(fd), True)\n",
        f"{WAITING}::test_thirty_two_waiters_are_answered_within_two_seconds_of_the_daemons_death",
    ),
    Mutant(
        "silence-unnamed",
        "The record of each says that it was the fail-mode.",
        "enforcer/daemon/reactions.py",
        "            Source.FAIL_MODE if fail_mode else Source.GUARD,\n",
        "            Source.GUARD,\n",
        f"{WAITING}::test_thirty_two_waiters_are_answered_within_two_seconds_of_the_daemons_death",
    ),
)

DEAD_MUTANTS = (
    Mutant(
        "bad-policy-opens-the-gate",
        "A daemon that does not start for a mistake in the policy leaves the gate shut.",
        "enforcer/daemon/main.py",
        "    load_policy(chosen, 0, audit_only=False)  # its mistakes are told on any machine\n",
        "    try:\n        load_policy(chosen, 0, audit_only=False)\n"
        "    except EnforcerError:\n        _detach(chosen)\n        raise\n",
        f"{DEAD}::test_a_policy_with_a_mistake_keeps_the_daemon_from_starting_and_the_gate_shut",
    ),
    Mutant(
        "refused-without-a-remedy",
        "A daemon that starts without its store refuses, and says why and what to do.",
        "enforcer/cluster/etcd_store.py",
        '            return Denied(Standing.UNKNOWN, reason, remedy="enforcer doctor")\n'
        "        except EnforcerError as error:\n"
        "            return Denied(Standing.UNKNOWN, str(error), remedy=error.hint)\n",
        "            return Denied(Standing.UNKNOWN, reason)\n"
        "        except EnforcerError as error:\n"
        "            return Denied(Standing.UNKNOWN, str(error))\n",
        f"{DEAD}::test_a_daemon_that_starts_without_its_store_says_so_and_refuses",
    ),
    Mutant(
        "silence-lets-write",
        "Without a daemon a guarded device cannot be opened for writing.",
        "bpf/gate.h",
        "\t\t\terror = g && g->error ? g->error : -EBUSY;\n",
        "\t\t\terror = 0;\n",
        f"{DEAD}::test_a_guarded_device_cannot_be_written",
    ),
    Mutant(
        "free-is-anybodys",
        "Without a daemon a guarded device cannot be mounted, though nobody else has it.",
        "bpf/decide.h",
        "\treturn ENF_REFUSE; /* guarded and no live lease of ours */\n",
        "\treturn q->state == ENF_FREE ? ENF_PASS : ENF_REFUSE;\n",
        f"{DEAD}::test_a_guarded_device_is_refused",
    ),
    Mutant(
        "silence-refuses-everything",
        "Without a daemon everything that is not guarded mounts as ever.",
        "bpf/gate.h",
        "\t\terror = how == ENF_FS_ASK_DENY_DEAD ? -EBUSY : 0; /* 0: the guard refuses guarded devices by itself */\n",
        "\t\terror = -EBUSY;\n",
        f"{DEAD}::test_everything_else_mounts_as_ever",
    ),
    Mutant(
        "types-refused",
        "Without a daemon tmpfs, proc and overlay mount as ever.",
        "bpf/gate.h",
        "\treturn how ? *how : 0;\n",
        "\treturn how ? ENF_FS_ASK_DENY_DEAD : 0;\n",
        f"{DEAD}::test_everything_else_mounts_as_ever",
    ),
    Mutant(
        "umount-refused",
        "Without a daemon every umount works.",
        "bpf/supers.h",
        "\treturn 0; /* an umount is never refused for want of an answer */\n",
        "\treturn -EBUSY;\n",
        f"{DEAD}::test_every_umount_works_without_the_daemon",
    ),
    Mutant(
        "adopted-anew",
        "A restarted daemon takes its leases up again under the tokens that they had.",
        "enforcer/cluster/etcd_store.py",
        "                        token=s.lease.token,\n",
        "                        token=None,\n",
        f"{DEAD}::test_the_restarted_daemon_adopts_the_lease_with_its_token",
    ),
)

RACES_MUTANTS = (
    Mutant(
        "anybody-takes-leases",
        "Who may not mount takes no lease by trying.",
        "bpf/gate.h",
        "\tif (!may_mount_devices())\n",
        "\tif (0)\n",
        f"{RACES}::test_who_may_not_mount_takes_no_lease_by_trying",
    ),
    Mutant(
        "silent-node-forgotten",
        "A LUN that another node sees stays multi-attached when that node falls silent.",
        "enforcer/daemon/reconcile.py",
        "        if record.holder.node != me:\n",
        "        if record.holder.node != me and record.live:\n",
        f"{RACES}::test_a_lun_stays_multi_attached_when_the_other_node_falls_silent",
    ),
)

WITNESS = (
    Mutant(
        "unrecorded-api",
        "Every mount that the witness sees has its record in the audit log, whichever API made it.",
        "enforcer/daemon/recorder.py",
        "        entry = audit_record.build(self._origin, intent, verdict)\n",
        '        if intent.caller.syscall == "fsconfig":\n            return None\n'
        "        entry = audit_record.build(self._origin, intent, verdict)\n",
        "tests/vm/test_88_witness.py::test_they_agree",
    ),
)

MUTANTS = (
    *STORY_MUTANTS,
    *UNTOUCHED,
    *PERMITTED_MUTANTS,
    *ERRNO,
    *WAITING_MUTANTS,
    *DEAD_MUTANTS,
    *RACES_MUTANTS,
    *WITNESS,
)
