# SPDX-License-Identifier: GPL-2.0-or-later
"""Who asks: what /proc tells of a task that waits in the kernel, read before its verdict while it is certain to be
the same task. Every string is a foreign one and is escaped here, once.
"""

from __future__ import annotations

import re
from pathlib import Path

from enforcer.kernel import abi
from enforcer.kernel.tables import start_ticks
from enforcer.model.escape import for_terminal, from_bytes
from enforcer.model.intent import Caller
from enforcer.model.resource import UseKind

_PROC = Path("/proc")
# arch/x86/entry/syscalls/syscall_64.tbl
SYSCALLS = {
    165: "mount",
    167: "swapon",
    168: "swapoff",
    431: "fsconfig",
    2: "open",
    257: "openat",
    437: "openat2",
    16: "ioctl",
    425: "io_uring_setup",
    426: "io_uring_enter",
    85: "creat",
    304: "open_by_handle_at",
}
_UNIT = re.compile(r"([^/]+\.(?:service|scope|socket|mount|slice))(?:/|$)")


def syscall_name(number: int) -> str:
    """Name of an x86-64 system call that can lead to a gate, or its number; empty for none (a kernel thread)."""
    return SYSCALLS.get(number, f"syscall {number}" if number >= 0 else "")


def use_kind(op: int, syscall_nr: int) -> UseKind:
    """What the caller is about, from the gate that asked and the system call it is in."""
    if op in (abi.Op.SB_MOUNT, abi.Op.SB_ALLOC):
        return UseKind.MOUNT
    if op == abi.Op.FILE_IOCTL:
        return UseKind.DM_LOAD
    return UseKind.SWAP if SYSCALLS.get(syscall_nr) == "swapon" else UseKind.WRITE_OPEN


def _cgroup(pid: int) -> str:
    try:
        for line in (_PROC / str(pid) / "cgroup").read_bytes().splitlines():
            if line.startswith(b"0::"):
                return from_bytes(line[3:])
    except OSError:
        pass
    return ""


def unit_of(cgroup: str) -> str:
    """The innermost systemd unit in a cgroup path."""
    found = _UNIT.findall(cgroup)
    units = [unit for unit in found if not unit.endswith(".slice")]
    return units[-1] if units else (found[-1] if found else "")


def describe(tid: int, tgid: int, uid: int, comm: bytes, *, mount_ns: int, syscall_nr: int) -> Caller:
    """Everything about a caller that is still there; what cannot be read stays empty."""
    try:
        exe = for_terminal(str((_PROC / str(tid) / "exe").readlink()), 4096)
    except OSError:
        exe = ""
    cgroup = _cgroup(tid)
    return Caller(
        pid=tgid,
        tid=tid,
        uid=uid,
        comm=from_bytes(comm),
        exe=exe,
        cgroup=cgroup,
        unit=unit_of(cgroup),
        mount_ns=mount_ns,
        syscall=syscall_name(syscall_nr),
    )


def alive(tid: int, began: int) -> bool:
    """True if the task is still the one that started ``began`` ticks after boot."""
    try:
        return start_ticks(tid) == began
    except (OSError, ValueError):
        return False
