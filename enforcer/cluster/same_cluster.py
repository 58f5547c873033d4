# SPDX-License-Identifier: GPL-2.0-or-later
"""Is this etcd still the one that holds the leases? Remembered on this node's disk, beyond every restart.

One process notices by itself when its endpoints come to lead to another cluster. Two that are restarted do not: an
empty etcd at a mistyped address would say of every lease that it is free, and this node would believe it. So the id
that etcd gives its cluster (``cluster_id`` of ResponseHeader, rpc.proto) is written down with the first answer, and
whatever comes from another one is no answer.

An etcd that was restored from a snapshot, or made anew, has the same id if its members have the same addresses and its
token is the same (computeMemberID() and genID() hash nothing else). But its revision is lower than what was seen of it,
and what it knows of leases is old. So the highest revision is written down too; once a lower one was heard, nothing is
believed any more, for it grows again. Only a restore that jumps ahead (``etcdutl --bump-revision``) cannot be told.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import threading
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from enforcer.cluster.etcd_http import Caller, Json
from enforcer.model.errors import StoreUnavailable

FILE = "etcd-cluster.json"  # in state_dir: name of our cluster -> its Known
SAVE_S = 5.0
LINEARIZABLE = "/kv/"  # other answers tell the revision of the member that gave them, which may lag behind

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Known:
    """What was seen of one etcd cluster."""

    id: str = ""
    revision: int = 0
    set_back: int = 0  # the lower revision that was heard after that one


class SameCluster:
    """A Caller that lets no answer of another etcd cluster through. Daemon and keeper each have one, and one file."""

    def __init__(self, inner: Caller, state_dir: Path, cluster: str) -> None:
        """``cluster``: our name for it in the settings; another name is another cluster, with an id of its own."""
        self._inner, self._path, self._cluster = inner, state_dir / FILE, cluster
        self._known: Known | None = None
        self._saved, self._saved_s = Known(), -SAVE_S  # what stands in the file
        self._saving: asyncio.Task[None] | None = None

    async def call(self, path: str, body: Mapping[str, object], *, budget_s: float, retry: bool = True) -> Json:
        """As EtcdClient.call. Raises StoreUnavailable too if another cluster answers, or one that was set back, or the
        file cannot be read."""
        if self._known is None:
            self._known = self._saved = self._read().get(self._cluster, Known())
        known = self._known  # before it is sent: answers overtake each other
        answer = await self._inner.call(path, body, budget_s=budget_s, retry=retry)
        found, revision = _header(answer)
        if found and known.id and found != known.id:
            raise StoreUnavailable(
                f"this is another etcd cluster ({found}) than the one that holds this node's leases ({known.id})",
                hint=f"put right the endpoints in enforcer.toml; if etcd was made anew or restored, {self._remedy}",
            )
        if not path.startswith(LINEARIZABLE):
            revision = known.revision
        now = self._known
        set_back = now.set_back or (revision if revision < known.revision else 0)
        await self._remember(replace(now, id=found or now.id, revision=max(now.revision, revision), set_back=set_back))
        if set_back:
            raise StoreUnavailable(
                f"the lease store went back in time (revision {set_back} after {now.revision})",
                hint=f"etcd was restored from a copy, or made anew: {self._remedy}",
            )
        return answer

    @property
    def _remedy(self) -> str:
        return (
            f"and nothing guarded is in use on any node: rm {self._path}, then restart enforcer-keeper and enforcerd, "
            "on every node"
        )

    async def close(self) -> None:
        if self._saving is not None:
            await asyncio.wait({self._saving}, timeout=1.0)
        await self._inner.close()

    def _read(self) -> dict[str, Known]:
        try:
            body = json.loads(self._path.read_text())
            return {
                str(name): Known(str(each["id"]), int(each["revision"]), int(each["set_back"]))
                for name, each in body.items()
            }
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise self._unreadable(f"{type(error).__name__}: {error}") from None

    async def _remember(self, now: Known) -> None:
        """Raises StoreUnavailable if it is not written down which cluster this is.

        A revision is written down behind the answer and now and then: nobody waits for this node's own disk.
        """
        before, self._known = self._known, now
        if not now.id or now == self._saved:
            return
        if (now.id, now.set_back) != (self._saved.id, self._saved.set_back):
            try:
                await asyncio.to_thread(self._save, now)
            except OSError as error:
                self._known = now if now.set_back else before  # what was set back stays so, written down or not
                raise self._unreadable(error) from None
        elif self._saving is None and time.monotonic() >= self._saved_s + SAVE_S:
            self._saving = asyncio.create_task(self._save_behind(now))

    async def _save_behind(self, now: Known) -> None:
        try:
            await asyncio.to_thread(self._save, now)
        except (OSError, StoreUnavailable) as error:
            self._saved_s = time.monotonic()
            log.error("what was seen of etcd is not remembered over a restart: %s: %s", self._path, error)
        finally:
            self._saving = None

    def _save(self, now: Known) -> None:
        known = self._read()
        before = known.get(self._cluster, Known())  # daemon and keeper write it both
        if before.id == now.id:
            now = replace(now, revision=max(now.revision, before.revision), set_back=now.set_back or before.set_back)
        draft = self._path.with_suffix(f".{os.getpid()}-{threading.get_ident():x}")
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o750)
            draft.write_text(
                json.dumps({name: asdict(each) for name, each in {**known, self._cluster: now}.items()}) + "\n"
            )
            draft.rename(self._path)
            self._saved, self._saved_s = now, time.monotonic()
        except OSError:
            with contextlib.suppress(OSError):
                draft.unlink(missing_ok=True)
            raise

    def _unreadable(self, why: object) -> StoreUnavailable:
        return StoreUnavailable(
            f"which etcd cluster holds this node's leases is not known: {self._path}: {why}",
            hint=f"if the endpoints are right: rm {self._path}, then restart enforcer-keeper and enforcerd",
        )


def _header(answer: Json) -> tuple[str, int]:
    """(id of the cluster, revision), "" and 0 if it tells none (a keep-alive has its header below ``result``)."""
    result = answer.get("result")
    header = (result if isinstance(result, dict) else answer).get("header")
    if not isinstance(header, dict):
        return "", 0
    found, revision = header.get("cluster_id"), header.get("revision", "0")
    told = isinstance(revision, str) and revision.isascii() and revision.isdigit()
    return found if isinstance(found, str) else "", int(revision) if told else 0
