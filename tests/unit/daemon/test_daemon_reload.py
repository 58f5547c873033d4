# SPDX-License-Identifier: GPL-2.0-or-later
"""A reload of the daemon: policy and the way to the store, both or neither."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from enforcer import settings
from enforcer.daemon.service import Service
from enforcer.model.errors import BadConfiguration

ONE, TWO = "http://192.0.2.1:2379", "http://192.0.2.2:2379"


def write(where: Path, endpoint: str, implicit: str) -> Path:
    """Settings and policy that go together."""
    file = where / "enforcer.toml"
    file.write_text(
        f'[node]\nname = "node-1"\n[store]\nkind = "etcd"\nendpoints = ["{endpoint}"]\n'
        f'[paths]\nrun_dir = "{where}/run"\nstate_dir = "{where}/state"\npolicy_dirs = ["{where}/policy.d"]\n'
    )
    (where / "policy.d").mkdir(exist_ok=True)
    (where / "policy.d/90-default.toml").write_text(f'[defaults]\nimplicit = "{implicit}"\n')
    return file


@pytest.fixture
def service(tmp_path: Path) -> Service:
    """As it is before it meets the kernel."""
    made: Any = Service(settings.load(write(tmp_path, ONE, "allow")), pinned=False, audit_only=False)
    nothing = SimpleNamespace(
        configure=lambda **_: None,
        fstype_names=set,
        fstype=lambda *_: None,
        reclassify=lambda: None,
        look_for_uses=lambda: None,
        notice=lambda *_: None,
        log=SimpleNamespace(reopen=lambda: None),
    )
    made._tables = made._devices = made._reconciler = made.recorder = nothing
    return made


def in_force(service: Any) -> tuple[str, str, int]:
    (endpoint,) = service._access._client.endpoints
    return f"http://{endpoint}", str(service.policy.defaults.implicit), service.policy.generation


def test_both_are_read_again(service: Service, tmp_path: Path) -> None:
    assert in_force(service) == (ONE, "allow", 1)
    write(tmp_path, TWO, "deny")
    service.reload()
    assert in_force(service) == (TWO, "deny", 2)


@pytest.mark.parametrize(("endpoint", "implicit"), [("htp://x", "deny"), (TWO, "denied")])
def test_a_mistake_in_one_leaves_both(service: Service, tmp_path: Path, endpoint: str, implicit: str) -> None:
    write(tmp_path, endpoint, implicit)
    with pytest.raises(BadConfiguration, match=rf"{tmp_path}/\S+:\d+: "):
        service.reload()
    assert in_force(service) == (ONE, "allow", 1)
