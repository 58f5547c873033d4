# SPDX-License-Identifier: GPL-2.0-or-later
"""The store that the settings name, as it is before it is opened."""

from __future__ import annotations

from pathlib import Path

import pytest

from enforcer import settings
from enforcer.daemon.backends import make_access, make_store
from enforcer.model.lease import Guarantee, Holder


@pytest.mark.parametrize(
    ("store", "gone_after_s"),
    [
        ('kind = "etcd"\nendpoints = ["http://192.0.2.1:2379"]\nttl = "40s"', 40),
        ('kind = "sanlock"\ndevice = "/dev/disk/by-id/x"\nhost_id = 1\nio_timeout = "20s"', 8 * 20 + 60),
        ('kind = "external"\nsocket = "/run/x"', 140),  # whichever it is: as slow as the slowest of ours
        ('kind = "sqlite"', 0),
    ],
)
def test_a_store_says_how_long_it_may_call_a_node_live_that_was_switched_off(
    store: str, gone_after_s: float, tmp_path: Path
) -> None:
    chosen = settings.parse(f'[store]\n{store}\n[paths]\nstate_dir = "{tmp_path}"\nrun_dir = "{tmp_path}"\n')
    me = Holder("node-1", "boot-1", "s1")
    made = make_store(
        chosen, me, make_access(chosen), multi_attached=lambda _: False, guarantee=lambda _: Guarantee.NONE
    )
    assert gone_after_s <= made.gone_after_s <= gone_after_s + 10
