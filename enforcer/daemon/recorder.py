# SPDX-License-Identifier: GPL-2.0-or-later
"""From a verdict to its one record, and to the one line on the refused caller's terminal.

The log has its own thread, the build id another, the terminal a third: only the last may keep a refused caller, and
only for a moment, because it could not be told any more once it has gone on.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from enforcer.audit import record as audit_record
from enforcer.audit import tell
from enforcer.audit.buildid import BuildIds, Pending
from enforcer.audit.journal import Journal
from enforcer.audit.view import Record
from enforcer.audit.writer import AuditLog
from enforcer.model.intent import Effect, Intent, Verdict

log = logging.getLogger(__name__)


class Recorder:
    """Owns the audit log of this node."""

    def __init__(self, path: Path, origin: audit_record.Origin, group: int | None) -> None:
        self._origin = origin
        self.log = AuditLog(path, origin, group=group, journal=Journal())
        self._builds = BuildIds()
        self._teller = ThreadPoolExecutor(max_workers=2, thread_name_prefix="tell")

    def noticed(self, tid: int) -> Pending:
        """Begin to read the build id of a caller that waits."""
        return self._builds.request(tid)

    def verdict(self, intent: Intent, verdict: Verdict, began: int = 0, extra: object = None) -> Future[bool] | None:
        """Write the record; tell the caller, which began ``began`` ticks after boot, if it was refused.

        The future is done when the caller has been told.
        """
        entry = audit_record.build(self._origin, intent, verdict)
        told = None
        if verdict.effect is Effect.REFUSE and began:
            told = self._teller.submit(tell.tell, intent.caller.tid, began, tell.line(Record.of(entry)))
        self.log.submit(entry, extra if isinstance(extra, Pending) else None)
        return told

    def notice(self, kind: str, reason: str, facts: Mapping[str, object] | None = None) -> None:
        """A record that is no intent: start, stop, adoption, an alarm."""
        self.log.submit(audit_record.notice(self._origin, kind, reason, facts))

    def close(self) -> None:
        """Write what is queued and end."""
        self._teller.shutdown(wait=False, cancel_futures=True)
        self._builds.close()
        if not self.log.close():
            log.error("the audit log could not be written to its end")
