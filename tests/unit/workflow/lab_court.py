# SPDX-License-Identifier: GPL-2.0-or-later
"""The judge with a node without a kernel: its questions are made here, and what it would read elsewhere is said."""

from __future__ import annotations

import errno
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from lab_node import ME, SAN, SECOND, Node, run

from enforcer.kernel.abi import AskFlag, Op
from enforcer.model.clock import boot_ns
from enforcer.model.intent import Effect, Intent, Verdict
from enforcer.model.resource import DevNum, UseKind
from enforcer.policy.rules import Defaults, Policy, Rule
from enforcer.storage import dmtable
from enforcer.storage.companions import Companions
from enforcer.storage.dmtable import DmTable, DmTableError
from enforcer.workflow.judge import Judge
from enforcer.workflow.resolver import Question

LOCAL = DevNum(8, 32)  # no rule speaks of it
BROKEN = DevNum(8, 48)
ONLY_SWAP = replace(SAN, on=frozenset({UseKind.SWAP}))


@dataclass
class Court:
    node: Node
    beside: Companions = field(default_factory=lambda: Companions(()))
    paths: dict[bytes, DevNum] = field(default_factory=dict)
    options: list[bytes] = field(default_factory=list)
    table: DmTable | DmTableError = field(default_factory=lambda: DmTable("vol", "", None, ()))
    deadline_s: float = 5.0

    def judge(self, question: Question) -> tuple[Intent, Verdict]:
        return run(self.judging(question))

    async def judging(self, question: Question) -> tuple[Intent, Verdict]:
        judge = self.real()
        deadline_ns = boot_ns() + int(self.deadline_s * 1e9)
        return await judge.judge(question, judge.intent_of(question), deadline_ns)

    def real(self) -> Judge:
        node = self.node
        return Judge(ME.node, lambda: node.policy, node.devices, node.leases, "fake", node.tables, node.sysfs)

    def rules(self, *rules: Rule, **defaults: Any) -> None:
        self.node.policy = Policy(rules=rules, defaults=Defaults(**defaults), generation=8)
        for dev in self.node.there:
            self.node.devices.classify(dev)

    def companions(self, _dev: DevNum, _fstype: str, options: bytes, **_more: object) -> Companions:
        self.options.append(options)
        return self.beside


def question(op: Op = Op.FILE_OPEN, dev: DevNum | None = SECOND, *, flags: int = 0, **more: Any) -> Question:
    empty: dict[str, Any] = dict.fromkeys(("arg", "cmd", "mount_ns"), 0)
    texts: Mapping[str, bytes] = {"comm": b"prog", "fstype": b"", "source": b"", "target": b""}
    return Question(
        **{
            **empty, **texts, "op": op, "intent": 5, "tid": 4194305, "tgid": 4194305, "uid": 0, "start_ns": 1,
            "asked_ns": boot_ns(), "dev": dev, "syscall_nr": 257, "flags": AskFlag(flags), **more,
        }
    )  # grouped by meaning  # fmt: skip


def mount(dev: DevNum | None = SECOND, op: Op = Op.SB_MOUNT, **more: Any) -> Question:
    return question(op, dev, **{"fstype": b"ext4", "target": b"/srv", "syscall_nr": 165, **more})


def refuses(verdict: Verdict, number: int = errno.EBUSY) -> bool:
    return (verdict.effect, verdict.errno, verdict.token) == (Effect.REFUSE, number, 0)


TABLE = question(Op.FILE_IOCTL, None, syscall_nr=16, cmd=dmtable.DM_TABLE_LOAD)
