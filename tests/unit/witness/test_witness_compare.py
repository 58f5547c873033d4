# SPDX-License-Identifier: GPL-2.0-or-later
"""What the witness saw against what the log says: each disagreement is found, and nothing else is called one."""

from __future__ import annotations

import errno
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tools.witness import compare as program
from tools.witness.compare import attempts, compare

BOOT = "1a2b3c4d-0000-0000-0000-000000000000"
S = 1_000_000_000
BEGIN = {"kind": "begin", "boot_ns": 10 * S, "boot_id": BOOT}
END = {"kind": "end", "boot_ns": 100 * S, "calls": 1, "lost": 0}
Line = dict[str, Any]


def call(name: str = "mount", at: float = 20.0, failed: str = "", **more: Any) -> Line:
    """A call that took 10 ms; of /dev/sda1 on /mnt by mount[7] unless told otherwise."""
    line = {"kind": "call", "enter_ns": int(at * S), "boot_ns": int(at * S) + 10_000_000, "tid": 7, "tgid": 7, "uid": 0}
    line |= {"comm": "mount", "syscall": name, "return": -1 if failed else 0, "errno": failed}
    if name == "mount":
        line |= {"source": "/dev/sda1", "target": "/mnt", "fstype": "ext4", "flags": 0, "needs_device": True}
    return line | more


def fsopen(fstype: str = "ext4", fd: int = 3, at: float = 20.0, needs_device: bool = True) -> list[Line]:
    """A context with its source, ready for "create"."""
    return [
        call("fsopen", at, fstype=fstype, needs_device=needs_device, **{"return": fd}),
        call("fsconfig", at + 0.1, fd=fd, command=1, key="source", value="/dev/sda1"),
    ]


def create(failed: str = "", at: float = 20.2, fd: int = 3) -> Line:
    return call("fsconfig", at, failed, fd=fd, command=6, key="")


def record(effect: str = "permit", error: str = "", at: float = 20.0, number: int = 1, **more: Any) -> Line:
    """A record asked 2 ms after ``at`` and written 5 ms later, or ``by="guard"`` without an ask."""
    source = more.pop("by", "store")
    caller = {"pid": 7, "tid": 7, "comm": "mount", "syscall": "mount"} | more.pop("caller", {})
    return {
        "kind": "mount",
        "id": f"E-1a2b3c-{number}",
        "boot_id": BOOT,
        "boot_ns": int(at * S) + 7_000_000,
        "effect": effect,
        "errno": {"name": error, "number": getattr(errno, error) if error else 0},
        "source": source,
        "caller": caller,
        "latency_us": {"total": 0 if source == "guard" else 5000},
    } | more


def said(seen: list[Line], log: list[Line]) -> list[str]:
    return compare([BEGIN, *seen, END], log).disagreements


@pytest.mark.parametrize(
    ("seen", "log"),
    [
        ([call()], [record()]),
        ([call(failed="EBUSY")], [record("refuse", "EBUSY")]),
        ([call(failed="EINVAL")], [record()]),  # permitted, and then it was no filesystem
        ([call()], [record("would-refuse", "EBUSY")]),
        ([*fsopen(), create()], [record(at=20.2)]),
        ([*fsopen(), create("EPERM")], [record("refuse", "EPERM", at=20.2)]),
        ([call(), call(at=30)], [record(), record(at=30, number=2)]),
        ([call(failed="EBUSY"), call(at=20.0, tid=8)], [record(caller={"tid": 8}), record("refuse", "EBUSY")]),
    ],
    ids=["permit", "refuse", "fails by itself", "audit mode", "new api", "new api refused", "twice", "threads"],
)
def test_they_agree(seen: list[Line], log: list[Line]) -> None:
    assert said(seen, log) == []


@pytest.mark.parametrize(
    ("seen", "log", "sentence"),
    [
        ([call()], [], "succeeded, and no record permits it"),
        ([*fsopen(), create()], [], "succeeded, and no record permits it"),
        ([call(failed="EBUSY")], [], "failed with EBUSY, and no record tells of it"),
        ([call()], [record("refuse", "EBUSY")], "succeeded, and record E-1a2b3c-1 (refuse EBUSY, mount[7]) refuses it"),
        ([call(failed="EIO")], [record("refuse", "EBUSY")], "failed with EIO"),
        ([], [record()], "record E-1a2b3c-1 (permit, mount[7]): the witness saw no such call"),
        ([], [record("refuse", "EBUSY")], "the witness saw no such call"),
        ([call()], [record(), record(number=2)], "has 2 records: E-1a2b3c-1, E-1a2b3c-2"),
        ([call()], [record(caller={"tid": 9})], "the witness saw no such call"),
        ([call()], [record(at=40)], "the witness saw no such call"),
        ([call()], [record(boot_id="another")], "no record permits it"),
        ([call()], [record(kind="write-open")], "no record permits it"),
        ([], [record(kind="umount", at=50)], "the witness saw no umount of it"),
    ],
)
def test_they_disagree(seen: list[Line], log: list[Line], sentence: str) -> None:
    assert any(sentence in found for found in said(seen, log)), said(seen, log)


@pytest.mark.parametrize(
    "seen",
    [
        [call(fstype="tmpfs", needs_device=False)],
        [call(flags=4096, fstype="none", needs_device=None)],
        [call(flags=flags) for flags in (32, 8192, 1 << 17, 1 << 18, 1 << 19, 1 << 20, 0xC0ED0000 | 32)],
        [*fsopen("tmpfs", needs_device=False), create()],
        [call("fsconfig", fd=3, command=7, key="")],  # a remount
        [call(failed="ENOENT"), call(failed="EPERM", at=30), call(failed="EBUSY", at=40, uid=1000)],
        [call("umount2", failed="EBUSY", target="/mnt"), call("pivot_root"), call("move_mount"), call("open_tree")],
        [call(**{"return": None})],  # its end was not seen
    ],
    ids=["tmpfs", "bind", "flags", "tmpfs by the new api", "reconfigure", "kernel's own", "other calls", "not back"],
)
def test_what_makes_no_superblock_needs_no_record(seen: list[Line]) -> None:
    assert said(seen, []) == []


def test_the_magic_number_of_old_programs_is_no_flag() -> None:
    assert "no record permits it" in said([call(flags=0xC0ED0000)], [])[0]


@pytest.mark.parametrize(
    "log",
    [
        [record(at=5)],  # before it watched
        [record(at=101)],
        [record(caller={"syscall": "openat"})],  # an automount
        [record(effect="", kind="start")],
        [record(kind="swap"), record(kind="dm-load")],
    ],
)
def test_what_the_witness_cannot_see_is_not_held_against_the_log(log: list[Line]) -> None:
    assert said([], log) == []


def test_a_restarted_call_is_one_attempt() -> None:
    seen = [call(failed="ERESTARTSYS", at=at) for at in (20, 21, 22)] + [call("umount2", tid=8, tgid=8, at=23)]
    log = [record(at=20)]
    assert [a.errno for a in attempts([*seen, call(at=24)])] == [""]
    assert said([*seen, call(at=24)], log) == []
    assert [a.errno for a in attempts(seen)] == ["EINTR"]
    assert said(seen, [record("refuse", "EINTR", by="caller-gone")]) == []
    another = call(at=24, source="/dev/sdb1")
    assert [(a.source, a.errno) for a in attempts([*seen, another])] == [("/dev/sda1", "EINTR"), ("/dev/sdb1", "")]


def test_either_end_of_a_call_suffices() -> None:
    unseen_entry, unseen_exit = call(enter_ns=None), call(**{"return": None})
    assert said([unseen_entry], [record()]) == said([unseen_exit], [record()]) == []
    assert "no record permits it" in said([unseen_entry], [])[0]
    assert "failed with EBUSY" in said([call(failed="EBUSY", enter_ns=None)], [])[0]
    later = call(at=30)
    assert said([unseen_exit, later], [record(), record(at=30, number=2)]) == []
    assert "no record permits it" in said([unseen_exit, later], [record()])[0]


def test_a_second_create_on_a_context_is_refused_by_the_kernel() -> None:
    seen = [*fsopen(), create("EPERM"), create("EBUSY", at=21)]
    assert said(seen, [record("refuse", "EPERM", at=20.2)]) == []
    again = [*seen, *fsopen(at=30), create("EBUSY", at=30.2)]
    assert "no record tells of it" in said(again, [record("refuse", "EPERM", at=20.2)])[0]


def test_a_context_knows_its_type_and_its_source() -> None:
    (found,) = attempts([*fsopen("xfs"), call("fsconfig", fd=3, command=1, key="logdev"), create()])
    assert (found.fstype, found.source, found.needs_device) == ("xfs", "/dev/sda1", True)


def test_the_kernels_own_refusal_may_be_recorded_late_and_shown_otherwise() -> None:
    refused = record("refuse", "EBUSY", at=24, by="guard")
    assert said([call(failed="EINVAL")], [refused]) == []
    assert said([call(failed="EBUSY")], [record(), refused | {"id": "E-1a2b3c-2"}]) == []  # permitted, then the guard
    assert "succeeded" in said([call()], [refused])[0]
    two = [call(failed="EBUSY"), call(at=21, failed="EBUSY")]
    assert said(two, [refused, refused | {"id": "E-1a2b3c-2"}]) == []
    assert "no record tells" in said(two, [refused])[0]


def test_where_no_device_is_opened_the_caller_sees_enomem() -> None:
    refused = [record("refuse", "EBUSY", at=20.2)]
    assert said([*fsopen("btrfs"), create("ENOMEM")], refused) == []
    assert said([*fsopen("9p", needs_device=False), create("ENOMEM")], refused) == []
    assert "failed with ENOMEM" in said([*fsopen("ext4"), create("ENOMEM")], refused)[0]


def test_lost_calls_are_no_agreement() -> None:
    found = compare([BEGIN, call(), END | {"lost": 2}], [record()])
    assert found.disagreements == ["the witness lost 2 calls: what it does not show may have happened all the same"]


def test_sentences_are_printable() -> None:
    (sentence,) = said([call(source="/dev/\x1b[2J\u202e\n", comm="\x07")], [])
    assert sentence.isprintable() and sentence.isascii()


values = st.none() | st.booleans() | st.integers() | st.text(max_size=5) | st.just([1]) | st.just({"a": 1})
KEYS = (
    "kind boot_ns boot_id enter_ns tid tgid uid comm syscall return errno source target fstype flags needs_device fd"
    " command key value lost effect caller latency_us id"
)
keys = st.sampled_from(KEYS.split())
lines = st.lists(st.dictionaries(keys, values, max_size=6), max_size=4)


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(lines, lines)
def test_any_line_is_taken(seen: list[Line], log: list[Line]) -> None:
    made = [call() | line for line in seen]
    for sentence in compare([BEGIN, *made, *seen], [record() | line for line in log]).disagreements:
        assert sentence.isprintable()


def test_the_program_reads_files_and_tells_by_its_exit_status(tmp_path: Path) -> None:
    def run(*arguments: object) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-I", str(program.__file__), *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True)

    seen, log, empty = tmp_path / "seen", tmp_path / "log", tmp_path / "empty"
    seen.write_text("".join(json.dumps(line) + "\n" for line in (BEGIN, call(), END)))
    log.write_text("damaged\n" + json.dumps(record()) + "\n")
    empty.touch()
    assert (run(seen, log).returncode, run(seen, log).stdout) == (
        0,
        "1 attempts seen, 1 records about mounts: they agree\n",
    )
    disagree = run(seen, empty)
    assert disagree.returncode == 1 and disagree.stdout.endswith("1 disagreement\n") and "mount[7]" in disagree.stdout
    whole = json.loads(run("--json", seen, empty).stdout)
    assert (whole["ok"], len(whole["disagreements"])) == (False, 1)
    assert run(log, seen).returncode == 2 and "not what a witness has written" in run(log, seen).stderr
    assert run(tmp_path / "none", log).returncode == 2
