# SPDX-License-Identifier: GPL-2.0-or-later
"""The client's end of the daemon's control socket: one JSON object a line, one reply to one request.

Whoever may connect may read; what has an effect is decided by the daemon, which knows the peer's credentials.
The client only turns failures into one sentence and one thing to type.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from enforcer.audit.loose import mapping, number, text
from enforcer.model.errors import EnforcerError, Exit, NotRunning, PermissionRefused
from enforcer.model.escape import to_json

SOCKET: Final = Path("/run/enforcer/control.sock")
SCHEMA: Final = 1
_LOOK: Final = "systemctl status enforcerd; journalctl -u enforcerd -n 50"
_MOST = 64 * 1024 * 1024


class Refused(EnforcerError):
    """The daemon answered, and its answer is no. Its own exit code is ours."""

    def __init__(self, message: str, hint: str, code: int) -> None:
        super().__init__(message, hint=hint)
        self.exit_code = Exit(code) if code in {int(known) for known in Exit} else Exit.FAILURE


class Client:
    """Asks the daemon. Every call is a connection of its own."""

    def __init__(self, path: Path = SOCKET, *, timeout: float = 10.0) -> None:
        self._path = path
        self._timeout = timeout

    def ask(self, verb: str, fields: Mapping[str, object] | None = None) -> Mapping[str, object]:
        """The ``data`` of the reply. Raises NotRunning, PermissionRefused or Refused."""
        for reply in self._talk(verb, fields or {}, self._timeout):
            return mapping(_accepted(reply), "data")
        raise NotRunning("enforcerd closed the connection without an answer", hint=_LOOK)

    def follow(self, fields: Mapping[str, object] | None = None) -> Iterator[Mapping[str, object]]:
        """Records as they happen, until the daemon stops."""
        for reply in self._talk("follow", fields or {}, None):
            if "ok" not in reply:
                yield reply
            elif "data" in _accepted(reply):
                yield mapping(reply, "data")

    def _talk(self, verb: str, fields: Mapping[str, object], timeout: float | None) -> Iterator[Mapping[str, object]]:
        request = to_json({"schema": SCHEMA, "verb": verb, **fields}) + "\n"
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as connection:
                connection.settimeout(self._timeout)
                connection.connect(str(self._path))
                connection.sendall(request.encode("ascii"))
                connection.settimeout(timeout)
                with connection.makefile("rb") as replies:
                    while line := replies.readline(_MOST):
                        yield _parsed(line)
        except (FileNotFoundError, ConnectionRefusedError) as error:
            raise NotRunning(
                f"enforcerd is not running: nobody listens at {self._path}", hint="systemctl start enforcerd"
            ) from error
        except PermissionError as error:
            raise PermissionRefused(
                f"you may not ask the daemon at {self._path}",
                hint="become root, or join the group that may read (enforcer)",
            ) from error
        except TimeoutError as error:
            raise NotRunning(
                f"enforcerd did not answer within {self._timeout:g} s",
                hint=_LOOK,
            ) from error
        except ConnectionError as error:
            raise NotRunning("enforcerd closed the connection", hint=_LOOK) from error
        except OSError as error:
            raise EnforcerError(f"{self._path}: {error.strerror or error}") from error


def _parsed(line: bytes) -> Mapping[str, object]:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise EnforcerError(
            "the daemon's answer is not understood", hint="are enforcer and enforcerd of the same version?"
        )
    return value


def _accepted(reply: Mapping[str, object]) -> Mapping[str, object]:
    if reply.get("ok") is True:
        return reply
    sentence = text(reply, "error", 1024) or "the daemon refused, and did not say why"
    raise Refused(sentence, text(reply, "hint", 1024), number(reply, "exit") or int(Exit.FAILURE))
