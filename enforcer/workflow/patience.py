# SPDX-License-Identifier: GPL-2.0-or-later
"""Disks that may never answer are asked in threads, and one that hangs keeps one of them, however often it is asked.

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

    def __init__(self) -> None:
        self._asked: dict[Hashable, asyncio.Task[Any]] = {}

    async def ask(self, about: Hashable, question: Callable[[], T], within_s: float) -> T:
        """The answer, or what ``question`` raises; TimeoutError if there is none within ``within_s`` seconds.

        Asked anew each time, for an old answer may be too old; but only once the thread of the time before is back.
        """
        async with asyncio.timeout(within_s):
            while (before := self._asked.get(about)) is not None:
                await asyncio.wait({before})
            task = asyncio.create_task(asyncio.to_thread(question))
            self._asked[about] = task
            task.add_done_callback(lambda done: self._over(about, done))
            await asyncio.wait({task})
        return task.result()

    def _over(self, about: Hashable, done: asyncio.Task[Any]) -> None:
        del self._asked[about]
        if not done.cancelled():
            done.exception()  # heard, though perhaps nobody waits for it any more
