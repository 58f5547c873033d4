# SPDX-License-Identifier: GPL-2.0-or-later
"""Is this etcd still the one that holds the leases? Remembered on this node's disk, beyond every restart.

One process notices by itself when its endpoints come to lead to another cluster. Two that are restarted do not: an
empty etcd at a mistyped address would say of every lease that it is free, and this node would believe it. So the id
that etcd gives its cluster (``cluster_id`` of ResponseHeader, rpc.proto) is written down with the first answer, and
whatever comes from another one is no answer. A cluster restored from a snapshot has a new id, too, and rightly so: what
it knows of leases is old.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Mapping
from pathlib import Path

from enforcer.cluster.etcd_http import Caller, Json
from enforcer.model.errors import StoreUnavailable

FILE = "etcd-cluster.json"  # in state_dir: name of our cluster -> id of etcd's


class SameCluster:
    """A Caller that lets no answer of another etcd cluster through. Daemon and keeper each have one, and one file."""

    def __init__(self, inner: Caller, state_dir: Path, cluster: str) -> None:
        """``cluster``: our name for it in the settings; another name is another cluster, with an id of its own."""
        self._inner, self._path, self._cluster = inner, state_dir / FILE, cluster
        self._known = ""

    async def call(self, path: str, body: Mapping[str, object], *, budget_s: float, retry: bool = True) -> Json:
        """As EtcdClient.call. Raises StoreUnavailable too if another cluster answers, or the file cannot be read."""
        known = self._known or self._read().get(self._cluster, "")
        answer = await self._inner.call(path, body, budget_s=budget_s, retry=retry)
        found = _id(answer)
        if found and known and found != known:
            raise StoreUnavailable(
                f"this is another etcd cluster ({found}) than the one that holds this node's leases ({known})",
                hint="put right the endpoints in enforcer.toml; if etcd was made anew or restored, and nothing guarded "
                f"is in use on any node: rm {self._path}, then restart enforcer-keeper and enforcerd, on every node",
            )
        if found and not known:
            self._remember(found)
        self._known = known or found
        return answer

    async def close(self) -> None:
        await self._inner.close()

    def _read(self) -> dict[str, str]:
        try:
            known = json.loads(self._path.read_text())
        except FileNotFoundError:
            return {}
        except (OSError, ValueError) as error:
            raise self._unreadable(error) from None
        if not isinstance(known, dict) or not all(isinstance(value, str) and value for value in known.values()):
            raise self._unreadable("it is damaged")
        return known

    def _remember(self, found: str) -> None:
        known = {**self._read(), self._cluster: found}
        draft = self._path.with_suffix(f".{os.getpid()}-{id(self):x}")  # daemon and keeper may write the same at once
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o750)
            draft.write_text(json.dumps(known) + "\n")
            draft.rename(self._path)
        except OSError as error:
            with contextlib.suppress(OSError):
                draft.unlink(missing_ok=True)
            raise self._unreadable(error) from None

    def _unreadable(self, why: object) -> StoreUnavailable:
        return StoreUnavailable(
            f"which etcd cluster holds this node's leases is not known: {self._path}: {why}",
            hint=f"if the endpoints are right: rm {self._path}, then restart enforcer-keeper and enforcerd",
        )


def _id(answer: Json) -> str:
    """The cluster's id in an answer, "" if it tells none (a keep-alive has its header below ``result``)."""
    result = answer.get("result")
    header = (result if isinstance(result, dict) else answer).get("header")
    found = header.get("cluster_id") if isinstance(header, dict) else None
    return found if isinstance(found, str) else ""
