# SPDX-License-Identifier: GPL-2.0-or-later
"""The guest's end of the lab: runs commands and snippets, moves files, answers over a virtio port.

The port is found by its name in /sys/class/virtio-ports; the console is for the kernel's last words only, for
other writers break into its lines. One request is one line of JSON with an ``id``; each has a thread and
answers come in the order in which they are ready. Nothing that a request does may stop the others: output
goes to files and not to pipes (a daemon that keeps its standard output open would hold a pipe open too),
waiting is done on a pidfd with a limit, and a child that no signal ends (state D) is left behind and reported
as such.

An interpreter's start costs half a second and more on an emulated CPU, so: as little as
possible is imported here; children are made by a plain fork; and ``py`` runs a snippet in a fork of this very
process. (Never vfork: that holds the interpreter's lock while execve() sleeps in the kernel, and sleeping
there is what the gate does.)
"""

# pathlib, contextlib and typing would cost their import at every boot.
# ruff: noqa: PTH101, PTH103, PTH108, PTH110, PTH112, PTH120, PTH208, SIM105

from __future__ import annotations

import _thread
import binascii
import json
import os
import select
import sys
from time import monotonic

TYPE_CHECKING = False  # what type checkers take for typing.TYPE_CHECKING
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, TypeAlias

    Request: TypeAlias = "dict[str, Any]"
    Body: TypeAlias = "Callable[[], None]"

RUN = "/run/lab"
_write_lock = _thread.allocate_lock()
_exits: dict[int, int] = {}  # of what was spawned


def find_port(name: str) -> str:
    """Path of the device of the virtio port ``name``."""
    base = "/sys/class/virtio-ports"
    while True:
        for entry in os.listdir(base) if os.path.isdir(base) else ():
            with open(f"{base}/{entry}/name") as file:
                if file.read().strip() == name and os.path.exists(f"/dev/{entry}"):
                    return f"/dev/{entry}"
        select.select([], [], [], 0.05)


def send(port: int, answer: Request) -> None:
    """Write one line; a write blocks while no host is connected, and that is right."""
    data = json.dumps(answer).encode() + b"\n"
    with _write_lock:
        while data:
            data = data[os.write(port, data) :]


def wait(pid: int, timeout_s: float) -> int | None:
    """Exit status of a child as a shell tells it, or None if it still runs after the time."""
    handle = os.pidfd_open(pid)
    try:
        poll = select.poll()
        poll.register(handle, select.POLLIN)
        if not poll.poll(max(0, timeout_s) * 1000):
            return None
    finally:
        os.close(handle)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return code if code >= 0 else 128 - code


def finish(pid: int, timeout_s: float) -> tuple[int, bool, bool]:
    """(rc, timed_out, left_behind): wait, then kill the whole session's process group."""
    code = wait(pid, timeout_s)
    if code is not None:
        return code, False, False
    try:
        os.killpg(pid, 9)
    except OSError:
        pass
    if wait(pid, 1.5) is None:
        _thread.start_new_thread(os.waitpid, (pid, 0))
        return 124, True, True
    return 124, True, False


def child(path: str, request: Request, body: Body) -> int:
    """Fork a child in a session of its own and let it run ``body``; the files for its output are there at once."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND
    outputs = [os.open(path + ".out", flags)]
    outputs.append(outputs[0] if request.get("merge") else os.open(path + ".err", flags))
    pid = os.fork()
    if pid:
        for descriptor in set(outputs):
            os.close(descriptor)
        return pid
    try:
        os.setsid()
        source = os.open("/dev/null", os.O_RDONLY)
        if request.get("stdin"):
            source = os.memfd_create("stdin")
            os.write(source, binascii.a2b_base64(request["stdin"]))
            os.lseek(source, 0, os.SEEK_SET)
        os.dup2(source, 0)
        os.dup2(outputs[0], 1)
        os.dup2(outputs[1], 2)
        os.environ.update(request.get("env") or {})
        os.chdir("/")
        body()
    except SystemExit as error:
        os._exit(error.code if isinstance(error.code, int) else int(error.code is not None))
    except BaseException as error:
        os.write(2, f"{type(error).__name__}: {error}\n".encode())
        os._exit(127)
    os._exit(0)


def shell(command: str) -> Body:
    """A body that becomes a shell."""

    def body() -> None:
        os.execve("/bin/bash", ["bash", "-c", command], os.environ)

    return body


def snippet(path: str, source: str) -> Body:
    """A body that runs Python source; what it leaves in ``result`` is the answer."""

    def body() -> None:
        sys.path[:0] = ["/usr/lib/python3/dist-packages"]
        space: dict[str, Any] = {"__name__": "__lab__", "__builtins__": __builtins__}
        answer: Request = {}
        try:
            exec(compile(source, "<snippet>", "exec"), space)
        except BaseException as error:
            answer = failure(error)
        if not answer:
            answer = {"result": space.get("result")}
        try:
            text = json.dumps(answer)
        except (TypeError, ValueError):
            text = json.dumps({"result": repr(space.get("result"))})
        sys.stdout.flush()
        sys.stderr.flush()
        with open(path + ".result", "w") as file:
            file.write(text)

    return body


def failure(error: BaseException) -> Request:
    """An exception as data, with errno for those that have one."""
    import traceback

    text = "".join(traceback.format_exception(error))
    return {"error": type(error).__name__, "errno": getattr(error, "errno", None), "trace": text}


def slurp(path: str) -> str:
    """Contents as base64, and the file is gone; empty if it never was."""
    try:
        with open(path, "rb") as file:
            data = file.read()
        os.unlink(path)
    except FileNotFoundError:
        return ""
    return binascii.b2a_base64(data, newline=False).decode()


def run(request: Request, path: str) -> Request:
    """``run`` and ``py``: to the end, or to the limit."""
    body = shell(request["run"]) if "run" in request else snippet(path, request["py"])
    pid = child(path, request, body)
    rc, timed_out, left = finish(pid, request.get("timeout_s", 60))
    answer: Request = {"rc": rc, "timed_out": timed_out, "left_behind": left, "pid": pid}
    answer |= {"out": slurp(path + ".out"), "err": slurp(path + ".err")}
    if "py" in request and not timed_out:
        answer["answer"] = slurp(path + ".result")
    return answer


def collect(pid: int) -> None:
    """Wait for one spawned child and remember how it ended."""
    code = wait(pid, 1e9 / 1000)
    _exits[pid] = 124 if code is None else code


def await_exit(pid: int, timeout_s: float) -> int | None:
    """Exit status of a spawned child, or None if it still runs after the time."""
    end = monotonic() + timeout_s
    while pid not in _exits and monotonic() < end:
        select.select([], [], [], 0.02)
    return _exits.get(pid)


def handle(port: int, request: Request) -> None:
    """One request in its own thread."""
    answer: Request = {}
    path = f"{RUN}/{request['id']}"
    try:
        if "run" in request or "py" in request:
            answer = run(request, path)
        elif "spawn" in request:
            pid = child(path, request | {"merge": True}, shell(request["spawn"]))
            _thread.start_new_thread(collect, (pid,))
            answer = {"pid": pid, "path": path + ".out"}
        elif "wait" in request:
            answer = {"rc": await_exit(request["wait"], request.get("timeout_s", 60))}
        elif "put" in request:
            os.makedirs(os.path.dirname(request["put"]) or "/", exist_ok=True)
            with open(request["put"], "ab" if request.get("append") else "wb") as file:
                file.write(binascii.a2b_base64(request["data"]))
            os.chmod(request["put"], request.get("mode", 0o644))
        elif "get" in request:
            with open(request["get"], "rb") as file:
                file.seek(request.get("offset", 0))
                data = file.read(request.get("count", -1))
            answer = {"data": binascii.b2a_base64(data, newline=False).decode()}
        elif "ping" in request:
            with open("/proc/sys/kernel/random/boot_id") as file:
                answer = {"boot_id": file.read().strip()}
    except BaseException as error:
        answer = failure(error)
    send(port, {"id": request["id"]} | answer)


def main() -> None:
    """Read lines for ever. End of file only says that no host is connected now."""
    os.makedirs(RUN, exist_ok=True)
    port = os.open(find_port("lab"), os.O_RDWR | os.O_CLOEXEC)
    send(port, {"id": 0, "up": monotonic()})
    buffer = b""
    while True:
        try:
            data = os.read(port, 65536)
        except OSError:
            data = b""
        if not data:
            buffer = b""
            select.select([], [], [], 0.05)
            continue
        *lines, buffer = (buffer + data).split(b"\n")
        for line in lines:
            if line.strip():
                try:
                    _thread.start_new_thread(handle, (port, json.loads(line)))
                except ValueError as error:
                    os.write(2, f"lab: not a request: {error}\n".encode())


if __name__ == "__main__":
    main()
