# SPDX-License-Identifier: GPL-2.0-or-later
"""Disks that may never answer are asked in threads, and one that hangs keeps few of them, however often it is asked.

A thread that waits in the kernel for a disk cannot be ended. What retries for as long as the disk hangs would take
every thread that the daemon has, and then nothing is answered any more: not asks about other disks, nor the store.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Hashable
from typing import Any, TypeVar

T = TypeVar("T")


class Patience:
    """Questions that are still in their threads, by what they are about."""

    def __init__(self, at_once: int = 1) -> None:
        """``at_once``: threads for the same thing."""
        self._at_once = at_once
        self._asked: dict[Hashable, set[asyncio.Task[Any]]] = {}

    async def ask(self, about: Hashable, question: Callable[[], T], within_s: float) -> T:
        """The answer, or what ``question`` raises; TimeoutError if there is none within ``within_s`` seconds.

        Asked anew each time, for an old answer may be too old; but only once a thread of the times before is back.
        """
        async with asyncio.timeout(within_s):
            while len(before := self._asked.get(about, set())) >= self._at_once:
                await asyncio.wait(before, return_when=asyncio.FIRST_COMPLETED)
            task = asyncio.create_task(asyncio.to_thread(question))
            self._asked.setdefault(about, set()).add(task)
            task.add_done_callback(lambda done: self._over(about, done))
            await asyncio.wait({task})
        return task.result()

    def _over(self, about: Hashable, done: asyncio.Task[Any]) -> None:
        self._asked[about].discard(done)
        if not self._asked[about]:
            del self._asked[about]
        if not done.cancelled():
            done.exception()  # heard, though perhaps nobody waits for it any more
