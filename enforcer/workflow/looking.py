# SPDX-License-Identifier: GPL-2.0-or-later
"""The disks, /proc and the cluster manager read for ``enforcer who``: slow things, off the loop, each bounded.

A disk that hangs keeps its thread for as long as it hangs. So these looks have a few threads of their own, never those
that verdicts need, and a device whose last look has not come back is not looked at again: that is told instead.
"""

from __future__ import annotations

import asyncio
import functools
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from enforcer.cluster.view import ClusterView, Quorum, Use
from enforcer.model.errors import EnforcerError
from enforcer.model.resource import Device, DevNum
from enforcer.storage import usage
from enforcer.storage.usage import Usage
from enforcer.storage.vetoes import local, medium, shown
from enforcer.storage.vetoes.local import Local
from enforcer.storage.vetoes.shown import Reserved, Shown
from enforcer.workflow.layers import Sign

LOOK_S = 3.0  # for all disks, each time they are looked at
WATCH_S = 6.5  # a mark that is alive moves within this: ext4 writes its MMP block every 5 s
POLL_S = 0.5
THREADS = 4
MOST = 32  # devices in one answer


@dataclass(frozen=True, slots=True)
class OnDisk:
    """One disk. ``unread``: why nothing is known of it, or ""."""

    signs: tuple[Sign, ...] = ()
    reserved: Reserved | None = None
    unread: str = ""


class Looking:
    """Reads what stands outside this process. All methods run on the daemon's loop."""

    def __init__(self, node: str, scratch: Path) -> None:
        self._node, self._scratch = node, scratch
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="look")
        self._pending: dict[DevNum, asyncio.Future[Shown]] = {}

    def close(self) -> None:
        """Begin no look any more; one that hangs is not waited for."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def names(self) -> frozenset[str]:
        """This node in the words of marks."""
        return (await asyncio.to_thread(local.learn, self._node)).names

    async def uses(self) -> dict[DevNum, Usage]:
        """What /proc and sysfs tell of the whole machine."""
        return await asyncio.to_thread(usage.scan)

    async def disks(self, devices: Sequence[Device]) -> dict[DevNum, OnDisk]:
        """What stands on each; at most LOOK_S for a look, and WATCH_S where there is a mark that could move."""
        here = functools.cache(lambda: local.learn(self._node))
        first = await self._look(devices, here)
        pulses = {(dev, m.layer, m.key): m.pulse for dev, seen in _read(first) for m in seen.marks if m.pulse}
        still, moving = dict(pulses), set[tuple[DevNum, str, str]]()
        again = [d for d in devices if any(dev == d.dev for dev, _, _ in pulses)]
        clock = asyncio.get_running_loop().time
        end = clock() + WATCH_S
        while still and clock() < end:
            await asyncio.sleep(POLL_S)
            for dev, seen in _read(await self._look(again, here)):
                for mark in seen.marks:
                    key = (dev, mark.layer, mark.key)
                    if key in still and still[key] != mark.pulse:
                        moving.add(key)
            still = {key: pulse for key, pulse in still.items() if key not in moving}
            again = [d for d in again if any(dev == d.dev for dev, _, _ in still)]
        found: dict[DevNum, OnDisk] = {}
        for dev, seen_or_why in first.items():
            if isinstance(seen_or_why, str):
                found[dev] = OnDisk(unread=seen_or_why)
                continue
            signs = (
                Sign(m.layer, m.owner, m.says, (dev, m.layer, m.key) in moving if m.pulse else None)
                for m in seen_or_why.marks
                if m.excusable  # a reservation is shown as a whole
            )
            found[dev] = OnDisk(tuple(signs), seen_or_why.reserved)
        return found

    async def cluster(self, view: ClusterView, use: Use) -> tuple[Quorum, tuple[str, ...] | None]:
        """Quorum, and where the cluster manager runs it (None: it manages no such thing); UNKNOWN without an answer."""
        try:
            async with asyncio.timeout(LOOK_S):
                quorum, opinion = await view.quorum(), await view.opinion(use)
        except (EnforcerError, TimeoutError):
            return Quorum.UNKNOWN, None
        if opinion.resource:
            return quorum, (opinion.holder,) if opinion.holder else ()
        return quorum, None

    async def _look(self, devices: Sequence[Device], here: Callable[[], Local]) -> dict[DevNum, Shown | str]:
        loop = asyncio.get_running_loop()
        asked: dict[DevNum, asyncio.Future[Shown]] = {}
        found: dict[DevNum, Shown | str] = {}
        for device in devices[:MOST]:
            if device.dev in self._pending:
                found[device.dev] = "an earlier look at it has not come back"
                continue
            asked[device.dev] = loop.run_in_executor(self._threads, _shown, device.dev, here, self._scratch)
            self._pending[device.dev] = asked[device.dev]
            asked[device.dev].add_done_callback(functools.partial(self._came_back, device.dev))
        if asked:
            await asyncio.wait(asked.values(), timeout=LOOK_S)
        for dev, future in asked.items():
            if not future.done():
                found[dev] = f"no answer within {LOOK_S:g} s"
            elif error := future.exception():
                said = error.strerror if isinstance(error, OSError) else None
                found[dev] = said or os.strerror(getattr(error, "errno", 0) or 5)
            else:
                found[dev] = future.result()
        return found

    def _came_back(self, dev: DevNum, future: asyncio.Future[Shown]) -> None:
        self._pending.pop(dev, None)
        if not future.cancelled():
            future.exception()  # whoever waited has been told already


def _read(looked: dict[DevNum, Shown | str]) -> list[tuple[DevNum, Shown]]:
    return [(dev, seen) for dev, seen in looked.items() if not isinstance(seen, str)]


def _shown(dev: DevNum, here: Callable[[], Local], scratch: Path) -> Shown:
    with medium.opened(dev, scratch=scratch) as disk:
        return shown.read(disk, here)
