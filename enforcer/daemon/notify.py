# SPDX-License-Identifier: GPL-2.0-or-later
"""sd_notify(3): the protocol is guaranteed to stay, so the few lines are here and no library is needed."""

from __future__ import annotations

import contextlib
import os
import socket


def notify(state: str) -> None:
    """Send ``READY=1``, ``STATUS=...`` and the like to the service manager, if there is one."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return
    with (
        contextlib.suppress(OSError),
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as out,
    ):
        out.connect("\0" + address[1:] if address.startswith("@") else address)
        out.sendall(state.encode())
