# SPDX-License-Identifier: GPL-2.0-or-later
"""o2cb, the stack of ocfs2 inside the kernel: what configfs, sysfs and debugfs say of it.

That a cluster is registered is worth little, for nothing runs yet: the heartbeat begins with the first mount. From then
on the kernel says who writes heartbeats and to whom there is a connection. A node that beats and cannot be reached is
what fencing in o2cb is about (o2quo_make_decision(), fs/ocfs2/cluster/quorum.c): until one of both has reset itself,
nothing new begins. Before the first mount a lost node is the affair of the mount itself.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from pathlib import Path

from enforcer.cluster.stacks import ASK_S, StackState

TRIES, AGAIN_S = 10, 0.25  # who has just begun to beat is connected a moment later
_LOOK = "o2cb cluster-status"


class O2cb:
    """The o2cb cluster of this node. ``root``: where /sys is."""

    def __init__(self, root: Path = Path("/")) -> None:
        self._root = root

    async def state(self, cluster: str) -> StackState:
        """As ``Stack.state``."""
        state = StackState(f"o2cb did not answer within {ASK_S:g} s", _LOOK)
        with suppress(TimeoutError):
            async with asyncio.timeout(ASK_S):
                for _ in range(TRIES):
                    state = await asyncio.to_thread(self.look, cluster)
                    if not state.passing:
                        break
                    await asyncio.sleep(AGAIN_S)
        return state

    def look(self, cluster: str) -> StackState:
        """A dozen small reads."""
        try:
            return self._look(cluster)
        except (OSError, ValueError) as error:
            return StackState(f"what o2cb says cannot be read: {error}", _LOOK)

    def _look(self, cluster: str) -> StackState:
        stack = self._read("sys/fs/ocfs2/cluster_stack")
        if stack != "o2cb":
            told = f"the cluster stack here is {stack!r}, not o2cb" if stack else "the o2cb stack is not loaded here"
            return StackState(told, "modprobe ocfs2_stack_o2cb")
        clusters = self._root / "sys/kernel/config/cluster"
        names = sorted(each.name for each in clusters.iterdir()) if clusters.is_dir() else []
        if not names:
            return StackState("no o2cb cluster is online here", f"o2cb register-cluster {cluster or 'NAME'}")
        if cluster and cluster not in names:
            return StackState(f"the o2cb cluster here is {names[0]!r}, and the filesystem is of {cluster!r}", _LOOK)
        place = clusters / (cluster or names[0])
        nodes = {int((node / "num").read_text()): (node / "local").read_text() for node in (place / "node").iterdir()}
        own = [number for number, local in nodes.items() if local.strip() == "1"]
        if len(own) != 1:
            return StackState("no node of the o2cb cluster is this one", "see /etc/ocfs2/cluster.conf")
        if not any(path.read_bytes().strip() for path in (place / "heartbeat").glob("*/dev")):
            return StackState()  # none, or one that mount.ocfs2 is just making: it has no device yet
        alive = self._numbers("sys/kernel/debug/o2hb/livenodes")
        unreached = alive - self._numbers("sys/kernel/debug/o2net/connected_nodes") - set(own)
        if own[0] not in alive:
            return StackState(
                "this node's own heartbeat does not arrive", "see the kernel's log for o2hb", passing=True
            )
        if unreached:
            why = f"node {min(unreached)} beats and cannot be reached"
            return StackState(why, "see the kernel's log for o2net", passing=True)
        return StackState()

    def _read(self, path: str) -> str:
        with suppress(FileNotFoundError):
            return (self._root / path).read_text().strip()
        return ""

    def _numbers(self, path: str) -> set[int]:
        """Raises OSError where debugfs is not mounted: what cannot be seen is not well."""
        return {int(word) for word in (self._root / path).read_text().split()}
