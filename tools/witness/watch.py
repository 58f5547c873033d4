# SPDX-License-Identifier: GPL-2.0-or-later
"""A second pair of eyes: every system call of the mount family on this machine, as one line of JSON each.

It exists so that the audit log can be checked against something that did not write it. Therefore it is a program of
its own that imports nothing of mount-enforcer, and looks from another side: BCC, tracepoints at the two ends of the
system calls, no LSM hook, nothing of what the gate and the guard stand on. ``compare.py`` holds the two together.

It runs under Debian's own interpreter, for which python3-bpfcc is made (BCC has no package on PyPI: what is called
``bcc`` there is an unrelated maths library). No kernel headers: the few lines of C need two structures of the kernel
and are compiled against ``headers/``, which holds what BCC's own headers include and nothing else. That takes a
second instead of half a minute on an emulated CPU, and does not break when a new kernel's headers want a newer clang.

The lines: ``begin`` once the programs are attached, ``call`` for each system call, ``lost`` whenever calls were lost
for want of room, ``end``. Times are nanoseconds of the boot clock, as in the audit log. Everything that others chose is
escaped to printable ASCII. Options of a mount are not shown, for they may hold passwords. Exit status: 0 after SIGINT,
SIGTERM or --seconds, 4 without privilege, 5 if something is missing.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import errno
import json
import os
import platform
import select
import signal
import sys
import time
from pathlib import Path
from typing import Any, NoReturn

HERE = Path(__file__).resolve().parent
SCHEMA = 1
SEEN_ENTRY, SEEN_EXIT = 1, 2
TEXT = 256  # bytes of a text with its NUL, TEXT of watch.bpf.c
NO_PERMISSION, NOT_INSTALLED = 4, 5  # systemd.exec(5)
POLL_MS = 200
TRACEFS = (Path("/sys/kernel/tracing"), Path("/sys/kernel/debug/tracing"))  # BCC looks at both

# arch/x86/entry/syscalls/syscall_64.tbl; the names of their texts, in the order of read_texts() of watch.bpf.c, and of
# their arguments that are worth a number
CALLS: dict[int, tuple[str, tuple[str, ...], dict[str, int]]] = {
    155: ("pivot_root", ("source", "target"), {}),
    165: ("mount", ("source", "target", "fstype"), {"flags": 3}),
    166: ("umount2", ("target",), {"flags": 1}),
    428: ("open_tree", ("source",), {"dfd": 0, "flags": 2}),
    429: ("move_mount", ("source", "target"), {"dfd": 0, "to_dfd": 2, "flags": 4}),
    430: ("fsopen", ("fstype",), {"flags": 1}),
    431: ("fsconfig", ("key", "value"), {"fd": 0, "command": 1}),
    432: ("fsmount", (), {"fd": 0, "flags": 1, "attributes": 2}),
    433: ("fspick", ("target",), {"dfd": 0, "flags": 2}),
    442: ("mount_setattr", ("target",), {"dfd": 0, "flags": 2}),
}
RESTARTS = {512: "ERESTARTSYS", 513: "ERESTARTNOINTR", 514: "ERESTARTNOHAND", 516: "ERESTART_RESTARTBLOCK"}


class Call(ctypes.Structure):
    """struct call of watch.bpf.c."""

    _fields_ = (
        ("enter_ns", ctypes.c_uint64),
        ("exit_ns", ctypes.c_uint64),
        ("args", ctypes.c_uint64 * 6),
        ("ret", ctypes.c_int64),
        ("tgid", ctypes.c_uint32),
        ("tid", ctypes.c_uint32),
        ("uid", ctypes.c_uint32),
        ("nr", ctypes.c_uint32),
        ("compat", ctypes.c_uint32),
        ("unread", ctypes.c_uint32),
        ("seen", ctypes.c_uint32),
        ("padding", ctypes.c_uint32),
        ("comm", ctypes.c_char * 16),
        ("text", (ctypes.c_char * TEXT) * 3),
    )


def fail(code: int, sentence: str, hint: str) -> NoReturn:
    """One sentence, one remedy, one exit code."""
    sys.stderr.write(f"witness: {sentence}\n  hint: {hint}\n")
    sys.exit(code)


def visible(raw: bytes, limit: int = 0) -> str:
    """Printable ASCII whatever it holds; an ellipsis of three dots where ``limit`` bytes did not suffice."""
    text = raw.decode("utf-8", "backslashreplace").encode("unicode_escape").decode("ascii").replace("\\\\", "\\")
    return text + "..." if limit and len(raw) >= limit else text


def signed(argument: int) -> int:
    """An argument that is an int: a descriptor, AT_FDCWD."""
    return ctypes.c_int32(argument & 0xFFFFFFFF).value


def needs_device(fstype: str, filesystems: str) -> bool | None:
    """Whether the kernel mounts a type from block devices alone, by /proc/filesystems; None if it does not know it."""
    for line in filesystems.splitlines():
        nodev, _, name = line.partition("\t")
        if name == fstype.partition(".")[0]:  # "fuse.sshfs" is type fuse (get_fs_type, fs/filesystems.c)
            return nodev != "nodev"
    return None


def facts(call: Call, filesystems: str) -> dict[str, object]:
    """One line of the output. ``enter_ns`` is null if only its exit was seen, ``return`` if only its entry was; then
    ``boot_ns`` is the time by which it had ended, or at which the watch did."""
    name, texts, numbers = CALLS[call.nr]
    found: dict[str, object] = {
        "schema": SCHEMA,
        "kind": "call",
        "boot_ns": call.exit_ns,
        "enter_ns": call.enter_ns if call.seen & SEEN_ENTRY else None,
        "tid": call.tid,
        "tgid": call.tgid,
        "uid": call.uid,
        "comm": visible(call.comm),
        "syscall": name,
        "compat": bool(call.compat),
    }
    for index, text in enumerate(texts):
        unread = call.unread >> index & 1
        found[text] = None if unread else visible(call.text[index].value, TEXT - 1)
    for key, index in numbers.items():
        argument = call.args[index]
        found[key] = signed(argument) if key in ("fd", "dfd", "to_dfd", "command") else argument
    if found.get("key", "source") != "source":
        del found["value"]  # not read: it may be a password
    if "fstype" in texts:
        found["needs_device"] = needs_device(str(found["fstype"]), filesystems)
    returned = bool(call.seen & SEEN_EXIT)
    number = -call.ret if returned and -4096 < call.ret < 0 else 0
    found["return"] = call.ret if returned else None
    found["errno"] = RESTARTS.get(number) or errno.errorcode.get(number, str(number)) if number else ""
    return found


def load() -> Any:
    """The compiled and attached programs. Ends the process with a sentence if they cannot be had."""
    if platform.machine() != "x86_64":
        fail(
            NOT_INSTALLED,
            f"the witness knows the system calls of x86-64 only, not {platform.machine()}",
            "use an x86-64 machine",
        )
    if os.geteuid() != 0:
        fail(NO_PERMISSION, "the witness must be root to watch system calls", "become root")
    os.environ["BCC_KERNEL_SOURCE"] = str(HERE / "headers")
    try:
        import bcc
    except ImportError as error:
        fail(NOT_INSTALLED, f"BCC is not installed for {sys.executable}: {error}", "apt-get install python3-bpfcc")
    except OSError as error:
        fail(NOT_INSTALLED, f"BCC's library cannot be loaded: {error}", "apt-get install --reinstall libbpfcc")
    if not hasattr(bcc, "BPF"):
        fail(
            NOT_INSTALLED,
            f"{bcc.__file__} is another bcc, not the one for BPF",
            "remove it and apt-get install python3-bpfcc",
        )
    if not any((place / "events/raw_syscalls").is_dir() for place in TRACEFS):
        fail(NOT_INSTALLED, "tracefs is not mounted", f"mount -t tracefs tracefs {TRACEFS[0]}")
    try:
        return bcc.BPF(text=(HERE / "watch.bpf.c").read_text())
    except Exception as error:
        version = getattr(bcc, "__version__", "?")
        fail(
            NOT_INSTALLED,
            f"BCC {version} cannot compile or load the witness's programs on Linux {platform.release()}: {error}",
            "see its messages above; enforcer doctor tells whether this kernel loads BPF programs",
        )


class Watch:
    """Attached programs, and what they see on ``stream``."""

    def __init__(self, stream: Any) -> None:
        self._stopped = False
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._stop)
        self._bpf, self._stream = load(), stream
        self._calls = self._lost = 0
        self._fresh: list[bytes] = []
        self._bpf["calls"].open_ring_buffer(self._called)

    def run(self, seconds: float | None) -> None:
        """Until a signal comes, or for so many seconds."""
        end = time.monotonic() + seconds if seconds is not None else float("inf")
        boot_id = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        self._say("begin", boot_id=boot_id, node=os.uname().nodename)
        reader = select.poll()
        reader.register(self._stream, 0)  # only POLLERR: nobody reads any more
        while not self._stopped and time.monotonic() < end and not reader.poll(0):
            self._bpf.ring_buffer_poll(POLL_MS)
            self._tell()
        for tracepoint in (b"raw_syscalls:sys_enter", b"raw_syscalls:sys_exit"):
            self._bpf.detach_tracepoint(tracepoint)
        self._bpf.ring_buffer_consume()
        self._tell()
        for _, call in self._bpf.get_table("running", ctypes.c_uint64, Call).items():  # still in the call
            call.exit_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
            self._write(facts(call, _filesystems()))
        self._say("end", calls=self._calls, lost=self._lost, skipped=self._skipped())

    def _stop(self, _number: int, _frame: object) -> None:
        self._stopped = True

    def _called(self, _context: object, data: int, size: int) -> int:
        """Called from C, so that nothing may be raised here."""
        self._fresh.append(ctypes.string_at(data, size))
        return 0

    def _tell(self) -> None:
        """Write the new calls; then, if there are more of them, how many were lost for want of room."""
        for raw in self._fresh:
            self._calls += 1
            self._write(facts(Call.from_buffer_copy(raw), _filesystems()))
        self._fresh.clear()
        lost = self._bpf["lost"][ctypes.c_int(0)].value
        if lost != self._lost:
            self._lost = lost
            self._say("lost", lost=lost)

    def _skipped(self) -> int:
        """How often the kernel skipped one of the programs, at whichever system call (bpf_prog_show_fdinfo,
        kernel/bpf/syscall.c). One end of a call is enough; a call is missed if both of its ends are among these."""
        count = 0
        for function in self._bpf.funcs.values():
            for line in Path(f"/proc/self/fdinfo/{function.fd}").read_text().splitlines():
                if line.startswith("recursion_misses:"):
                    count += int(line.split()[1])
        return count

    def _say(self, kind: str, **more: object) -> None:
        now = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        self._write({"schema": SCHEMA, "kind": kind, "boot_ns": now, **more})

    def _write(self, line: dict[str, object]) -> None:
        self._stream.write(json.dumps(line, separators=(",", ":")) + "\n")
        self._stream.flush()


def _filesystems() -> str:
    """Read anew for each call: a type's module is loaded by the first mount of it."""
    return Path("/proc/filesystems").read_text()


def main() -> int:
    parser = argparse.ArgumentParser(prog="watch.py", description="Watch the mount family of system calls.")
    parser.add_argument("--seconds", type=float, metavar="N", help="end after so many seconds")
    options = parser.parse_args()
    with contextlib.suppress(BrokenPipeError):
        Watch(sys.stdout).run(options.seconds)
    return 0


if __name__ == "__main__":
    sys.exit(main())
