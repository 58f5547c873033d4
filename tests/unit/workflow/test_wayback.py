# SPDX-License-Identifier: GPL-2.0-or-later
"""What was cut off comes back only to a node that is alive, and that has let go of it."""

from __future__ import annotations

from pathlib import Path

import pytest
from lab_node import PART, SECOND, Node, make_node, run

from enforcer.cluster.etcd_session import SessionFacts
from enforcer.cluster.identity import write_session
from enforcer.lost import files
from enforcer.lost.files import Beat
from enforcer.model.clock import boot_ns
from enforcer.storage.usage import Usage
from enforcer.workflow.wayback import WayBack


@pytest.mark.parametrize(
    ("what", "state"),
    [
        ("nothing", "running"),
        ("a part is open", "offline"),
        ("a use that nobody counted", "offline"),
        ("a use that /proc does not show", "offline"),
        ("no session", "offline"),
        ("a session that ends", "offline"),
        ("a boot that was taken over", "offline"),
        ("not ours", "offline"),
    ],
)
def test_a_disk_comes_back_when_nothing_uses_it_and_the_session_lives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str, state: str
) -> None:
    node: Node = make_node(tmp_path, monkeypatch)
    (node.sysfs / "sys/block/sda/device").mkdir(parents=True)
    (node.sysfs / "sys/block/sda/device/state").write_text("offline")
    facts = SessionFacts(1, 1, 20)
    stop_ns = boot_ns() + 9_000_000_000
    cut = ("sda",)
    match what:
        case "a part is open":
            node.count(PART, uses=1)
        case "a use that nobody counted":
            node.used[PART] = Usage(mounted_at=["/lazy"])
        case "a use that /proc does not show":
            node.claimed[PART] = True
        case "a session that ends":
            stop_ns = boot_ns() + 500_000_000
        case "not ours":
            cut = ("sdb",)
            node.count(SECOND, uses=1)
    files.write_deadline(tmp_path, 0 if what == "no session" else stop_ns, cut_s=3, watchdog_s=0)
    taken = "this boot of node-1 was confirmed fenced" if what == "a boot that was taken over" else ""
    write_session(tmp_path, None if taken else facts, taken)
    files.write_beat(tmp_path, Beat(boot_ns(), 1, cut))
    told: list[str] = []
    back = WayBack(
        node.devices,
        tmp_path,
        busy=node.leases.busy,
        notice=lambda kind, _sentence, _more: told.append(kind),
        root=node.sysfs,
    )
    run(back.once())
    assert (node.sysfs / "sys/block/sda/device/state").read_text().strip() == state
    assert told == (["cut", "cut-over"] if state == "running" else ["cut"])
