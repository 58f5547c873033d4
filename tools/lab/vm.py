# SPDX-License-Identifier: GPL-2.0-or-later
"""One node of the lab: a QEMU process, the agent inside it, and what can be done to it from outside.

The interface blocks, as tests do; any number of threads may use one node at a time. A node that is gone
raises ``LostVM`` for whatever was asked of it, with the console's last lines: "no answer" is neither a pass
nor a refusal.
"""

from __future__ import annotations

import base64
import contextlib
import json
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tools.lab import process
from tools.lab.channel import AgentChannel, ChannelLost, Message, Qmp
from tools.lab.disk import SharedDisk
from tools.lab.hardware import Hardware

CHUNK = 384 << 10

FIND_DISK = """
import os
result = []
for name in sorted(os.listdir("/sys/block")):
    path = f"/sys/block/{name}/device/wwid"
    if os.path.exists(path) and open(path).read().strip() == wwid:
        result.append("/dev/" + name)
"""


class LostVM(Exception):
    """QEMU or the way to the agent is gone, or the agent is silent."""


class CommandFailed(Exception):
    """A command asked for with ``check=True`` did not return 0."""


class GuestError(Exception):
    """A snippet raised; ``kind`` and ``errno`` are those of its exception."""

    def __init__(self, kind: str, errno: int | None, trace: str) -> None:
        super().__init__(trace.strip())
        self.kind = kind
        self.errno = errno


@dataclass(frozen=True, slots=True)
class Result:
    """How a command ended. ``rc`` is 124 if it was still running at its limit."""

    rc: int
    out: str
    err: str
    timed_out: bool = False
    left_behind: bool = False  # not even SIGKILL ended it: state D
    pid: int = 0

    @property
    def ok(self) -> bool:
        return self.rc == 0


@dataclass(frozen=True, slots=True)
class Spawned:
    """A process in a guest that goes on by itself."""

    node: Node
    pid: int
    path: str

    def output(self) -> str:
        """What it wrote so far, both streams."""
        return self.node.get(self.path).decode(errors="replace")

    def wait(self, timeout_s: float = 60.0) -> int | None:
        """Its exit status, or None if it still runs."""
        answer = self.node.ask({"wait": self.pid, "timeout_s": timeout_s}, timeout_s)
        rc = answer["rc"]
        return None if rc is None else int(rc)

    def kill(self, signal: str = "KILL") -> None:
        """Signal its process group."""
        self.node.run(f"kill -{signal} -- -{self.pid}")


@dataclass(eq=False)
class Node(Hardware):
    """A machine that can be switched on and off again."""

    grace_s: float = 30.0  # on top of a command's own limit, before a silent agent counts as lost
    boots: int = 0
    boot_id: str = ""
    ended_s: float = 0.0  # when QEMU told of the last end that was waited for, by the host's wall clock
    _process: subprocess.Popen[bytes] | None = field(default=None, repr=False)
    _agent: AgentChannel | None = field(default=None, repr=False)
    _qmp: Qmp | None = field(default=None, repr=False)

    @property
    def console(self) -> Path:
        """The console of the present boot."""
        return self.workdir / f"{self.name}.console.{self.boots}"

    @property
    def alive(self) -> bool:
        """True if QEMU runs (paused or not)."""
        return self._process is not None and self._process.poll() is None

    # -- power

    def start(self, *, wait: bool = True, timeout_s: float = 180.0) -> None:
        """Switch on. Without ``wait``, call ``wait_up`` later."""
        if self.alive:
            raise RuntimeError(f"{self.name} runs already")
        self._forget()
        self.boots += 1
        for end in ("agent", "qmp"):
            self.socket(end).unlink(missing_ok=True)
        self._process = process.start(self.command(self.console), self.workdir / f"{self.name}.qemu.{self.boots}")
        if wait:
            self.wait_up(timeout_s)

    def wait_up(self, timeout_s: float = 180.0) -> None:
        """Wait for the agent's first words."""
        end = time.monotonic() + timeout_s
        while self._agent is None:
            try:
                self._qmp = self._qmp or Qmp(self.socket("qmp"), f"{self.name}-qmp")
                self._agent = AgentChannel(self.socket("agent"), self.name)
            except (FileNotFoundError, ConnectionRefusedError):
                if not self.alive or time.monotonic() > end:
                    raise self._lost("QEMU did not start") from None
                time.sleep(0.02)
            except ChannelLost:
                raise self._lost("QEMU ended at once") from None
        while not self._agent.up.wait(0.2):
            if not self.alive or self._agent.gone.is_set():
                raise self._lost("ended while it booted")
            if time.monotonic() > end:
                raise self._lost(f"no agent within {timeout_s:.0f} s")
        self.boot_id = str(self.ask({"ping": 1}, 30)["boot_id"])

    def power_off(self) -> None:
        """Pull the plug: nothing in the guest is told. ``start`` boots it again."""
        if self.alive:
            with contextlib.suppress(ChannelLost, TimeoutError):
                self.qmp("quit")
            if not self._gone_within(5):
                self.kill()
        self._forget()

    def kill(self) -> None:
        """End QEMU itself with SIGKILL, whatever it was doing."""
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        self._forget()

    def wait_gone(self, timeout_s: float = 60.0) -> str:
        """Wait until the machine has ended by itself (watchdog, panic, poweroff) and tell QEMU's reason."""
        if not self._gone_within(timeout_s):
            raise TimeoutError(f"{self.name} still runs after {timeout_s:.0f} s")
        reason = ""
        if self._qmp is not None:
            self._qmp.gone.wait(2)
            for event in self._qmp.events:
                if event["event"] in ("SHUTDOWN", "GUEST_PANICKED"):
                    reason = str(event["data"].get("reason", event["event"].lower()))
                    self.ended_s = event["timestamp"]["seconds"] + event["timestamp"]["microseconds"] / 1e6
        self._forget()
        return reason

    def _gone_within(self, timeout_s: float) -> bool:
        if self._process is not None:
            try:
                self._process.wait(timeout_s)
            except subprocess.TimeoutExpired:
                return False
        return True

    def _forget(self) -> None:
        for channel in (self._agent, self._qmp):
            if channel is not None:
                channel.close()
        self._agent = self._qmp = None

    def pause(self) -> None:
        """Stop the CPUs; the guest's clocks stop too."""
        self.qmp("stop")

    def resume(self) -> None:
        self.qmp("cont")

    def link(self, up: bool, network: str = "etcd") -> None:
        """Plug in or cut the cable of one network: etcd or peer."""
        self.qmp("set_link", {"name": network, "up": up})

    def qmp(self, command: str, arguments: Message | None = None) -> Any:
        """One command to QEMU's monitor."""
        if self._qmp is None:
            raise self._lost("is switched off")
        try:
            return self._qmp.command(command, arguments)
        except (ChannelLost, TimeoutError) as error:
            if command == "quit":
                return None
            raise self._lost(f"QMP {command}: {error}") from error

    def wait_event(self, name: str, timeout_s: float = 60.0) -> Message:
        """The first QMP event of that name in this boot."""
        if self._qmp is None:
            raise self._lost("is switched off")
        return self._qmp.wait_event(name, timeout_s)

    # -- work

    def ask(self, request: Message, timeout_s: float) -> Message:
        """One request to the agent; see tools/lab/agent.py for their forms."""
        if self._agent is None:
            raise self._lost("is switched off")
        try:
            answer = self._agent.ask(request, timeout_s + self.grace_s)
        except ChannelLost as error:
            raise self._lost(str(error)) from error
        except TimeoutError as error:
            raise self._lost(f"the agent said nothing for {timeout_s + self.grace_s:.0f} s") from error
        if "error" in answer:
            raise GuestError(answer["error"], answer["errno"], answer["trace"])
        return answer

    def run(
        self,
        command: str,
        timeout_s: float = 60.0,
        *,
        check: bool = False,
        stdin: bytes = b"",
        env: Mapping[str, str] | None = None,
    ) -> Result:
        """Run a bash command to its end. At its limit it is killed and ``timed_out`` is set."""
        request: Message = {"run": command, "timeout_s": timeout_s, "env": dict(env or {})}
        if stdin:
            request["stdin"] = base64.b64encode(stdin).decode()
        result = _result(self.ask(request, timeout_s))
        if check and not result.ok:
            raise CommandFailed(f"{self.name}: {command!r} returned {result.rc}: {result.err or result.out}")
        return result

    def py(self, source: str, timeout_s: float = 60.0, **values: object) -> Any:
        """Run Python source in a fork of the agent and return what it left in ``result``.

        ``values`` are there as variables (JSON types). Far faster than ``run("python3 ...")``. An
        exception of the snippet comes back as GuestError, a crash or a time-out as CommandFailed.
        """
        source = "".join(f"{name} = {value!r}\n" for name, value in values.items()) + source
        answer = self.ask({"py": source, "timeout_s": timeout_s}, timeout_s)
        if not answer.get("answer"):
            result = _result(answer)
            raise CommandFailed(f"{self.name}: snippet ended with {result.rc}: {result.err or result.out}")
        outcome = json.loads(base64.b64decode(answer["answer"]))
        if "error" in outcome:
            raise GuestError(outcome["error"], outcome["errno"], outcome["trace"])
        return outcome["result"]

    def device(self, disk: SharedDisk) -> str:
        """The guest's name for a disk: the kernel probes them at the same time, so sda may be any."""
        found = self.paths(disk)
        if not found:
            raise GuestError("LookupError", None, f"{self.name} does not see {disk.name}")
        return found[0]

    def paths(self, disk: SharedDisk) -> list[str]:
        """All names that the guest has for a disk now."""
        found: list[str] = self.py(FIND_DISK, wwid=disk.wwid)
        return found

    def unplug(self, disk: SharedDisk, timeout_s: float = 20.0) -> None:
        """Take a disk away from the running guest. Raises TimeoutError if the guest goes on to have it."""
        for path in range(disk.paths):
            self.qmp("device_del", {"id": self.scsi_disk(disk, path)["id"]})
        self._until(timeout_s, lambda: not self.paths(disk), f"{self.name} still has {disk.name}")

    def plug(self, disk: SharedDisk, timeout_s: float = 20.0) -> None:
        """Give it back. Raises TimeoutError if the guest does not find it."""
        for path in range(disk.paths):
            self.qmp("device_add", self.scsi_disk(disk, path))
        self._until(timeout_s, lambda: len(self.paths(disk)) == disk.paths, f"{self.name} does not find {disk.name}")

    @staticmethod
    def _until(timeout_s: float, holds: Callable[[], bool], otherwise: str) -> None:
        end = time.monotonic() + timeout_s
        while not holds():
            if time.monotonic() > end:
                raise TimeoutError(f"{otherwise} after {timeout_s:.0f} s")
            time.sleep(0.2)

    def spawn(self, command: str, *, env: Mapping[str, str] | None = None) -> Spawned:
        """Start a bash command and leave it running."""
        answer = self.ask({"spawn": command, "env": dict(env or {})}, 30)
        return Spawned(self, int(answer["pid"]), str(answer["path"]))

    def put(self, path: str, data: bytes | str, mode: int = 0o644) -> None:
        """Write a file in the guest, with its directories."""
        content = data.encode() if isinstance(data, str) else data
        for offset in range(0, max(1, len(content)), CHUNK):
            part = base64.b64encode(content[offset : offset + CHUNK]).decode()
            self.ask({"put": path, "data": part, "mode": mode, "append": offset > 0}, 60)

    def get(self, path: str) -> bytes:
        """Read a file in the guest."""
        content = b""
        while True:
            answer = self.ask({"get": path, "offset": len(content), "count": CHUNK}, 60)
            part = base64.b64decode(answer["data"])
            content += part
            if not part:
                return content

    def _lost(self, why: str) -> LostVM:
        console = process.tail(self.console) if self.boots else ""
        said = process.tail(self.workdir / f"{self.name}.qemu.{self.boots}", 5) if self.boots else ""
        return LostVM(f"VM lost: {self.name}: {why}\n{said}\n-- console:\n{console}")


def _result(answer: Message) -> Result:
    return Result(
        rc=int(answer["rc"]),
        out=base64.b64decode(answer["out"]).decode(errors="replace"),
        err=base64.b64decode(answer["err"]).decode(errors="replace"),
        timed_out=bool(answer["timed_out"]),
        left_behind=bool(answer["left_behind"]),
        pid=int(answer["pid"]),
    )
