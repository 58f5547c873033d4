# SPDX-License-Identifier: GPL-2.0-or-later
"""Points in time as people type them (``--since``): ``2h``, ``12:00``, ``yesterday``, a date."""

from __future__ import annotations

import re
from datetime import datetime, timedelta

from enforcer.model.errors import UsageError

_UNITS = {"s": 1, "sec": 1, "m": 60, "min": 60, "h": 3600, "hour": 3600, "d": 86400, "day": 86400}
_AGO = re.compile(r"-?(\d{1,6}) ?([a-z]+?)s?(?: ago)?")
_CLOCK = re.compile(r"([01]?\d|2[0-3]):([0-5]\d)(?::([0-5]\d))?")


def since(text: str, now: datetime) -> datetime:
    """The moment that ``text`` means, seen from ``now`` (aware). Raises UsageError."""
    words = text.strip().lower()
    midnight = now.replace(hour=0, minute=0, second=0, microsecond=0)
    if words in ("today", "yesterday"):
        return midnight - timedelta(days=words == "yesterday")
    if ago := _AGO.fullmatch(words):
        unit = ago[2] if ago[2] in _UNITS else ago[2] + "s"
        if unit in _UNITS:
            return now - timedelta(seconds=int(ago[1]) * _UNITS[unit])
    if clock := _CLOCK.fullmatch(words):
        at = midnight.replace(hour=int(clock[1]), minute=int(clock[2]), second=int(clock[3] or 0))
        return at if at <= now else at - timedelta(days=1)
    try:
        at = datetime.fromisoformat(text.strip())
    except ValueError:
        raise UsageError(
            f"--since {text!r} is no time", hint="2h, 30min, 12:00, today, yesterday, 2026-11-22 12:00"
        ) from None
    return at if at.tzinfo else at.replace(tzinfo=now.tzinfo)
