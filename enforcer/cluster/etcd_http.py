# SPDX-License-Identifier: GPL-2.0-or-later
"""A client for etcd's JSON gateway: HTTP/1.1 on plain asyncio streams, every time-out explicit.

No client from PyPI will do in a root daemon that must deny in time. Of those that install at all, one lacks
TLS and another hides the revision that becomes our token; others lose a watch without a word or go on calling
a lease alive that has expired, and most bring gRPC and protobuf, tens of MiB, into a process that is locked
in memory. The gateway (https://etcd.io/docs/v3.4/dev-guide/api_grpc_gateway/) needs none of it. Its traits:
bytes are base64, int64 are strings, fields that are zero or false are left out.

Four rules follow from how etcd fails:

- A hung server keeps its TCP connections open, so each try has its own short time-out (0.7 s) and the next
  try goes to the next endpoint, all within the budget of the call. A member that was cut off holds a request
  for 7 s.
- A request whose answer was lost may have been carried out. ``retry=False`` sends at most once, so that a
  caller who writes can look before it writes again.
- A cluster without a quorum refuses connections here, hangs there, and never says in its answers to reads what is
  wrong. So the last part of a budget is kept to ask every member whether it knows a leader: whoever is refused a
  mount for it should read "no quorum" and not the last of a dozen socket errors.
- What comes back is a stranger's text. Whatever is not a complete, well-formed answer of a sane size is
  StoreUnavailable: no answer at all, never a crash and never a permit.

Each request in flight has a connection of its own; idle ones are kept and used again.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

from enforcer.cluster.http1 import Connection, Endpoint
from enforcer.model.errors import BadConfiguration, EnforcerError, StoreUnavailable

if TYPE_CHECKING:
    from enforcer.cluster.etcd_tls import Tls  # loads OpenSSL, which the keeper holds only where it speaks TLS

PER_TRY_S = 0.7
MAX_IDLE = 4  # connections kept per endpoint
PAUSE_S = 0.02  # between two tries
LOOK_S = 1.0  # at most, at the end of a budget, to find out why there was no answer
SPARE_S = 1.0  # at most, of a budget, left to the caller: its own time-out must not come before our reason

HEADERS = {"Content-Type": "application/json", "Accept": "application/json"}

# HTTP statuses that no repetition cures.
PERMANENT = frozenset({400, 401, 403, 404, 405, 409, 412, 501})

Json = dict[str, object]


class EtcdRefused(EnforcerError):
    """etcd understood the request and will never fulfil it. ``code`` is the gRPC code, -1 if untold."""

    def __init__(self, message: str, *, status: int, code: int, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.status = status
        self.code = code


class Caller(Protocol):
    """Whatever calls etcd: the client below, or one that logs in first (``etcd_access``)."""

    async def call(self, path: str, body: Mapping[str, object], *, budget_s: float, retry: bool = True) -> Json:
        """See EtcdClient.call."""

    async def close(self) -> None:
        """Drop idle connections."""


class EtcdClient:
    """Calls one etcd cluster through any of its members. Belongs to one event loop.

    ``tls`` is used for https endpoints. We always send ``Accept``: some servers take a request without it for one of
    their own and skip authentication.
    """

    def __init__(
        self,
        endpoints: Sequence[str],
        *,
        per_try_s: float = PER_TRY_S,
        tls: Tls | None = None,
    ) -> None:
        """Raises BadConfiguration for endpoints that are none."""
        self._per_try_s = per_try_s
        self._at = 0
        self._idle: dict[Endpoint, list[Connection]] = {}
        self._epoch = 0
        self.change(endpoints, tls)

    def change(self, endpoints: Sequence[str], tls: Tls | None = None) -> None:
        """Use other endpoints from the next try on; what is under way ends where it began. Raises BadConfiguration."""
        if not endpoints:
            raise BadConfiguration("no etcd endpoint is configured", hint="set [store] endpoints")
        parsed = tuple(Endpoint.parse(url) for url in endpoints)
        if tls is None and any(endpoint.tls for endpoint in parsed):
            raise BadConfiguration("an https endpoint needs a certificate authority", hint="set [store] ca")
        self.endpoints, self._tls = parsed, tls
        self._epoch += 1
        self._drop()

    async def close(self) -> None:
        """Drop idle connections. The client can be used again."""
        self._drop()

    def _drop(self) -> None:
        for connections in self._idle.values():
            for connection in connections:
                connection.abort()
        self._idle.clear()

    async def call(
        self,
        path: str,
        body: Mapping[str, object],
        *,
        budget_s: float,
        retry: bool = True,
        headers: Mapping[str, str] | None = None,
        per_try_s: float = 0.0,
    ) -> Json:
        """POST ``body`` to ``/v3`` + path and return the answer. ``per_try_s`` is for calls that are slow by nature.

        Raises StoreUnavailable, which tells a lost quorum from other silence, if there is none within
        ``budget_s`` seconds (or, with ``retry=False``, as soon as a request that was sent got no usable answer:
        it may have been carried out), EtcdRefused if etcd will never fulfil the request. Where no member gets
        through a TLS handshake it says so at once.
        """
        payload = json.dumps(body, separators=(",", ":")).encode("ascii")
        clock = asyncio.get_running_loop().time
        end = clock() + budget_s
        look_s, spare_s = min(LOOK_S, budget_s / 8), min(SPARE_S, budget_s / 8)
        trouble, tried = "no time was left", False
        untrusted: set[Endpoint] = set()
        per_try_s = per_try_s or self._per_try_s
        headers = {**HEADERS, **(headers or {})}
        while (left := end - look_s - spare_s - clock()) > 0:
            endpoint = self.endpoints[self._at % len(self.endpoints)]
            connection: Connection | None = None
            try:
                async with asyncio.timeout(min(per_try_s, left)):
                    connection = await self._connect(endpoint)
                    status, raw = await connection.post("/v3" + path, payload, headers)
                answer = _parse(raw, status)
                if answer is not None:
                    self._keep(connection)
                    connection = None
                    return answer
                trouble = f"{endpoint}: {_message(raw)[1] or f'HTTP status {status}'}"
            except TimeoutError:
                if left >= per_try_s or not tried:  # what is left at the end is too short to say anything
                    trouble = f"{endpoint}: no answer within {min(per_try_s, left):.1f} s"
            except (OSError, EOFError, ValueError, RecursionError) as error:
                trouble = f"{endpoint}: {error or type(error).__name__}"
                if (why := self._tls.explain(error) if self._tls is not None else None) is not None:
                    trouble = f"{endpoint}: {why[0]}"
                    if connection is None or not connection.answered:
                        untrusted.add(endpoint)
                    if untrusted.issuperset(self.endpoints):
                        raise StoreUnavailable(f"the lease store cannot be used: {trouble}", hint=why[1]) from None
            except EtcdRefused:
                if connection is not None:
                    self._keep(connection)
                    connection = None
                raise
            finally:
                sent = connection is not None
                if connection is not None:
                    connection.abort()
            if self.endpoints[self._at % len(self.endpoints)] is endpoint:
                self._at += 1
            if sent and not retry:
                break
            tried = True
            await asyncio.sleep(min(PAUSE_S, max(0.0, left)))
        raise StoreUnavailable(
            f"the lease store did not answer: {await self._why(trouble, look_s)}", hint="enforcer doctor"
        )

    async def _why(self, trouble: str, within_s: float) -> str:
        """The reason for a silence, from what each member says of itself; ``trouble`` is that of the last try."""
        known = await asyncio.gather(*(self._knows_leader(endpoint, within_s) for endpoint in self.endpoints))
        answering = [knows for knows in known if knows is not None]
        if not answering:
            return f"it is out of reach ({len(known)} tried, the last one: {trouble})"
        if any(answering):
            return trouble
        verb = "answers and knows" if len(answering) == 1 else "answer and know"
        return f"it has no quorum now ({len(answering)} of {len(known)} members {verb} no leader)"

    async def _knows_leader(self, endpoint: Endpoint, within_s: float) -> bool | None:
        """Whether a member knows a leader; True as well if it will not say, None if it does not answer.

        ``leader`` is left out of the answer if it is zero, raft's word for none (StatusResponse, rpc.proto). The
        member answers for itself, so this takes a millisecond even without a quorum.
        """
        connection: Connection | None = None
        try:
            async with asyncio.timeout(within_s):
                connection = await self._connect(endpoint)
                status, raw = await connection.post("/v3/maintenance/status", b"{}", HEADERS)
            answer = _parse(raw, status)
            return answer is None or answer.get("leader", "0") not in ("0", 0)
        except EtcdRefused:
            return True
        except (TimeoutError, OSError, EOFError, ValueError, RecursionError, StoreUnavailable):
            return None
        finally:
            if connection is not None:
                connection.abort()

    async def _connect(self, endpoint: Endpoint) -> Connection:
        tls = self._tls if endpoint.tls else None
        context = await tls.context() if tls is not None else None
        epoch = self._now()
        idle = self._idle.get(endpoint, [])
        while idle:
            connection = idle.pop()
            if not connection.dead and connection.epoch == epoch:
                return connection
            connection.abort()
        name = tls.files.server_name if tls is not None else ""
        return await Connection.open(endpoint, epoch, context, name or endpoint.host)

    def _now(self) -> object:
        """A connection of another time was made to other endpoints, or under other certificates."""
        return self._epoch, self._tls.generation if self._tls is not None else 0

    def _keep(self, connection: Connection) -> None:
        idle = self._idle.setdefault(connection.endpoint, [])
        if connection.reusable and len(idle) < MAX_IDLE and connection.epoch == self._now():
            idle.append(connection)
        else:
            connection.abort()


def _parse(raw: bytes, status: int) -> Json | None:
    """The answer; None for an error that may pass. Raises EtcdRefused for one that will not, ValueError."""
    if status == 200:
        answer = json.loads(raw)
        if not isinstance(answer, dict):
            raise ValueError("the answer is no JSON object")
        if "error" not in answer:
            return answer
        inner = answer["error"]
        told = inner.get("http_code") if isinstance(inner, dict) else None  # the form of errors in streams
        status = told if isinstance(told, int) else 500
    if status in PERMANENT:
        code, message = _message(raw)
        raise EtcdRefused(f"etcd refused: {message or status}", status=status, code=code)
    return None


def _message(raw: bytes) -> tuple[int, str]:
    """gRPC code and text of an error answer, which may be JSON of two shapes or plain text."""
    code: object = -1
    text: object = raw[:300].decode("utf-8", "replace")
    with contextlib.suppress(ValueError, RecursionError):
        body = json.loads(raw)
        inner = body.get("error") if isinstance(body, dict) else None
        if isinstance(inner, dict):
            code, text = inner.get("grpc_code", -1), inner.get("message", text)
        elif isinstance(body, dict):
            code, text = body.get("code", -1), inner or body.get("message", text)
    printable = "".join(c if c.isprintable() else " " for c in str(text)[:300]).strip()
    return (code if isinstance(code, int) else -1), printable
