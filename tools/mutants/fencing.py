# SPDX-License-Identifier: GPL-2.0-or-later
"""Fence agents: what is no proof, about which boot a proof is, and who is not to be switched off."""

from __future__ import annotations

from tools.mutants.row import Mutant

AGENT, FENCES, SETTINGS = (
    "enforcer/cluster/fence_agent.py",
    "enforcer/workflow/fencing.py",
    "enforcer/settings/fencing.py",
)
RUNS, DECIDES, READS = (
    "tests/unit/cluster/test_fence_agent.py",
    "tests/unit/workflow/test_fencing.py",
    "tests/unit/policy/test_settings_fencing.py",
)
LEFT_ALONE = f"{DECIDES}::test_nobody_is_switched_off_on_demand_if_it_is_not_wanted_or_does_not_help"

MUTANTS = (
    Mutant(
        "agent-off-believed",
        "An agent's off is a proof only together with a status that says off.",
        AGENT,
        "    if code != IS_OFF:\n",
        "    if False:\n",
        f"{RUNS}::test_without_a_status_of_2_it_is_not_off_whatever_off_said",
    ),
    Mutant(
        "agent-off-failed",
        "An off that failed is none, whatever the status says then.",
        AGENT,
        "    if code != DONE:\n",
        "    if False:\n",
        f"{RUNS}::test_an_off_that_does_not_end_with_0_is_none",
    ),
    Mutant(
        "agent-leaves-children",
        "What an agent started ends with it.",
        AGENT,
        "os.killpg(child.pid, signal.SIGKILL)",
        "child.kill()",
        f"{RUNS}::test_one_that_hangs_proves_nothing_and_is_ended_with_what_it_started",
    ),
    Mutant(
        "agent-tells-password",
        "No value of an option is in what is told of an agent.",
        AGENT,
        '        line = line.replace(value.strip().strip(\'"\') or value, "...")\n',
        "        pass\n",
        f"{RUNS}::test_what_it_says_is_told_in_one_line_without_the_value_of_any_option",
    ),
    Mutant(
        "agent-of-others",
        "Root runs no agent that others can change.",
        AGENT,
        " or found.st_mode & 0o022:",
        ":",
        f"{RUNS}::test_a_program_that_others_can_change_is_not_run",
    ),
    Mutant(
        "agent-missing-as-off",
        "An option by which a plug that is not there counts as off is refused.",
        SETTINGS,
        '    "missing_as_off": "a plug that is not there is no node that is off",\n',
        "",
        f"{READS}::test_bad",
    ),
    Mutant(
        "agent-password-public",
        "A password of an agent stands in no file that others can read.",
        SETTINGS,
        "elif _SECRET.match(plain) and not private:",
        "elif False:",
        f"{READS}::test_a_secret_stands_only_in_a_file_that_nobody_else_can_read",
    ),
    Mutant(
        "fence-newer-boot",
        "A fencing fact is about the boots that were known before the agent ran.",
        FENCES,
        "for boot_id in fenced.boot_ids:",
        "for boot_id in {h.lease.holder.boot_id for h in await self._store.leases() if h.lease.holder.node == node}:",
        f"{DECIDES}::test_a_boot_that_appears_while_the_agent_runs_is_not_covered",
    ),
    Mutant(
        "fence-unproven",
        "Without the agent's proof there is no fencing fact.",
        FENCES,
        "            await self._off(agent, node)\n",
        "            await asyncio.gather(self._off(agent, node), return_exceptions=True)\n",
        f"{DECIDES}::test_an_agent_that_did_not_prove_it_leaves_no_fact",
    ),
    Mutant(
        "fence-forced",
        "Who still renews after its agent called it off is not fenced: it was another machine.",
        FENCES,
        "fence_confirm(node, boot_id, by)",
        "fence_confirm(node, boot_id, by, force=True)",
        f"{DECIDES}::test_who_renews_after_its_agent_called_it_off_is_not_fenced",
    ),
    Mutant(
        "fence-living",
        "A node that renews its session is switched off only by name.",
        FENCES,
        "        if not alive and any(",
        "        if False and any(",
        f"{DECIDES}::test_the_living_are_switched_off_only_by_name",
    ),
    Mutant(
        "fence-itself",
        "A node does not switch itself off.",
        FENCES,
        "        if node == self._me.node:\n",
        "        if False:\n",
        f"{DECIDES}::test_what_cannot_be_fenced_starts_no_agent",
    ),
    Mutant(
        "fence-in-vain",
        "Nobody is switched off on demand while somebody else in the way lives.",
        FENCES,
        "not all(self._helps(h)",
        "not any(self._helps(h)",
        LEFT_ALONE,
        (f"{LEFT_ALONE}[one lives]",),
    ),
    Mutant(
        "fence-without-quorum",
        "Who has no quorum switches nobody off on demand.",
        FENCES,
        "            if quorum not in (Quorum.HELD, Quorum.NONE):\n",
        "            if False:\n",
        f"{DECIDES}::test_who_has_no_quorum_switches_nobody_off",
    ),
    Mutant(
        "fence-again-at-once",
        "An agent that failed is not started again and again.",
        FENCES,
        "or self._now_ns() >= pause.until_ns)",
        "or True)",
        f"{DECIDES}::test_after_a_failure_it_is_tried_again_later_and_later",
    ),
    Mutant(
        "fence-for-audit",
        "For a rule that only watches nobody is switched off.",
        "enforcer/workflow/judge.py",
        " and decision.mode is not RuleMode.AUDIT:\n                outcome",
        ":\n                outcome",
        f"{DECIDES}::test_for_a_rule_that_only_watches_nobody_is_switched_off",
    ),
)
