# SPDX-License-Identifier: GPL-2.0-or-later
"""Hold what the witness saw against what the audit log says, and report each disagreement as a sentence.

Both sides are lines of JSON, and that is all that this program knows of either: it imports nothing of mount-enforcer,
so that a mistake there cannot excuse itself here. What must agree, within one boot and while the witness watched:

- a new superblock of a type that needs a block device has a record of the same thread that let it pass;
- a refusal on record is a call of that thread that failed with that errno; a permit on record is a call;
- a call that failed as refused calls do (EBUSY, or another errno that the log refuses with) has a record;
- an umount on record is a call.

What the log rightly does not hold follows from the calls alone: binds, moves, remounts and changes of propagation make
no superblock, tmpfs and its like need no device, a second "create" on a context of fsopen(2) is refused by the kernel.
A call that a signal interrupted and that is restarted is one attempt. EPERM and EACCES without a record are the
kernel's own answer to whoever lacks a privilege. Exit status: 0 if they agree, 1 if not, 2 if a file cannot be read.
"""

from __future__ import annotations

import argparse
import errno
import gzip
import json
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

Line = Mapping[str, Any]

SLACK_NS = 1_000_000  # the log has its times in microseconds
LATE_NS = 5_000_000_000  # how much later than its call a refusal by the kernel alone may be recorded
# include/uapi/linux/mount.h
MGC_MASK, MGC_VAL = 0xFFFF0000, 0xC0ED0000
NO_SUPERBLOCK = 32 | 4096 | 8192 | 1 << 17 | 1 << 18 | 1 << 19 | 1 << 20  # remount, bind, move, propagation
SET_STRING, CREATE, CREATE_EXCL = 1, 6, 8
RESTARTED = ("ERESTARTSYS", "ERESTARTNOINTR", "ERESTARTNOHAND", "ERESTART_RESTARTBLOCK")
UNPRIVILEGED = ("EPERM", "EACCES")
BY_KERNEL = ("guard", "fail-mode")  # sources of a record that stand beside the one of an ask
# In records of other calls (an automount below openat(2)) there is nothing for the witness to see; 21 is mount(2) of a
# 32-bit program.
SEEN_CALLS = ("mount", "fsconfig", "syscall 21")


@dataclass(frozen=True, slots=True)
class Attempt:
    """One attempt at a superblock, however often its system call was restarted."""

    tid: int
    tgid: int
    uid: int
    comm: str
    call: str
    source: str
    target: str
    fstype: str
    needs_device: bool | None
    began_ns: int  # 0: its entry was not seen
    ended_ns: int
    errno: str | None  # empty: it succeeded; None: its end was not seen

    def __str__(self) -> str:
        what = " ".join(filter(None, (self.fstype, self.source, self.target and f"on {self.target}")))
        at_s = (self.began_ns or self.ended_ns) / 1e9
        return f"{self.call}(2) by {self.comm}[{self.tid}] at {at_s:.3f} s ({what or 'nothing known'})"


@dataclass(frozen=True, slots=True)
class Entry:
    """One record of the audit log about a mount."""

    id: str
    tid: int
    tgid: int
    comm: str
    call: str
    effect: str
    errno: str
    source: str  # of the verdict
    boot_ns: int
    asked_ns: int | None  # None: the kernel decided alone, and the record was written some time later

    def __str__(self) -> str:
        return f"record {self.id or '?'} ({self.effect} {self.errno}".rstrip() + f", {self.comm}[{self.tid}])"


@dataclass(slots=True)
class Comparison:
    """What came of it."""

    attempts: int = 0
    records: int = 0
    disagreements: list[str] = field(default_factory=list)


@dataclass(slots=True)
class _Context:
    """A context of fsopen(2), as its descriptor's calls have made it."""

    fstype: str = ""
    needs_device: bool | None = None
    source: str = ""
    used: bool = False


def attempts(calls: Iterable[Line]) -> list[Attempt]:
    """The attempts at a superblock among the witness's calls, in the order in which they ended."""
    found: list[Attempt] = []
    contexts: dict[tuple[int, int], _Context] = {}
    open_ended: dict[int, Attempt] = {}  # by thread: interrupted, to be restarted perhaps
    for call in calls:
        name, returned, key = call.get("syscall"), call.get("return"), (_int(call, "tgid"), _int(call, "fd"))
        if name == "fsopen" and isinstance(returned, int) and returned >= 0:
            contexts[key[0], returned] = _Context(_str(call, "fstype"), call.get("needs_device"))
        elif name == "fsconfig" and call.get("command") == SET_STRING and call.get("key") == "source":
            contexts.setdefault(key, _Context()).source = _str(call, "value")
        made = _attempt(call, contexts.get(key))
        before = open_ended.pop(_int(call, "tid"), None)
        if made and before and _same(made, before):
            made = replace(made, began_ns=before.began_ns)
        elif before:
            found.append(replace(before, errno="EINTR"))
        if made is None:
            continue
        if name == "fsconfig":
            contexts.setdefault(key, _Context()).used = True
        if made.errno in RESTARTED:
            open_ended[made.tid] = made
        else:
            found.append(made)
    return found + [replace(left, errno="EINTR") for left in open_ended.values()]


def compare(seen: Iterable[Line], log: Iterable[Line]) -> Comparison:
    """Hold the lines of the witness against the records of a log."""
    lines = list(seen)
    begin = next((line for line in lines if line.get("kind") == "begin"), {})
    begin_ns, boot_id = _int(begin, "boot_ns"), _str(begin, "boot_id")
    end_ns = max((_int(line, "boot_ns") for line in lines), default=0)
    calls = [line for line in lines if line.get("kind") == "call"]
    tried = attempts(calls)
    records = [r for r in log if r.get("boot_id") == boot_id and _str(r, "effect")]
    entries = (_entry(record) for record in records if record.get("kind") == "mount")
    mounts = [e for e in entries if begin_ns <= _at(e) <= end_ns + (LATE_NS if e.asked_ns is None else 0)]
    result = Comparison(len(tried), len(mounts))
    say = result.disagreements.append
    if lost := max((_int(line, "lost") for line in lines), default=0):
        say(f"the witness lost {lost} calls: what it does not show may have happened all the same")

    held: dict[int, list[Entry]] = defaultdict(list)  # by index of the attempt
    for entry in sorted(mounts, key=_at):
        index = _match(entry, tried, held, end_ns)
        if index is not None:
            held[index].append(entry)
        elif entry.call in SEEN_CALLS and (entry.asked_ns is not None or begin_ns + LATE_NS < entry.boot_ns <= end_ns):
            say(f"{entry}: the witness saw no such call")
    refusing = {"EBUSY", *(e.errno for e in mounts if e.effect == "refuse")} - {*UNPRIVILEGED, ""}
    for index, attempt in enumerate(tried):
        result.disagreements += _judge(attempt, held.get(index, []), refusing)
    unmounts = [(_int(call, "tid"), _int(call, "enter_ns")) for call in calls if call.get("syscall") == "umount2"]
    for entry in (_entry(r) for r in records if r.get("kind") == "umount"):
        known = any(tid == entry.tid and ns <= entry.boot_ns for tid, ns in unmounts)
        if not known and begin_ns + LATE_NS < entry.boot_ns <= end_ns:
            say(f"{entry}: the witness saw no umount of it")
    result.disagreements = [_visible(sentence) for sentence in result.disagreements]
    return result


def _judge(attempt: Attempt, held: list[Entry], refusing: set[str]) -> Iterator[str]:
    """What is wrong between one attempt and its records."""
    if attempt.errno is None:
        return
    asked = [entry for entry in held if entry.source not in BY_KERNEL]
    if len(asked) > 1:
        yield f"{attempt} has {len(asked)} records: {', '.join(entry.id for entry in asked)}"
    if not held:
        if attempt.needs_device and not attempt.errno:
            yield f"{attempt} succeeded, and no record permits it"
        elif attempt.needs_device and attempt.errno in refusing and attempt.uid == 0:
            yield f"{attempt} failed with {attempt.errno}, and no record tells of it"
        return
    last = held[-1]
    if last.effect != "refuse":
        return
    if not attempt.errno:
        yield f"{attempt} succeeded, and {last} refuses it"
    elif attempt.errno != last.errno and not _may_differ(attempt, last):
        yield f"{attempt} failed with {attempt.errno}, and {last} refuses it with another errno"


def _may_differ(attempt: Attempt, entry: Entry) -> bool:
    """Filesystems have errnos of their own for a device that cannot be opened; and where no device is opened any more
    that could carry the errno, sb_alloc_security makes it ENOMEM (alloc_super, fs/super.c)."""
    opens_early = not attempt.needs_device or attempt.fstype in ("btrfs", "bcachefs")
    return entry.source in BY_KERNEL or (attempt.call == "fsconfig" and opens_early and attempt.errno == "ENOMEM")


def _match(entry: Entry, tried: list[Attempt], held: Mapping[int, list[Entry]], end_ns: int) -> int | None:
    """The attempt that a record is about: the one it was asked in, else the first that it fits and that has none."""
    mine = [i for i, a in enumerate(tried) if (a.tid, a.tgid) == (entry.tid, entry.tgid)]
    if entry.asked_ns is not None:
        for index in mine:
            if tried[index].began_ns - SLACK_NS <= entry.asked_ns <= tried[index].ended_ns + SLACK_NS:
                return index
        return None
    before = [index for index in mine if tried[index].began_ns <= entry.boot_ns]
    fits = [i for i in before if not held.get(i) and bool(tried[i].errno) == (entry.effect == "refuse")]
    return fits[0] if fits else before[-1] if before and entry.boot_ns <= end_ns else None


def _attempt(call: Line, context: _Context | None) -> Attempt | None:
    """The attempt that a call is, or None if it makes no superblock."""
    name = _str(call, "syscall")
    if name == "mount":
        flags = _int(call, "flags")
        if flags & MGC_MASK == MGC_VAL:
            flags &= ~MGC_MASK
        if flags & NO_SUPERBLOCK:
            return None
        source, target, fstype, needs = (call.get(k) for k in ("source", "target", "fstype", "needs_device"))
    elif name == "fsconfig" and call.get("command") in (CREATE, CREATE_EXCL):
        context = context or _Context()
        if context.used:
            return None
        source, target, fstype, needs = context.source, "", context.fstype, context.needs_device
    else:
        return None
    return Attempt(
        tid=_int(call, "tid"),
        tgid=_int(call, "tgid"),
        uid=_int(call, "uid"),
        comm=_str(call, "comm"),
        call=name,
        source=str(source or ""),
        target=str(target or ""),
        fstype=str(fstype or ""),
        needs_device=needs if isinstance(needs, bool) else None,
        began_ns=_int(call, "enter_ns"),
        ended_ns=_int(call, "boot_ns"),
        errno=_str(call, "errno") if call.get("return") is not None else None,
    )


def _same(one: Attempt, other: Attempt) -> bool:
    return replace(one, began_ns=0, ended_ns=0, errno="") == replace(other, began_ns=0, ended_ns=0, errno="")


def _entry(record: Line) -> Entry:
    caller, error, latency = (_dict(record, key) for key in ("caller", "errno", "latency_us"))
    boot_ns, total_us = _int(record, "boot_ns"), _int(latency, "total")
    number = _int(error, "number")
    return Entry(
        id=_str(record, "id"),
        tid=_int(caller, "tid"),
        tgid=_int(caller, "pid"),
        comm=_str(caller, "comm"),
        call=_str(caller, "syscall"),
        effect=_str(record, "effect"),
        errno=errno.errorcode.get(number, str(number)) if number else "",
        source=_str(record, "source"),
        boot_ns=boot_ns,
        asked_ns=boot_ns - total_us * 1000 if total_us else None,
    )


def _at(entry: Entry) -> int:
    return entry.boot_ns if entry.asked_ns is None else entry.asked_ns


def _int(line: Line, key: str) -> int:
    value = line.get(key)
    return value if isinstance(value, int) and not isinstance(value, bool) else 0


def _str(line: Line, key: str) -> str:
    value = line.get(key)
    return value if isinstance(value, str) else ""


def _dict(line: Line, key: str) -> Line:
    value = line.get(key)
    return value if isinstance(value, dict) else {}


def _visible(text: str) -> str:
    return "".join(c if c.isascii() and c.isprintable() else ascii(c)[1:-1] for c in text)


def read(path: Path) -> Iterator[Line]:
    """The objects of a file, one a line; damaged lines are left out (``enforcer audit --verify`` counts them)."""
    with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as file:
        for text in file:
            try:
                value = json.loads(text)
            except (ValueError, RecursionError):
                continue
            if isinstance(value, dict):
                yield value


def main() -> int:
    parser = argparse.ArgumentParser(prog="compare.py", description="Hold the witness's lines against an audit log.")
    parser.add_argument("seen", type=Path, help="what watch.py has written")
    parser.add_argument("log", type=Path, nargs="+", help="the audit log, rotated files first")
    parser.add_argument("--json", action="store_true", help="one object")
    options = parser.parse_args()
    try:
        seen = list(read(options.seen))
        if not any(line.get("kind") == "begin" for line in seen):
            print(f"compare: {_visible(str(options.seen))} is not what a witness has written", file=sys.stderr)
            return 2
        found = compare(seen, (record for path in options.log for record in read(path)))
    except (OSError, EOFError) as error:
        print(f"compare: {_visible(str(error))}", file=sys.stderr)
        return 2
    if options.json:
        whole = {"schema": 1, "ok": not found.disagreements, "attempts": found.attempts, "records": found.records}
        print(json.dumps(whole | {"disagreements": found.disagreements}))
    else:
        for sentence in found.disagreements:
            print(sentence)
        count = len(found.disagreements)
        verdict = f"{count} disagreement{'s' if count > 1 else ''}" if count else "they agree"
        print(f"{found.attempts} attempts seen, {found.records} records about mounts: {verdict}")
    return 1 if found.disagreements else 0


if __name__ == "__main__":
    sys.exit(main())
