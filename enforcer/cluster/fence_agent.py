# SPDX-License-Identifier: GPL-2.0-or-later
"""One node switched off by an agent of the fence-agents package, and the proof of it.

An agent is a program that reads ``name=value`` lines from its standard input and answers by its exit code
(ClusterLabs/fence-agents, doc/FenceAgentAPI.md): of ``action=off`` 0 is done, and 1 also stands for "could not verify";
of ``action=status`` 0 is on, 1 no contact, 2 off. A change that was seen is a proof: status that ends with 0, off that
ends with 0, then status that ends with 2. Nothing else is: no other code, no signal, no time-out. ("Timeout is a
failure, not success", the same document.)

A node that is off before anything was done proves nothing. An agent asks the same function for off and for status
(lib/fencing.py.py, fence_action): what that calls off is not switched off, off ends with 0 at once, and status says it
once more. Many call a virtual machine off that is only suspended, or one that they do not know, and who is resumed
writes on. So that is for somebody to answer for who has looked.

Some agents leave the node on and take something from it, its path to the storage say, or only keep books. A status of 2
is about that then. So each run begins with the agent's metadata, which gives ``on`` an ``automatic="1"`` if the node is
to undo by itself, once it is up, what was done to it (fencing.py prints that for all ``fabric_fencing``). Those are
refused, and who does not tell what it can do. The names of others are in enforcer/settings/fencing.py.

The options may hold a password: they are given in a file that exists in memory alone, not on the command line or in the
environment. fencing.py prints each line that it does not know, so whatever stands in an option is taken out of what the
agent said before anybody is told.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import stat
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import BinaryIO

from enforcer.model.errors import EnforcerError
from enforcer.model.escape import for_terminal
from enforcer.settings import FenceAgent

DONE, IS_ON, IS_OFF = 0, 0, 2  # exit codes of off, and of status
ENVIRONMENT = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8"}
KEPT_BYTES = 4096  # of the end of what an agent says
MOST_BYTES = 1 << 20  # who says more is out of order
SAID_CHARS = 160
SHORT_CHARS = 4  # a value below this is taken out where it stands alone, longer ones within a word as well
END_S = 1.0  # who was killed has ended by then
_LASTING: set[asyncio.Task[int]] = set()  # waits for those who had not
METADATA_BYTES = 1 << 17  # the longest of the package has 18 kB
_AUTOMATIC = re.compile(rb"""\bautomatic\s*=\s*["']?([^"'\s/<>]*)""")
_OFF = re.compile(rb"""<action\s[^<>]*\bname\s*=\s*["']off["']""")


class NotOff(EnforcerError):
    """It is not proven that the node is off: nothing may be taken over because of this run."""


class WasOff(NotOff):
    """The agent calls the node off, and nobody saw it go off."""


async def switch_off(agent: FenceAgent, node: str, was_off: bool, before: Callable[[], Awaitable[object]]) -> bool:
    """Returns when ``node`` went off: True. False if it was off before, which is only taken if ``was_off``.

    ``before`` is awaited just before the power goes, when the agent may have been asked for minutes; what it raises
    keeps the power on. Raises NotOff in every other case, after 4 x (``timeout_s`` + ``END_S``) and ``before`` at most.
    """
    if what := unfit(await _metadata(agent, node)):
        raise _not_off(agent, node, what)
    code, said = await _call(agent, node, "status")
    if code == IS_OFF and was_off:
        return False
    if code == IS_OFF:
        raise WasOff(
            f"{agent.name} says that {node} was off already: suspended? another machine's plug?",
            hint=f"look at it: if it is without power, enforcer fence run {node} --was-off, or fence confirm",
        )
    if code != IS_ON:
        raise _not_off(agent, node, f"cannot tell whether {node} is on ({_ended(code)})", said)
    await before()
    code, said = await _call(agent, node, "off")
    if code != DONE:
        raise _not_off(agent, node, f"could not switch {node} off ({_ended(code)})", said)
    code, said = await _call(agent, node, "status")
    if code == IS_ON:
        raise _not_off(agent, node, f"says that {node} is on after it has switched it off", said)
    if code != IS_OFF:
        raise _not_off(agent, node, f"cannot tell whether {node} is off ({_ended(code)})", said)
    return True


def unfit(metadata: bytes) -> str:
    """Why an agent with this metadata proves nothing, as what it does; empty if nothing is known against it."""
    if any(value not in (b"0", b"false", b"no") for value in _AUTOMATIC.findall(metadata)):
        return "leaves the node on: it takes something from it that it gets back by itself"
    return "" if _OFF.search(metadata) else "does not say that it can switch off"


async def _metadata(agent: FenceAgent, node: str) -> bytes:
    code, told = await _heard_of(agent, node, {"action": "metadata"}, keep=METADATA_BYTES, most=METADATA_BYTES)
    if code != DONE:
        raise _not_off(agent, node, f"does not tell its metadata ({_ended(code)})", _last_line(told, agent))
    return told


def _not_off(agent: FenceAgent, node: str, what: str, said: str = "") -> NotOff:
    told = f": {said}" if said else ""
    return NotOff(f"{agent.name} {what}{told}", hint=f"run {agent.program} by hand; enforcer.toml [fencing.{node}]")


def _ended(code: int) -> str:
    return f"exit status {code}" if code >= 0 else f"ended by signal {-code}"


async def _call(agent: FenceAgent, node: str, action: str) -> tuple[int, str]:
    """Exit code (negative: the signal) and the last thing said. Raises NotOff as _heard_of does."""
    options = {**agent.options, "nodename": node, "action": action}
    code, heard = await _heard_of(agent, node, options, keep=KEPT_BYTES, most=MOST_BYTES)
    return code, _last_line(heard, agent)


async def _heard_of(
    agent: FenceAgent, node: str, options: Mapping[str, str], *, keep: int, most: int
) -> tuple[int, bytes]:
    """Exit code and the end of what it said. Raises NotOff if the program is none, lasts too long, or says too much."""
    if what := untrusted(agent.program):
        raise _not_off(agent, node, f"is not run: {agent.program} {what}")
    try:
        return await _talk(agent, node, options, keep, most)
    except OSError as error:  # of the program, or of ourselves: no file descriptor is left
        raise _not_off(agent, node, f"cannot be started: {error.strerror}") from None


async def _talk(agent: FenceAgent, node: str, options: Mapping[str, str], keep: int, most: int) -> tuple[int, bytes]:
    with contextlib.ExitStack() as stack:
        ours, theirs = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        stack.callback(os.close, ours)
        os.set_blocking(theirs, True)
        heard = _Heard(ours, keep, most)
        try:
            child = await _start(options, agent.program, theirs)
        finally:
            os.close(theirs)
        heard.listen()
        stack.callback(heard.stop)
        try:
            async with asyncio.timeout(agent.timeout_s):
                await _first(child, heard.too_much)
        except TimeoutError:
            raise _not_off(agent, node, f"did not end its {options['action']} within {agent.timeout_s:g} s") from None
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)  # its own session: what it started goes with it
            code = await _reaped(child)
        if code is None:
            raise _not_off(agent, node, f"does not end: process {child.pid} is still there after SIGKILL")
        said = heard.rest()
        if heard.too_much.is_set():
            raise _not_off(agent, node, "says more than can be read")
        return code, said


async def _reaped(child: asyncio.subprocess.Process) -> int | None:
    """Its exit code; None if it outlives SIGKILL by ``END_S`` (it waits for a disk): then it is waited for behind."""
    wait = asyncio.ensure_future(child.wait())
    _LASTING.add(wait)
    wait.add_done_callback(_LASTING.discard)
    await asyncio.wait({wait}, timeout=END_S)
    return wait.result() if wait.done() else None


async def _first(child: asyncio.subprocess.Process, too_much: asyncio.Event) -> None:
    """Until the child has ended or talks too much; who left a process behind that holds the pipe is not waited for."""
    ways = {asyncio.ensure_future(child.wait()), asyncio.ensure_future(too_much.wait())}
    try:
        await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for way in ways:
            way.cancel()


async def _start(given: Mapping[str, str], program: str, output: int) -> asyncio.subprocess.Process:
    with _in_memory(given) as options:
        return await asyncio.create_subprocess_exec(
            program, stdin=options, stdout=output, stderr=output, env=ENVIRONMENT, cwd="/", start_new_session=True
        )


def _in_memory(options: Mapping[str, str]) -> BinaryIO:
    file = open(os.memfd_create("options", os.MFD_CLOEXEC), "w+b")  # noqa: SIM115, the caller closes it
    file.write("".join(f"{name}={value}\n" for name, value in options.items()).encode())
    file.seek(0)
    return file


class _Heard:
    """What comes out of a pipe: all of it read, its end kept."""

    def __init__(self, fd: int, keep: int, most: int) -> None:
        self._fd, self._kept, self._read = fd, bytearray(), 0
        self._keep, self._most = keep, most
        self.too_much = asyncio.Event()

    def listen(self) -> None:
        asyncio.get_running_loop().add_reader(self._fd, self._take)

    def stop(self) -> None:
        asyncio.get_running_loop().remove_reader(self._fd)

    def rest(self) -> bytes:
        """Everything that is there by now, or its end."""
        while self._take():
            pass
        return bytes(self._kept)

    def _take(self) -> bool:
        try:
            piece = os.read(self._fd, 1 << 16)
        except BlockingIOError:
            return False
        self._read += len(piece)
        self._kept = (self._kept + piece)[-self._keep :]
        if self._read > self._most:
            self.too_much.set()
        if not piece or self._read > self._most:
            self.stop()
            return False
        return True


def _last_line(heard: bytes, agent: FenceAgent) -> str:
    lines = [line.strip() for line in heard.decode("utf-8", "replace").splitlines()]
    line = next((line for line in reversed(lines) if line), "")
    for option in sorted(agent.options.values(), key=len, reverse=True):
        value = re.escape(option.strip().strip('"') or option)
        whole = len(option) < SHORT_CHARS  # the 1 of lanplus = "1" is in every date
        line = re.sub(rf"(?<!\w){value}(?!\w)" if whole else value, "...", line)
    return for_terminal(line, SAID_CHARS)


def untrusted(program: str) -> str:
    """Why root must not run this file, as a clause about it; empty if it may."""
    try:
        found = Path(program).stat()
    except OSError as error:
        return f"cannot be found: {error.strerror}"
    if not stat.S_ISREG(found.st_mode) or not os.access(program, os.X_OK):
        return "is no program"
    if found.st_uid not in (0, os.geteuid()) or found.st_mode & 0o022:
        return "can be changed by others than root"
    return ""
