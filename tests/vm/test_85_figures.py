# SPDX-License-Identifier: GPL-2.0-or-later
"""What it costs and what it saves; every figure is printed at the end of the log beside its counterpart.

What is asserted holds with emulated CPUs too: counters, memory, and ratios with much room.
"""

from __future__ import annotations

import pytest

from tools import figures
from tools.at_end import Keep
from tools.figures import RSS_LIMIT_MB, STORM
from tools.lab.cluster import Cluster
from tools.lab.vm import Node

pytestmark = pytest.mark.full


@pytest.fixture(autouse=True, scope="module")
def timing(cluster: Cluster) -> None:
    """The timing program is in the guests."""
    figures.bring(cluster)


def test_a_verdict_is_a_round_trip_and_little_more(two: Node, taken: Keep) -> None:
    found = figures.verdict(two)
    taken(found)
    assert found[0].ratio < 10


def test_a_first_mount_waits_for_the_lease(two: Node, cluster: Cluster, taken: Keep) -> None:
    mount, lease = figures.first_mount(cluster, two)
    taken([mount, lease])
    assert mount.value > lease.value >= lease.beside


def test_a_refusal_comes_ten_times_sooner_than_that_of_ext4_mmp(cluster: Cluster, taken: Keep) -> None:
    found = figures.refusal(cluster)
    taken([found])
    assert found.ratio < 0.1


def test_the_processes_stay_small(cluster: Cluster, taken: Keep) -> None:
    found = figures.memory(cluster)
    taken(found)
    assert [f.what for f in found if f.value > RSS_LIMIT_MB[f.what.rpartition(" ")[2]]] == []


def test_a_thousand_tmpfs_mounts_ask_nobody(two: Node, cluster: Cluster, taken: Keep) -> None:
    storm = figures.tmpfs(cluster, two)
    taken([storm.cost])
    assert storm.asks == 0
    assert storm.passed >= STORM, "the gates must have seen every one of them"
    assert storm.cost.ratio < 2.5


def test_the_processes_start(two: Node, cluster: Cluster, taken: Keep) -> None:
    taken(figures.start_times(cluster, two))
