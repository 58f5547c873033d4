# SPDX-License-Identifier: GPL-2.0-or-later
"""The order in which a daemon ends: what others wait for first."""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from enforcer import settings
from enforcer.daemon import service as module
from enforcer.daemon.service import Service


def test_leases_are_given_back_before_a_fence_agent_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that does not end would strand all that a planned stop could have given back."""
    file = tmp_path / "e.toml"
    paths = f'run_dir = "{tmp_path}/run"\nstate_dir = "{tmp_path}/state"\npolicy_dirs = ["{tmp_path}/policy.d"]\n'
    file.write_text(f"[paths]\n{paths}")
    (tmp_path / "policy.d").mkdir()
    (tmp_path / "policy.d/90-default.toml").write_text('[defaults]\nimplicit = "deny"\n')
    made: Any = Service(settings.load(file), pinned=False, audit_only=False)
    order: list[str] = []

    def part(name: str) -> SimpleNamespace:
        async def close() -> None:
            order.append(name)

        return SimpleNamespace(close=close)

    async def given_back(*_: object) -> None:
        order.append("leases")

    monkeypatch.setattr(module, "give_back", given_back)
    made._control, made._fences, made._asks, made._store = part("control"), part("fences"), part("asks"), part("store")
    made._leases = made._devices = SimpleNamespace()
    told = SimpleNamespace(close=lambda: order.append("record"))
    made.recorder = SimpleNamespace(notice=lambda *_: None, close=told.close)
    asyncio.run(made._end())
    assert order == ["control", "asks", "leases", "fences", "record", "store"]
