# SPDX-License-Identifier: GPL-2.0-or-later
"""Where a verb's answer goes: JSON for programs, text for people, colours only for a terminal.

rich is imported when something is drawn, and only then: the JSON of a broken machine must not hang on it.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, TextIO

from enforcer.model.errors import PrerequisiteMissing
from enforcer.model.escape import to_json

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

_PIPE_WIDTH = 160  # a pipe has no width of its own; wide enough that nothing is folded in ordinary names


class Output:
    """Writes to one stream."""

    def __init__(self, stream: TextIO | None = None, *, width: int | None = None) -> None:
        self._stream = stream or sys.stdout
        self._width = width
        self._console: Console | None = None

    def json(self, value: Mapping[str, object]) -> None:
        """One object on one line."""
        self._stream.write(to_json(value) + "\n")
        self._stream.flush()

    def line(self, text: str = "") -> None:
        """One line of text that is already escaped."""
        self._stream.write(text + "\n")

    def draw(self, *things: RenderableType) -> None:
        """Tables and styled text."""
        for thing in things:
            self.console.print(thing)
        self._stream.flush()

    @property
    def console(self) -> Console:
        """The rich console, made when first needed. It interprets no markup and no emoji codes."""
        if self._console is None:
            self._console = _console(self._stream, self._width)
        return self._console


def _console(stream: TextIO, width: int | None) -> Console:
    try:
        from rich.console import Console
    except ImportError as error:
        raise PrerequisiteMissing(
            "the Python package rich is missing, without it there are no tables",
            hint="install python3-rich, or use --json",
        ) from error

    class Quiet(Console):
        """Later versions of rich end the program themselves, with status 1 (Console.on_broken_pipe)."""

        def on_broken_pipe(self) -> None:
            raise BrokenPipeError

    tty = stream.isatty()
    if width is None and not tty:
        columns = os.environ.get("COLUMNS", "")
        width = int(columns) if columns.isdigit() and int(columns) > 0 else _PIPE_WIDTH
    return Quiet(
        file=stream,
        width=width,
        force_terminal=tty,
        no_color=bool(os.environ.get("NO_COLOR")) or None,
        markup=False,
        emoji=False,
        highlight=False,
    )
