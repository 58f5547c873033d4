# SPDX-License-Identifier: GPL-2.0-or-later
"""What the daemon answers, and what a verb has printed."""

from __future__ import annotations

from pathlib import Path

import pytest
from audit_samples import ORIGIN, OTHER_BOOT

ROOT = Path(__file__).parents[3]
STATUS = {
    "node": "node-2", "boot_id": ORIGIN.boot_id, "session": "7f3a", "mode": "enforce", "generation": 7,
    "policy_digest": "ab" * 32, "enforcing": True, "devices": 3, "warnings": [],
    "store": {"kind": "etcd", "reachable": True, "detail": "3 members", "ttl_s": 30},
    "cluster": {"view": "pacemaker", "quorum": "held", "detail": "pacemaker: quorate (3 of 3 votes)"},
    "kernel": {"programs": 12, "misses": 0, "drops": 0}, "keeper": {"alive": True, "deadline_in_s": 21.4},
    "counters": {"asks": 40, "permits": 37, "refusals": 3, "would_refuse": 0},
}  # grouped by meaning  # fmt: skip
LEASE = {
    "resource": "wwn-0x5000c500aa/p1", "mode": "EX", "token": 41, "since": "2026-11-22T12:03:00Z",
    "holder": {"node": "node-1", "boot_id": OTHER_BOOT, "session": "s1"}, "guarantee": "none",
    "liveness": "stranded", "facts": {"fstype": "ext4", "target": "/srv/db"},
}  # grouped by meaning  # fmt: skip
WHO = {
    "leases": [LEASE, {**LEASE, "resource": "wwn-0x5000c500bb", "liveness": "live"}],
    "devices": [
        {"dev": "8:17", "name": "sdb1", "resources": ["wwn-0x5000c500aa/p1"], "aliases": ["vg:data"],
         "state": "elsewhere", "token": 41, "uses": 0, "rule": "san", "system": "", "problem": "",
         "seen_by": ["node-1"]},
        {"dev": "8:1", "name": "sda1", "resources": ["wwn-0x1"], "aliases": [], "state": "unguarded",
         "token": 0, "uses": 1, "rule": "", "system": "holds /", "problem": "", "seen_by": []},
    ],
    "nodes": [
        {"node": "node-1", "boot_id": OTHER_BOOT, "live": False, "policy_digest": "cd" * 32,
         "luns": ["wwn-0x5000c500aa"]},
        {"node": "node-2", "boot_id": ORIGIN.boot_id, "live": True, "policy_digest": "ab" * 32, "luns": []},
    ],
    "cluster": STATUS["cluster"],
    "disagreements": ["wwn-0x5000c500aa: the store says node-1, the kernel table of node-2 says live"],
}  # grouped by meaning  # fmt: skip


def printed(capsys: pytest.CaptureFixture[str]) -> str:
    found = capsys.readouterr()
    assert found.err == ""
    return found.out
