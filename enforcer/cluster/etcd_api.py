# SPDX-License-Identifier: GPL-2.0-or-later
"""The few words of etcd's v3 API that we use, typed: transactions, ranges, TTL leases.

Message and field names are those of etcd's ``rpc.proto`` (api/etcdserverpb, 3.4 and later) in their JSON
mapping. All reads are linearizable: this module cannot ask for a serializable one, because that answers from
a member that was cut off long ago and shows leases that are over.

Revisions never go back within one etcd cluster. If they do, somebody restored a backup or the endpoints
belong to different clusters; tokens would fall, so that is no answer (StoreUnavailable).
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from enforcer.cluster.etcd_http import Caller, EtcdRefused, Json
from enforcer.model.errors import LeaseLost, StoreUnavailable

GRPC_NOT_FOUND = 5


@dataclass(frozen=True, slots=True)
class KeyValue:
    key: str
    value: bytes
    create_revision: int
    mod_revision: int
    lease: int  # id of the TTL lease it hangs on, 0 for none


@dataclass(frozen=True, slots=True)
class TxnAnswer:
    """``ranges`` holds one tuple of pairs for each operation that was a read, in order."""

    succeeded: bool
    revision: int
    ranges: tuple[tuple[KeyValue, ...], ...]


def get(key: str) -> Json:
    return {"request_range": {"key": _b64(key)}}


def get_prefix(prefix: str) -> Json:
    return {"request_range": {"key": _b64(prefix), "range_end": _b64(_prefix_end(prefix))}}


def put(key: str, value: bytes, *, lease: int = 0) -> Json:
    return {"request_put": {"key": _b64(key), "value": _b64(value), "lease": str(lease)}}


def delete(key: str) -> Json:
    return {"request_delete_range": {"key": _b64(key)}}


def if_created_at(key: str, revision: int) -> Json:
    """The key is still the one that was created at this revision; 0 means that there is none."""
    return {"key": _b64(key), "target": "CREATE", "result": "EQUAL", "create_revision": str(revision)}


def if_modified_at(key: str, revision: int) -> Json:
    """The key was last written at this revision; 0 means that there is none."""
    return {"key": _b64(key), "target": "MOD", "result": "EQUAL", "mod_revision": str(revision)}


def if_unwritten_since(prefix: str, revision: int) -> Json:
    """Nothing was put below ``prefix`` after ``revision``. True of an empty range; deletions go unnoticed."""
    return {
        "key": _b64(prefix),
        "range_end": _b64(_prefix_end(prefix)),
        "target": "MOD",
        "result": "LESS",
        "mod_revision": str(revision + 1),
    }


class Etcd:
    """Typed calls. All raise StoreUnavailable for a missing or malformed answer, EtcdRefused."""

    def __init__(self, client: Caller) -> None:
        self.client = client
        self._highest = 0
        self._cluster_id: object = None

    async def read(self, ops: Sequence[Json], *, budget_s: float) -> TxnAnswer:
        """All ranges at one revision: a transaction that only reads is one linearizable snapshot."""
        answer = await self._txn([], ops, budget_s=budget_s, retry=True)
        if not answer.succeeded:
            raise _nonsense("txn")  # it compared nothing
        return answer

    async def write(self, compares: Sequence[Json], ops: Sequence[Json], *, budget_s: float) -> TxnAnswer:
        """Compare and write, sent at most once: after StoreUnavailable it may or may not have happened."""
        return await self._txn(compares, ops, budget_s=budget_s, retry=False)

    async def _txn(self, compares: Sequence[Json], ops: Sequence[Json], *, budget_s: float, retry: bool) -> TxnAnswer:
        floor = self._highest  # as known when the request is sent: answers may overtake each other
        body: Json = {"compare": list(compares), "success": list(ops)}
        answer = await self.client.call("/kv/txn", body, budget_s=budget_s, retry=retry)
        header = _object(answer, "header")
        self._check_cluster(header)
        revision = _int(header, "revision")
        if revision < max(1, floor):
            raise StoreUnavailable(
                f"the lease store went back in time (revision {revision} after {floor})",
                hint="a restored backup; restart enforcerd once settled",
            )
        self._cluster_id = header.get("cluster_id")
        self._highest = max(self._highest, revision)
        succeeded = answer.get("succeeded", False)
        responses = answer.get("responses", [])
        if not isinstance(succeeded, bool) or not isinstance(responses, list):
            raise _nonsense("txn")
        if len(responses) != (len(ops) if succeeded else 0):
            raise _nonsense("txn.responses")
        ranges = [_pairs(response) for op, response in zip(ops, responses, strict=False) if "request_range" in op]
        return TxnAnswer(succeeded, revision, tuple(ranges))

    def _check_cluster(self, header: Mapping[str, object]) -> None:
        """What another cluster says of our leases, that it knows none, must not be believed."""
        if self._cluster_id is not None and header.get("cluster_id") != self._cluster_id:
            raise StoreUnavailable(
                "the lease store is another one than before",
                hint="endpoints of enforcer.toml must lead to the etcd cluster that holds the leases",
            )

    async def lease_grant(self, ttl_s: int, *, budget_s: float) -> tuple[int, int]:
        """A new TTL lease: its id and the seconds that etcd really grants (it has a minimum)."""
        answer = await self.client.call("/lease/grant", {"TTL": str(ttl_s)}, budget_s=budget_s)
        lease, ttl = _int(answer, "ID"), _int(answer, "TTL")
        if lease == 0 or ttl <= 0:
            raise _nonsense("lease.grant")
        return lease, ttl

    async def lease_keepalive(self, lease: int, *, budget_s: float) -> int:
        """Renew; the seconds that it now lives. Raises LeaseLost if it is over (etcd then leaves TTL out)."""
        answer = await self.client.call("/lease/keepalive", {"ID": str(lease)}, budget_s=budget_s)
        result = _object(answer, "result")
        self._check_cluster(_object(result, "header"))
        if _int(result, "ID") != lease:
            raise _nonsense("lease.keepalive")
        ttl = _int(result, "TTL")
        if ttl <= 0:
            raise LeaseLost("the node's session in the lease store has expired")
        return ttl

    async def lease_granted_ttl(self, lease: int, *, budget_s: float) -> int:
        """The seconds for which the lease is granted each time, 0 if it is over."""
        answer = await self.client.call("/lease/timetolive", {"ID": str(lease)}, budget_s=budget_s)
        return _int(answer, "grantedTTL")  # not told of a lease that is over; TTL is 0 in its last second

    async def lease_revoke(self, lease: int, *, budget_s: float) -> None:
        """End the lease and all keys on it. No error if it is over already."""
        try:
            await self.client.call("/lease/revoke", {"ID": str(lease)}, budget_s=budget_s)
        except EtcdRefused as error:
            if error.code != GRPC_NOT_FOUND:
                raise


def _b64(text: str | bytes) -> str:
    raw = text.encode("utf-8", "surrogateescape") if isinstance(text, str) else text
    return base64.b64encode(raw).decode("ascii")


def _prefix_end(prefix: str) -> str:
    """The first key after all that begin with ``prefix``, which ends in an ASCII character."""
    return prefix[:-1] + chr(ord(prefix[-1]) + 1)


def _nonsense(what: str) -> StoreUnavailable:
    return StoreUnavailable(f"the lease store did not answer: malformed {what}", hint="enforcer doctor")


def _object(container: Mapping[str, object], name: str) -> Mapping[str, object]:
    value = container.get(name)
    if not isinstance(value, dict):
        raise _nonsense(name)
    return value


def _int(container: Mapping[str, object], name: str) -> int:
    """An int64: a string of digits, sometimes a number, left out if zero."""
    value = container.get(name, 0)
    if isinstance(value, str) and len(value) <= 20 and value.removeprefix("-").isdecimal():
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool) or not -(1 << 63) <= value < 1 << 63:
        raise _nonsense(name)
    return value


def _bytes(container: Mapping[str, object], name: str) -> bytes:
    value = container.get(name, "")
    try:
        if isinstance(value, str):
            return base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError):
        pass
    raise _nonsense(name)


def _pairs(response: object) -> tuple[KeyValue, ...]:
    if not isinstance(response, dict):
        raise _nonsense("response")
    found = _object(response, "response_range")
    kvs = found.get("kvs", [])
    if not isinstance(kvs, list) or _int(found, "count") != len(kvs):
        raise _nonsense("response_range")
    return tuple(_pair(kv) for kv in kvs)


def _pair(kv: object) -> KeyValue:
    if not isinstance(kv, dict):
        raise _nonsense("kvs")
    pair = KeyValue(
        key=_bytes(kv, "key").decode("utf-8", "surrogateescape"),
        value=_bytes(kv, "value"),
        create_revision=_int(kv, "create_revision"),
        mod_revision=_int(kv, "mod_revision"),
        lease=_int(kv, "lease"),
    )
    if not pair.key or not 0 < pair.create_revision <= pair.mod_revision:
        raise _nonsense("kvs")
    return pair
