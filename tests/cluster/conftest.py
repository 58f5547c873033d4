# SPDX-License-Identifier: GPL-2.0-or-later
"""One cluster of three nodes for the files that ask it, for it takes its time to come up; figures at the end."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from lab_pacemaker import Lab, loop_device

from tools.at_end import pytest_terminal_summary as pytest_terminal_summary
from tools.at_end import taken as taken


@pytest.fixture(scope="session")
def three_nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """Whole at the beginning. Who spoils it for others closes it."""
    place = tmp_path_factory.mktemp("cluster")
    with loop_device(place) as device, Lab(place, device) as lab:
        yield lab
