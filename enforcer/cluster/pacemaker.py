# SPDX-License-Identifier: GPL-2.0-or-later
"""The ClusterView of a Pacemaker cluster on corosync.

Every opinion stands on answers that were asked for after the use was: votes from corosync, then ``crm_mon`` and
``cibadmin`` as children with a limit of their own. Uses that come while a look is under way share the next one. What
has been pushed about quorum is a hint for people; it can only make an answer stricter.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable

from enforcer.cluster import pacemaker_rules as rules
from enforcer.cluster.corosync import Corosync, Votes
from enforcer.cluster.pacemaker_state import Configuration, State, Unreadable, read_configuration, read_state
from enforcer.cluster.view import Fencing, Health, Opinion, Quorum, Site, Stance, Use
from enforcer.model.errors import StoreUnavailable

log = logging.getLogger(__name__)

ANSWER_S = 4.0  # for one program
MOST_BYTES = 16 << 20
PLACES = "/usr/sbin:/usr/bin:/sbin:/bin"
STATE = ("crm_mon", "--one-shot", "--inactive", "--fence-history=2", "--output-as=xml")
CONFIGURATION = ("cibadmin", "--query", "--scope", "configuration")

#: What one look brings.
Look = tuple[Votes, State, Configuration]


class PacemakerView:
    """Reads; changes nothing. Used on one loop."""

    name = "pacemaker"

    def __init__(
        self,
        locate: Callable[[str], Site | None],
        *,
        lease_store: bool,
        changed: Callable[[bool], None] = lambda quorate: None,
    ) -> None:
        """``locate``: what a device path means here now, called in a thread; ``changed``: quorate, as it is pushed."""
        self._locate, self._lease_store = locate, lease_store
        self._corosync = Corosync(changed)
        self._running: asyncio.Task[Look] | None = None
        self._next: asyncio.Task[Look] | None = None

    async def close(self) -> None:
        for task in (self._running, self._next):
            if task is not None:
                task.cancel()
        await self._corosync.close()

    async def quorum(self) -> Quorum:
        try:
            return Quorum.HELD if (await self._corosync.votes()).quorate else Quorum.LOST
        except StoreUnavailable:
            return Quorum.UNKNOWN

    async def opinion(self, use: Use) -> Opinion:
        try:
            votes, state, configuration = await self._look()
            paths = {path for managed in configuration.managed for path in managed.devices}
            sites = await asyncio.to_thread(lambda: {path: self._locate(path) for path in paths})
        except StoreUnavailable as error:
            return Opinion(Stance.OBJECTS, f"the cluster's state is unknown: {error}", error.hint)
        except Exception:
            log.exception("Pacemaker's answer could not be judged")
            return Opinion(Stance.OBJECTS, "the cluster's state is unknown: its answer could not be judged")
        picture = rules.Picture(votes, state, configuration, sites.get, self._lease_store)
        return rules.decide(picture, use)

    async def fencings(self) -> tuple[Fencing, ...]:
        return (await self._look())[1].fencings

    async def health(self) -> Health:
        try:
            votes, state, configuration = await self._look()
        except StoreUnavailable as error:
            return Health(Quorum.UNKNOWN, f"pacemaker: UNKNOWN, guarded devices are refused: {error}")
        picture = rules.Picture(votes, state, configuration, lambda path: None, self._lease_store)
        me = picture.me
        here = rules.membership(picture, me) if me is not None else rules.decide(picture, Use(None, ()))
        trouble = here or rules.unproven(picture)
        online = sum(m.online for m in state.members)
        parts = [
            f"{'quorate' if votes.quorate else 'NO QUORUM'} ({votes.total} of {votes.expected} votes)",
            f"{online} of {len(state.members)} nodes online",
            f"{len(configuration.managed)} resources with devices",
            *(["stonith is off"] if not state.stonith else []),
            *(["in maintenance"] if state.maintenance else []),
            *([f"guarded devices are refused: {trouble.reason}"] if trouble is not None else []),
        ]
        return Health(Quorum.HELD if votes.quorate else Quorum.LOST, "pacemaker: " + ", ".join(parts))

    async def _look(self) -> Look:
        """A look that begins now or later. Raises StoreUnavailable."""
        if self._next is None:
            self._next = asyncio.create_task(self._after(self._running))
            self._next.add_done_callback(lambda task: task.cancelled() or task.exception())  # perhaps nobody waits
        return await asyncio.shield(self._next)

    async def _after(self, before: asyncio.Task[Look] | None) -> Look:
        if before is not None and not before.done():
            await asyncio.wait({before})
        self._running, self._next = self._next, None  # who comes from here on shares the look after this one
        votes = await self._corosync.votes()
        state, configuration = await asyncio.gather(_output(*STATE), _output(*CONFIGURATION))
        try:
            return votes, read_state(state), read_configuration(configuration)
        except Unreadable as error:
            raise StoreUnavailable(str(error), hint="crm_mon -1") from None


async def _output(program: str, *arguments: str) -> bytes:
    """Its standard output, all of it within ``ANSWER_S`` or the program is killed. Raises StoreUnavailable.

    crm_mon says in its output why it cannot answer, so its exit code is no more than a word in doubt.
    """
    try:
        child = await asyncio.create_subprocess_exec(
            program,
            *arguments,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
            env={"PATH": PLACES, "LC_ALL": "C"},
            cwd="/",
            limit=1 << 20,
        )
    except OSError as error:
        raise StoreUnavailable(f"{program}: {error.strerror}", hint="install pacemaker-cli-utils") from None
    assert child.stdout is not None
    said = bytearray()
    try:
        async with asyncio.timeout(ANSWER_S):
            while chunk := await child.stdout.read(1 << 16):
                said += chunk
                if len(said) > MOST_BYTES:
                    raise StoreUnavailable(f"{program} says more than can be read")
            await child.wait()
    except TimeoutError:
        raise StoreUnavailable(f"{program} does not answer within {ANSWER_S:g} s", hint="crm_mon -1") from None
    finally:
        if child.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                child.kill()
            await child.wait()
    if not said:
        raise StoreUnavailable(f"{program} says nothing (exit code {child.returncode})", hint="crm_mon -1")
    return bytes(said)
