# SPDX-License-Identifier: GPL-2.0-or-later
"""Typed values out of a TOML table, with a located problem for every one that is not what it should be.

Each getter returns the default when the value is missing or wrong, so that the reader goes on and finds the
next mistake; the caller never uses the result of a document that has problems. A key that nobody declared
is a mistake: a misspelt ``fstypes`` that is silently ignored makes a rule wider than its author thinks.
"""

from __future__ import annotations

import errno
import math
import re
from collections.abc import Iterable, Mapping
from enum import StrEnum
from typing import TypeVar

from enforcer.policy.document import Document, KeyPath

E = TypeVar("E", bound=StrEnum)

_DURATION = re.compile(r"(\d{1,9}(?:\.\d{1,9})?)(ms|s|min)", re.ASCII)
_UNITS = {"ms": 0.001, "s": 1.0, "min": 60.0}

# Errnos that tell the caller something else than "no": what they would do instead of failing.
MISLEADING_ERRNOS = {
    "EINTR": "callers take it for a signal and try again at once",
    "EAGAIN": "it is kept for work that goes on in the background",
    "ENOSYS": "mount(8) takes it for an old kernel and tries another system call",
}


def suggest(word: str, known: Iterable[str]) -> str:
    """The remedy for an unknown word: the nearest known one, or all of them."""
    from difflib import get_close_matches  # needed only when something is wrong already

    names = sorted(known)
    near = get_close_matches(word, names, n=1, cutoff=0.6)
    return f'Did you mean "{near[0]}"' if near else "Known here: " + ", ".join(names)


def parse_duration(text: str) -> float:
    """Seconds of ``500ms``, ``20s``, ``1.5s`` or ``2min``. Raises ValueError."""
    found = _DURATION.fullmatch(text)
    if not found:
        raise ValueError(f'"{text}" is not a duration')
    return float(found[1]) * _UNITS[found[2]]


def show_duration(seconds: float) -> str:
    """The shortest spelling that ``parse_duration`` reads back: ``0.5`` -> ``500ms``."""
    if not math.isfinite(seconds) or seconds < 0:
        raise ValueError(f"{seconds} is not a duration")
    if 0 < seconds < 1:
        return f"{seconds * 1000:g}ms"
    return f"{seconds:g}s"


def errno_number(name: str) -> int:
    """The number of an errno by its name. Raises KeyError."""
    return {text: number for number, text in errno.errorcode.items()}[name]


def errno_name(number: int) -> str:
    """The name of an errno, or its number where there is none."""
    return errno.errorcode.get(number, str(number))


_TYPE_NAMES: tuple[tuple[type, str], ...] = (
    (bool, "a boolean"),
    (str, "a string"),
    (int, "a number"),
    (float, "a number"),
    (list, "a list"),
    (dict, "a table"),
)


def _type_name(value: object) -> str:
    return next((name for kind, name in _TYPE_NAMES if isinstance(value, kind)), "a date or time")


class Fields:
    """One table of a document. ``known`` are its keys, ``later`` those of a later version."""

    def __init__(
        self,
        document: Document,
        path: KeyPath,
        data: Mapping[str, object],
        known: Iterable[str],
        later: Mapping[str, str] | None = None,
    ) -> None:
        self.document = document
        self.path = path
        self.data = data
        self.known = frozenset(known)
        for key in data:
            if later and key in later:
                self.problem(key, f'"{key}" is not supported by this version', later[key])
            elif key not in self.known:
                self.problem(key, f'unknown key "{key}"', suggest(key, self.known))

    def problem(self, key: str | int | tuple[str | int, ...], message: str, remedy: str = "") -> None:
        """Note a mistake at ``key`` of this table (or at a path below it)."""
        below = key if isinstance(key, tuple) else (key,)
        self.document.problem((*self.path, *below), message, remedy)

    @property
    def line(self) -> int:
        """The line of the table's header."""
        return self.document.line(self.path)

    def has(self, key: str) -> bool:
        """True if the file says anything for ``key``."""
        if key not in self.known:
            raise LookupError(f"{key} is read but not declared")  # our mistake, not the file's
        return key in self.data

    def _wrong_type(self, key: str | tuple[str | int, ...], value: object, wanted: str) -> None:
        name = key if isinstance(key, str) else key[0]
        self.problem(key, f'"{name}" must be {wanted}, not {_type_name(value)}', f"Write {wanted}")

    def string(self, key: str, default: str = "") -> str:
        """A string."""
        if not self.has(key):
            return default
        value = self.data[key]
        if not isinstance(value, str):
            self._wrong_type(key, value, "a string")
            return default
        return value

    def strings(self, key: str, default: tuple[str, ...] = (), *, one: bool = True) -> tuple[str, ...]:
        """A list of strings that is not empty; with ``one`` a single string stands for a list of it."""
        if not self.has(key):
            return default
        value = self.data[key]
        if one and isinstance(value, str):
            return (value,)
        if not isinstance(value, list):
            self._wrong_type(key, value, "a string or a list of strings" if one else "a list of strings")
            return default
        if not value:
            self.problem(key, f'"{key}" is empty', "Name at least one, or leave the key out")
            return default
        good: list[str] = []
        for index, item in enumerate(value):
            if isinstance(item, str):
                good.append(item)
            else:
                self._wrong_type((key, index), item, "a list of strings")
        return tuple(good)

    def boolean(self, key: str) -> bool | None:
        """A boolean, or None if the file says nothing."""
        if not self.has(key):
            return None
        value = self.data[key]
        if not isinstance(value, bool):
            self._wrong_type(key, value, "true or false")
            return None
        return value

    def choice(self, key: str, choices: type[E], default: E, remedies: Mapping[str, str] | None = None) -> E:
        """One word of an enumeration. ``remedies`` answers words that people try and that are no choice."""
        if not self.has(key):
            return default
        value = self.data[key]
        words = [str(word) for word in choices]
        if not isinstance(value, str):
            self._wrong_type(key, value, "one of " + ", ".join(words))
        elif value in words:
            return choices(value)
        else:
            remedy = (remedies or {}).get(value) or suggest(value, words)
            self.problem(key, f'"{key}" cannot be "{value}"', remedy)
        return default

    def duration(self, key: str, default: float, *, least: float = 0.0, most: float) -> float:
        """Seconds between ``least`` and ``most``."""
        if not self.has(key):
            return default
        value = self.data[key]
        if not isinstance(value, str):
            self.problem(key, f'"{key}" must be a duration with its unit, not {_type_name(value)}', 'Write "20s"')
            return default
        try:
            seconds = parse_duration(value)
        except ValueError as error:
            self.problem(key, str(error), 'Write a number and ms, s or min: "500ms", "20s", "2min"')
            return default
        if not least <= seconds <= most:
            span = f"{show_duration(least)} to {show_duration(most)}"
            self.problem(key, f'"{key}" is {value}, outside of {span}', f"Choose from {span}")
            return default
        return seconds

    def errno(self, key: str, default: int) -> int:
        """An errno by its name (errno(3))."""
        if not self.has(key):
            return default
        value = self.data[key]
        if not isinstance(value, str):
            self._wrong_type(key, value, 'the name of an errno, as "EBUSY"')
            return default
        if value in MISLEADING_ERRNOS:
            self.problem(key, f"{value} cannot be a refusal: {MISLEADING_ERRNOS[value]}", "Use EBUSY, EPERM or EACCES")
            return default
        try:
            return errno_number(value)
        except KeyError:
            self.problem(key, f'"{value}" is not the name of an errno', suggest(value, errno.errorcode.values()))
            return default

    def table(self, key: str, known: Iterable[str], later: Mapping[str, str] | None = None) -> Fields:
        """A table below this one; an empty one if the file says nothing."""
        data: dict[str, object] = {}
        if self.has(key):
            value = self.data[key]
            if isinstance(value, dict):
                data = value
            else:
                self._wrong_type(key, value, "a table")
        return Fields(self.document, (*self.path, key), data, known, later)
