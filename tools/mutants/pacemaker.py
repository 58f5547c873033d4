# SPDX-License-Identifier: GPL-2.0-or-later
"""What Pacemaker and corosync say, and what must not be made of it."""

from __future__ import annotations

from tools.mutants.row import Mutant

RULES = "enforcer/cluster/pacemaker_rules.py"
STATE = "enforcer/cluster/pacemaker_state.py"
VIEW = "enforcer/cluster/pacemaker.py"
CONSENT = "enforcer/workflow/consent.py"
TEST_RULES = "tests/unit/cluster/test_pacemaker_rules.py"
TEST_VIEW = "tests/unit/cluster/test_pacemaker_view.py"
TEST_CONSENT = "tests/unit/workflow/test_consent.py"
UNPROVEN = f"{TEST_RULES}::test_as_long_as_fencing_is_not_confirmed_nobody_may_anything"

MUTANTS = (
    Mutant(
        "history-is-news",
        "What a manager tells of fencings when it has just started is old.",
        CONSENT,
        "            elif not settled:\n",
        "            elif False:\n",
        f"{TEST_CONSENT}::test_the_history_that_a_manager_learns_when_it_starts_is_old",
    ),
    Mutant(
        "pacemaker-lost",
        "A node that was lost is not taken for one that was stopped, although it reads neither online nor unclean.",
        RULES,
        "m.unclean or (not m.online and m.expected_up)",
        "m.unclean",
        UNPROVEN,
    ),
    Mutant(
        "pacemaker-gives-up",
        "A fencing is not given up before the store has called its node gone.",
        CONSENT,
        "self._store.gone_after_s + SLACK_S",
        "60.0 + SLACK_S",
        f"{TEST_CONSENT}::test_a_fencing_is_waited_with_until_its_store_calls_the_node_gone",
    ),
    Mutant(
        "pacemaker-unclean",
        "While a node is unclean nobody may use anything.",
        RULES,
        "m.unclean or (not m.online and m.expected_up)",
        "not m.online and m.expected_up",
        UNPROVEN,
    ),
    Mutant(
        "pacemaker-being-fenced",
        "While a node is being fenced nobody may use anything.",
        RULES,
        "{f.node for f in state.fencings if not f.done}",
        "set()",
        UNPROVEN,
    ),
    Mutant(
        "pacemaker-no-quorum",
        "Without a quorum of corosync nobody may use anything, whatever Pacemaker still believes.",
        RULES,
        "if not picture.votes.quorate or not",
        "if not",
        f"{TEST_RULES}::test_without_a_quorum_nobody_may_anything",
    ),
    Mutant(
        "pacemaker-two-nodes",
        "Of two nodes without stonith, each quorate on its side of a cut, both must be there.",
        RULES,
        "if blind and votes.two_node and (",
        "if blind and not votes.two_node and (",
        f"{TEST_RULES}::test_two_nodes_without_stonith_must_both_be_there",
    ),
    Mutant(
        "pacemaker-elsewhere",
        "What is active on another node is refused here, even to the cluster's own agent.",
        RULES,
        "    if elsewhere is not None:\n",
        "    if elsewhere is not None and elsewhere.role in BEGINNING:\n",
        f"{TEST_RULES}::test_nobody_else_may",
    ),
    Mutant(
        "pacemaker-anybody",
        "What the cluster has started here is for its own agent alone.",
        RULES,
        "r.role in BEGINNING and me.name in r.nodes",
        "me.name in r.nodes",
        f"{TEST_RULES}::test_nobody_else_may",
    ),
    Mutant(
        "pacemaker-whole-disk",
        "The start of a filesystem on a partition vouches for no use of the whole disk.",
        RULES,
        "a.lun == b.lun and b.path[: len(a.path)] == a.path",
        "a.lun == b.lun",
        f"{TEST_RULES}::test_the_start_of_a_filesystem_on_a_partition_says_nothing_of_the_whole_disk",
    ),
    Mutant(
        "pacemaker-maintenance-alone",
        "In maintenance, without a lease store, nobody may use what others see.",
        RULES,
        "        if picture.lease_store:\n",
        "        if picture is not None:\n",
        f"{TEST_RULES}::test_in_maintenance_the_lease_store_decides_and_without_one_nobody",
    ),
    Mutant(
        "pacemaker-missing-word",
        "A truth value that is not there is not a no.",
        STATE,
        '    if value not in ("true", "false"):\n',
        '    if value not in ("true", "false", None):\n',
        "tests/unit/cluster/test_pacemaker_state.py::test_a_word_that_is_missing_or_strange_makes_it_unreadable",
    ),
    Mutant(
        "pacemaker-rule-chosen",
        "A device that a parameter names only under a rule is managed all the same.",
        STATE,
        'for attributes in owner.findall("instance_attributes"):',
        'for attributes in owner.findall("instance_attributes")[:1]:',
        "tests/unit/cluster/test_pacemaker_state.py::test_every_device_that_a_parameter_may_come_to_name_is_managed",
    ),
    Mutant(
        "pacemaker-silent-is-fine",
        "A cluster that does not answer objects.",
        VIEW,
        'return Opinion(Stance.OBJECTS, f"the cluster\'s state is unknown: {error}", error.hint)',
        'return Opinion(Stance.NO_OBJECTION, f"the cluster\'s state is unknown: {error}", error.hint)',
        f"{TEST_VIEW}::test_without_corosync_it_is_unknown_whatever_pacemaker_says",
    ),
    Mutant(
        "pacemaker-old-look",
        "No use stands on an answer that was asked for before the use came.",
        VIEW,
        "self._running, self._next = self._next, None  #",
        "self._running = self._next  #",
        f"{TEST_VIEW}::test_no_use_stands_on_an_answer_that_was_asked_for_before_it_came",
    ),
    Mutant(
        "corosync-hangs",
        "Nobody waits for a stopped corosync longer than its time.",
        "enforcer/cluster/corosync.py",
        "async with asyncio.timeout(ANSWER_S):",
        "async with asyncio.timeout(None):",
        f"{TEST_VIEW}::test_a_corosync_that_hangs_is_silent_for_everybody_and_comes_back",
    ),
    Mutant(
        "corosync-push-ignored",
        "A loss of quorum that was pushed counts before a slower answer.",
        "enforcer/cluster/corosync.py",
        "if votes.quorate and self.pushed is False:",
        "if votes.quorate and self.pushed is None and False:",
        f"{TEST_VIEW}::test_a_loss_of_quorum_that_was_pushed_counts_before_an_answer_that_was_slower",
    ),
    Mutant(
        "fencings-unread",
        "A history of fencings that crm_mon could not read is no empty one.",
        "enforcer/cluster/pacemaker_state.py",
        """    if history is not None and history.get("status", "0") != "0":""",
        """    if history is not None and history.get("status", "0") == "no":""",
        "tests/unit/cluster/test_pacemaker_state.py::test_what_pacemaker_does_not_know_is_unreadable_and_says_why",
    ),
    Mutant(
        "view-not-heard",
        "An objection of the cluster manager refuses, and no lease is taken for it.",
        "enforcer/workflow/judge.py",
        "opinion.objects:\n                if boot_ns()",
        "opinion is None:\n                if boot_ns()",
        f"{TEST_CONSENT}::test_an_objection_refuses_and_costs_no_lease",
    ),
    Mutant(
        "view-vouches-for-all",
        "The manager's word for its own agent lets nobody else take a lease of what other nodes see.",
        CONSENT,
        "device.resources if opinion.stance is Stance.VOUCHES else ()",
        "device.resources if not opinion.objects else ()",
        f"{TEST_CONSENT}::test_the_managers_word_stands_for_a_store_only_within_its_own_task",
    ),
    Mutant(
        "view-fencing-of-before",
        "A fencing that was over when a boot was first seen says nothing of that boot.",
        CONSENT,
        "                    known[boot] = done\n",
        "                    known[boot] = frozenset()\n",
        f"{TEST_CONSENT}::test_any_other_fencing_is_none",
    ),
    Mutant(
        "view-fencing-under-way",
        "A fencing that was under way when a boot was first seen may have struck the one before.",
        CONSENT,
        "                if node not in under_way:\n",
        "                if node not in done:\n",
        f"{TEST_CONSENT}::test_any_other_fencing_is_none",
    ),
    Mutant(
        "pacemaker-old-fencing-by-force",
        "A fencing that is heard of late takes nothing from a node that lives.",
        "enforcer/workflow/consent.py",
        "            self._boots.before[boot] |= done\n",
        "            pass\n",
        "tests/unit/workflow/test_consent.py::test_an_old_fencing_that_is_heard_of_late_takes_nothing_from_who_lives",
    ),
)
