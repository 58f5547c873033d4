# SPDX-License-Identifier: GPL-2.0-or-later
"""One TOML file with the line of everything in it, and every problem found in it.

tomllib (Python 3.11) tells the line of a syntax error only; a wrong value must be found by hand in a file
of two hundred lines. So the text is walked a second time by a scanner that knows just enough of TOML 1.0
(https://toml.io/en/v1.0.0) to say where each key stands. It runs only on text that tomllib took; where the
two should ever differ, the line falls back to that of the nearest enclosing table, and no value is
affected.

Problems are collected, never raised one by one: a policy that is fixed by five reloads is a policy that is
not in force for five reloads.
"""

from __future__ import annotations

import os
import re
import stat
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass, field

from enforcer.model.errors import BadConfiguration

MAX_BYTES = 1 << 20  # a policy of a mebibyte was not written by a person
NULL_DEVICE = (1, 3)  # Documentation/admin-guide/devices.txt

KeyPath = tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class Problem:
    """One mistake: where, what (a sentence without full stop), and what to do (the same)."""

    file: str
    line: int  # 1-based; 0 is the file as a whole
    message: str
    remedy: str = ""

    def __str__(self) -> str:
        where = f"{self.file}:{self.line}" if self.line else self.file
        return f"{where}: {self.message}." + (f" {self.remedy}." if self.remedy else "")


class LocatedErrors(BadConfiguration):
    """Every problem of a set of files at once; ``str()`` is one line for each of them."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(map(str, self.problems)), hint="Correct these lines, then try again.")


@dataclass(slots=True)
class Document:
    """The data of one file, the line of each key, and a list that problems are added to."""

    file: str
    data: dict[str, object]
    lines: dict[KeyPath, int]
    problems: list[Problem] = field(default_factory=list)

    def line(self, path: KeyPath) -> int:
        """The line of ``path``, or of the nearest thing around it that has one; 1 at worst."""
        while path:
            if path in self.lines:
                return self.lines[path]
            path = path[:-1]
        return 1

    def problem(self, path: KeyPath, message: str, remedy: str = "") -> None:
        """Note a mistake at the line of ``path``."""
        self.problems.append(Problem(self.file, self.line(path), message, remedy))


def read_bytes(file: str, problems: list[Problem], *, euid: int | None = None) -> bytes | None:
    """The content of ``file``; b"" for an empty file and for a link to /dev/null.

    Returns None, with the problem noted, for whatever cannot or must not be read. ``euid`` is the effective
    user whose view counts (default: ours): for root a file that anybody may write is no policy.
    """
    euid = os.geteuid() if euid is None else euid
    try:
        # O_NONBLOCK: a fifo put in the directory must not hold up a reload for ever.
        fd = os.open(file, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else str(error)
        problems.append(Problem(file, 0, f"cannot be opened: {why}", "Check that it exists and is readable"))
        return None
    try:
        status = os.fstat(fd)
        if stat.S_ISCHR(status.st_mode) and (os.major(status.st_rdev), os.minor(status.st_rdev)) == NULL_DEVICE:
            return b""
        if not stat.S_ISREG(status.st_mode):
            kind = "a directory" if stat.S_ISDIR(status.st_mode) else "not a regular file"
            problems.append(Problem(file, 0, f"is {kind}", "Remove it, or put a TOML file in its place"))
            return None
        if euid == 0 and status.st_mode & stat.S_IWOTH:
            problems.append(Problem(file, 0, "can be written by everybody", f"Run: chmod o-w {file}"))
            return None
        if status.st_size > MAX_BYTES:
            problems.append(Problem(file, 0, f"is larger than {MAX_BYTES >> 20} MiB", "Split it into several files"))
            return None
        with os.fdopen(os.dup(fd), "rb") as stream:
            content = stream.read(MAX_BYTES + 1)
    except OSError as error:
        problems.append(Problem(file, 0, f"cannot be read: {error.strerror}", "Check the file and its storage"))
        return None
    finally:
        os.close(fd)
    if len(content) > MAX_BYTES:
        problems.append(Problem(file, 0, f"is larger than {MAX_BYTES >> 20} MiB", "Split it into several files"))
        return None
    return content


def parse_bytes(content: bytes, file: str) -> Document:
    """Parse ``content``. A document that cannot be parsed comes back empty, with its problem noted."""
    document = Document(file, {}, {})
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        document.problems.append(Problem(file, line, "is not UTF-8", "Save it as UTF-8, without byte order mark"))
        return document
    text = text.replace("\r\n", "\n")
    try:
        document.data = tomllib.loads(text)
        document.lines = _Scanner(text).scan()
    except RecursionError:
        document.data = {}
        document.problems.append(Problem(file, 1, "is nested too deeply", "Four levels are enough for everything"))
    except ValueError as error:  # TOMLDecodeError, and ValueError itself for integers of thousands of digits
        message, line = _syntax_error(str(error), text)
        document.problems.append(Problem(file, line, f"is not TOML: {message}", "See https://toml.io"))
    return document


def _syntax_error(message: str, text: str) -> tuple[str, int]:
    """Split tomllib's ``Invalid value (at line 3, column 5)`` into the sentence and the line."""
    found = re.search(r"\s*\(at line (\d+), column (\d+)\)$", message)
    if found:
        return f"{message[: found.start()]}, column {found[2]}", int(found[1])
    if message.endswith("(at end of document)"):
        last = text.removesuffix("\n").count("\n") + 1
        return message.removesuffix(" (at end of document)") + " at the end of the file", last
    return message, 1


class _Lost(Exception):
    """The scanner met what it does not know. What it found so far stands."""


class _Scanner:
    """Walks valid TOML and notes the line of every header, key and array element."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0
        self.line_no = 1
        self.counted = 0  # up to where newlines are in line_no
        self.lines: dict[KeyPath, int] = {}
        self.array_tables: dict[KeyPath, int] = {}  # path of [[x]] -> index of the newest element

    def scan(self) -> dict[KeyPath, int]:
        table: KeyPath = ()
        try:
            while self.skip_blank():
                if self.peek("["):
                    table = self.header()
                else:
                    self.pair(table)
        except _Lost:
            pass
        return self.lines

    def peek(self, what: str) -> bool:
        return self.text.startswith(what, self.at)

    def line(self) -> int:
        self.line_no += self.text.count("\n", self.counted, self.at)
        self.counted = self.at
        return self.line_no

    def skip_blank(self) -> bool:
        """Go over white space, newlines and comments; False at the end of the text."""
        found = _BLANK.match(self.text, self.at)
        self.at = found.end() if found else self.at
        return self.at < len(self.text)

    def expect(self, what: str) -> None:
        self.skip_blank()
        if not self.peek(what):
            raise _Lost
        self.at += len(what)

    def note(self, path: KeyPath, line: int) -> None:
        self.lines.setdefault(path, line)

    def header(self) -> KeyPath:
        line = self.line()
        array = self.peek("[[")
        self.expect("[[" if array else "[")
        keys = self.key()
        self.expect("]]" if array else "]")
        path: KeyPath = ()
        for position, key in enumerate(keys):
            path = (*path, key)
            if array and position == len(keys) - 1:
                self.array_tables[path] = self.array_tables.get(path, -1) + 1
            self.note(path, line)
            if path in self.array_tables:
                path = (*path, self.array_tables[path])
        self.note(path, line)
        return path

    def key(self) -> list[str]:
        """One key, bare, quoted or dotted, as its parts."""
        parts: list[str] = []
        while True:
            self.skip_blank()
            if self.peek('"') or self.peek("'"):
                start = self.at
                self.string()
                quoted = self.text[start : self.at]
                parts.append(str(tomllib.loads("k = " + quoted)["k"]))
            else:
                found = _BARE_KEY.match(self.text, self.at)
                if not found:
                    raise _Lost
                parts.append(found[0])
                self.at = found.end()
            self.skip_blank()
            if not self.peek("."):
                return parts
            self.at += 1

    def pair(self, table: KeyPath) -> None:
        line = self.line()
        path = table
        for part in self.key():
            path = (*path, part)
            self.note(path, line)
        self.expect("=")
        self.value(path)

    def value(self, path: KeyPath) -> None:
        self.skip_blank()
        if self.peek("["):
            self.at += 1
            index = 0
            while self.skip_blank() and not self.peek("]"):
                self.note((*path, index), self.line())
                self.value((*path, index))
                index += 1
                self.skip_blank()
                if self.peek(","):
                    self.at += 1
            self.expect("]")
        elif self.peek("{"):
            self.at += 1
            while self.skip_blank() and not self.peek("}"):
                self.pair(path)
                self.skip_blank()
                if self.peek(","):
                    self.at += 1
            self.expect("}")
        elif self.peek('"') or self.peek("'"):
            self.string()
        else:
            found = _SCALAR.match(self.text, self.at)
            if not found:
                raise _Lost
            self.at = found.end()

    def string(self) -> None:
        for pattern in (_MULTI_BASIC, _MULTI_LITERAL, _BASIC, _LITERAL):
            found = pattern.match(self.text, self.at)
            if found:
                self.at = found.end()
                return
        raise _Lost


_BLANK = re.compile(r"(?:[ \t\n]+|#[^\n]*)*")
_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
_SCALAR = re.compile(r"[^\s,\]}#][^\n,\]}#]*")
_MULTI_BASIC = re.compile(r'"""(?:[^\\"]|\\.|"(?!""))*"{3,5}', re.DOTALL)
_MULTI_LITERAL = re.compile(r"'''(?:[^']|'(?!''))*'{3,5}", re.DOTALL)
_BASIC = re.compile(r'"(?:[^\\"\n]|\\.)*"')
_LITERAL = re.compile(r"'[^'\n]*'")
