# SPDX-License-Identifier: GPL-2.0-or-later
"""One intent in one sentence: for the caller's terminal, for the journal, for ``explain``."""

from __future__ import annotations

import re
from datetime import datetime, tzinfo
from typing import Final

from enforcer.audit.view import HolderView, Record, parse_time
from enforcer.model.escape import for_terminal
from enforcer.model.intent import Effect
from enforcer.model.lease import Liveness

_UTC: Final = re.compile(r"\b\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?Z")
LIMIT: Final = 480  # of the sentence without its event id, so that neither is ever lost to the other

_DONE = {
    "mount": "mounted",
    "swap": "used as swap",
    "write-open": "opened",
    "dm-load": "mapped",
    "loop": "set up as a loop device",
    "umount": "unmounted",
}


def sentence(record: Record, zone: tzinfo | None = None) -> str:
    """``/dev/sdb1 is in use on node-1 since 12:03; not mounted (EBUSY)``, without a full stop."""
    if not record.effect:
        return for_terminal(record.reason or record.kind, LIMIT)
    done = _DONE.get(record.kind, "done")
    name = for_terminal(record.device_name or "the device", 160)
    if record.effect == Effect.PERMIT:
        return f"{name} {done}"
    cause = clause(record, zone)
    if record.device_name not in cause:
        cause = f"{name} {cause}" if record.holder else f"{name}: {cause}"
    ending = f"not {done} ({record.errno_name})" if record.errno_name else f"not {done}"
    if record.effect == Effect.WOULD_REFUSE:
        ending = f"would not be {done} if its rule were enforced"
    return f"{for_terminal(cause, LIMIT - 80)}; {ending}"


def clause(record: Record, zone: tzinfo | None = None) -> str:
    """Why, in a few words: the holder if there is one, else the reason as daemon or rule gave it."""
    name = record.device_name
    if record.holder is None or (name and name in record.reason):
        return in_zone(record.reason, zone) or "no reason was recorded"
    holder = record.holder
    if holder.liveness in (Liveness.STRANDED, Liveness.PREEMPTIBLE):
        return f"is held by {holder.node}, which is silent but not proven dead"
    if holder.liveness in (Liveness.FENCED, Liveness.REBOOTED, Liveness.SILENT):
        return f"is still held by {holder.node}, which is {holder.liveness}"
    return f"is in use on {holder.node}{since(holder, record, zone)}"


def since(holder: HolderView, record: Record, zone: tzinfo | None = None) -> str:
    """`` since 12:03``, with the day if it was not the day of the record."""
    began = local(parse_time(holder.since), zone)
    if began is None:
        return ""
    now = local(record.when, zone)
    same_day = now is not None and began.date() == now.date()
    return f" since {began:%H:%M}" if same_day else f" since {began:%Y-%m-%d %H:%M}"


def in_zone(text: str, zone: tzinfo | None = None) -> str:
    """Times that a rule's message or the store wrote in UTC, as the reader's own: one text, one time zone."""

    def told(found: re.Match[str]) -> str:
        at = local(parse_time(found[0]), zone)
        return f"{at:%Y-%m-%d %H:%M:%S}" if at else found[0]

    return _UTC.sub(told, text)


def local(at: datetime | None, zone: tzinfo | None = None) -> datetime | None:
    """In the reader's time zone; None for what no calendar holds."""
    try:
        return at.astimezone(zone) if at else None
    except (OverflowError, ValueError, OSError):
        return None
