# SPDX-License-Identifier: GPL-2.0-or-later
"""The two line-oriented JSON channels into a guest's QEMU: the agent's port and QMP.

Both are a unix socket with a reader thread; whoever asks waits for an answer of his own. When the socket
ends, every waiter is told so at once: nobody takes silence for an answer.
"""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
from concurrent.futures import Future
from pathlib import Path
from typing import Any

Message = dict[str, Any]


class ChannelLost(Exception):
    """The other side is gone."""


class QmpError(Exception):
    """QEMU refused a command."""


class Lines:
    """A socket that carries one JSON object a line; ``received`` is called for each by the reader thread."""

    def __init__(self, path: Path, name: str) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.connect(str(path))
        self._send_lock = threading.Lock()
        self.gone = threading.Event()
        self._thread = threading.Thread(target=self._read, name=f"lab-{name}", daemon=True)

    def begin(self) -> None:
        self._thread.start()

    def send(self, message: Message) -> None:
        data = json.dumps(message).encode() + b"\n"
        try:
            with self._send_lock:
                self._socket.sendall(data)
        except OSError as error:
            raise ChannelLost(str(error)) from error

    def _read(self) -> None:
        try:
            with self._socket.makefile("rb") as file:
                for line in file:
                    try:
                        message = json.loads(line)
                    except ValueError:
                        continue  # half a line from before a reconnect
                    if isinstance(message, dict):
                        self.received(message)
        except (OSError, ValueError):
            pass
        self.gone.set()
        self.ended()

    def received(self, message: Message) -> None:
        raise NotImplementedError

    def ended(self) -> None:
        raise NotImplementedError

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        if self._thread.is_alive() and self._thread is not threading.current_thread():
            self._thread.join(1)
        self._socket.close()


class AgentChannel(Lines):
    """Requests to tools/lab/agent.py, any number at a time."""

    def __init__(self, path: Path, name: str) -> None:
        self.up = threading.Event()
        self._lock = threading.Lock()
        self._last = 0
        self._waiting: dict[int, Future[Message]] = {}
        super().__init__(path, name)
        self.begin()

    def ask(self, request: Message, timeout_s: float) -> Message:
        """Send one request; TimeoutError if the agent says nothing in time, ChannelLost if it never will."""
        future: Future[Message] = Future()
        with self._lock:
            if self.gone.is_set():
                raise ChannelLost("channel closed")
            self._last += 1
            number = self._last
            self._waiting[number] = future
        try:
            self.send(request | {"id": number})
            return future.result(timeout_s)
        finally:
            with self._lock:
                self._waiting.pop(number, None)

    def received(self, message: Message) -> None:
        if message.get("id") == 0:
            self.up.set()
            return
        with self._lock:
            future = self._waiting.get(message.get("id", -1))
        if future is not None and not future.done():
            future.set_result(message)

    def ended(self) -> None:
        with self._lock:
            waiting = list(self._waiting.values())
        for future in waiting:
            if not future.done():
                future.set_exception(ChannelLost("channel closed"))


class Qmp(Lines):
    """QEMU's monitor (docs/interop/qmp-spec). One client at a time: one object for QEMU's whole life."""

    def __init__(self, path: Path, name: str) -> None:
        self._lock = threading.Lock()  # one command at a time: answers carry no obligation to be in order
        self._answer: Future[Message] = Future()
        self._changed = threading.Condition()
        self.events: list[Message] = []
        super().__init__(path, name)
        self.begin()
        self.command("qmp_capabilities")

    def command(self, execute: str, arguments: Message | None = None, timeout_s: float = 20.0) -> Any:
        """Run one command and return its answer."""
        message: Message = {"execute": execute}
        if arguments:
            message["arguments"] = arguments
        with self._lock:
            self._answer = Future()
            if self.gone.is_set():
                raise ChannelLost("QMP socket closed")
            self.send(message)
            answer = self._answer.result(timeout_s)
        if "error" in answer:
            raise QmpError(f"{execute}: {answer['error'].get('desc', answer['error'])}")
        return answer.get("return")

    def wait_event(self, name: str, timeout_s: float) -> Message:
        """The first event of that name since QEMU started; TimeoutError if none comes."""
        end = time.monotonic() + timeout_s
        with self._changed:
            while True:
                for event in self.events:
                    if event["event"] == name:
                        return event
                left = end - time.monotonic()
                if left <= 0 or self.gone.is_set():
                    raise TimeoutError(f"no QMP event {name}")
                self._changed.wait(left)

    def received(self, message: Message) -> None:
        if "event" in message:
            with self._changed:
                self.events.append(message)
                self._changed.notify_all()
        elif ("return" in message or "error" in message) and not self._answer.done():
            self._answer.set_result(message)

    def ended(self) -> None:
        if not self._answer.done():
            self._answer.set_exception(ChannelLost("QMP socket closed"))
        with self._changed:
            self._changed.notify_all()
