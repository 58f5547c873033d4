# SPDX-License-Identifier: GPL-2.0-or-later
"""What keeper and revoker do not ask of the settings."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from enforcer import settings
from enforcer.keeper import main as keeper
from enforcer.keeper.duties import Keeper
from enforcer.revoker import main as revoker

GOOD = '[node]\nname = "node-1"\n[store]\nkind = "etcd"\nendpoints = ["http://192.0.2.1:2379"]\n'
SECRET = '[fencing.n]\nagent = "fence_ipmilan"\noptions = { password = "hunter2" }\n'  # in a file that all can read
WRONG = "[fencing]\non_demand = 3\n[fencing.n]\nagent = 5\n"


class Read(Exception):
    """The settings were read."""


def read(*_: object) -> None:
    raise Read


@pytest.mark.parametrize("fencing", [SECRET, WRONG, "fencing = 3\n"])
def test_a_mistake_in_fencing_keeps_neither_from_starting_nor_from_a_reload(
    fencing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "e.toml"
    places = f'[paths]\nrun_dir = "{tmp_path}/run"\nstate_dir = "{tmp_path}"\n'
    file.write_text(GOOD + places)
    file.chmod(0o644)
    made = Keeper(settings.load(file))
    file.write_text(
        (fencing if fencing.startswith("f") else "") + GOOD + places + fencing.removeprefix("fencing = 3\n")
    )
    with pytest.raises(settings.SettingsErrors):
        settings.load(file)
    monkeypatch.setattr(keeper, "_stay_small", read)
    monkeypatch.setattr(revoker.alone, "lock", read)
    started = []
    for serve in (keeper._serve, revoker._serve):
        try:
            serve(file)
        except (Read, settings.SettingsErrors) as ended:
            started.append(type(ended))
    assert started == [Read, Read]
    with caplog.at_level(logging.INFO):
        made.reload()
    assert "nothing changed" in caplog.text
