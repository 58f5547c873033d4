# SPDX-License-Identifier: GPL-2.0-or-later
"""The sentence that a refused caller reads: a template of the rule, filled in when the refusal is known.

The template is an administrator's, the values come from other people's processes and other nodes. So this
is not ``str.format``: no attributes, no indexing, no format specifications, one pass, and a value is never
looked into again. Values are escaped by whoever shows the text, for only they know where it goes.
"""

from __future__ import annotations

from collections.abc import Mapping
from string import Formatter

FIELDS = ("device", "holder", "since", "fstype", "target", "node")
MAX_LENGTH = 400  # characters of a template: it is to fit on one line of a terminal, more or less
UNKNOWN = "?"


def problem_of(template: str) -> tuple[str, str] | None:
    """What is wrong with a template and its remedy, or None if it can be rendered."""
    if len(template) > MAX_LENGTH:
        return f"the message is longer than {MAX_LENGTH} characters", "Say it in one sentence"
    if not template.isprintable():
        return "the message holds a newline or a control character", "Write one line of plain text"
    try:
        parts = list(Formatter().parse(template))
    except ValueError:
        return "a brace in the message is not closed", "Write {{ or }} for a brace itself"
    for _, name, spec, conversion in parts:
        if name is None:
            continue
        if name not in FIELDS:
            known = " ".join(f"{{{field}}}" for field in FIELDS)
            return f'unknown field "{{{name}}}" in the message', f"Known here: {known}"
        if spec or conversion:
            return f'"{{{name}}}" in the message takes no format', f"Write {{{name}}}"
    return None


def render(template: str, values: Mapping[str, str]) -> str:
    """Fill in a template that ``problem_of`` found good; what has no value becomes ``?``."""
    text: list[str] = []
    for literal, name, _, _ in Formatter().parse(template):
        text.append(literal)
        if name is not None:
            text.append(values.get(name) or UNKNOWN)
    return "".join(text)
