# SPDX-License-Identifier: GPL-2.0-or-later
"""Commands to a LUN that nobody can call back: they are waited for as long as somebody likes, and remembered longer.

A thread that waits in the kernel for a path that hangs cannot be ended, and what it was to do is done once the path is
back. So whoever gives such a command up knows nothing of what comes after it: another command may be overtaken by the
old one, and a state that was read then is not the state that stays. Here the next command to that LUN waits for it.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


class Commands:
    """One at a time for each LUN. All methods run on the daemon's loop."""

    def __init__(self) -> None:
        self._under_way: dict[str, asyncio.Future[None]] = {}

    def unanswered(self, lun: str) -> bool:
        """True if a command was given up, or is waited for, that may be carried out yet."""
        return lun in self._under_way

    async def run(self, lun: str, work: Callable[[], T]) -> T:
        """Do ``work`` in a thread, after everything that was begun before. Raises what it raises."""
        while (earlier := self._under_way.get(lun)) is not None:
            await asyncio.shield(earlier)
        loop = asyncio.get_running_loop()
        over = self._under_way[lun] = loop.create_future()
        turn = threading.Lock()  # whose it is first: the thread's, which begins, or the caller's, who calls it off

        def ended() -> None:
            if not over.done():
                over.set_result(None)
                del self._under_way[lun]

        def command() -> T:
            if not turn.acquire(blocking=False):
                raise InterruptedError
            try:
                return work()
            finally:
                loop.call_soon_threadsafe(ended)

        try:
            return await asyncio.to_thread(command)
        finally:
            if turn.acquire(blocking=False):
                ended()
