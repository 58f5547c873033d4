# SPDX-License-Identifier: GPL-2.0-or-later
"""One pair of nodes for all cases of one kernel series: ``pytest tests/vm --kernel 6.18``.

The files run in the order of their names, and each leaves the LUNs free for the next; the last one powers a node off.
A test that failed leaves them as it likes, so the next one gets nodes that were booted anew: one fault fails no more
than its file.
What is marked ``full`` runs on the series 6.12 only.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator

import pytest

from tools.at_end import pytest_terminal_summary as pytest_terminal_summary
from tools.at_end import taken as taken
from tools.lab import ways
from tools.lab.cluster import Cluster
from tools.lab.story import Story
from tools.lab.vm import Node

PAIR = pytest.StashKey[Cluster]()
SPOILT = pytest.StashKey[bool]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--kernel", default="6.12", help="series of the guests' kernel: 6.12, 6.18, newest")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "full: runs on the series 6.12 only")
    config.addinivalue_line("markers", "own_lab: boots machines of its own: the suite labs")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for item in items:
        item.add_marker(pytest.mark.timeout(360))
    if config.getoption("--kernel") != "6.12":
        out = [item for item in items if item.get_closest_marker("full")]
        config.hook.pytest_deselected(items=out)
        items[:] = [item for item in items if item not in out]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.failed and "cluster" in getattr(item, "fixturenames", ()):
        item.session.stash[SPOILT] = True
    return report


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Before the fixtures of a module, which find the nodes as they are."""
    stash = item.session.stash
    if stash.get(SPOILT, False) and PAIR in stash:
        stash[SPOILT] = False
        stash[PAIR].boot_anew()
        _formatted(Story(stash[PAIR], print))


@pytest.fixture(scope="session")
def cluster(request: pytest.FixtureRequest) -> Iterator[Cluster]:
    """Two nodes that enforce; their LUNs are free."""
    with Cluster(request.config.getoption("--kernel")) as made:
        request.session.stash[PAIR] = made
        yield made


@pytest.fixture(scope="session")
def story(cluster: Cluster) -> Story:
    """The story's steps, to be played one by one."""
    told = Story(cluster, lambda line: print(line, flush=True))
    _formatted(told)
    return told


def _formatted(story: Story) -> None:
    """Empty filesystems that nobody uses."""
    node, cluster = story.one, story.cluster
    ext4 = (story.part(node), node.device(cluster.ext4))
    xfs = node.device(cluster.xfs)
    story.works(node, " && ".join(f"mkfs.ext4 -qF {dev}" for dev in ext4))
    story.works(node, f"mkfs.xfs -qf {xfs}", 120)
    for dev in (*ext4, xfs):
        cluster.wait_free(node, dev)


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
