# SPDX-License-Identifier: GPL-2.0-or-later
"""Is the stack that a cluster filesystem hangs on up here, and may this side of its cluster act?

Each stack is asked from outside, by reads alone and within a limit, never through the filesystem: there a stopped lock
space hangs whoever touches it. Whatever is not exactly as a healthy stack says it is trouble, and trouble denies.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

ASK_S = 3.0  # for all that one stack is asked before one mount


@dataclass(frozen=True, slots=True)
class StackState:
    """``trouble``: one clause why nothing may be mounted under the stack now; empty if something may."""

    trouble: str = ""
    remedy: str = ""
    passing: bool = False  # it may be over in a moment


class Stack(Protocol):
    """One kind of stack on this node."""

    async def state(self, cluster: str) -> StackState:
        """How it is for a filesystem of that cluster ("": of whichever there is). Raises nothing."""
