# SPDX-License-Identifier: GPL-2.0-or-later
"""The witness without its kernel half: what it makes of a call, what it says where it cannot watch."""

from __future__ import annotations

import json
import os
import platform
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tools.witness import watch
from tools.witness.watch import Call, facts

FILESYSTEMS = "nodev\ttmpfs\nnodev\tfuse\n\text4\n"


def made(nr: int, *texts: bytes, args: tuple[int, ...] = (), ret: int = 0, unread: int = 0) -> dict[str, Any]:
    call = Call(enter_ns=5, exit_ns=9, ret=ret, tgid=7, tid=8, uid=0, nr=nr, unread=unread, seen=3, comm=b"mount")
    for index, text in enumerate(texts):
        call.text[index].value = text
    for index, argument in enumerate(args):
        call.args[index] = argument
    return facts(call, FILESYSTEMS)


def test_a_mount() -> None:
    found = made(165, b"/dev/sda1", b"/mnt", b"ext4", args=(1, 2, 3, 33), ret=-16)
    assert (found["syscall"], found["source"], found["target"], found["fstype"]) == (
        "mount",
        "/dev/sda1",
        "/mnt",
        "ext4",
    )
    assert (found["enter_ns"], found["boot_ns"], found["tid"], found["tgid"], found["flags"]) == (5, 9, 8, 7, 33)
    assert (found["return"], found["errno"]) == (-16, "EBUSY")


@pytest.mark.parametrize(
    ("fstype", "needs"), [("ext4", True), ("tmpfs", False), ("fuse.sshfs", False), ("zfs", None), ("", None)]
)
def test_the_kernel_tells_which_types_need_a_device(fstype: str, needs: bool | None) -> None:
    assert made(165, b"", b"", fstype.encode())["needs_device"] is needs


def test_only_the_source_of_a_context_is_shown() -> None:
    assert made(431, b"source", b"/dev/sda1", args=(3, 1))["value"] == "/dev/sda1"
    assert "value" not in made(431, b"password", args=(3, 1))


def test_a_restart_is_told_from_an_error_and_a_text_from_none() -> None:
    assert made(165, ret=-512)["errno"] == "ERESTARTSYS"
    assert (made(429)["source"], made(429, unread=1)["source"]) == ("", None)
    assert made(429, args=(4, 0, (1 << 64) - 100))["to_dfd"] == -100


def test_either_end_of_a_call_suffices() -> None:
    entry = facts(Call(nr=166, enter_ns=5, exit_ns=9, seen=watch.SEEN_ENTRY), "")
    exit_ = facts(Call(nr=166, exit_ns=9, ret=-16, seen=watch.SEEN_EXIT), "")
    assert (entry["enter_ns"], entry["boot_ns"], entry["return"], entry["errno"]) == (5, 9, None, "")
    assert (exit_["enter_ns"], exit_["boot_ns"], exit_["return"], exit_["errno"]) == (None, 9, -16, "EBUSY")


@pytest.mark.parametrize(
    "hostile", [b"\x1b[2J", b"\xff\xfe", b'"\n\r\t', "\u202e\u200b".encode(), b"\x7f\\", b"x" * 255]
)
def test_hostile_names_are_printable_ascii(hostile: bytes) -> None:
    found = made(165, hostile, hostile, hostile)
    assert all(text.isascii() and text.isprintable() for text in (found["source"], found["target"], found["fstype"]))
    assert json.dumps(found).isprintable()
    assert found["source"].endswith("...") == (len(hostile) == 255)


class Bpf:
    def __init__(self, text: str) -> None:
        raise Exception("Need super-user privileges to run")


@pytest.mark.parametrize(
    ("uid", "machine", "module", "code", "sentence"),
    [
        (1000, "x86_64", None, 4, "must be root"),
        (0, "aarch64", None, 5, "x86-64 only"),
        (0, "x86_64", None, 5, "apt-get install python3-bpfcc"),
        (0, "x86_64", SimpleNamespace(__file__="/x/bcc.py"), 5, "/x/bcc.py is another bcc"),
        (0, "x86_64", SimpleNamespace(__version__="0.26.0", BPF=Bpf), 5, "BCC 0.26.0 cannot compile or load"),
        (0, "x86_64", SimpleNamespace(BPF=Bpf, tracefs="none"), 5, "mount -t tracefs"),
    ],
)
def test_where_it_cannot_watch_it_says_why_and_what_to_do(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    uid: int,
    machine: str,
    module: object,
    code: int,
    sentence: str,
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: uid)
    monkeypatch.setattr(platform, "machine", lambda: machine)
    monkeypatch.setitem(sys.modules, "bcc", module)
    (tmp_path / "mounted/events/raw_syscalls").mkdir(parents=True)
    monkeypatch.setattr(watch, "TRACEFS", (tmp_path / getattr(module, "tracefs", "mounted"),))
    monkeypatch.setenv("BCC_KERNEL_SOURCE", "")  # restored after the test
    with pytest.raises(SystemExit) as ended:
        watch.load()
    lines = capsys.readouterr().err.splitlines()
    assert ended.value.code == code and sentence in " ".join(lines)
    assert len(lines) == 2 and lines[0].startswith("witness: ") and lines[1].startswith("  hint: ")
