# SPDX-License-Identifier: GPL-2.0-or-later
"""The highest token ever seen, by LUN, in a file that outlives the daemon and the boot.

An external store may be restored from a backup or made anew. Its tokens then begin again below those that storage
and nodes know already, and a holder of one of them is nobody's exclusive holder. So what was seen is put on disk
before a grant is told to anybody, and a store that falls behind it is not believed: not
until it has caught up by counting on, but until somebody who knows what happened removes the file.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Mapping
from pathlib import Path

from enforcer.model.errors import StoreUnavailable

VERSION = 1


class HighestTokens:
    """One file. Not for two processes; only one enforcerd runs."""

    def __init__(self, path: Path, cluster: str) -> None:
        self.path = path
        self.known: Mapping[str, int] = {}  # replaced, never changed: who holds it has what was known then
        self.set_back = ""  # the sentence that told that the store has forgotten grants
        self._cluster = cluster
        self._saved: tuple[Mapping[str, int], str] = ({}, "")
        self._saving = asyncio.Lock()

    def load(self) -> None:
        """Raises StoreUnavailable for a file that is there and cannot be used: nothing is forgotten silently."""
        try:
            body = json.loads(self.path.read_bytes())
            if body["version"] != VERSION:
                raise ValueError(f"version {body['version']}")
            same = body["cluster"] == self._cluster  # tokens of another cluster say nothing
            known, set_back = (body["highest"], body["set_back"]) if same else ({}, "")
            if not isinstance(set_back, str) or not all(type(token) is int and token > 0 for token in known.values()):
                raise ValueError("a token that is none")
        except FileNotFoundError:
            known, set_back = {}, ""
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise StoreUnavailable(
                f"the highest tokens seen, {self.path}, cannot be read: {error}", hint=self.remedy
            ) from None
        self.known, self.set_back = self._saved = known, set_back

    @property
    def remedy(self) -> str:
        """For an administrator who knows that the tokens did begin anew."""
        return f"end all guarded uses of this node, rm {self.path}, restart enforcerd"

    async def raise_to(self, seen: Mapping[str, int]) -> None:
        """Remember what is higher than before; returns when it is on disk. Raises StoreUnavailable."""
        higher = {lun: token for lun, token in seen.items() if token > self.known.get(lun, 0)}
        if higher:
            self.known = {**self.known, **higher}
        async with self._saving:
            now = (self.known, self.set_back)
            if now == self._saved:
                return
            try:
                await asyncio.to_thread(self._save, *now)
            except OSError as error:
                what = f"the highest tokens seen cannot be written to {self.path}: {error.strerror}"
                raise StoreUnavailable(
                    what, hint="free space on its filesystem, or check that root may write"
                ) from None
            self._saved = now

    async def distrust(self, sentence: str) -> None:
        """The store has forgotten grants: it is not believed any more. Raises StoreUnavailable."""
        self.set_back = self.set_back or sentence
        await self.raise_to({})

    def _save(self, known: Mapping[str, int], set_back: str) -> None:
        about = {"version": VERSION, "cluster": self._cluster, "set_back": set_back}
        body = json.dumps({**about, "highest": known}, sort_keys=True)
        draft = self.path.with_name(self.path.name + ".new")
        flags = os.O_CREAT | os.O_WRONLY | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
        with open(os.open(draft, flags, 0o600), "w") as file:
            file.write(body + "\n")
            file.flush()
            os.fsync(file.fileno())
        draft.rename(self.path)
        directory = os.open(self.path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
