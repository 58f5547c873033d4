# SPDX-License-Identifier: GPL-2.0-or-later
"""Masks that can never match, found before they guard nothing.

A rule whose mask has a slip in it is the worst mistake there is: it looks like protection. Whatever can be
known about the values that a mask will be held against is therefore held against the mask when the policy
is read.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from fnmatch import translate

COMM_LENGTH = 15  # TASK_COMM_LEN - 1, include/linux/sched.h

Finding = tuple[str, str]  # what is wrong, and the remedy
Check = Callable[[str], Finding | None]

_WILDCARD = re.compile(r"[*?\[]")
_BRACKET = re.compile(r"\[!?\]?[^\]]*\]")


def has_wildcard(glob: str) -> bool:
    """True if a mask can match more than itself."""
    return bool(_WILDCARD.search(glob))


def shortest(glob: str) -> int:
    """The length of the shortest text that a mask matches, in characters."""
    return len(_BRACKET.sub("?", glob).replace("*", ""))


def check_any(glob: str) -> Finding | None:
    """What is wrong with a mask whatever it is held against."""
    if not glob:
        return "an empty mask matches nothing", 'Leave the key out for "any", or write "*"'
    if glob != glob.strip() or not glob.isprintable():
        return f"{glob!r} begins or ends with white space, or holds a control character", "Remove it"
    if "[" in _BRACKET.sub("", glob):
        return f'"{glob}" has a [ without its ]', "Close it, or write [[] for the character itself"
    if "(?!)" in translate(glob):
        return f'"{glob}" holds a range that is empty and can never match', "Write the range from low to high"
    if re.search(r"\{[^{}]*,[^{}]*\}", glob):
        return f'"{glob}" can never match: braces are no wildcard', "Write a list with one mask for each"
    return None


def check_device(glob: str) -> Finding | None:
    """Devices are named by hardware and LVM (``wwn-0x5000*``, ``vg:data``), not by udev's links to them."""
    if has_wildcard(glob[:1]) or not glob.startswith("/"):
        return None
    remedy = 'Name the LUN, as in "wwn-0x5000c500*" or "vg:data"'
    if glob.startswith(("/dev/disk/", "/dev/block/")):
        return f'"{glob}" can never match: links below {glob[: glob.index("/", 5)]} are not looked at', remedy
    if not glob.startswith("/dev/"):
        return f'"{glob}" can never match: it is the path of no device', remedy
    return None


def check_fstype(glob: str) -> Finding | None:
    """Filesystem types are the words of /proc/filesystems."""
    if "/" in glob or " " in glob or "," in glob:
        return f'"{glob}" can never match: a type is one word', 'Write a list: ["ext4", "xfs"]'
    return None


def check_target(glob: str) -> Finding | None:
    """Mount points are absolute and normalized."""
    if not glob.startswith(("/", "*", "?", "[")):
        return f'"{glob}" can never match: a mount point is an absolute path', f'Write "/{glob}"'
    if len(glob) > 1 and glob.endswith("/"):
        return f'"{glob}" can never match: it ends with a slash', f'Write "{glob.rstrip("/") or "/"}"'
    if re.search(r"//|/\.\.?(/|$)", glob):
        return f'"{glob}" can never match: it is not a normalized path', "Write it without //, /./ and /../"
    return None


def check_unit(glob: str) -> Finding | None:
    """Names of systemd units have a suffix."""
    if not has_wildcard(glob) and "." not in glob:
        return f'"{glob}" can never match: a unit has a suffix', f'Write "{glob}.service"'
    if "/" in glob:
        return (
            f'"{glob}" can never match: a unit is a name, not a path',
            "Write the name as systemctl shows it",
        )
    return None


def check_exe(glob: str) -> Finding | None:
    """Executables are absolute paths."""
    if not glob.startswith(("/", "*", "?", "[")):
        return (
            f'"{glob}" can never match: an executable is an absolute path',
            'Write "/usr/bin/..." or "*/..."',
        )
    return None


def check_comm(glob: str) -> Finding | None:
    """The kernel keeps fifteen characters of a command's name."""
    if shortest(glob) > COMM_LENGTH:
        return (
            f'"{glob}" can never match: the kernel keeps {COMM_LENGTH} characters of a command name',
            f'Write "{glob[:COMM_LENGTH]}", or use exe',
        )
    return None


def covers(wide: str, narrow: str) -> bool:
    """True if ``wide`` surely matches all that ``narrow`` matches. False says nothing: it is for warnings."""
    if wide in ("*", narrow):
        return True
    if not has_wildcard(narrow):
        return bool(re.match(translate(wide), narrow))
    head = wide[:-1]
    return wide.endswith("*") and not has_wildcard(head) and narrow.startswith(head)
