# SPDX-License-Identifier: GPL-2.0-or-later
"""What may be promised, and the files by which it is kept."""

from __future__ import annotations

from pathlib import Path
from unittest.mock import Mock

import pytest

from enforcer.cluster.etcd_session import EtcdSession, SessionFacts
from enforcer.lost import files
from enforcer.lost.files import Beat, Promise, read_beat, read_deadline, read_promises, revoker_trouble
from enforcer.lost.options import Lost, Pauses
from enforcer.model.clock import boot_ns
from enforcer.model.deadlines import margin_s
from enforcer.model.guarantee import Offer, Ready, Tiers, clock_may_stop, offer
from enforcer.model.lease import Guarantee, Holder

BARE, VIRTUAL = "processor : 0\nflags\t\t: fpu vme\n", "processor : 0\nflags\t\t: fpu hypervisor lahf_lm\n"
AT_WORK = Ready(revoker="")
BOTH = Tiers(cut_s=3.0, watchdog_s=10.0)


@pytest.mark.parametrize(
    ("tiers", "ready", "guarantee", "word"),
    [
        (Tiers(cut_s=3.0), AT_WORK, Guarantee.CUT, ""),
        (BOTH, AT_WORK, Guarantee.CUT, ""),
        (None, AT_WORK, Guarantee.NONE, "no session"),
        (Tiers(), AT_WORK, Guarantee.NONE, "no cut is configured"),
        (Tiers(cut_s=3.0), Ready(), Guarantee.NONE, "not running"),
        (Tiers(cut_s=3.0), Ready("", "vda is no SCSI disk"), Guarantee.NONE, "vda"),
        (BOTH, Ready(), Guarantee.WATCHDOG, "not running"),
        (BOTH, Ready("", "vda is no SCSI disk"), Guarantee.WATCHDOG, "vda"),
        (Tiers(watchdog_s=10.0), Ready(), Guarantee.WATCHDOG, "no cut"),
        (Tiers(3.0, 10.0, pauses=True), AT_WORK, Guarantee.NONE, "paused"),
    ],
)
def test_a_promise_is_made_only_while_all_that_keeps_it_is_there(
    tiers: Tiers | None, ready: Ready, guarantee: Guarantee, word: str
) -> None:
    made = offer(tiers, ready)
    assert made.guarantee is guarantee
    assert word in made.reason and bool(made.reason) == bool(word)
    assert Offer(guarantee).guarantee is guarantee


def test_a_virtual_machine_promises_nothing_unless_the_settings_say_that_it_is_never_paused() -> None:
    assert clock_may_stop(VIRTUAL) and not clock_may_stop(BARE)
    assert clock_may_stop("processor : 0\nFeatures : fp asimd\n"), "where the CPU does not tell, nothing is known"
    assert Lost().tiers(BARE) == Tiers() and Lost(3.0).tiers(VIRTUAL) == Tiers(pauses=True)
    assert Lost(3.0, hypervisor_pauses=Pauses.NO).tiers(VIRTUAL) == Tiers(3.0)
    assert Lost(hypervisor_pauses=Pauses.YES).tiers(BARE) == Tiers(pauses=True)
    assert Lost(3.0, watchdog="/dev/watchdog1").tiers(BARE) == BOTH


def test_the_deadline_leaves_time_for_what_was_promised() -> None:
    """The kernel, the revoker and the watchdog go by the same t0: stop, then the cut, then the last pet."""
    session = EtcdSession(Mock(), "c", Holder("n", "b", "s"), ttl_s=20, tiers=BOTH)
    assert (session.deadline_ns, session.last_pet_ns) == (0, 0), "without a session nothing may be written"
    session.facts, session._renewed_ns = SessionFacts(1, 1, 20), 100_000_000_000
    silent_ns = 100_000_000_000 + int((20 - margin_s(20)) * 1e9)
    assert session.last_pet_ns == silent_ns - 10_000_000_000
    assert session.deadline_ns == silent_ns - 13_000_000_000


def test_the_files_are_read_as_they_were_written(tmp_path: Path) -> None:
    assert read_deadline(tmp_path) is None and read_promises(tmp_path) == () and read_beat(tmp_path) is None
    files.write_deadline(tmp_path, 7, cut_s=1.5, watchdog_s=2.0)
    told = read_deadline(tmp_path)
    assert told is not None and (told.stop_ns, told.cut_s, told.watchdog_s) == (7, 1.5, 2.0)
    promise = Promise("8:1", "sda1", ("wwn-0x5/p1",), ("sda", "sdb"))
    files.write_promises(tmp_path, (promise,))
    assert read_promises(tmp_path) == (promise,)
    beat = Beat(boot_ns(), 5, ("sda",), 9, "inflight")
    files.write_beat(tmp_path, beat)
    assert read_beat(tmp_path) == beat


@pytest.mark.parametrize("name", [files.DEADLINE, files.PROMISED])
@pytest.mark.parametrize("content", ["", "{", "{}", '[{"dev": 1}]', "7"])
def test_a_damaged_file_is_never_an_empty_one(tmp_path: Path, name: str, content: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(ValueError):
        (read_deadline if name == files.DEADLINE else read_promises)(tmp_path)


def test_a_revoker_counts_only_while_it_is_seen_at_work(tmp_path: Path) -> None:
    assert "not running" in revoker_trouble(tmp_path)
    files.write_beat(tmp_path, Beat(boot_ns(), 5))
    assert revoker_trouble(tmp_path) == ""
    files.write_beat(tmp_path, Beat(boot_ns() - files.DEAD_NS - 1, 5))
    assert "no sign of life" in revoker_trouble(tmp_path)
    files.write_beat(tmp_path, Beat(boot_ns(), 5, failed="sda: 2 requests in flight"))
    assert "sda" in revoker_trouble(tmp_path)
