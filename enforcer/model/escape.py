# SPDX-License-Identifier: GPL-2.0-or-later
"""One escaping for everything that is shown or logged.

Device names, labels, mount points, program names: all of them are chosen by somebody else, and end on the
terminal of root. Whatever Python does not call printable (control characters, ESC, newlines, bidi
overrides, zero-width and unassigned characters, bytes that were no UTF-8) becomes a visible ``\\xNN`` or
``\\uNNNN``.

A backslash stays one backslash. The result is for people, not for decoding, and so escaping twice changes
nothing: a string that was escaped for the log may safely be escaped again by whoever shows it.
"""

from __future__ import annotations

import json
from typing import Final

ELLIPSIS: Final = "…"
NAME_LIMIT: Final = 256
PATH_LIMIT: Final = 4096


def for_terminal(text: str, limit: int = NAME_LIMIT) -> str:
    """``text`` in at most ``limit`` printable characters; what was cut is marked by an ellipsis."""
    if len(text) <= limit and text.isprintable():
        return text
    pieces: list[str] = []
    length = 0
    kept = 0  # how many pieces still leave room for the ellipsis
    for char in text:
        piece = char if char.isprintable() else _visible(char)
        length += len(piece)
        if length > limit:
            return "".join(pieces[:kept]) + ELLIPSIS[:limit]
        pieces.append(piece)
        if length < limit:
            kept = len(pieces)
    return "".join(pieces)


def from_bytes(raw: bytes, limit: int = PATH_LIMIT) -> str:
    """A C string of the kernel: it ends at the first NUL, and what is not UTF-8 becomes ``\\xNN``."""
    return for_terminal(raw.partition(b"\0")[0].decode("utf-8", "surrogateescape"), limit)


def to_json(value: object) -> str:
    """JSON on one line, in printable ASCII whatever it holds: safe for a log and for a terminal."""
    text = json.dumps(value, ensure_ascii=True, separators=(",", ":"), default=str)
    return text.replace("\x7f", "\\u007f")


def _visible(char: str) -> str:
    code = ord(char)
    if 0xDC80 <= code <= 0xDCFF:  # a byte that was no UTF-8, as surrogateescape carries it
        return f"\\x{code - 0xDC00:02x}"
    if code < 0x80:
        return f"\\x{code:02x}"
    if code < 0x10000:
        return f"\\u{code:04x}"
    return f"\\U{code:08x}"
