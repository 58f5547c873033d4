# SPDX-License-Identifier: GPL-2.0-or-later
"""The option string of a mount, as filesystems read it.

It comes from the caller: any bytes, perhaps cut. A value with a comma in it cannot be told from two options. A quoted
security context falls apart likewise, but the kernel's security modules take it out before a filesystem looks, and
no piece of it has a name that a filesystem knows, unless the caller wants to fool himself.
"""

from __future__ import annotations

import re

#: Name and value, in the order given.
Options = tuple[tuple[bytes, bytes], ...]

_NUMBER = re.compile(rb"\+?(?:0[xX](?P<hex>[0-9a-fA-F]+)|0(?P<octal>[0-7]+)|(?P<decimal>0|[1-9][0-9]*))\n?")


def parse_options(data: bytes) -> Options:
    """Names and values as generic_parse_monolithic() in fs/fs_context.c has them. A flag has an empty value."""
    found = []
    for piece in data.partition(b"\0")[0].split(b","):
        name, _, value = piece.partition(b"=")
        if name:
            found.append((name, value))
    return tuple(found)


def last(options: Options, *names: bytes) -> tuple[bytes, bytes] | None:
    """The option that counts if several of these are given, or one of them twice; None if none is."""
    return next((each for each in reversed(options) if each[0] in names), None)


def parse_number(text: bytes) -> int | None:
    """A number as fs_param_is_u32() in fs/fs_parser.c takes it (kstrtouint with base 0), or None."""
    match = _NUMBER.fullmatch(text) if len(text) <= 32 else None
    if match is None:
        return None
    for base, group in ((16, "hex"), (8, "octal"), (10, "decimal")):
        if digits := match[group]:
            number = int(digits, base)
            return number if number < 1 << 32 else None
    return None
