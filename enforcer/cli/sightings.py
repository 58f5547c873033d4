# SPDX-License-Identifier: GPL-2.0-or-later
"""What the witness saw, a row for each system call: when, which, on what, with what outcome, by whom."""

from __future__ import annotations

import time
from collections.abc import Mapping
from datetime import datetime
from typing import Final

from rich.table import Table
from rich.text import Text

from enforcer.audit.loose import number, text
from enforcer.cli.render import cell
from enforcer.model.escape import PATH_LIMIT

_FIXED: Final = {"time": 8, "call": 13, "returned": 9}
_SHARES: Final = {"what": 0.7, "caller": 0.3}
_ORDER: Final = ("time", "call", "returned", "what", "caller")
# include/uapi/linux/mount.h
_FLAGS: Final = {
    1: "ro",
    32: "remount",
    4096: "bind",
    8192: "move",
    1 << 17: "unbindable",
    1 << 18: "private",
    1 << 19: "slave",
    1 << 20: "shared",
}
_COMMANDS: Final = {6: "create", 7: "reconfigure", 8: "create, exclusively"}


def row(line: Mapping[str, object], width: int) -> list[Table | Text]:
    """What to draw for one line of the witness, in ``width`` columns."""
    kind = text(line, "kind")
    if kind == "begin":
        return [_table(width, header=True)]
    if kind == "lost":
        return [cell(f"! {number(line, 'lost')} calls were lost in all", "bold red")]
    if kind == "end":
        skipped = number(line, "skipped")
        more = (
            f"; the kernel skipped {skipped} looks: a call both of whose ends it skipped is missing" if skipped else ""
        )
        return [cell(f"{number(line, 'calls')} calls seen, {number(line, 'lost')} lost{more}", "dim")]
    table = _table(width, header=False)
    failed = text(line, "errno")
    returned = line.get("return")
    table.add_row(
        cell(f"{_when(number(line, 'boot_ns')):%H:%M:%S}"),
        cell(text(line, "syscall")),
        cell(failed, "red") if failed else cell("not seen" if returned is None else returned),
        cell(what(line)),
        cell(f"{text(line, 'comm')}[{number(line, 'tid')}]"),
    )
    return [table]


def what(line: Mapping[str, object]) -> str:
    """``ext4 /dev/sda1 on /mnt, ro``; ``fd 3: source=/dev/sda1``."""
    source, target = text(line, "source", PATH_LIMIT), text(line, "target", PATH_LIMIT)
    if text(line, "syscall") == "fsconfig":
        key, value = text(line, "key"), text(line, "value", PATH_LIMIT)
        command = _COMMANDS.get(number(line, "command"), "")
        return f"fd {number(line, 'fd')}: " + (command or (f"{key}={value}" if value else key))
    words = [text(line, "fstype"), source, f"on {target}" if source and target else target]
    if "fd" in line:
        words.append(f"fd {number(line, 'fd')}")
    flags = [name for bit, name in _FLAGS.items() if text(line, "syscall") == "mount" and number(line, "flags") & bit]
    return " ".join(filter(None, words)) + "".join(f", {name}" for name in flags)


def _table(width: int, *, header: bool) -> Table:
    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False, show_header=header, header_style="bold")
    spare = max(30, width - sum(_FIXED.values()) - len(_ORDER))
    for name in _ORDER:
        table.add_column(name, width=_FIXED.get(name) or int(spare * _SHARES[name]), overflow="fold")
    return table


def _when(boot_ns: int) -> datetime:
    """A moment of the boot clock as local time."""
    ago_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME) - boot_ns
    return datetime.fromtimestamp(time.time() - ago_ns / 1e9).astimezone()
