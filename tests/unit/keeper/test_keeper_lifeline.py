# SPDX-License-Identifier: GPL-2.0-or-later
"""What the thread of the watchdog believes of revoker, gate and the keeper before it: in doubt the stricter."""

from __future__ import annotations

from pathlib import Path

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


def test_nothing_is_promised_before_it_is_fed_and_a_last_meal_is_inherited(tmp_path: Path) -> None:
    write_deadline(tmp_path, 7_000_000_000, cut_s=3.0, watchdog_s=10.0)
    line = Lifeline(str(tmp_path / "none"), TIERS, pins=tmp_path, run_dir=tmp_path)
    assert line.tiers == Tiers(cut_s=3.0)
    assert line._feeder is not None and line._feeder.last_pet_ns == 10_000_000_000
    line._feeder.once()
    assert "cannot be opened" in line._feeder.trouble and line.tiers.watchdog_s == 0
    assert Lifeline("/dev/watchdog", Tiers(pauses=True), pins=tmp_path, run_dir=tmp_path)._feeder is None
