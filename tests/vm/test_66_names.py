# SPDX-License-Identifier: GPL-2.0-or-later
"""Names that somebody else chose: whatever they hold, the verdict is that of a plain name, and neither log nor terminal
gets to see them as they are.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from tools.lab import ways
from tools.lab.cluster import CHECKOUT, Cluster
from tools.lab.story import Story
from tools.lab.vm import Node

pytestmark = pytest.mark.full

PLAIN = b"plain"
NAMES = (
    b"\x1b[2J\x1b]0;pwned\x07",  # clears the screen, sets a title
    b"n\new\nline\r\"q' $(id)`",
    b"\xff\xfe\x80,\\",  # no UTF-8
    "\N{RIGHT-TO-LEFT OVERRIDE}\x9b31m\N{ZERO WIDTH SPACE}".encode(),  # printed or not as the terminal likes
)
SGR = re.compile(rb"\x1b\[[0-9;]*m")  # colours and weights, all that rich sends

PREPARE = """
import os, shutil
os.makedirs("/run/h", exist_ok=True)
os.makedirs("/run/t", exist_ok=True)
for name in names:
    os.symlink(dev.encode(), b"/run/h/" + name)
    os.mkdir(b"/run/t/" + name)
    shutil.copy(b"/run/attempt", b"/run/h/run-" + name)
deep = b"/run/t/deep"
for _ in range(12):
    deep += b"/" + b"d" * 250
os.makedirs(deep)
result = deep.decode()
"""

CALLS = """
import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)

def errno(outcome):
    return 0 if outcome >= 0 else ctypes.get_errno()

def mount(source, target, fstype, data=None):
    return errno(libc.mount(source, target, fstype, 0, data))

def fsconfig(source, fstype):
    fs = libc.syscall(430, fstype, 0)
    if libc.syscall(431, fs, 1, b"source", source, 0):
        return ctypes.get_errno()
    return errno(libc.syscall(431, fs, 6, None, None, 0))

def become(name):
    libc.prctl(15, name[:15], 0, 0, 0)
"""

EVERYWHERE = (
    CALLS
    + """
dev, result = dev.encode(), []
for name in names:
    become(name)
    link, target = b"/run/h/" + name, b"/run/t/" + name
    result += [
        mount(link, target, b"ext4"),
        fsconfig(link, b"ext4"),
        mount(dev, target, b"ext4." + name),
        mount(dev, target, name),
        mount(dev, target, b"ext4", b"journal_path=/run/h/" + name),
    ]
"""
)

LONG = (
    CALLS
    + """
dev, link = dev.encode(), b"/run/h/" + name
result = {
    "source of 4 KiB": mount(b"/." * ((4095 - len(link)) // 2) + link, b"/run/m", b"ext4"),
    "target of 3 KiB": mount(dev, deep.encode(), b"ext4"),
    "fstype of 4 KiB": mount(dev, b"/run/m", b"t" * 4095),
}
"""
)

FREE = (
    CALLS
    + """
become(name)
group = b"/sys/fs/cgroup/" + name
os.mkdir(group)
open(group + b"/cgroup.procs", "w").write(str(os.getpid()))
os.symlink(dev.encode(), b"/run/h/free-" + name)
result = mount(b"/run/h/free-" + name, b"/run/t/" + name, b"xfs")
open("/sys/fs/cgroup/cgroup.procs", "w").write(str(os.getpid()))
os.rmdir(group)
"""
)

CLI = f"""
import json, sys
sys.path.insert(0, {str(CHECKOUT)!r})
from enforcer.cli.main import main
for words in json.load(open("/run/words")):
    main(words)
"""


@pytest.fixture(scope="module")
def deep(story: Story, cluster: Cluster) -> Iterator[str]:
    """node-1 has the ext4 LUN; on node-2 there are hostile names for it. A directory with a path of 3 KiB."""
    one, two = cluster.nodes
    theirs = one.device(cluster.ext4)
    story.works(one, f"mount -t ext4 {theirs} {ways.MOUNT_POINT}")
    yield str(two.py(PREPARE, names=[PLAIN, *NAMES], dev=two.device(cluster.ext4)))
    story.works(one, f"umount {ways.MOUNT_POINT}")
    cluster.wait_free(one, theirs)
    two.run("rm -rf /run/h /run/t")


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for key, each in value.items():
            yield key
            yield from _strings(each)
    elif isinstance(value, list):
        for each in value:
            yield from _strings(each)
    elif isinstance(value, str):
        yield value


def _shows_only_text(said: bytes, where: str) -> None:
    """UTF-8 in lines, and nothing in them that a terminal would act on."""
    wrong = [line for line in said.decode().split("\n") if line and not line.isprintable()]
    assert wrong == [], (where, wrong[:3])


def _lines_of_terminal(said: bytes) -> bytes:
    """Lines as a terminal's driver ends them (ONLCR, termios(3)), as plain ones."""
    return re.sub(rb"\r+\n", b"\n", said)


def _log_is_sound(node: Node) -> None:
    """The audit log is JSON in printable ASCII, a line for a record, and so is what its strings hold."""
    for line in node.get("/var/log/enforcer/audit.jsonl").splitlines():
        assert line.decode("ascii").isprintable(), line
        assert all(text.isprintable() for text in _strings(json.loads(line))), line
    for log in ("enforcerd", "keeper"):
        _shows_only_text(node.get(f"/run/{log}.log"), log)


@pytest.mark.parametrize("names", [[PLAIN], *([name] for name in NAMES)], ids=lambda names: ascii(names[0])[2:10])
def test_a_hostile_name_gets_the_verdict_of_a_plain_one(
    deep: str, two: Node, cluster: Cluster, names: list[bytes]
) -> None:
    mark, before = cluster.ext4.mark(), cluster.now_ns(two)
    assert two.py(EVERYWHERE, 60, names=names, dev=two.device(cluster.ext4)) == [1] * 5
    records = cluster.new_records(two, before, least=5)
    assert [(r["effect"], r["rule"], r["holder"]["node"]) for r in records] == [
        ("refuse", "other-errno", "node-1")
    ] * 5, records
    assert cluster.ext4.writes_of(two, since=mark) == []
    _log_is_sound(two)


def test_names_that_are_too_long_get_it_too(deep: str, two: Node, cluster: Cluster) -> None:
    """The kernel hands on 1 KiB of a path and 32 bytes of a type; each attempt is one record all the same."""
    before = cluster.now_ns(two)
    answers = two.py(LONG, 60, name=PLAIN, deep=deep, dev=two.device(cluster.ext4))
    assert set(answers.values()) == {1}, answers
    records = cluster.new_records(two, before, least=3)
    assert [(r["effect"], r["holder"]["node"]) for r in records] == [("refuse", "node-1")] * 3, records
    assert records[1]["target"] == "", "the end of a path must not be told as the whole"
    _log_is_sound(two)


@pytest.mark.parametrize("name", NAMES, ids=lambda name: ascii(name)[2:10])
def test_the_refused_callers_terminal_shows_its_line_and_nothing_else(
    deep: str, two: Node, cluster: Cluster, name: bytes
) -> None:
    before = cluster.now_ns(two)
    shown = {"A": b"/run/h/run-" + name, "D": b"/run/h/" + name, "T": b"/run/t/" + name}
    said = two.run(
        """script -qec 'exec "$A" mount "$D" "$T" ext4' /dev/null </dev/null >/run/said""",
        env={key: value.decode("utf-8", "surrogateescape") for key, value in shown.items()},
    )
    record = cluster.only_record(two, before)
    lines = _lines_of_terminal(two.get("/run/said")).splitlines()
    assert len(lines) == 2 and sum(line.startswith(b"enforcer: ") for line in lines) == 1, (said, lines)
    _shows_only_text(_lines_of_terminal(two.get("/run/said")), "terminal")
    assert any(b"node-1" in line and record["id"].encode() in line for line in lines), lines


def test_hostile_devices_and_lease_facts_are_shown_escaped_by_every_verb(
    deep: str, story: Story, one: Node, two: Node, cluster: Cluster
) -> None:
    """A disk with a hostile serial, a mapping with a hostile name, and a lease whose facts another node reads."""
    free, own, name = two.device(cluster.xfs), two.device(cluster.private), NAMES[0]
    before = cluster.now_ns(two)
    assert two.py(FREE, 60, name=name, dev=free) == 0
    mapped = name.decode() + "\n\"'"
    table = "0 $(blockdev --getsz {0}) linear {0} 0"
    create = 'dmsetup create --noudevsync --manglename none "$N" -u "$N" --table '
    held = two.run(f'{create} "{table.format(two.device(cluster.ext4))}"', env={"N": "held " + mapped})
    assert not held.ok, held
    made = two.run(f'{create} "{table.format(own)}"', env={"N": mapped})
    assert made.ok, made
    records = cluster.new_records(two, before, least=2)
    refused = next(r for r in records if r["kind"] == "dm-load" and r["effect"] == "refuse")
    permitted = next(r for r in records if r["kind"] == "mount")
    assert refused["holder"]["node"] == "node-1", records
    assert permitted["effect"] == "permit" and permitted["caller"]["comm"].startswith("\\x1b[2J"), records
    seen = {n: json.dumps(device) for device in cluster.ask(two, "who")["devices"] for n in [device["name"]]}
    assert "OWN%1B[2J" in seen[own.removeprefix("/dev/")], "the serial has not come through"
    assert any("dm:%1B[2J" in text for text in seen.values()), "nor has the name of the mapping"
    ids = [refused["id"], permitted["id"], records[0]["id"], name.decode()]
    verbs = [["audit"], ["who"], ["status"], *(["explain", event] for event in ids), ["who", name.decode()]]
    words = [verb + more for verb in verbs for more in ([], ["--json"])]
    for node in (one, two):
        node.put("/run/words", json.dumps(words))
        node.put("/run/cli.py", CLI)
        node.run(f"cd /; COLUMNS=150 {sys.executable} /run/cli.py >/run/shown 2>&1", 120)
        _shows_only_text(node.get("/run/shown"), f"{node.name}, pipe")
        node.run(f"TERM=xterm script -qec '{sys.executable} /run/cli.py' /dev/null </dev/null >/run/shown", 120)
        shown = node.get("/run/shown")
        assert SGR.search(shown) and b"E-" in shown and b"wwn-" in shown, shown[:2000]
        _shows_only_text(SGR.sub(b"", _lines_of_terminal(shown)), f"{node.name}, terminal")
        _log_is_sound(node)
    assert b"x1b[2J" in two.get("/run/shown"), "what was hostile must be shown all the same"
    two.run('dmsetup remove --noudevsync --manglename none "$N"', env={"N": mapped}, check=True)
    two.run('umount "$T"', env={"T": (b"/run/t/" + name).decode()}, check=True)
    cluster.wait_free(two, free)
    assert cluster.ask(two, "status")["enforcing"] is True
