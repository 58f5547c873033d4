# SPDX-License-Identifier: GPL-2.0-or-later
"""The daemon's own store, from the settings to a grant: an external one, with its real peer."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from enforcer.cluster.pacemaker import PacemakerView
from enforcer.cluster.view import NoCluster, Opinion, Stance
from enforcer.daemon.backends import is_multi_attached, make_view
from enforcer.daemon.service import Service
from enforcer.model.lease import Claim, Granted
from enforcer.model.resource import Device, DevNum, ResourceId
from enforcer.policy.rules import Defaults, Policy
from enforcer.settings import parse
from enforcer.workflow.consent import vouching

GFS_CLUSTERD = Path(__file__).resolve().parents[3] / "tools/examples/gfs_clusterd.py"


def test_an_external_store_is_the_one_of_the_settings_and_needs_no_deadline(tmp_path: Path) -> None:
    for name in ("state", "run", "policy"):
        (tmp_path / name).mkdir()
    command = [sys.executable, "-I", "-S", str(GFS_CLUSTERD), str(tmp_path / "shared")]
    text = f"""
        [node]
        name = "node-1"
        [store]
        kind = "external"
        command = {json.dumps(command)}
        [paths]
        state_dir = "{tmp_path}/state"
        run_dir = "{tmp_path}/run"
        policy_dirs = ["{tmp_path}/policy"]
    """

    async def scenario() -> None:
        service = Service(parse(text), pinned=False, audit_only=False)
        store = service._store
        assert (store.name, store.ttl_s, service._deadline_ns()) == ("external", None, None)
        await store.open()
        answer = await store.acquire(frozenset({Claim(ResourceId("wwn-a"))}), {}, budget_s=5)
        assert isinstance(answer, Granted)
        await store.close()

    asyncio.run(scenario())
    assert json.loads((tmp_path / "state/external-tokens.json").read_text())["highest"] == {"wwn-a": 1}


@pytest.mark.parametrize(("store", "lease_store"), [("sqlite", False), ("external", True)])
def test_the_view_of_the_settings_knows_whether_a_store_for_several_nodes_stands_beside_it(
    tmp_path: Path, store: str, lease_store: bool
) -> None:
    text = f"""
        [node]
        name = "node-1"
        [store]
        kind = "{store}"
        {'socket = "/run/none"' if lease_store else ""}
        [cluster]
        view = "pacemaker"
        [paths]
        state_dir = "{tmp_path}"
        run_dir = "{tmp_path}"
        policy_dirs = ["{tmp_path}"]
    """
    nowhere: Any = None
    view = make_view(parse(text), nowhere, nowhere)
    assert isinstance(view, PacemakerView) and view._lease_store is lease_store
    assert isinstance(make_view(parse(text.replace('"pacemaker"', '"none"')), nowhere, nowhere), NoCluster)


def test_no_lease_of_a_multi_attached_lun_but_for_what_the_cluster_vouches_for() -> None:
    """With the store of one node."""
    device = Device(DevNum(8, 0), "sda", (ResourceId("wwn-a"),), (), attached_by="fc")
    known = SimpleNamespace(device=device, guarding=SimpleNamespace(rule=""))
    devices: Any = SimpleNamespace(on_lun=lambda lun: [device], known={device.dev: known})
    policy = Policy(rules=(), defaults=Defaults(), generation=1)
    for stance in (Stance.NO_OBJECTION, Stance.OBJECTS):
        with vouching(Opinion(stance, ""), device):
            assert is_multi_attached("wwn-a", devices, policy)
    with vouching(Opinion(Stance.VOUCHES, ""), device):
        assert not is_multi_attached("wwn-a", devices, policy) and is_multi_attached("wwn-b", devices, policy)


def test_a_sanlock_store_is_the_one_of_the_settings_and_its_disk_is_never_guarded(tmp_path: Path) -> None:
    for name in ("state", "run", "policy"):
        (tmp_path / name).mkdir()
    text = f"""
        [node]
        name = "node-1"
        [store]
        kind = "sanlock"
        device = "/dev/disk/by-id/lun"
        host_id = 2
        io_timeout = "5s"
        [paths]
        state_dir = "{tmp_path}/state"
        run_dir = "{tmp_path}/run"
        policy_dirs = ["{tmp_path}/policy"]
    """
    settings = parse(text)
    service = Service(settings, pinned=False, audit_only=False)
    assert (service._store.name, service._store.ttl_s) == ("sanlock", None)
    assert settings.store.renews, "its leases have a deadline in the kernel"
    assert settings.store.deadlines().ttl_s == 40
