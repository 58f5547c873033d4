# SPDX-License-Identifier: GPL-2.0-or-later
"""dlm_controld, the stack of gfs2 and of ocfs2 with pacemaker: what ``dlm_tool`` and the kernel's own tables say.

Quorum alone is not enough. With two nodes both sides of a cut cable are quorate; what keeps them apart is that a node
which failed is fenced before its locks go to others. So a node that failed and was not fenced since denies, fencing
under way denies, and fencing switched off denies always: then each side replays the other's live journal. A node that
left in order (``X`` without a failure) is no objection.

That a failed node is a member again (``M``) says nothing: it is one as soon as it is in the process group, with the
lock spaces of before or without (confchg_cb_daemon()). It needs fencing until a fencing has succeeded
(receive_fence_result()) or it has come back clean (daemon_fence_work(), is_clean_daemon_member()), which one that still
has state is never taken for (receive_protocol(), "stateful merge"); with two nodes that one may stay as long as
fencing fails. What ends the need sets ``fence`` to now; while it lasts there is a line ``fence N`` and ``fence`` is 0.
So ``fail`` later than ``fence`` denies for members too. All of it in dlm_controld/daemon_cpg.c, read in dlm 4.1.

Between the loss of a peer and corosync's token time-out nothing of that can be seen by anybody; the lock manager grants
no lock of the lost node's in that time.

Formats: print_daemon() and format_daemon_node() in dlm_controld/lib.c, which dlm_tool is linked with; ``fail`` and
``fence`` are seconds of the monotonic clock. ``dump_config`` prints each setting with where it comes from.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
from collections.abc import Awaitable, Callable
from pathlib import Path

from enforcer.cluster.stacks import ASK_S, StackState
from enforcer.model.escape import for_terminal

TOOL = "/usr/sbin/dlm_tool"
MOST_BYTES = 1 << 16
CLUSTER_NAME = Path("/sys/kernel/config/dlm/cluster/cluster_name")  # set by dlm_controld, fs/dlm/config.c

_CLUSTER = re.compile(r"cluster nodeid (\d+) quorate ([01]) ring seq (\d+) (\d+)")
_DAEMON = re.compile(r"daemon now \d+ fence_pid (-?\d+)")
_NODE = re.compile(r"node (\d+) ([MX]) add \d+ rem \d+ fail (\d+) fence (\d+) at \d+ \d+")
_LOOK = "dlm_tool status"

Run = Callable[[str], Awaitable[str]]


async def run_tool(verb: str) -> str:
    """What ``dlm_tool VERB`` prints. Raises OSError, TimeoutError; ValueError if it fails or never ends printing."""
    child = await asyncio.create_subprocess_exec(
        TOOL,
        verb,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        assert child.stdout is not None
        async with asyncio.timeout(ASK_S):
            text = b""
            while chunk := await child.stdout.read(MOST_BYTES):
                text += chunk
                if len(text) > MOST_BYTES:
                    raise ValueError("it printed too much")
            code = await child.wait()
    finally:
        if child.returncode is None:
            with contextlib.suppress(ProcessLookupError, TimeoutError):
                child.kill()
                async with asyncio.timeout(1.0):
                    await child.wait()
    if code:
        raise ValueError(f"it ended with {code}")
    return text.decode("utf-8", "replace")


class Dlm:
    """The dlm_controld of this node."""

    def __init__(self, run: Run = run_tool, cluster_name: Path = CLUSTER_NAME) -> None:
        self._run, self._cluster_name = run, cluster_name

    async def state(self, cluster: str) -> StackState:
        """As ``Stack.state``."""
        try:
            name = self._cluster_name.read_text().strip()
        except OSError:
            return StackState("dlm_controld does not run here", "systemctl start dlm")
        if cluster and name != cluster:
            said = f"this node's cluster is {for_terminal(name)!r}, and the filesystem is of {cluster!r}"
            return StackState(said, "tunegfs2 -o locktable=CLUSTER:NAME, where it is mounted nowhere")
        try:
            return status_of(await self._run("status")) or config_of(await self._run("dump_config")) or StackState()
        except TimeoutError:
            return StackState(f"dlm_controld did not answer within {ASK_S:g} s", "systemctl status dlm")
        except (OSError, ValueError) as error:
            said = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else str(error)
            return StackState(f"dlm_tool says nothing of use: {said}", _LOOK)


def status_of(text: str) -> StackState | None:
    """What ``dlm_tool status`` says against a mount, or None if it says that all is well."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if not lines or not lines[0].startswith("cluster "):
        return StackState("dlm_controld does not answer", "systemctl status dlm")
    cluster = _CLUSTER.fullmatch(lines[0])
    if cluster is None:
        return StackState(f"dlm_tool says what nobody knows: {for_terminal(lines[0])!r}", _LOOK)
    own, quorate, seen, ring = cluster.groups()
    if quorate != "1":
        return StackState("this node's side of the cluster has no quorum", "corosync-quorumtool -s")
    if seen != ring:
        return StackState("the cluster's membership is just changing", _LOOK)
    members = set[str]()
    for line in lines[1:]:
        daemon, node = _DAEMON.fullmatch(line), _NODE.fullmatch(line)
        if line.startswith("fence ") or (daemon is not None and daemon[1] != "0"):
            return StackState("a node of the cluster is being fenced", _LOOK)
        if node is not None:
            number, member, failed, fenced = node.groups()
            if int(failed) > int(fenced):
                return StackState(f"node {number} failed and was not fenced since", f"dlm_tool fence_ack {number}")
            members |= {number} if member == "M" else set()
        elif daemon is None:
            return StackState(f"dlm_controld is not ready: {for_terminal(line)!r}", _LOOK)
    return None if own in members else StackState("this node is no member of its own cluster", _LOOK)


def config_of(text: str) -> StackState | None:
    """What ``dlm_tool dump_config`` says against a mount."""
    set_to = {name: value.split()[:1] for name, _, value in (line.partition("=") for line in text.splitlines())}
    if set_to.get("enable_fencing") == ["1"]:
        return None
    if set_to.get("enable_fencing") == ["0"]:
        why = "fencing is off in dlm_controld: a node that is cut off would write on"
        return StackState(why, "enable_fencing=1 in /etc/dlm/dlm.conf")
    return StackState("dlm_controld does not say whether it fences", "dlm_tool dump_config")
