# SPDX-License-Identifier: GPL-2.0-or-later
"""One pair of nodes for all cases of one kernel series: ``pytest tests/vm --kernel 6.18``.

The files run in the order of their names, and each leaves the LUNs free for the next; the last one powers a node off.
What is marked ``full`` runs on the series 6.12 only.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tools.at_end import pytest_terminal_summary as pytest_terminal_summary
from tools.at_end import taken as taken
from tools.lab import ways
from tools.lab.cluster import Cluster
from tools.lab.story import Story
from tools.lab.vm import Node


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--kernel", default="6.12", help="series of the guests' kernel: 6.12, 6.18, newest")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "full: runs on the series 6.12 only")
    config.addinivalue_line("markers", "own_lab: boots machines of its own: the suite labs")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for item in items:
        item.add_marker(pytest.mark.timeout(240))
    if config.getoption("--kernel") != "6.12":
        out = [item for item in items if item.get_closest_marker("full")]
        config.hook.pytest_deselected(items=out)
        items[:] = [item for item in items if item not in out]


@pytest.fixture(scope="session")
def cluster(request: pytest.FixtureRequest) -> Iterator[Cluster]:
    """Two nodes that enforce; their LUNs are free."""
    with Cluster(request.config.getoption("--kernel")) as made:
        yield made


@pytest.fixture(scope="session")
def story(cluster: Cluster) -> Story:
    """The story's steps, to be played one by one."""
    told = Story(cluster, lambda line: print(line, flush=True))
    dev = told.part(told.one)
    told.works(told.one, f"mkfs.ext4 -qF {dev} && mkfs.ext4 -qF {told.one.device(cluster.ext4)}")
    told.works(told.one, f"mkfs.xfs -qf {told.one.device(cluster.xfs)}", 120)
    for name in (dev, told.one.device(cluster.ext4), told.one.device(cluster.xfs)):
        cluster.wait_free(told.one, name)
    return told


@pytest.fixture
def one(cluster: Cluster) -> Node:
    return cluster.nodes[0]


@pytest.fixture
def two(cluster: Cluster) -> Node:
    return cluster.nodes[1]


@pytest.fixture
def held(story: Story, one: Node, cluster: Cluster) -> Iterator[str]:
    """node-1 has the xfs LUN mounted, whose rule lets callers wait 12 s for it; its name on node-2."""
    dev = one.device(cluster.xfs)
    story.works(one, f"mount -t xfs {dev} {ways.MOUNT_POINT}")
    yield cluster.nodes[1].device(cluster.xfs)
    story.works(one, f"umount {ways.MOUNT_POINT}")
    cluster.wait_free(one, dev)
