# SPDX-License-Identifier: GPL-2.0-or-later
"""A daemon that answers as ours does, and the samples of the log's tests."""

from __future__ import annotations

import json
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "audit"))
from audit_samples import ALL, ORIGIN, intent, record

from enforcer.audit.writer import AuditLog

Answer = Callable[[dict[str, object]], bytes]


class Daemon:
    """A control socket in a thread; what it answers is up to the test."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.requests: list[dict[str, object]] = []
        self.replies: dict[str, object] = {}
        self.raw: bytes | None = None
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(str(path))
        self._listener.listen()
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                peer, _ = self._listener.accept()
            except OSError:
                return
            with peer, peer.makefile("rb") as lines:
                request = json.loads(lines.readline())
                self.requests.append(request)
                data = self.replies.get(request["verb"])
                reply = data if isinstance(data, dict) and "ok" in data else {"ok": True, "data": data or {}}
                peer.sendall(self.raw if self.raw is not None else json.dumps(reply).encode() + b"\n")

    def close(self) -> None:
        self._listener.close()


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    made = Daemon(tmp_path / "control.sock")
    yield made
    made.close()


@pytest.fixture
def log(tmp_path: Path) -> Path:
    path = tmp_path / "audit.jsonl"
    made = AuditLog(path, ORIGIN)
    for number, verdict in enumerate(ALL, 17):
        made.submit(record(verdict, intent(number)))
    assert made.close()
    return path


@pytest.fixture
def policy(tmp_path: Path) -> Path:
    directory = tmp_path / "policy.d"
    directory.mkdir()
    (directory / "50-site.toml").write_text('[[rule]]\nid = "san"\non = ["mount"]\nmatch = { device = ["wwn-*"] }\n')
    return directory


@pytest.fixture(autouse=True)
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is drawn must not hang on the terminal of whoever runs the tests."""
    monkeypatch.setenv("COLUMNS", "200")
