# SPDX-License-Identifier: GPL-2.0-or-later
"""Read JSON that another version, or somebody else, wrote: a missing or mistyped value is an empty one.

Every string comes out escaped, so that what was read this way may be shown.
"""

from __future__ import annotations

from collections.abc import Mapping

from enforcer.model.escape import NAME_LIMIT, for_terminal


def text(raw: Mapping[str, object], key: str, limit: int = NAME_LIMIT) -> str:
    """A string, escaped; empty for anything else."""
    value = raw.get(key)
    return for_terminal(value, limit) if isinstance(value, str) else ""


def number(raw: Mapping[str, object], key: str) -> int:
    """A whole number; 0 for anything else."""
    value = raw.get(key)
    return value if isinstance(value, int) and not isinstance(value, bool) else 0


def mapping(raw: Mapping[str, object], key: str) -> Mapping[str, object]:
    """An object; an empty one for anything else."""
    value = raw.get(key)
    return {str(k): v for k, v in value.items()} if isinstance(value, dict) else {}


def texts(raw: Mapping[str, object], key: str) -> tuple[str, ...]:
    """The strings of an array, escaped."""
    value = raw.get(key)
    return tuple(for_terminal(v) for v in value if isinstance(v, str)) if isinstance(value, list) else ()


def mappings(raw: Mapping[str, object], key: str) -> tuple[Mapping[str, object], ...]:
    """The objects of an array."""
    value = raw.get(key)
    return tuple(v for v in value if isinstance(v, dict)) if isinstance(value, list) else ()
