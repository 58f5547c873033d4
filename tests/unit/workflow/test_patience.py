# SPDX-License-Identifier: GPL-2.0-or-later
"""However often a disk that hangs is asked, it keeps one thread; and no answer is older than its question."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path

import pytest
from lab_node import SECOND, Node, run

from enforcer.model.resource import DevNum
from enforcer.storage import caches, usage
from enforcer.workflow import freshness, vacancy
from enforcer.workflow.patience import Patience


def test_one_that_hangs_keeps_one_thread_and_the_next_answer_is_a_new_one() -> None:
    begun: list[int] = []
    answers = threading.Event()

    def question() -> int:
        begun.append(len(begun))
        answers.wait(20)
        return begun[-1]

    async def scenario() -> None:
        patience = Patience()
        try:
            for _ in range(3):
                with pytest.raises(TimeoutError):
                    await patience.ask("sda", question, 0.02)
            assert begun == [0]
            asyncio.get_running_loop().call_later(0.05, answers.set)
            both = await asyncio.gather(patience.ask("sda", question, 10), patience.ask("sda", question, 10))
            assert both == [1, 2]
        finally:
            answers.set()

    run(scenario())


def test_what_a_question_raises_is_its_askers(node: Node) -> None:
    def question() -> None:
        raise FileNotFoundError

    async def scenario() -> None:
        patience = Patience()
        for _ in range(2):
            with pytest.raises(FileNotFoundError):
                await patience.ask("sda", question, 10)

    run(scenario())


@pytest.mark.parametrize("what", ["probe_exclusive", "drop_caches"])
def test_a_disk_that_hangs_keeps_its_lease_and_one_thread(
    node: Node, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    begun: list[DevNum] = []
    answers = threading.Event()

    def hang(dev: DevNum, *, scratch: Path) -> bool:
        begun.append(dev)
        return not answers.wait(20)

    async def scenario() -> None:
        await node.hold(node.there[SECOND])
        monkeypatch.setattr(vacancy, "DISK_S", 0.02)
        monkeypatch.setattr(usage if what == "probe_exclusive" else caches, what, hang)
        try:
            for _ in range(3):
                await node.leases.release_unused()
                assert node.store.ours()
            assert begun == [SECOND]
            answers.set()
            await node.leases.release_unused()
            assert node.store.ours() == {}
        finally:
            answers.set()

    run(scenario())


def test_a_disk_that_hangs_is_denied_and_keeps_one_thread(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    begun: list[DevNum] = []
    answers = threading.Event()

    def hang(dev: DevNum, *, scratch: Path) -> None:
        begun.append(dev)
        answers.wait(20)

    async def scenario() -> None:
        monkeypatch.setattr(freshness, "DISK_S", 0.02)
        monkeypatch.setattr(caches, "drop_caches", hang)
        try:
            for intent in range(1, 4):
                assert "did not answer" in (await node.refused(node.there[SECOND], intent)).reason
            assert begun == [SECOND]
        finally:
            answers.set()

    run(scenario())
