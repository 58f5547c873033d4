# SPDX-License-Identifier: GPL-2.0-or-later
"""What the thread of the watchdog believes of revoker, gate and the keeper before it: in doubt the stricter."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from enforcer import settings
from enforcer.cluster.etcd_session import SessionFacts
from enforcer.cluster.identity import read_session, read_tiers, write_session
from enforcer.keeper.duties import Keeper
from enforcer.keeper.lifeline import Lifeline, Sight
from enforcer.lost.files import DEAD_NS, Beat, Promise, write_beat, write_deadline, write_promises
from enforcer.model.clock import boot_ns
from enforcer.model.guarantee import Tiers
from enforcer.model.resource import DevNum

TIERS = Tiers(cut_s=3.0, watchdog_s=10.0)


def test_cut_is_what_a_living_revoker_has_cut_below_on_every_path(tmp_path: Path) -> None:
    sight = Sight(tmp_path / "pins", tmp_path)
    write_promises(tmp_path, (Promise("8:1", "sda1", ("wwn-a",), ("sda", "sdb")), Promise("8:32", "sdc", ("b",), ())))
    assert sight._cut() == frozenset() and not sight.refused()
    for cut, expected in (("sda",), frozenset[DevNum]()), (("sda", "sdb"), frozenset({DevNum(8, 1)})):
        write_beat(tmp_path, Beat(boot_ns(), 1, cut))
        assert sight._cut() == expected
    write_beat(tmp_path, Beat(boot_ns() - 2 * DEAD_NS, 1, ("sda", "sdb")))
    assert sight._cut() == frozenset(), "a dead one has nothing in its hands"
    write_beat(tmp_path, Beat(boot_ns(), 1, ("sda", "sdb"), failed="sda: no answer"))
    assert sight._cut() == frozenset() and sight.refused()


def test_where_no_gate_ever_was_nothing_is_in_use(tmp_path: Path) -> None:
    assert not Sight(tmp_path, tmp_path).in_use()


def test_what_was_promised_to_be_reset_is_in_use_whatever_the_gate_says(tmp_path: Path) -> None:
    """The gate is new, has forgotten it, or another rule unguards it; its use was never counted."""
    write_promises(tmp_path, (), ("wwn-a",))
    assert Sight(tmp_path, tmp_path).in_use()
    write_promises(tmp_path, ())
    assert not Sight(tmp_path, tmp_path).in_use()


def test_a_keeper_that_begins_promises_nothing_of_the_one_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That one had a watchdog, perhaps; the session goes on."""
    monkeypatch.setattr(Keeper, "_keep_session", lambda _: asyncio.sleep(60))
    facts = SessionFacts(1, 2, 20)
    write_session(tmp_path, facts, tiers=TIERS)
    places = "".join(f"{key} = '{tmp_path}'\n" for key in ("run_dir", "state_dir", "log_dir", "bpffs"))
    store = "[store]\nkind = 'etcd'\nendpoints = ['http://192.0.2.1:2379']\n"
    keeper = Keeper(settings.parse(f"[node]\nname = 'node-1'\n{store}[paths]\n{places}"))

    async def scenario() -> None:
        running = asyncio.ensure_future(keeper.run())
        await asyncio.sleep(0.05)
        keeper._stop.set()
        await running

    asyncio.run(scenario())
    assert read_session(tmp_path) == (facts, "") and read_tiers(tmp_path) == Tiers()


def test_nothing_is_promised_before_it_is_fed_and_a_last_meal_is_inherited(tmp_path: Path) -> None:
    write_deadline(tmp_path, 7_000_000_000, cut_s=3.0, watchdog_s=10.0)
    line = Lifeline(str(tmp_path / "none"), TIERS, pins=tmp_path, run_dir=tmp_path)
    assert line.tiers == Tiers(cut_s=3.0)
    assert line._feeder is not None and line._feeder.last_pet_ns == 10_000_000_000
    line._feeder.once()
    assert "cannot be opened" in line._feeder.trouble and line.tiers.watchdog_s == 0
    assert Lifeline("/dev/watchdog", Tiers(pauses=True), pins=tmp_path, run_dir=tmp_path)._feeder is None
