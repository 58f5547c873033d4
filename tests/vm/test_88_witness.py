# SPDX-License-Identifier: GPL-2.0-or-later
"""The witness and the audit log of node-2 agree about every way to mount; and they can disagree."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tools.lab import ways
from tools.lab.cluster import CHECKOUT, Cluster
from tools.lab.story import Story
from tools.lab.vm import Node
from tools.witness.compare import Comparison, compare

pytestmark = pytest.mark.full
Lines = list[dict[str, Any]]

SEEN = "/run/seen.jsonl"
THREADS = """
import ctypes, os, threading
libc = ctypes.CDLL(None, use_errno=True)
result = {}
def mount(number, source, fstype):
    where = f"/run/t{number}".encode()
    os.makedirs(where, exist_ok=True)
    failed = libc.mount(source.encode(), where, fstype.encode(), 0, None)
    result[str(number)] = [threading.get_native_id(), ctypes.get_errno() if failed else 0]
    if not failed:
        libc.umount2(where, 2)
wanted = [(dev, "ext4"), ("none", "tmpfs"), (dev, "ext4"), ("none", "tmpfs"), (dev, "ext4")]
threads = [threading.Thread(target=mount, args=(number, *what)) for number, what in enumerate(wanted)]
for thread in threads: thread.start()
for thread in threads: thread.join()
"""
# SIGURG comes with SA_RESTART, as in every Go program, while the mount waits for its verdict
RESTARTED = """
import ctypes, os, signal, time
child = os.fork()
if not child:
    libc = ctypes.CDLL(None, use_errno=True)
    signal.signal(signal.SIGURG, lambda *_: None)
    signal.siginterrupt(signal.SIGURG, False)
    os._exit(libc.mount(dev.encode(), b"/run/m", b"xfs", 0, None) and ctypes.get_errno())
for _ in range(10):
    time.sleep(0.2)
    os.kill(child, signal.SIGURG)
result = child
"""
# mount(2) by the 32-bit entry, as a 32-bit program does it: its strings lie below 4 GiB
COMPAT = r"""
#include <string.h>
static char dev[64], dir[64], type[16];
int main(int argc, char **argv)
{
	long ret;

	strcpy(dev, argv[1]), strcpy(dir, argv[2]), strcpy(type, argv[3]);
	__asm__ volatile("int $0x80" : "=a"(ret) : "a"(21), "b"(dev), "c"(dir), "d"(type), "S"(0), "D"(0) : "memory");
	return -ret;
}
"""


def compat_program(where: Path) -> bytes:
    source, program = where / "compat.c", where / "compat"
    source.write_text(COMPAT)
    subprocess.run(["gcc", "-Wall", "-Werror", "-static", "-no-pie", "-o", str(program), str(source)], check=True)
    return program.read_bytes()


@pytest.fixture(scope="module")
def both(story: Story, cluster: Cluster) -> tuple[Lines, Lines]:
    """What the witness and the audit log of node-2 have of the same minute."""
    one, two = cluster.nodes
    two.put("/run/compat", compat_program(cluster.lab.workdir), 0o755)
    dev, other, xfs = story.part(two), story.part(one), cluster.xfs
    cluster.wait_free(one, other)
    story.works(two, f"mkfs.ext4 -qF {dev}; mkfs.ext4 -qF {two.device(cluster.private)}; mkdir -p /run/a /run/b")
    cluster.wait_free(two, dev)
    watch = two.spawn(f"cd {CHECKOUT}; exec {sys.executable} -m enforcer.cli.main witness --json >{SEEN}")
    end = time.monotonic() + 60
    while "begin" not in two.run(f"cat {SEEN}").out:
        assert time.monotonic() < end, watch.output()
        time.sleep(0.5)

    for way in ways.MOUNTS:
        story.works(two, way.started(dev))
        story.works(two, way.ended(dev))
    story.works(two, f"/run/compat {dev} {ways.MOUNT_POINT} ext4 && umount {ways.MOUNT_POINT}")
    cluster.wait_free(two, dev)
    story.works(one, f"mount -t ext4 {other} {ways.MOUNT_POINT}")
    for way in ways.MOUNTS:
        assert not two.run(way.started(dev)).ok
    assert two.run(f"/run/compat {dev} {ways.MOUNT_POINT} ext4").rc == 16
    outcomes = two.py(THREADS, dev=dev)
    assert sorted(errno for _, errno in outcomes.values()) == [0, 0, 16, 16, 16], outcomes
    story.works(one, f"umount {ways.MOUNT_POINT}")
    story.works(
        two,
        f"mount {two.device(cluster.private)} /run/a && umount /run/a"
        " && mount -t tmpfs none /run/a && mount --bind /run/a /run/b && mount -o remount,ro /run/b && umount /run/b"
        " && umount -l /run/a && /run/attempt fsconfig none /run/a tmpfs && umount /run/a"
        " && ! mount -t ext4 /dev/nothing /run/a && ! mount -t tmpfs none /run/nowhere",
    )

    story.works(one, f"mount -t xfs {one.device(xfs)} {ways.MOUNT_POINT}")
    waiter = two.py(RESTARTED, dev=two.device(xfs))
    story.works(one, f"umount {ways.MOUNT_POINT}")
    story.works(two, f"while ! grep -q '{ways.MOUNT_POINT} xfs' /proc/mounts; do sleep 0.2; done")
    story.works(two, f"umount {ways.MOUNT_POINT}; ! kill -0 {waiter} 2>/dev/null || true")
    for node, name in ((one, other), (two, dev), (two, two.device(xfs))):
        cluster.wait_free(node, name)
    watch.kill("INT")
    assert watch.wait(30) == 0, watch.output()
    return [json.loads(line) for line in two.get(SEEN).splitlines()], cluster.records(two)


def test_they_agree(both: tuple[Lines, Lines]) -> None:
    seen, log = both
    found = compare(seen, log)
    assert found.disagreements == []
    assert (seen[0]["kind"], seen[-1]["kind"], seen[-1]["lost"]) == ("begin", "end", 0)
    errnos = Counter(line.get("errno") for line in seen)
    assert errnos["EBUSY"] == len(ways.MOUNTS) + 3 + 1, errnos
    assert [line["errno"] for line in seen if line.get("compat")] == ["", "EBUSY"]
    assert errnos["ERESTARTSYS"] >= 2, errnos
    assert {line.get("syscall") for line in seen} >= {"mount", "umount2", "fsopen", "fsconfig", "fsmount", "move_mount"}
    # every way and the 32-bit program permitted and refused, the threads, the private disk, the restarted one
    assert found.records >= 2 * (len(ways.MOUNTS) + 1) + 3 + 1 + 1, found
    assert found.attempts > found.records, "tmpfs is mounted without a record"


def test_the_command_says_so(both: tuple[Lines, Lines], two: Node, cluster: Cluster) -> None:
    outcome = two.run(cluster.cli(f"witness --compare --seen {SEEN}"))
    assert outcome.rc == 0 and outcome.out.endswith("they agree\n"), outcome


def mounts(both: tuple[Lines, Lines]) -> Lines:
    begin = both[0][0]["boot_ns"]
    return [r for r in both[1] if r["kind"] == "mount" and r["boot_ns"] > begin and r["effect"] in ("permit", "refuse")]


def without(lines: Lines, line: dict[str, Any]) -> Lines:
    return [other for other in lines if other is not line]


def test_each_record_that_is_removed_is_missed(both: tuple[Lines, Lines]) -> None:
    seen, log = both
    unnoticed: list[tuple[dict[str, Any], Comparison]] = []
    for record in mounts(both):
        if record["source_path"] == "/dev/nothing":
            continue  # permitted, and failed by itself: nothing was let through
        found = compare(seen, without(log, record))
        if len(found.disagreements) != 1 or "no record" not in found.disagreements[0]:
            unnoticed.append((record, found))
    assert unnoticed == []


def test_each_verdict_that_is_turned_round_is_noticed(both: tuple[Lines, Lines]) -> None:
    seen, log = both
    for record in mounts(both):
        if record["effect"] == "permit" and record["source_path"] != "/dev/nothing":
            false = record | {"effect": "refuse", "errno": {"name": "EBUSY", "number": 16}}
            (sentence,) = compare(seen, [*without(log, record), false]).disagreements
            assert "succeeded" in sentence and record["id"] in sentence
        elif record["effect"] == "refuse":
            false = record | {"errno": {"name": "EIO", "number": 5}}
            (sentence,) = compare(seen, [*without(log, record), false]).disagreements
            assert "failed with EBUSY" in sentence and record["id"] in sentence


def test_each_call_that_is_removed_is_missed(both: tuple[Lines, Lines]) -> None:
    seen, log = both
    for record in mounts(both):
        alone = [line for line in seen if line.get("tid") != record["caller"]["tid"]]
        assert any(record["id"] in sentence for sentence in compare(alone, log).disagreements), record
