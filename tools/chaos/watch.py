# SPDX-License-Identifier: GPL-2.0-or-later
"""Hears every revision of the store, and gives it times that can be relied on (``history.Clock``).

One watch hangs on each member: of a member that is stopped or killed nothing is heard, and the first who tells counts.
Each watch begins where it ended, and the first one at revision 1, so nothing is missed. A beat is a key of our own,
below no prefix of the product's.
"""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

from tools.chaos.history import Change, Clock
from tools.lab.etcd import EtcdServer, Member

BEAT = "/chaos/beat"
BEAT_EVERY_S = 0.15
RETRY_S = 0.2


class Watch:
    """Runs from ``start`` to ``stop``; may be asked at any time."""

    def __init__(self, etcd: EtcdServer) -> None:
        self._etcd = etcd
        self._lock = threading.Lock()
        self._changes: dict[tuple[int, str], Change] = {}
        self._sent_s = 0.0  # of the latest beat that came back
        self._stopping = threading.Event()
        self._connections: dict[str, socket.socket] = {}
        self._threads = [threading.Thread(target=self._follow, args=(m,), daemon=True) for m in etcd.members]
        self._threads.append(threading.Thread(target=self._beat, daemon=True))

    def __enter__(self) -> Watch:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        with self._lock:
            for connection in self._connections.values():
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(3)

    def changes(self) -> list[Change]:
        """All that was heard, by revision; without the beats."""
        with self._lock:
            return sorted((c for c in self._changes.values() if c.key != BEAT), key=lambda c: (c.revision, c.key))

    def clock(self) -> Clock:
        """What the beats say about the times of all revisions."""
        with self._lock:
            heard = list(self._changes.values())
        beats = [(c.revision, float(c.value["sent_s"])) for c in heard if c.key == BEAT and c.value]
        return Clock(heard, beats)

    def heard_until(self, at_s: float) -> bool:
        """Whether a beat that was sent after that time has come back: all earlier revisions were heard by then."""
        with self._lock:
            return self._sent_s > at_s

    # -- hearing

    def _follow(self, member: Member) -> None:
        since = 1
        while not self._stopping.is_set():
            try:
                for event in self._events(member, since):
                    since = max(since, self._heard(event, time.time()))
            except (OSError, http.client.HTTPException, ValueError, AttributeError):
                pass  # AttributeError: http.client, when its socket goes while it reads
            self._stopping.wait(RETRY_S)

    def _events(self, member: Member, since: int) -> Iterator[Any]:
        """The gateway's stream: one JSON object a line, each with the events of whole revisions (rpc.proto, Watch)."""
        ask = {"create_request": {"key": _b64("/"), "range_end": _b64("0"), "start_revision": str(since)}}
        connection = http.client.HTTPConnection("127.0.0.1", member.client_port)
        try:
            connection.connect()
            with self._lock:
                self._connections[member.name] = connection.sock
            connection.request("POST", "/v3/watch", json.dumps(ask), {"Content-Type": "application/json"})
            answer = connection.getresponse()
            while line := answer.readline():
                yield from json.loads(line).get("result", {}).get("events", ())
        finally:
            connection.close()

    def _heard(self, event: Any, now_s: float) -> int:
        """Keep one event; returns the revision that a new watch has to begin with."""
        kv = event["kv"]
        key, revision = base64.b64decode(kv["key"]).decode(), int(kv["mod_revision"])
        with self._lock:
            if (revision, key) not in self._changes:
                deleted = event.get("type") == "DELETE"
                value = None if deleted else json.loads(base64.b64decode(kv.get("value", "")) or b"null")
                self._changes[revision, key] = Change(revision, now_s, key, value)
                if key == BEAT and value:
                    self._sent_s = max(self._sent_s, float(value["sent_s"]))
        return revision

    # -- beating

    def _beat(self) -> None:
        while not self._stopping.wait(BEAT_EVERY_S):
            for member in self._etcd.members:
                body = {"key": _b64(BEAT), "value": _b64(json.dumps({"sent_s": time.time()}))}
                connection = http.client.HTTPConnection("127.0.0.1", member.client_port, timeout=0.5)
                try:
                    connection.request("POST", "/v3/kv/put", json.dumps(body))
                    if connection.getresponse().status == 200:
                        break
                except (OSError, http.client.HTTPException):
                    continue
                finally:
                    connection.close()


def _b64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()
