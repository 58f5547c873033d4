# SPDX-License-Identifier: GPL-2.0-or-later
"""What two nodes may have at once, and what must not follow from it."""

from __future__ import annotations

from tools.mutants.row import Mutant

MODES = "tests/unit/policy/test_modes.py"
SHARED = "tests/unit/workflow/test_leases_shared.py"
STACKS = "tests/unit/cluster/test_stacks.py"
VM = "tests/vm/test_24_cluster_filesystems.py"

MUTANTS = (
    Mutant(
        "mode-nolock",
        "gfs2 with lock_nolock is an ordinary filesystem, whatever its superblock says.",
        "enforcer/policy/modes.py",
        '        options.get(b"lockproto", b"lock_dlm") == b"lock_dlm"\n        and ',
        "        ",
        f"{MODES}::test_what_takes_its_locks_away_is_exclusive",
    ),
    Mutant(
        "mode-table",
        "gfs2 in another lock space has no locks in common with its peers.",
        "enforcer/policy/modes.py",
        'options.get(b"locktable", found.table.encode()) == found.table.encode()',
        "options is not None",
        f"{MODES}::test_what_takes_its_locks_away_is_exclusive",
    ),
    Mutant(
        "mode-nocluster",
        "ocfs2 with nocluster is an ordinary filesystem.",
        "enforcer/policy/modes.py",
        'b"nocluster" not in options and ',
        "",
        f"{MODES}::test_what_takes_its_locks_away_is_exclusive",
    ),
    Mutant(
        "mode-unknown-options",
        "With options that nobody could read it is exclusive.",
        "enforcer/workflow/clustered.py",
        "            options = None  # not",
        "            options = question.options  # not",
        f"{SHARED}::test_every_other_use_of_it_is_exclusive",
    ),
    Mutant(
        "mode-heartbeat-anybody",
        "A write-open by any program but mount.ocfs2 is exclusive.",
        "enforcer/policy/modes.py",
        "(kind is UseKind.WRITE_OPEN and program in HEARTBEAT)",
        'kind is UseKind.WRITE_OPEN and program.endswith("ocfs2")',
        f"{MODES}::test_no_other_use_is_shared_but_the_heartbeats_open",
    ),
    Mutant(
        "mode-stack-unasked",
        "With its stack down a cluster filesystem is not mounted.",
        "enforcer/workflow/clustered.py",
        "        if state.trouble:\n",
        "        if state.trouble and not state.remedy:\n",
        f"{SHARED}::test_with_its_stack_down_it_is_not_mounted_at_all",
    ),
    Mutant(
        "mode-unfenced",
        "A node that failed and was not fenced since keeps everybody from mounting.",
        "enforcer/cluster/dlm.py",
        "            if int(failed) > int(fenced):\n",
        "            if int(failed) > int(fenced) > 0:\n",
        f"{STACKS}::test_a_dlm_that_is_unwell_denies",
    ),
    Mutant(
        "mode-merged",
        "So does one that is a member again and has not come back clean.",
        "enforcer/cluster/dlm.py",
        "            if int(failed) > int(fenced):\n",
        '            if member == "X" and int(failed) > int(fenced):\n',
        f"{STACKS}::test_a_dlm_that_is_unwell_denies",
    ),
    Mutant(
        "mode-fencing-off",
        "A dlm_controld that does not say that it fences denies.",
        "enforcer/cluster/dlm.py",
        '    return StackState("dlm_controld does not say whether it fences", "dlm_tool dump_config")\n',
        "    return None\n",
        f"{STACKS}::test_a_dlm_that_does_not_fence_denies",
    ),
    Mutant(
        "mode-unknown-line",
        "A line of dlm_tool's that nobody knows denies.",
        "enforcer/cluster/dlm.py",
        "        elif daemon is None:\n",
        '        elif daemon is None and line.startswith("fence"):\n',
        f"{STACKS}::test_a_dlm_that_is_unwell_denies",
    ),
    Mutant(
        "mode-o2net",
        "A node that beats and cannot be reached denies.",
        "enforcer/cluster/o2cb.py",
        "        if unreached:\n",
        "        if unreached - alive:\n",
        f"{STACKS}::test_an_o2cb_that_is_unwell_denies",
    ),
    Mutant(
        "mode-used-here",
        "What is shared and used here does not become exclusive.",
        "enforcer/workflow/sharing.py",
        "for dev in below) > own:",
        "for dev in below) > own + 1:",
        f"{SHARED}::test_what_is_shared_and_used_here_is_not_taken_exclusively",
    ),
    Mutant(
        "mode-mount-under-way",
        "A mount that was permitted and has not opened its device yet is a use.",
        "enforcer/workflow/sharing.py",
        "if held.permits or held.uncounted or ",
        "if held.uncounted or ",
        f"{SHARED}::test_a_mount_under_way_is_a_use",
    ),
    Mutant(
        "mode-late",
        "A mount that began while the store was asked is a use.",
        "enforcer/workflow/leases.py",
        "            late = self._sharing.in_the_way(device, want)\n",
        "            late = None\n",
        f"{SHARED}::test_a_mount_that_began_while_the_store_was_asked_is_a_use",
    ),
    Mutant(
        "mode-stale",
        "What others wrote while it was shared is not read from the cache once it is exclusive.",
        "enforcer/workflow/leases.py",
        "idle = before is None or alone or self",
        "idle = before is None or self",
        f"{SHARED}::test_what_is_shared_and_not_used_here_becomes_exclusive_with_fresh_caches",
    ),
    Mutant(
        "mode-covers",
        "A shared lease that is held here permits no exclusive use.",
        "enforcer/workflow/leases.py",
        " or not all(covers(h.lease.mode, mode) for h in held)",
        "",
        f"{SHARED}::test_what_is_shared_and_used_here_is_not_taken_exclusively",
    ),
    Mutant(
        "mode-table-says",
        "The guard's table says which leases are shared.",
        "enforcer/workflow/devices.py",
        "            entry.flags |= GuardFlag.CLUSTER if any(grip.shared for grip in grips) else 0\n",
        "",
        f"{SHARED}::test_two_nodes_have_it_shared_and_the_table_says_so",
    ),
    Mutant(
        "mode-slots",
        "The slot map is excused for its own cluster alone.",
        "enforcer/workflow/vetoing.py",
        "if shared else frozenset[str]()",
        "if wanted else frozenset[str]()",
        f"{SHARED}::test_a_stranger_on_the_disk_objects",
    ),
    Mutant(
        "mode-raw-writer",
        "A raw writer does not pass under the lease of a cluster filesystem that is mounted here.",
        "bpf/gate.h",
        "	if (g && live(g) && enf_covers(g->flags, false))\n",
        "	if (g && live(g))\n",
        f"{VM}::test_two_nodes_have_a_gfs2_at_once",
    ),
    Mutant(
        "mode-fsconfig-options",
        "lock_nolock is heard when it comes by fsconfig(2) as well.",
        "bpf/note.h",
        "	       word == WORD('l', 'o', 'c', 'k', 'p', 'r', 'o', 't') ||",
        "	      ",
        f"{VM}::test_what_needs_it_alone_is_refused_by_name",
        (f"{VM}::test_two_nodes_have_a_gfs2_at_once", f"{VM}::test_what_needs_it_alone_is_refused_by_name"),
    ),
    Mutant(
        "mode-ordinary-shared",
        "An ordinary filesystem on the LUN of a cluster filesystem is refused.",
        "enforcer/workflow/clustered.py",
        "not modes.is_candidate(intent.kind, fstype, program):\n            return exclusive\n",
        "not modes.is_candidate(intent.kind, fstype, program):\n"
        '            return Want(Mode.CW, counted) if fstype == "ext4" else exclusive\n',
        f"{VM}::test_two_nodes_have_an_ocfs2_at_once",
    ),
)
