# SPDX-License-Identifier: GPL-2.0-or-later
"""What every lease store and every view of a cluster manager promises, broken in one engine at a time."""

from __future__ import annotations

from tools.mutants.row import Mutant

FAULTS = "tests/unit/cluster/test_store_conformance_faults.py"
AWAY = f"{FAULTS}::test_while_the_server_is_away_nothing_is_free_and_after_it_nothing_is_lost"
LATE = f"{FAULTS}::test_an_answer_that_comes_too_late_denies_and_what_it_granted_stays_with_nobody_unknown"
CLEARED = f"{FAULTS}::test_clearing_up_in_the_middle_of_use_costs_no_lease_no_token_and_no_answer"
SILENT = f"{FAULTS}::test_who_renews_stays_and_who_falls_silent_is_stranded_until_it_is_fenced"
VIEWS = "tests/cluster/test_conformance_of_views.py"
FAULT = f"{VIEWS}::test_a_fault_is_objected_to_as_long_as_it_lasts_and_its_end_is_heard"
ETCD, SQLITE = "enforcer/cluster/etcd_store.py", "enforcer/cluster/sqlite_store.py"
SAID = "            return Denied(Standing.UNKNOWN, str(error), remedy=error.hint)\n"

MUTANTS = (
    Mutant(
        "locked-is-free",
        "A database that another process has locked permits nothing.",
        SQLITE,
        SAID,
        "            return Granted(1, (), False)\n",
        AWAY,
        (f"{AWAY}[sqlite-locked]",),
    ),
    Mutant(
        "killed-etcd-is-free",
        "An etcd that was killed permits nothing.",
        ETCD,
        SAID,
        "            return Granted(1, (), False)\n",
        AWAY,
        (f"{AWAY}[etcd-killed]",),
    ),
    Mutant(
        "stopped-peer-is-free",
        "An external store that was stopped permits nothing.",
        "enforcer/cluster/external_store.py",
        "            return Denied(Standing.UNKNOWN, str(late), remedy=late.hint)\n",
        "            return Granted(1, (), False)\n",
        AWAY,
        (f"{AWAY}[external-stopped]",),
    ),
    Mutant(
        "stopped-sanlock-is-free",
        "A daemon of sanlock that was stopped permits nothing.",
        "enforcer/cluster/sanlock_store.py",
        SAID,
        "            return Granted(1, (), False)\n",
        AWAY,
        (f"{AWAY}[sanlock-stopped]",),
    ),
    Mutant(
        "away-is-empty",
        "A store that cannot be asked does not say that nobody holds anything.",
        ETCD,
        "        return (await self._snapshot([self._below(lun)], CALL_S)).held()\n",
        "        try:\n"
        "            return (await self._snapshot([self._below(lun)], CALL_S)).held()\n"
        "        except StoreUnavailable:\n"
        "            return ()\n",
        AWAY,
        (f"{AWAY}[etcd-members-without-quorum]",),
    ),
    Mutant(
        "peer-forgets-at-its-death",
        "What an external store granted before it was killed is held when it is back.",
        "tools/examples/gfs_clusterd.py",
        "                draft.rename(file)\n",
        '                draft.rename(file) if state["token"] < 3 else None\n',
        AWAY,
        (f"{AWAY}[external-killed]",),
    ),
    Mutant(
        "late-grant-is-clean",
        "What was granted too late and is asked for again is fresh: nobody dropped its caches.",
        ETCD,
        "        fresh = ruling.fresh(self._told)\n",
        "        fresh = not ruling.mine\n",
        LATE,
        (f"{LATE}[etcd]",),
    ),
    Mutant(
        "late-commit-is-clean",
        "So is what a slow disk committed too late.",
        SQLITE,
        "return Granted(token, leases, ruling.fresh(self._told))",
        "return Granted(token, leases, not ruling.mine)",
        LATE,
        (f"{LATE}[sqlite]",),
    ),
    Mutant(
        "late-grant-left-over",
        "What an external store grants too late is given back.",
        "enforcer/cluster/external_store.py",
        '                self._give_back(new, late.get("token"))\n',
        "                pass\n",
        LATE,
        (f"{LATE}[external]",),
    ),
    Mutant(
        "reads-the-past",
        "What is read is what is now, not a revision that may be cleared up.",
        "enforcer/cluster/etcd_api.py",
        "        answer = await self._txn([], ops, budget_s=budget_s, retry=True)\n",
        '        then = {"revision": str(self._highest)}\n'
        '        ops = [{"request_range": {**op["request_range"], **then}} for op in ops]\n'
        "        answer = await self._txn([], ops, budget_s=budget_s, retry=True)\n",
        CLEARED,
        (f"{CLEARED}[etcd]",),
    ),
    Mutant(
        "token-of-what-is-left",
        "A token is not given out twice, whatever was released and cleared up.",
        SQLITE,
        'db.execute("update counter set token = token + 1")',
        'db.execute("update counter set token = 1 + coalesce((select max(token) from lease), token)")',
        CLEARED,
        (f"{CLEARED}[sqlite]",),
    ),
    Mutant(
        "renewed-in-words",
        "A renewal keeps the session alive in the store.",
        "enforcer/cluster/etcd_session.py",
        "                ttl_s = await self._etcd.lease_keepalive(facts.lease_id, budget_s=budget_s)\n",
        "                ttl_s = facts.ttl_s\n",
        SILENT,
        (f"{SILENT}[etcd]",),
    ),
    Mutant(
        "silent-is-silenced",
        "A node that fell silent is in the way until somebody proves that it is off.",
        "tools/examples/gfs_clusterd.py",
        'in ("fenced", "rebooted")',
        'in ("fenced", "rebooted", "stranded")',
        SILENT,
        (f"{SILENT}[external]",),
    ),
    Mutant(
        "view-without-quorum",
        "A real cluster that has lost its quorum objects.",
        "enforcer/cluster/pacemaker_rules.py",
        "    if not picture.votes.quorate or not picture.state.with_quorum:\n",
        "    if picture.votes.total == 0:\n",
        FAULT,
        (f"{FAULT}[pacemaker-no-quorum]",),
    ),
    Mutant(
        "view-of-the-unclean",
        "A real node that is unclean and not fenced yet is objected to.",
        "enforcer/cluster/pacemaker_rules.py",
        "    lost = {m.name for m in state.members if m.unclean or (not m.online and m.expected_up)}\n",
        "    lost = set[str]()\n",
        FAULT,
        (f"{FAULT}[pacemaker-a-node-is-unclean]",),
    ),
    Mutant(
        "view-looks-once",
        "A view that is asked again looks again.",
        "enforcer/cluster/pacemaker.py",
        "        self._running, self._next = self._next, None  #",
        "        self._running = self._next  #",
        FAULT,
        (f"{FAULT}[pacemaker-no-quorum]",),
    ),
    Mutant(
        "view-waits-for-ever",
        "A real Pacemaker that hangs is objected to in bounded time.",
        "enforcer/cluster/pacemaker.py",
        "        async with asyncio.timeout(ANSWER_S):\n",
        "        async with asyncio.timeout(None):\n",
        FAULT,
        (f"{FAULT}[pacemaker-its-state-hangs]",),
    ),
)
