# SPDX-License-Identifier: GPL-2.0-or-later
"""What was cut off comes back only to a node that is alive, and that has let go of it."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from lab_node import DISK, PART, SECOND, Node, make_node, run

from enforcer.cluster.etcd_session import SessionFacts
from enforcer.cluster.identity import write_session
from enforcer.lost import files
from enforcer.lost.files import Beat
from enforcer.model.clock import boot_ns
from enforcer.model.resource import DevNum
from enforcer.storage import usage
from enforcer.storage.usage import Usage
from enforcer.workflow import wayback
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
        busy=node.leases.uses.busy,
        notice=lambda kind, _sentence, _more: told.append(kind),
        root=node.sysfs,
    )
    run(back.once())
    assert (node.sysfs / "sys/block/sda/device/state").read_text().strip() == state
    assert told == (["cut", "cut-over"] if state == "running" else ["cut"])


def test_a_disk_that_does_not_answer_keeps_one_thread_and_no_other_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    node: Node = make_node(tmp_path, monkeypatch)
    for name in ("sda", "sdb"):
        (node.sysfs / f"sys/block/{name}/device").mkdir(parents=True)
        (node.sysfs / f"sys/block/{name}/device/state").write_text("offline")
    files.write_deadline(tmp_path, boot_ns() + 9_000_000_000, cut_s=3, watchdog_s=0)
    write_session(tmp_path, SessionFacts(1, 1, 20), "")
    files.write_beat(tmp_path, Beat(boot_ns(), 1, ("sda", "sdb")))
    asked: list[DevNum] = []
    answers = threading.Event()

    def probe(dev: DevNum, **_: object) -> bool:
        asked.append(dev)
        return dev == DISK and not answers.wait(20)

    def states() -> list[str]:
        return [(node.sysfs / f"sys/block/{name}/device/state").read_text().strip() for name in ("sda", "sdb")]

    monkeypatch.setattr(usage, "probe_exclusive", probe)
    monkeypatch.setattr(wayback, "CLAIM_S", 0.05)
    back = WayBack(node.devices, tmp_path, busy=node.leases.uses.busy, notice=lambda *_: None, root=node.sysfs)

    async def rounds() -> None:
        try:
            for _ in range(3):
                await back.once()
            assert states() == ["offline", "running"]
            assert asked.count(DISK) == 1
        finally:
            answers.set()

    run(rounds())
