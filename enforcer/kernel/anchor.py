# SPDX-License-Identifier: GPL-2.0-or-later
"""The upcall anchor: the smallest program there is, run from our own FUSE mount.

A sleepable LSM program may follow a task to its executable and read an extended attribute of it; that file is on
the mount that enforcerd serves, so the read arrives here as a question. The program itself only pauses. Its image
is made here, so nothing needs a compiler, a C library or a file of the root file system at run time.
"""

from __future__ import annotations

import ctypes
import os
import platform
import signal
import struct

_PR_SET_PDEATHSIG, _PR_SET_NAME = 1, 15
_BASE = 0x400000
_CODE = {
    # pause(): mov eax,34; syscall; jmp -9   (arch/x86/entry/syscalls/syscall_64.tbl)
    "x86_64": (62, bytes.fromhex("b822000000 0f05 ebf7")),
    # ppoll(NULL, 0, NULL, NULL): no pause(2) here   (include/uapi/asm-generic/unistd.h)
    "aarch64": (183, bytes.fromhex("000080d2 010080d2 020080d2 030080d2 080980d2 010000d4 faffff17")),
}


def image() -> bytes:
    """A static ELF executable (elf(5)) whose only segment is its header and a loop around pause(2)."""
    machine, code = _CODE[platform.machine()]
    head = 64 + 56
    size = head + len(code)
    header = b"\x7fELF\x02\x01\x01" + bytes(9)
    header += struct.pack("<HHIQQQIHHHHHH", 2, machine, 1, _BASE + head, 64, 0, 0, 64, 56, 1, 0, 0, 0)
    segment = struct.pack("<IIQQQQQQ", 1, 5, 0, _BASE, _BASE, size, size, 0x1000)
    return header + segment + code


def start(path: str) -> int:
    """Fork and execute ``path``, the image on our FUSE mount; returns its pid at once.

    Plain fork, never vfork or subprocess: the execve waits for reads that this very process must answer.
    """
    libc = ctypes.CDLL(None)
    pid = os.fork()
    if pid:
        return pid
    try:
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        signal.pthread_sigmask(signal.SIG_SETMASK, [])
        os.closerange(3, 4096)  # the FUSE device is O_CLOEXEC; the child must not hold it even until then
        os.execv(path, ["enforcer-anchor"])
    finally:
        os._exit(127)
