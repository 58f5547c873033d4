# SPDX-License-Identifier: GPL-2.0-or-later
"""In which mode a use needs its lease: exclusive, or shared with other nodes because a cluster filesystem keeps them
apart. The disk says what it is, ``policy/modes.py`` what follows, and its stack whether it can be trusted now.

A cluster filesystem whose stack is down is not mounted exclusively instead: its driver would refuse, or hang.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from enforcer.cluster.dlm import Dlm
from enforcer.cluster.o2cb import O2cb
from enforcer.cluster.stacks import Stack
from enforcer.kernel import abi
from enforcer.model.errors import EnforcerError
from enforcer.model.intent import Intent
from enforcer.model.lease import Denied, Standing
from enforcer.model.resource import Mode
from enforcer.policy import modes
from enforcer.storage import clusterfs
from enforcer.storage.mountdata import parse_options
from enforcer.workflow.patience import Patience
from enforcer.workflow.resolver import Question
from enforcer.workflow.sharing import Want

READ_S = 4.0
NR_MOUNT = 165


class Clustered:
    """Looks at superblocks and at stacks, and remembers nothing of what it saw."""

    def __init__(self, scratch: Path, stacks: Mapping[str, Stack] | None = None) -> None:
        self._scratch, self._superblocks = scratch, Patience()
        self._stacks = stacks or {modes.DLM: Dlm(), "pcmk": Dlm(), modes.O2CB: O2cb()}

    async def want(self, question: Question, intent: Intent, options: bytes | None) -> Want | Denied:
        """The mode, or why there is none. ``options``: of the mount, None if they are too long to be read."""
        counted = int(question.op is abi.Op.FILE_OPEN)
        exclusive = Want(Mode.EX, counted)
        fstype, program = intent.fstype.partition(".")[0], intent.caller.exe
        if intent.dev is None or not modes.is_candidate(intent.kind, fstype, program):
            return exclusive
        try:
            read = partial(clusterfs.cluster_fs, intent.dev, scratch=self._scratch)
            found = await self._superblocks.ask(intent.dev, read, READ_S)
        except TimeoutError:
            return Denied(Standing.UNKNOWN, f"its superblock could not be read within {READ_S:g} s")
        except (OSError, EnforcerError) as error:
            why = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else str(error)
            return Denied(Standing.UNKNOWN, f"its superblock could not be read: {why}")
        if question.op is abi.Op.SB_ALLOC and question.syscall_nr == NR_MOUNT:
            options = None  # not the mount that sb_mount was asked for, and what its data is nobody was told
        given = dict(parse_options(options)) if options is not None else None
        if found is None or modes.mode_of(intent.kind, fstype, found, given, program) is Mode.EX:
            return exclusive
        stack = self._stacks.get(found.stack)
        if stack is None:
            return Denied(Standing.UNKNOWN, f"{found.fstype}: nothing is known of the cluster stack {found.stack!r}")
        state = await stack.state(found.cluster)
        if state.trouble:
            named = found.table or found.cluster
            return Denied(Standing.UNKNOWN, f"{found.fstype} {named}: {state.trouble}", remedy=state.remedy)
        return Want(Mode.CW, counted)
