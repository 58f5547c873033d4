# SPDX-License-Identifier: GPL-2.0-or-later
"""A second place for refusals: one datagram to the journal, in its native protocol.

An administrator who sees "Device or resource busy" looks into the journal first. The datagram also carries
the hash of the log's line, so that a log which was rewritten as a whole no longer agrees with the journal.
A journal that is absent or slow is counted, never waited for.
"""

from __future__ import annotations

import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from enforcer.audit.view import Record
from enforcer.model.escape import for_terminal
from enforcer.model.intent import Effect

SOCKET: Final = Path("/run/systemd/journal/socket")

# One constant per type of event, for journalctl MESSAGE_ID=... and for the message catalogue.
REFUSED: Final = "6b4513e701654bf0ae8850464d30a649"
WOULD_REFUSE: Final = "f3110ad675494155adfbe4f872ec2b18"
LOST: Final = "2730be160b0742b8b70b3cd82c87cc92"
NOTICE: Final = "b6bd88a44d7c4db78f37e9be54cf1038"

_WARNING, _NOTICE, _INFO = "4", "5", "6"
_FIELD_LIMIT = 1024


def fields(record: Record, message: str, line_digest: str = "") -> dict[str, str]:
    """The journal's fields of a record; empty for a permit, which is not news."""
    if record.effect == Effect.PERMIT:
        return {}
    if record.effect == Effect.REFUSE:
        event, priority = REFUSED, _WARNING
    elif record.effect == Effect.WOULD_REFUSE:
        event, priority = WOULD_REFUSE, _NOTICE
    elif record.kind == "gap":
        event, priority = LOST, _WARNING
    else:
        event, priority = NOTICE, _INFO
    holder = record.holder
    device = record.device
    found = {
        "MESSAGE": message,
        "MESSAGE_ID": event,
        "PRIORITY": priority,
        "SYSLOG_IDENTIFIER": "enforcerd",
        "OBJECT_PID": str(record.caller.pid or ""),  # the journal adds what it knows of that process
        "ENFORCER_EVENT": record.id,
        "ENFORCER_EFFECT": record.effect,
        "ENFORCER_KIND": record.kind,
        "ENFORCER_ERRNO": record.errno_name,
        "ENFORCER_REASON": record.reason,
        "ENFORCER_RULE": record.rule,
        "ENFORCER_DEVICE": device.name or device.dev if device else "",
        "ENFORCER_RESOURCE": device.resources[0] if device and device.resources else "",
        "ENFORCER_HOLDER": holder.node if holder else "",
        "ENFORCER_TOKEN": str(record.token or ""),
        "ENFORCER_COMM": record.caller.comm,
        "ENFORCER_LINE_SHA256": line_digest,
    }
    return {key: value for key, value in found.items() if value}


def encode(entry: Mapping[str, str]) -> bytes:
    """The native protocol. Values are escaped to one line each, so its binary form is never needed."""
    lines = (f"{key}={for_terminal(value, _FIELD_LIMIT)}\n" for key, value in entry.items())
    return "".join(lines).encode("utf-8")


class Journal:
    """A socket to the journal; never blocks, never raises."""

    def __init__(self, path: Path = SOCKET) -> None:
        self._path = str(path)
        self._socket: socket.socket | None = None
        self.sent = 0
        self.lost = 0

    def send(self, entry: Mapping[str, str]) -> None:
        """Send one entry, or count it as lost."""
        if not entry:
            return
        try:
            if self._socket is None:
                self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
                self._socket.setblocking(False)
            self._socket.sendto(encode(entry), self._path)
        except OSError:
            self.lost += 1
        else:
            self.sent += 1

    def close(self) -> None:
        """Let go of the socket."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None
