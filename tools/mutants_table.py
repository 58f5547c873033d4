# SPDX-License-Identifier: GPL-2.0-or-later
"""What :mod:`tools.mutants` breaks: for each promise at least one fault that one wrong line could bring in.

A row is a :class:`Mutant`; ``select`` is needed only where the named test stands on tests before it, as the story's
steps do. Some faults are missing because a second layer catches them, so no test can see one alone: the refusal that
sb_alloc_security notes (the guard's table refuses too), the second look at the table after a permit (a stale verdict is
reached anew), O_CLOEXEC of the upcall's descriptor (the anchor closes what it has, and dies with the daemon), adoption
left out (the next look at the store picks up what is ours, token and all).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Suite(StrEnum):
    LINT = "lint"
    UNIT = "unit"
    VM = "vm"


@dataclass(frozen=True, slots=True)
class Mutant:
    """One fault. ``test``: which must fail on its own assertion, ``tests/...py::test_name``, of any parameter if none
    is given; or a check of ``make lint``, by name. ``old`` stands exactly once in ``file``.
    """

    name: str
    claim: str  # what the test promises, in one sentence
    file: str
    old: str
    new: str
    test: str
    select: tuple[str, ...] = ()  # what pytest is given; the test alone if empty

    @property
    def suite(self) -> Suite:
        """Where its test lives."""
        for suite in (Suite.UNIT, Suite.VM):
            if self.test.startswith(f"tests/{suite}/"):
                return suite
        return Suite.LINT


def _steps(file: str, *tests: str) -> tuple[str, ...]:
    return tuple(f"{file}::{test}" for test in tests)


PERMITTED, REFUSED = "tests/vm/test_10_permitted.py", "tests/vm/test_20_refused.py"
WAITING, DEAD = "tests/vm/test_30_waiting.py", "tests/vm/test_40_dead_daemon.py"
SETS, RACES, STORY = "tests/vm/test_50_sets.py", "tests/vm/test_60_races.py", "tests/vm/test_90_story.py"
EVERY_WAY = "test_every_way_of_the_second_node_is_refused_and_the_storage_saw_no_write"
DIRTY = f"{STORY}::test_a_dirty_journal_is_not_replayed"
TO_REFUSALS = _steps(STORY, "test_the_first_node_mounts", EVERY_WAY)
TO_STRANDED = _steps(
    STORY,
    "test_the_first_node_mounts",
    "test_another_mount_namespace_keeps_the_lease",
    "test_the_second_node_gets_it_at_the_first_try_with_a_higher_token",
    "test_a_powered_off_node_leaves_its_leases_stranded",
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
        "mount-kept",
        "The lease of a free device is given back after the last use.",
        "enforcer/workflow/leases.py",
        "        if held.permits:\n            return False\n",
        '        if held.permits or held.lease.facts.get("kind") == "mount":\n            return False\n',
        f"{PERMITTED}::test_a_free_filesystem_mounts_at_the_first_try",
    ),
    Mutant(
        "table-load-not-asked",
        "A device-mapper table over a free device is loaded at the first try, under a lease.",
        "bpf/gate.h",
        "\tif ((cmd >> 8 & 0xff) != DM_IOCTL || (cmd & 0xff) != DM_TABLE_LOAD_CMD)\n",
        "\tif (1)\n",
        f"{PERMITTED}::test_a_free_device_can_be_written_and_stacked",
        _steps(PERMITTED, "test_a_free_device_can_be_written_and_stacked[dmsetup]"),
    ),
    Mutant(
        "dd-not-held",
        "dd holds the lease while it writes, although it does not ask for the device exclusively.",
        "bpf/gate.h",
        "counted = count_file(file, dev, write ? BLK_OPEN_WRITE : 0, exclusive);",
        "counted = !exclusive || count_file(file, dev, write ? BLK_OPEN_WRITE : 0, exclusive);",
        f"{PERMITTED}::test_a_free_device_can_be_written_and_stacked",
        _steps(PERMITTED, "test_a_free_device_can_be_written_and_stacked[dd]"),
    ),
    Mutant(
        "writer-uncounted",
        "An open file without O_EXCL keeps the lease for as long as it is open.",
        "bpf/gate.h",
        "counted = count_file(file, dev, write ? BLK_OPEN_WRITE : 0, exclusive);",
        "counted = !exclusive || count_file(file, dev, write ? BLK_OPEN_WRITE : 0, exclusive);",
        f"{SETS}::test_the_foreign_companion_alone_is_enough",
        _steps(SETS, "test_the_foreign_companion_alone_is_enough[xfs with a log device]"),
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
)

DEAD_MUTANTS = (
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

WRONG_STARTS = (
    Mutant(
        "store-out-of-reach-permits",
        "A store out of reach refuses, and the record says so.",
        "enforcer/cluster/etcd_store.py",
        "        except TimeoutError:\n"
        '            reason = f"the lease store did not answer: no decision within {budget_s:.1f} s"\n'
        '            return Denied(Standing.UNKNOWN, reason, remedy="enforcer doctor")\n'
        "        except EnforcerError as error:\n"
        "            return Denied(Standing.UNKNOWN, str(error), remedy=error.hint)\n",
        "        except (TimeoutError, EnforcerError):\n"
        "            me, now, none = self.holder, utc_now(), Guarantee.NONE\n"
        "            mine = (Lease(c.resource, c.mode, me, 1, now, none, {}) for c in claims)\n"
        "            return Granted(1, tuple(mine), True)\n",
        f"{REFUSED}::test_a_store_out_of_reach_refuses_and_says_so",
    ),
    Mutant(
        "bad-policy-loaded",
        "A bad policy keeps the daemon from starting, with file and line and its exit code.",
        "enforcer/policy/parse.py",
        "    if problems:\n        raise PolicyErrors(dict.fromkeys(problems))\n",
        "",
        "tests/unit/daemon/test_daemon_start.py::test_bad_policy",
    ),
    Mutant(
        "prerequisites-not-looked-at",
        "A missing prerequisite keeps the daemon from starting, in one sentence.",
        "enforcer/kernel/prerequisites.py",
        "        if not item.ok:\n            error: type",
        "        if False:\n            error: type",
        "tests/unit/kernel/test_kernel_prerequisites.py::test_what_is_missing",
    ),
    Mutant(
        "prerequisites-not-required",
        "The daemon looks for what it needs before it begins anything.",
        "enforcer/daemon/main.py",
        "    prerequisites.require()\n",
        "",
        "tests/unit/daemon/test_daemon_start.py::test_missing_prerequisite",
    ),
    Mutant(
        "anybody-starts-it",
        "Who is not root is told so, with the exit code for it.",
        "enforcer/daemon/main.py",
        "    if os.geteuid() != 0:\n",
        "    if False:\n",
        "tests/unit/daemon/test_daemon_start.py::test_not_root",
    ),
    Mutant(
        "second-daemon",
        "A second daemon is refused, and names the first one's pid.",
        "enforcer/daemon/main.py",
        "            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)\n",
        "            fcntl.fcntl(descriptor, fcntl.F_GETFD)\n",
        "tests/unit/daemon/test_daemon_start.py::test_a_second_one",
    ),
)

BUILD = (
    Mutant(
        "abi-field-swapped",
        "A field that moved on the Python side alone is found without a kernel.",
        "enforcer/kernel/abi.py",
        '        ("token", _u64),\n        ("resource", _u64),\n',
        '        ("resource", _u64),\n        ("token", _u64),\n',
        "tests/unit/kernel/test_kernel_abi.py::test_the_object_fits",
    ),
    Mutant(
        "abi-constant-changed",
        "A constant that changed on the Python side alone is found without a kernel.",
        "enforcer/kernel/abi.py",
        "    CLOSING = 3\n    ELSEWHERE = 4\n",
        "    CLOSING = 4\n    ELSEWHERE = 3\n",
        "tests/unit/kernel/test_kernel_abi.py::test_the_object_fits",
    ),
    Mutant(
        "hook-that-cannot-sleep",
        "What the object attaches to is what stands in the list, read by pyelftools.",
        "bpf/supers.h",
        'SEC("lsm.s/sb_remount")',
        'SEC("lsm/sb_remount")',
        "tests/unit/kernel/test_kernel_object.py::test_programs",
    ),
    Mutant(
        "guard-and-model-differ",
        "The guard's decision in C is that of its model in Python, on every input.",
        "enforcer/kernel/decide.py",
        "now_ns < deadline_ns",
        "now_ns <= deadline_ns",
        "tests/unit/kernel/test_kernel_decide.py::test_same_answer_on_every_input",
    ),
    Mutant(
        "lint-ruff",
        "make lint finds what ruff finds.",
        "enforcer/model/clock.py",
        "from __future__ import annotations\n",
        "from __future__ import annotations\n\nimport json\n",
        "ruff check",
    ),
    Mutant(
        "lint-mypy",
        "make lint finds a wrong type.",
        "enforcer/kernel/fuse.py",
        "    return int(unique)\n",
        "    return str(unique)\n",
        "mypy --strict",
    ),
    Mutant(
        "lint-clang",
        "make lint finds what clang warns of.",
        "bpf/supers.h",
        "\tint late;\n",
        "\tint late, unused;\n",
        "clang -Wall -Wextra -Werror",
    ),
    Mutant(
        "failed-suite-is-fine",
        "make test fails if a test of any suite failed.",
        "tools/test.py",
        "    return 1 if failed else 0\n",
        "    return 0\n",
        "tests/unit/plumbing/test_tools.py::test_the_last_line_is_the_whole_outcome",
    ),
    Mutant(
        "fixture-errors-uncounted",
        "make test counts a fixture that broke as a failure.",
        "tools/test.py",
        ' + int(suite.get("errors", 0))',
        "",
        "tests/unit/plumbing/test_tools.py::test_a_report_is_counted",
    ),
    Mutant(
        "readme-link-broken",
        "What the README names is there.",
        "README.md",
        "(docs/architecture.md)",
        "(docs/architektur.md)",
        "tests/unit/test_docs.py::test_links",
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

VETO_MUTANTS = (
    Mutant(
        "veto-off",
        "The mark of a node that asks nobody refuses both nodes, and the storage sees no write.",
        "enforcer/workflow/leases.py",
        "if stale and not in_use else None",
        "if stale and in_use else None",
        "tests/vm/test_22_vetoes.py::test_a_stranger_on_the_disk_is_refused_by_name",
    ),
    Mutant(
        "veto-stranger",
        "A mark of a node of which nothing is known objects.",
        "enforcer/storage/vetoes/marks.py",
        "        return fact is not None and (mark",
        "        return fact is None or (mark",
        "tests/unit/storage/test_vetoes.py::test_the_mark_of_a_node_of_which_nothing_is_known_objects",
    ),
    Mutant(
        "veto-old-fact",
        "A fact excuses only what is older than itself.",
        "enforcer/storage/vetoes/marks.py",
        "mark.written_s <= fact.at_s + SKEW_S",
        "mark.written_s > 0",
        "tests/unit/storage/test_vetoes.py::test_a_fact_excuses_what_is_older_than_itself",
    ),
    Mutant(
        "veto-still",
        "What moves objects, whoever it is.",
        "enforcer/storage/vetoes/marks.py",
        "        if pulses.get((m.layer, m.key)) != m.pulse\n",
        "        if pulses.get((m.layer, m.key), m.pulse) != m.pulse and False\n",
        "tests/unit/storage/test_vetoes.py::test_what_moves_objects_whoever_it_is",
    ),
    Mutant(
        "veto-reservation-excused",
        "No fact excuses a reservation under which the storage refuses us.",
        "enforcer/storage/vetoes/marks.py",
        "        if not mark.excusable:\n            return False\n",
        "        if not mark.excusable:\n            return mark.owner in self.silent\n",
        "tests/unit/storage/test_vetoes.py::test_what_the_storage_refuses_no_fact_excuses",
    ),
    Mutant(
        "veto-mmp-fsck",
        "An e2fsck that runs elsewhere is a use like a mount.",
        "enforcer/storage/vetoes/mmp.py",
        "    if seq == CLEAN:\n",
        "    if seq in (CLEAN, FSCK):\n",
        "tests/unit/storage/test_veto_formats.py::test_e2fsck_is_a_use_like_a_mount",
    ),
    Mutant(
        "veto-mmp-checksum",
        "An MMP block with a wrong checksum names nobody.",
        "enforcer/storage/vetoes/mmp.py",
        "    if seed is not None and",
        "    if seed is None and",
        "tests/unit/storage/test_veto_formats.py::test_a_damaged_mmp_block_is_nobodys",
    ),
    Mutant(
        "veto-ocfs2-heartbeat",
        "A slot of OCFS2 moves with the heartbeat of its node.",
        "enforcer/storage/vetoes/ocfs2.py",
        "                    pulse += data\n",
        "                    pulse += data[8:16]\n",
        "tests/unit/storage/test_veto_formats.py::test_a_slot_names_its_node_and_moves_with_its_heartbeat",
    ),
    Mutant(
        "veto-sanlock-left",
        "A host that has left its lock space leaves no mark.",
        "enforcer/storage/vetoes/sanlock.py",
        "    if not stamp or not number:\n",
        "    if not number:\n",
        "tests/unit/storage/test_veto_formats.py::test_each_host_in_the_lock_space_is_a_mark",
    ),
    Mutant(
        "veto-lvm-nested",
        "Only the volume group's own system ID counts.",
        "enforcer/storage/vetoes/lvm.py",
        '        if line.rstrip().endswith(b"{") or line.startswith(b"}"):\n            break\n',
        "",
        "tests/unit/storage/test_veto_formats.py::test_only_the_groups_own_system_id_counts",
    ),
    Mutant(
        "veto-holder-only",
        "Where the holder alone may write, being registered is not enough.",
        "enforcer/storage/vetoes/reservation.py",
        "(ours and found.type in _REGISTRANTS)",
        "bool(ours)",
        "tests/unit/storage/test_veto_formats.py::test_a_reservation_objects_if_it_keeps_us_out",
    ),
    Mutant(
        "veto-kept",
        "What was vetoed is asked again by whoever comes next.",
        "enforcer/workflow/leases.py",
        "        for resource in () if denied else stale:\n",
        "        for resource in stale:\n",
        "tests/unit/workflow/test_leases_vetoed.py::test_what_is_vetoed_is_given_back_and_asked_again",
    ),
    Mutant(
        "veto-permit-stays",
        "What was vetoed is given back.",
        "enforcer/workflow/leases.py",
        "            if denied:\n                self.permit_over(intent)\n",
        "            if denied:\n",
        "tests/unit/workflow/test_leases_vetoed.py::test_what_is_vetoed_is_given_back_and_asked_again",
    ),
    Mutant(
        "veto-unreadable",
        "A disk that cannot be read is refused.",
        "enforcer/workflow/vetoing.py",
        "        if trouble is not None:\n            raise _Refused(",
        "        if trouble is None:\n            raise _Refused(",
        "tests/unit/workflow/test_leases_vetoed.py::test_a_disk_that_cannot_be_read_is_refused_and_one_that_is_gone_is_not",
    ),
    Mutant(
        "veto-other-part",
        "That a node let go of one partition says nothing of another.",
        "enforcer/workflow/vetoing.py",
        "for r, silent in self._let_go.items() if any(r.meets(mine) for mine in wanted)]",
        "for r, silent in self._let_go.items() if wanted]",
        "tests/unit/workflow/test_leases_vetoed.py::test_a_release_elsewhere_says_nothing_of_this_disk",
    ),
    Mutant(
        "veto-took-again",
        "A node that took it again has not let go.",
        "enforcer/workflow/vetoing.py",
        "                    silent.pop(held.lease.holder.node, None)\n",
        "                    silent.pop(known.lun, None)\n",
        "tests/unit/workflow/test_leases_vetoed.py::test_a_node_that_took_it_again_has_not_let_go",
    ),
    Mutant(
        "veto-source",
        "The audit log names the mark.",
        "enforcer/workflow/judge.py",
        "        source = Source.VETO if outcome.veto else Source.STORE\n",
        "        source = Source.STORE\n",
        "tests/unit/workflow/test_judge_verdicts.py::test_a_mark_on_the_disk_is_named_as_the_source",
    ),
)

EXT_STORE, EXT_PEER, GFS = (
    "enforcer/cluster/external_store.py",
    "enforcer/cluster/external_peer.py",
    "tools/examples/gfs_clusterd.py",
)
ANSWERS, LATE = "tests/unit/cluster/test_external_answers.py", "tests/unit/cluster/test_external_store.py"
WRONG_ANSWER = f"{ANSWERS}::test_an_answer_that_is_not_what_was_asked_for_denies"
NO_LINE = f"{ANSWERS}::test_a_line_that_is_none_ends_the_connection_and_the_next_ask_makes_another"
SET_BACK = f"{LATE}::test_a_store_that_was_set_back_is_not_believed"

EXTERNAL = (
    Mutant(
        "external-over-stranded",
        "An external store that takes over from a node which is only out of sight is not believed.",
        EXT_STORE,
        "if gone.liveness not in (Liveness.FENCED, Liveness.REBOOTED):",
        "if gone.liveness is Liveness.LIVE:",
        WRONG_ANSWER,
        (f"{WRONG_ANSWER}[over a stranded one]",),
    ),
    Mutant(
        "external-grant-to-others",
        "A grant by an external store counts only if every record is ours, under the one token.",
        EXT_STORE,
        "if any(held.lease.holder != self.holder or held.lease.token != grant.token for held in grant.leases):\n",
        "if False:\n",
        WRONG_ANSWER,
        (f"{WRONG_ANSWER}[to another node]", f"{WRONG_ANSWER}[two tokens]"),
    ),
    Mutant(
        "external-other-grant",
        "A grant by an external store of anything but the set that was asked for is none.",
        EXT_STORE,
        "        if modes.keys() != wanted.keys():\n",
        "        if not modes.keys() >= wanted.keys():\n",
        WRONG_ANSWER,
        (f"{WRONG_ANSWER}[more than asked]",),
    ),
    Mutant(
        "external-token-low",
        "A token that is not higher than every one seen before on the LUN is UNKNOWN.",
        EXT_STORE,
        "            least = floor.get(lun, 0) + (not grant.kept)\n",
        "            least = 0\n",
        SET_BACK,
    ),
    Mutant(
        "external-tokens-forgotten",
        "The highest token of a LUN outlives the daemon.",
        "enforcer/cluster/external_tokens.py",
        "                await asyncio.to_thread(self._save, *now)\n",
        "                pass\n",
        SET_BACK,
    ),
    Mutant(
        "external-caught-up",
        "An external store that has forgotten grants is not believed again by counting on.",
        EXT_STORE,
        "        await self._tokens.distrust(what)\n        self._believe()\n",
        "        raise StoreUnavailable(what)\n",
        SET_BACK,
    ),
    Mutant(
        "external-older-than-asked",
        "An answer is measured by the tokens that were known when it was asked for, not when it came.",
        EXT_STORE,
        "        for lun, known in sorted(floor.items()):\n",
        "        for lun, known in sorted(self._tokens.known.items()):\n",
        f"{ANSWERS}::test_an_answer_is_measured_by_what_was_known_when_it_was_asked_for",
    ),
    Mutant(
        "external-late-release",
        "What was released without an answer is asked for under a new token.",
        EXT_STORE,
        "            self._sure.pop(resource, None)\n",
        "            pass\n",
        f"{LATE}::test_a_release_that_arrives_late_takes_nothing_from_who_asked_again",
    ),
    Mutant(
        "external-late-grant-kept",
        "What an external store grants after its caller gave up is given back.",
        EXT_STORE,
        'await self._call("authorise", body, end, too_late)',
        'await self._call("authorise", body, end, None)',
        f"{LATE}::test_a_stopped_peer_denies_in_time_and_what_it_grants_late_is_given_back",
    ),
    Mutant(
        "external-late-grant-takes-all",
        "A set that is granted late is given back but for what was held before, which may be in use.",
        EXT_STORE,
        "        new = wanted.keys() - holding.keys()\n",
        "        new = set(wanted)\n",
        f"{LATE}::test_a_set_that_is_granted_late_leaves_what_was_held_before",
    ),
    Mutant(
        "external-late-ask",
        "An ask that arrives late changes nothing that was granted since.",
        GFS,
        '        if body["holding"] != {resource: lease["token"] for resource, lease in mine.items()}:\n',
        "        if False:\n",
        f"{LATE}::test_an_ask_that_arrives_late_changes_nothing_that_was_granted_since",
    ),
    Mutant(
        "external-two-daemons",
        "Nothing of an earlier connection is carried out after the next one's hello.",
        GFS,
        "            self.drop(other)\n",
        "            pass\n",
        f"{LATE}::test_a_late_release_takes_nothing_from_the_next_run_of_the_daemon",
    ),
    Mutant(
        "external-fenced-boot",
        "A boot that was confirmed fenced gets nothing any more from the example.",
        GFS,
        ' in state["fenced"] and call != "who":\n',
        ' in [] and call != "who":\n',
        f"{LATE}::test_a_fenced_boot_gets_nothing_any_more",
    ),
    Mutant(
        "external-not-one-step",
        "Of many who race for one resource at the example, exactly one wins.",
        GFS,
        "            fcntl.flock(lock, fcntl.LOCK_EX)\n",
        "",
        "tests/unit/cluster/test_store_conformance.py::test_of_many_who_race_for_one_resource_exactly_one_wins",
        _steps(
            "tests/unit/cluster/test_store_conformance.py",
            "test_of_many_who_race_for_one_resource_exactly_one_wins[external]",
        ),
    ),
    Mutant(
        "external-one-at-a-time",
        "A slow answer of an external store holds up nobody else.",
        EXT_PEER,
        "        number = line.last_id = line.last_id + 1\n",
        "        while line.waiting:\n"
        "            await asyncio.sleep(0.01)\n"
        "        number = line.last_id = line.last_id + 1\n",
        f"{LATE}::test_a_slow_answer_holds_up_nobody_else",
    ),
    Mutant(
        "external-waiters-untold",
        "All who wait for a peer that breaks off are told at once, and why.",
        EXT_PEER,
        "                future.set_exception(self.trouble(why))\n",
        "                pass\n",
        f"{ANSWERS}::test_all_who_wait_on_a_line_that_breaks_are_told_at_once",
    ),
    Mutant(
        "external-any-schema",
        "An answer of another schema is none.",
        "enforcer/cluster/external_protocol.py",
        ' or value["schema"] != SCHEMA:\n',
        ":\n",
        NO_LINE,
        (f"{NO_LINE}[another schema]",),
    ),
    Mutant(
        "external-key-twice",
        "A line with one key twice is none.",
        "enforcer/cluster/external_protocol.py",
        "    if len(found) < len(pairs):\n",
        "    if False:\n",
        NO_LINE,
        (f"{NO_LINE}[one key twice]",),
    ),
    Mutant(
        "external-unescaped",
        "What an external store says to people is escaped and short.",
        "enforcer/cluster/external_protocol.py",
        "    return for_terminal(value.strip(), TEXT_CHARS)\n",
        "    return value.strip()\n",
        f"{ANSWERS}::test_what_a_peer_says_to_people_is_escaped_and_short",
    ),
    Mutant(
        "external-shell",
        "The program of an external store is started without a shell.",
        EXT_PEER,
        "asyncio.create_subprocess_exec(\n            *self._command,\n",
        'asyncio.create_subprocess_shell(\n            " ".join(self._command),\n',
        f"{LATE}::test_arguments_reach_the_program_as_they_are",
    ),
    Mutant(
        "external-anybodys-socket",
        "A socket that neither root nor our own user serves is not asked.",
        EXT_PEER,
        "        if uid not in (0, os.geteuid()):\n",
        "        if False:\n",
        f"{ANSWERS}::test_a_socket_that_somebody_else_serves_is_not_asked",
    ),
    Mutant(
        "external-hung-for-ever",
        "A peer that owes answers and is silent for long is replaced.",
        EXT_PEER,
        "            if silent_s >= HUNG_S:\n",
        "            if False:\n",
        f"{LATE}::test_a_peer_that_hangs_for_long_is_replaced",
    ),
    Mutant(
        "external-started-over-and-over",
        "A program that ends at once is not started again at once.",
        EXT_PEER,
        "            self._not_before = loop.time() + PAUSE_S\n",
        "            pass\n",
        f"{LATE}::test_a_program_that_ends_at_once_is_not_started_over_and_over",
    ),
    Mutant(
        "external-outlives-us",
        "A program that we started ends with us, even if it is stopped.",
        EXT_PEER,
        "            os.killpg(process.pid, signal.SIGKILL)",
        "            pass",
        f"{LATE}::test_a_peer_ends_with_the_store_even_if_it_is_stopped",
    ),
    Mutant(
        "external-uses-untold",
        "A store that wants to hears which of its leases are used, and of no others.",
        "enforcer/daemon/reconcile.py",
        " if any(self._leases.busy(dev) for dev in below))\n",
        ")\n",
        "tests/unit/daemon/test_daemon_reconcile.py::test_a_store_that_wants_to_hears_of_leases_that_are_used",
    ),
    Mutant(
        "external-two-peers",
        "An external store has a command or a socket, not both.",
        "enforcer/settings.py",
        "    if bool(store.command) == bool(store.socket):\n",
        "    if not store.command and not store.socket:\n",
        "tests/unit/policy/test_settings.py::test_bad",
    ),
)

MUTANTS = (
    *STORY_MUTANTS,
    *UNTOUCHED,
    *PERMITTED_MUTANTS,
    *ERRNO,
    *WAITING_MUTANTS,
    *DEAD_MUTANTS,
    *WRONG_STARTS,
    *BUILD,
    *RACES_MUTANTS,
    *WITNESS,
    *VETO_MUTANTS,
    *EXTERNAL,
)
