# SPDX-License-Identifier: GPL-2.0-or-later
"""What is in use on two nodes, what every layer says of it, and how a node leaves without being missed."""

from __future__ import annotations

from tools.mutants.row import Mutant

LAYERS = "tests/unit/workflow/test_who_layers.py"
CONFLICTS = "tests/unit/daemon/test_daemon_conflicts.py"

MUTANTS = (
    Mutant(
        "who-moving-mark",
        "A mark that moves on a disk that the store calls free is said.",
        "enforcer/workflow/layers.py",
        "        elif sign.moves:\n",
        "        elif sign.moves and it.found:\n",
        f"{LAYERS}::test_what_differs_is_said_with_both_layers",
    ),
    Mutant(
        "who-own-token",
        "A reservation whose key is the token of the lease agrees with it.",
        "enforcer/workflow/layers.py",
        "    if by_token is not None:\n",
        "    if by_token is None:\n",
        f"{LAYERS}::test_what_agrees_is_not_told",
    ),
    Mutant(
        "who-hung-disk",
        "A disk that hangs costs one thread, however often it is asked for.",
        "enforcer/workflow/looking.py",
        "            if device.dev in self._pending:\n",
        "            if device.dev in found:\n",
        f"{LAYERS}::test_a_disk_that_hangs_delays_nobody_and_is_not_asked_twice",
    ),
    Mutant(
        "who-waits",
        "A caller that waits for its verdict is no use on two nodes.",
        "enforcer/daemon/layered.py",
        " - parts.asks.pending_on(it.dev))",
        ")",
        "tests/unit/daemon/test_daemon_layers.py::test_who_waits_is_no_use",
    ),
    Mutant(
        "conflict-untold",
        "The node without the lease tells the others.",
        "enforcer/workflow/conflicting.py",
        "            await self._board.post(mine)\n",
        "            await self._board.post(())\n",
        f"{CONFLICTS}::test_a_use_of_what_another_holds_is_posted_and_shouted",
    ),
    Mutant(
        "conflict-unheard",
        "The holder shouts, too.",
        "enforcer/workflow/conflicting.py",
        "if use.node != self._me.node and any(use.resource.meets(own) for own in held):",
        "if use.node == self._me.node and any(use.resource.meets(own) for own in held):",
        f"{CONFLICTS}::test_the_holder_hears_of_it_and_shouts_too",
    ),
    Mutant(
        "conflict-holder-goes-on",
        "Nothing new begins on the holder, as long as it lasts.",
        "enforcer/workflow/devices.py",
        "        elif self.double(known.device):\n",
        "        elif self.double(known.device) and entry.token:\n",
        f"{CONFLICTS}::test_nothing_new_begins_on_the_holder",
    ),
    Mutant(
        "conflict-permitted",
        "Who asks for what two nodes use is refused, whoever has its lease.",
        "enforcer/workflow/judge.py",
        "        if double := self._devices.double(device):\n",
        '        if (double := self._devices.double(device)) == "?":\n',
        "tests/unit/workflow/test_judge_verdicts.py::test_what_two_nodes_use_is_refused_although_the_lease_is_here",
    ),
    Mutant(
        "conflict-forgotten",
        "A store that does not answer ends no conflict.",
        "enforcer/daemon/reconcile.py",
        "        self.conflicts.still(device)\n",
        "",
        f"{CONFLICTS}::test_an_acquire_without_an_answer_ends_no_conflict",
    ),
    Mutant(
        "conflict-never-over",
        "A use that the kernel did not count is seen to end.",
        "enforcer/daemon/reconcile.py",
        "                    self._scan = True  # what the kernel did not count ends unseen\n",
        "",
        f"{CONFLICTS}::test_it_is_over_when_the_use_ends",
    ),
    Mutant(
        "conflict-stranded",
        "A fencing may be confirmed of a node of which only its conflict is known.",
        "enforcer/cluster/etcd_store.py",
        "[*known, *(s.lease.holder for s in now.stored)]",
        "[*(s.lease.holder for s in now.stored)]",
        "tests/unit/cluster/test_etcd_board.py::test_a_boot_that_is_over_is_believed_no_more",
    ),
    Mutant(
        "another-etcd",
        "After a restart, another etcd cluster is no store of ours.",
        "enforcer/cluster/same_cluster.py",
        "        if found and known and found != known:\n",
        "        if found and self._known and found != known:\n",
        "tests/unit/cluster/test_same_cluster.py::test_another_cluster_is_no_answer_even_after_a_restart",
    ),
    Mutant(
        "leave-at-once",
        "A daemon that ends waits for what it can still give back.",
        "enforcer/workflow/parting.py",
        "            while _unused(leases, devices):\n",
        "            while not _unused(leases, devices):\n                break\n            while False:\n",
        "tests/unit/workflow/test_parting.py::test_what_was_just_unmounted_is_waited_for",
    ),
    Mutant(
        "drain-does-not-know",
        "Without an answer of the store nobody says that nothing is held.",
        "enforcer/cli/verbs/drain.py",
        "        if not left and not trouble:\n",
        '        if not left:\n            trouble = ""\n',
        "tests/unit/cli/test_cli_drain.py::test_a_store_without_an_answer_is_not_nothing",
    ),
    Mutant(
        "drain-too-late",
        "What unmounts at shutdown is stopped before network, keeper and daemon.",
        "tools/systemd/enforcer-drain.service",
        "After=enforcerd.service enforcer-keeper.service network.target",
        "After=enforcerd.service network.target",
        "tests/unit/plumbing/test_tools.py::test_what_unmounts_at_shutdown_is_stopped_before_what_it_needs",
    ),
    Mutant(
        "drain-left-out",
        "What is mounted by hand is unmounted before a planned poweroff.",
        "enforcer/cli/verbs/drain.py",
        '            yield ("umount", "--no-canonicalize", target)\n',
        '            yield ("true", "--no-canonicalize", target)\n',
        "tests/unit/cli/test_cli_drain.py::test_it_ends_our_uses_and_no_others",
    ),
    Mutant(
        "drain-others",
        "Only what is ours is unmounted.",
        "enforcer/cli/verbs/drain.py",
        'if text(device, "state") in ("live", "closing"))',
        'if text(device, "state") in ("live", "closing", "elsewhere"))',
        "tests/unit/cli/test_cli_drain.py::test_it_ends_our_uses_and_no_others",
    ),
)
