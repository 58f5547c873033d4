# SPDX-License-Identifier: GPL-2.0-or-later
"""One cluster of three nodes for the files that ask it, for it takes its time to come up; figures at the end.

A test that failed leaves it as it likes, so the next one gets it made anew: one fault, one failure.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator

import pytest
from lab_pacemaker import Lab, loop_device

from tools.at_end import pytest_terminal_summary as pytest_terminal_summary
from tools.at_end import taken as taken

THREE = pytest.StashKey[Lab]()
SPOILT = pytest.StashKey[bool]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.failed and THREE in item.session.stash:
        item.session.stash[SPOILT] = True
    return report


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    stash = item.session.stash
    if stash.get(SPOILT, False) and {"three_nodes", "manager"} & set(getattr(item, "fixturenames", ())):
        stash[SPOILT] = False
        stash[THREE].close()
        stash[THREE].__enter__()


@pytest.fixture(scope="session")
def three_nodes(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """Whole at the beginning. Who spoils it for others closes it."""
    place = tmp_path_factory.mktemp("cluster")
    with loop_device(place) as device, Lab(place, device) as lab:
        request.session.stash[THREE] = lab
        yield lab
