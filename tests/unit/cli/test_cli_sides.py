# SPDX-License-Identifier: GPL-2.0-or-later
"""``enforcer who DEVICE``: a row for each layer, in 80 columns, escaped; what disagrees comes last."""

from __future__ import annotations

import json
from typing import Any

import pytest
from cli_samples import LEASE, WHO, printed
from conftest import Daemon

from enforcer.cli import sides
from enforcer.cli.main import main

LAYERS: dict[str, Any] = {
    "dev": "8:17", "name": "sdb1", "resources": ["wwn-0x5000c500aa/p1"],
    "store": {"kind": "etcd", "trouble": "", "leases": [LEASE]},
    "conflicts": [{"node": "node-2", "says": "sdb1 is mounted at /x", "holders": ["node-1"], "resource": "r"}],
    "enforcerd": [],
    "kernel": {"state": "elsewhere", "token": 0, "deadline_in_s": 12.0, "uses": 1, "inflight": 0, "rule": "san"},
    "proc": {"says": "mounted at /x", "mounted_at": ["/x"], "swap": False, "holders": [], "writers": []},
    "cluster": {"kind": "pacemaker", "quorum": "held", "runs_on": ["node-1"]},
    "disk": {
        "unread": "",
        "marks": [{"layer": "ext4-mmp", "owner": "evil\x1b[2J", "says": "its MMP block: on evil", "moves": True}],
        "reservation": {
            "kind": "Write Exclusive", "key": "0xa1", "ours": False,
            "registrants": [{"key": "0xa1", "initiator": "iqn.2026-11.example.san:a-rather-long-name", "holds": True}],
        },
    },
    "disagreements": ["sdb1: IN USE ON TWO NODES: the store says one thing, and the disk another"],
}  # grouped by meaning  # fmt: skip


def test_every_layer_has_its_row() -> None:
    found = {layer.strip(): (names, says) for layer, names, says in sides.rows(LAYERS)}
    assert found["store (etcd)"][0] == "node-1" and "token 41, stranded, guarantee none" in found["store (etcd)"][1]
    assert found["double use"] == ("node-2", "sdb1 is mounted at /x there, without a lease")
    assert found["pacemaker"] == ("node-1", "runs there, quorum held")
    assert found["enforcerd"] == ("-", "holds nothing of it")
    assert found["kernel"] == ("-", "elsewhere, uses 1, by san")
    assert found["/proc"] == ("this node", "mounted at /x")
    assert found["ext4 MMP"] == ("evil\\x1b[2J", "its MMP block: on evil; it moves: somebody writes it now")
    assert found["disk"] == ("-", "no mark of OCFS2 slots, sanlock, LVM")
    assert found["SCSI PR"][1].startswith("Write Exclusive, key 0xa1; this node may not write; registered: 0xa1 of iqn")


def test_a_layer_that_did_not_answer_is_not_empty() -> None:
    silent = {
        **LAYERS,
        "store": {"kind": "etcd", "trouble": "no quorum", "leases": []},
        "disk": {"unread": "no answer within 3 s"},
    }
    found = {layer: (names, says) for layer, names, says in sides.rows(silent)}
    assert found["etcd"] == ("?", "did not answer: no quorum")
    assert found["disk"] == ("?", "cannot be read: no answer within 3 s") and "SCSI PR" not in found


def test_who_reads_the_disks_of_what_is_named(
    daemon: Daemon, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    daemon.replies = {"who": {**WHO, "disagreements": []}, "layers": {"layers": [LAYERS]}}
    here = ["--socket", str(daemon.path)]
    assert main(["who", "/dev/sdb1", *here]) == 0
    text = printed(capsys)
    assert max(map(len, text.splitlines())) <= 80 and "\x1b" not in text
    assert "enforcer fence confirm node-1" in text
    assert text.splitlines()[-1].startswith("! sdb1: IN USE ON TWO NODES")
    assert [r["verb"] for r in daemon.requests] == ["who", "layers"] and daemon.requests[1]["devices"] == ["8:17"]
    assert main(["who", "/dev/sdb1", "--json", *here]) == 0
    whole = json.loads(printed(capsys))
    assert whole["layers"] == [LAYERS] and whole["disagreements"] == LAYERS["disagreements"]
    main(["who", *here])
    assert daemon.requests[-1]["verb"] == "who", "without a name no disk is read"
    printed(capsys)


def test_agreement_is_said_too(daemon: Daemon, capsys: pytest.CaptureFixture[str]) -> None:
    daemon.replies = {"who": {**WHO, "disagreements": []}, "layers": {"layers": [{**LAYERS, "disagreements": []}]}}
    assert main(["who", "sdb1", "--socket", str(daemon.path)]) == 0
    assert printed(capsys).endswith("all layers agree\n")
