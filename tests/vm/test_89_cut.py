# SPDX-License-Identifier: GPL-2.0-or-later
"""A node that loses sight of the store cuts itself off everything it uses, before another takes over by time.

One link is cut under four uses at once: a metadata-heavy load on ext4 and on xfs, a raw writer, swap. The oracle is the
storage server's log, and it is asked for more than the promise: no write of node-1 from the moment on when its
session has ended in etcd, which is earlier than any token of node-2.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import pytest

from tools.lab import ways
from tools.lab.cluster import Cluster
from tools.lab.disk import SharedDisk
from tools.lab.story import Story
from tools.lab.vm import Node

pytestmark = [pytest.mark.full, pytest.mark.own_lab]

LOAD = """
import os, sys
for turn in range(10**9):
    os.mkdir(f"{root}/d{turn}")
    for number in range(20):
        with open(f"{root}/d{turn}/{number}", "w") as file:
            file.write("x" * number * 100)
            if number % 7 == 0:
                file.flush()
                os.fsync(file.fileno())
    for number in range(0, 20, 2):
        os.rename(f"{root}/d{turn}/{number}", f"{root}/d{turn}/r{number}")
    if turn > 20:
        for number in os.listdir(f"{root}/d{turn - 20}"):
            os.unlink(f"{root}/d{turn - 20}/{number}")
        os.rmdir(f"{root}/d{turn - 20}")
"""
RAW = """
import os
raw = os.open(device, os.O_WRONLY)
for turn in range(10**9):
    os.pwrite(raw, bytes([turn % 256]) * 65536, turn * 65536 % (32 << 20))
    if turn % 5 == 0:
        os.fsync(raw)
"""
SWAP = """
import mmap, os, time
memory = mmap.mmap(-1, 24 << 20)
for turn in range(10**9):
    for page in range(0, 24 << 20, 4096):
        memory[page] = turn % 255 + 1  # a page of zeros is not written
    memory.madvise(21)  # MADV_PAGEOUT, asm-generic/mman-common.h
    time.sleep(0.05)
"""
SWAP_AT = 264192 * 512  # where the second partition begins
CLEAN = "e2fsck -fn {ext4} && xfs_repair -n {xfs}"


def python(source: str, **values: str) -> str:
    """The command that runs ``source`` in a guest, with these names."""
    head = "".join(f"{name} = {value!r}\\n" for name, value in values.items()).replace("\\n", "\n")
    return f"exec /usr/bin/python3 -c {shell(head + source)}"


def busy(node: Node, cluster: Cluster, began: list[int]) -> dict[str, bool]:
    """Which of the four the node has written to since these marks."""
    disks = (cluster.ext4, cluster.xfs, cluster.disk)
    ext4, xfs, parts = (disk.writes_of(node, since=since) for disk, since in zip(disks, began, strict=True))
    raw = any(w.offset < SWAP_AT for w in parts)
    return {"ext4": bool(ext4), "xfs": bool(xfs), "raw": raw, "swap": any(w.offset >= SWAP_AT for w in parts)}


def until(timeout_s: float, holds: Callable[[], bool], otherwise: Callable[[], object]) -> None:
    end = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < end, otherwise()


def shell(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"


def promise(node: Node, cluster: Cluster) -> None:
    """Let a node promise a cut: it is a virtual machine, of which the settings say that nobody pauses it."""
    text = node.get("/etc/enforcer/enforcer.toml").decode()
    node.put("/etc/enforcer/enforcer.toml", text.replace("[lost]\n", '[lost]\nhypervisor_pauses = "no"\ncut = "6s"\n'))
    node.spawn("exec /bin/bash /run/start-revoker")
    node.run("kill $(pgrep -f '[e]nforcer.keeper.main'); sleep 0.3", check=True)
    node.spawn("exec /bin/bash /run/start-keeper")
    end = time.monotonic() + 20
    while cluster.ask(node, "status")["lost"]["guarantee"] != "cut":
        assert time.monotonic() < end, cluster.ask(node, "status")["lost"]
        time.sleep(0.3)


@pytest.fixture
def promising(cluster: Cluster, one: Node) -> Iterator[Node]:
    """node-1, which promises a cut; afterwards it boots again, and promises nothing."""
    promise(one, cluster)
    yield one
    one.link(True)
    if one.alive:
        one.power_off()
    one.start()
    cluster.configure(one)
    ways.bring(one, ways.build(cluster.lab.workdir))
    cluster.start(one)
    cluster.ready(one)


def test_who_loses_the_store_writes_nothing_after_its_session(
    promising: Node, story: Story, cluster: Cluster, two: Node
) -> None:
    one, etcd = promising, cluster.lab.etcd
    assert etcd is not None
    disks: tuple[SharedDisk, ...] = (cluster.ext4, cluster.xfs, cluster.disk)
    part, swap = story.part(one), story.part(one, 2)
    story.works(one, "mkdir -p /run/e /run/x")
    story.works(
        one, f"mount -t ext4 {one.device(cluster.ext4)} /run/e && mount -t xfs {one.device(cluster.xfs)} /run/x"
    )
    story.works(one, f"mkswap {swap} && swapon {swap}")
    story.works(one, "sync")
    began = [disk.mark() for disk in disks]
    loads = [
        one.spawn(python(source, **values))
        for source, values in (
            (LOAD, {"root": "/run/e"}),
            (LOAD, {"root": "/run/x"}),
            (RAW, {"device": part}),
            (SWAP, {}),
        )
    ]
    until(
        30,
        lambda: all(busy(one, cluster, began).values()),
        lambda: (busy(one, cluster, began), [load.output()[-300:] for load in loads]),
    )
    held = {k: r.value["guarantee"] for k, r in etcd.records("/enforcer/lab/res/").items() if k.endswith("/node-1")}
    assert len(held) == 4 and set(held.values()) == {"cut"}, held

    one.link(False)
    cut = time.monotonic()
    while "/enforcer/lab/node/node-1" in etcd.records("/enforcer/lab/node/"):
        assert time.monotonic() - cut < cluster.ttl_s + 10
        time.sleep(0.1)
    ended = [disk.mark() for disk in disks]
    gone_s = time.monotonic() - cut
    mine = {"ext4": two.device(cluster.ext4), "xfs": two.device(cluster.xfs)}
    take = f"mkdir -p /run/e /run/x; mount -t ext4 {mine['ext4']} /run/e && mount -t xfs {mine['xfs']} /run/x"
    while (taken := two.run(take)).rc:
        two.run("umount /run/e 2>/dev/null")
        assert time.monotonic() - cut < cluster.ttl_s + 20, taken
        time.sleep(0.3)
    print(f"session gone after {gone_s:.1f} s, taken over after {time.monotonic() - cut:.1f} s")
    story.works(two, f"mkfs.ext4 -qF {story.part(two)} && mkfs.ext4 -qF {story.part(two, 2)}", 60)

    one.link(True)
    began_s = time.monotonic()
    back = one.spawn("sync; umount /run/e; echo $?; umount /run/x; echo $?; sync; exit 0")
    assert back.wait(30) == 0, one.run("dmesg | tail -n 40").out
    print(f"sync and umount took {time.monotonic() - began_s:.1f} s: {back.output()!r}")
    time.sleep(2)
    states = one.run("cat /sys/block/sd*/device/state; dmesg | grep enforcer-revoker; cat /run/revoker.log").out
    print(states)
    for disk, since in zip(disks, ended, strict=True):
        assert not (wrong := disk.writes_of(one, since=since)), f"{disk.name}: {wrong[:3]} {states}"
    status = cluster.ask(one, "status")
    assert status["lost"]["cut"] and not status["lost"]["failed"], status["lost"]
    story.works(two, "sync && umount /run/e /run/x && " + CLEAN.format(**mine), 120)
    for name in (*mine.values(), story.part(two), story.part(two, 2)):
        cluster.wait_free(two, name)
