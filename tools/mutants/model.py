# SPDX-License-Identifier: GPL-2.0-or-later
"""Wrong lines in the rules of leases, which the model's searches (or the rules' own properties) find.

What the model takes for granted of kernel, store and machine cannot be broken in our sources: a guard that is
attached, counts that end after the last flush, a store that compares revisions, clocks that run. ``make model BREAK=``
takes those away one by one, and tests/model/test_model.py watches each search find what goes wrong then.
"""

from __future__ import annotations

from tools.mutants.row import Mutant

MODEL = "tests/model/test_model.py::test_nobody_writes_after_another_was_granted_and_everybody_is_answered"

MUTANTS = (
    Mutant(
        "deadline-from-the-answer",
        "The deadline counts from before the renewal was sent.",
        "enforcer/model/deadlines.py",
        "return max(before_ns, sent_ns) if answered_ns < self.silent_ns(sent_ns) else before_ns",
        "return max(before_ns, answered_ns)",
        MODEL,
    ),
    Mutant(
        "takeover-ignores-the-guarantee",
        "Who promised nothing is not taken over by time.",
        "enforcer/cluster/conflicts.py",
        "            if guarantee in SELF_FENCING:\n",
        "            if guarantee is not Guarantee.RESERVATION:\n",
        MODEL,
    ),
    Mutant(
        "taken-over-and-not-fenced",
        "Who was taken over by time gets no session in that boot any more.",
        "enforcer/cluster/conflicts.py",
        "        gone = (h.lease.holder for h in self.taken_over if h.liveness is Liveness.SILENT)\n",
        "        gone = iter(list[Holder]())\n",
        MODEL,
    ),
    Mutant(
        "stale-token-released",
        "A release deletes what bears its own token, and no later grant.",
        "enforcer/cluster/conflicts.py",
        " and ours[r].token == token]",
        "]",
        "tests/unit/cluster/test_conflicts.py::test_a_release_names_its_token",
    ),
    Mutant(
        "stale-token-accepted",
        "A token lower than one ever seen is no lease.",
        "enforcer/model/lifecycle.py",
        "    if token < state.highest:\n        return _unknown(state, token), (Action.REFUSE, Action.PUBLISH)\n",
        "",
        MODEL,
    ),
    Mutant(
        "unanswered-release-trusted",
        "What a late release may still delete is written anew before it is permitted.",
        "enforcer/cluster/conflicts.py",
        "token is not None and all(sure.get(r) == token for r in self.wanted)",
        "token is not None",
        MODEL,
    ),
    Mutant(
        "released-without-a-look",
        "The store is told only after the uses were looked for.",
        "enforcer/model/lifecycle.py",
        "    if unused:\n",
        "    if True:\n",
        MODEL,
    ),
    Mutant(
        "table-not-closed-first",
        "Nothing new starts while a lease is being given back.",
        "enforcer/model/lifecycle.py",
        "                return replace(state, phase=Phase.CLOSING, doubt=False), (Action.PUBLISH, Action.LOOK)\n",
        "                return replace(state, phase=Phase.CLOSING, doubt=False), (Action.LOOK,)\n",
        MODEL,
    ),
    Mutant(
        "grant-not-freshened",
        "Blocks that another node has changed are not read from the cache.",
        "enforcer/model/lifecycle.py",
        "    after = State(Phase.LIVE, token, token, stale)\n",
        "    stale = False\n    after = State(Phase.LIVE, token, token, stale)\n",
        MODEL,
    ),
    Mutant(
        "shared-and-exclusive",
        "What is shared and what is exclusive exclude each other.",
        "enforcer/model/resource.py",
        "return self is other and self is not Mode.EX",
        "return Mode.CW in (self, other) or (self is other and self is not Mode.EX)",
        MODEL,
    ),
    Mutant(
        "shared-by-flag-only",
        "A lease that is shared passes what works under a common lock manager, and no raw writer.",
        "enforcer/kernel/decide.py",
        "    return GuardFlag.CLUSTER not in flags or cluster\n",
        "    return GuardFlag.CLUSTER not in flags or not cluster\n",
        MODEL,
    ),
    Mutant(
        "exclusive-late-and-stale",
        "What was shared is exclusive only after its cached blocks went, however late the store's grant came.",
        "enforcer/workflow/holdings.py",
        "    return before if before is Mode.CW and not fresh else stored\n",
        "    return stored\n",
        MODEL,
    ),
    Mutant(
        "exclusive-late-and-not-dropped",
        "A shared lease that the store has as exclusive already is dropped from the cache when it becomes that here.",
        "enforcer/workflow/leases.py",
        "lifecycle.Granted(lease.token, outcome.fresh or alone, idle, reserves)",
        "lifecycle.Granted(lease.token, outcome.fresh, idle, reserves)",
        "tests/unit/workflow/test_leases_shared.py::test_an_exclusive_grant_too_late_for_who_asked_leaves_no_old_blocks",
    ),
    Mutant(
        "preempted-and-given-up",
        "Who was preempted finds the storage reserved for ever: what it writes late is refused.",
        "enforcer/storage/reservations.py",
        "    return key_of(lease, kept=there is not None and _outlives(there, lease))\n",
        "    return key_of(lease)\n",
        MODEL,
    ),
    Mutant(
        "reserved-once-for-all",
        "A lease that was being given back is reserved anew before it is used, also where the first try is refused.",
        "enforcer/model/lifecycle.py",
        " or (reserves and not state.live)",
        "",
        MODEL,
    ),
    Mutant(
        "preempted-unasked",
        "Nobody makes itself the holder of the reservation of a lease that the store has given to another.",
        "enforcer/storage/reservations.py",
        "    if not ours:\n",
        "    if not ours and not mine:\n",
        MODEL,
    ),
    Mutant(
        "late-release-deletes",
        "A release that arrives late takes nothing from who asked again.",
        "enforcer/cluster/etcd_store.py",
        "                    [if_modified_at(stored.key, stored.mod_revision) for stored in mine[:BATCH]],\n",
        "                    [],\n",
        "tests/unit/cluster/test_etcd_store.py::test_a_release_that_arrives_late_takes_nothing_from_who_asked_again",
    ),
    Mutant(
        "back-and-taken-over",
        "Who comes back between the taker's read and its write is not taken over.",
        "enforcer/cluster/etcd_store.py",
        "[*unchanged, *me, *self._still_gone(ruling)]",
        "[*unchanged, *me]",
        "tests/unit/cluster/test_etcd_takeover.py::test_who_comes_back_before_the_write_is_not_taken_over",
    ),
)
