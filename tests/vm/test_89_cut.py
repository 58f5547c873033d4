# SPDX-License-Identifier: GPL-2.0-or-later
"""A node that loses sight of the store cuts itself off everything it uses, before another takes over by time.

One link is cut under six uses at once: a metadata-heavy load on ext4 and on xfs, a raw writer, swap, and two
filesystems that nobody could shut down, because no path leads to them: one is there as an overlay's lower layer alone,
one was unmounted lazily under a writer's open descriptor. The oracle is the storage server's log, and it is asked for
more than the promise: no write of node-1 from the moment on when its session has ended in etcd, which is earlier than
any token of node-2.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import pytest

from tools import takeovers
from tools.at_end import Keep
from tools.lab import ways
from tools.lab.cluster import Cluster
from tools.lab.disk import Request, SharedDisk
from tools.lab.promise import promise
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
SWAP_AT, LAZY_AT = 264192 * 512, 395264 * 512  # where the second partition begins, and a third one in what is left
USES = ("ext4", "xfs", "raw", "swap", "lazy", "lower")
CLEAN = "e2fsck -fn {ext4} && xfs_repair -n {xfs} && e2fsck -fn {lazy} && e2fsck -fn {lower}"
ONLY_OVERLAY = """
mkdir /run/lower/late && cp -r /etc/security /run/lower/late
mkdir -p /run/top /run/over && mount -t tmpfs none /run/top && mkdir /run/top/upper /run/top/work
mount -t overlay -o lowerdir=/run/lower,upperdir=/run/top/upper,workdir=/run/top/work none /run/over
"""
HIDDEN = 'umount -l {where} && ! cat /proc/[0-9]*/mountinfo 2>/dev/null | grep -F " $(mountpoint -x {dev}) "'


def python(source: str, **values: str) -> str:
    """The command that runs ``source`` in a guest, with these names."""
    head = "".join(f"{name} = {value!r}\\n" for name, value in values.items()).replace("\\n", "\n")
    return f"exec /usr/bin/python3 -c {shell(head + source)}"


def writes(node: Node, cluster: Cluster, since: list[int]) -> dict[str, list[Request]]:
    """What the node has written since these marks, by use; uses without a write are left out."""
    disks = (cluster.ext4, cluster.xfs, cluster.disk, cluster.twin)
    ext4, xfs, parts, lower = (disk.writes_of(node, since=mark) for disk, mark in zip(disks, since, strict=True))
    raw = [w for w in parts if w.offset < SWAP_AT]
    swap = [w for w in parts if SWAP_AT <= w.offset < LAZY_AT]
    lazy = [w for w in parts if w.offset >= LAZY_AT]
    return {use: found for use, found in zip(USES, (ext4, xfs, raw, swap, lazy, lower), strict=True) if found}


def until(timeout_s: float, holds: Callable[[], bool], otherwise: Callable[[], object]) -> None:
    end = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < end, otherwise()


def shell(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"


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


@pytest.fixture
def third(story: Story, cluster: Cluster, one: Node, two: Node) -> Iterator[str]:
    """A third partition, as node-1 names it."""
    story.works(one, f"echo ',,L' | sfdisk -q --append {one.device(cluster.disk)}")
    cluster.wait_free(one, one.device(cluster.disk))
    yield story.part(one, 3)
    story.works(two, f"sfdisk -q --delete {two.device(cluster.disk)} 3")
    cluster.wait_free(two, two.device(cluster.disk))


@pytest.mark.timeout(600)  # six uses on emulated CPUs, and two boots
def test_who_loses_the_store_writes_nothing_after_its_session(
    third: str,
    promising: Node,
    story: Story,
    cluster: Cluster,
    two: Node,
    taken: Keep,
) -> None:
    one, etcd = promising, cluster.lab.etcd
    assert etcd is not None
    disks: tuple[SharedDisk, ...] = (cluster.ext4, cluster.xfs, cluster.disk, cluster.twin)
    part, swap, lower = story.part(one), story.part(one, 2), one.device(cluster.twin)
    story.works(one, "mkdir -p /run/e /run/x")
    story.works(
        one, f"mount -t ext4 {one.device(cluster.ext4)} /run/e && mount -t xfs {one.device(cluster.xfs)} /run/x"
    )
    story.works(one, f"mkswap {swap} && swapon {swap} && mkfs.ext4 -qF {third} && mkfs.ext4 -qF {lower}")
    story.works(one, f"mkdir -p /run/lazy /run/lower; mount {third} /run/lazy && mount {lower} /run/lower")
    loads = [one.spawn("exec 9</run/lazy; " + python(LOAD, root="/proc/self/fd/9"))]
    story.works(one, "while ! test -e /run/lazy/d1; do sleep 0.1; done; sync")
    story.works(one, HIDDEN.format(where="/run/lazy", dev=third))
    began = [disk.mark() for disk in disks]
    story.works(one, "mkdir /run/lower/first && cp -r /etc/security /run/lower/first && sync -f /run/lower")

    def used(*uses: str) -> None:
        until(
            60,
            lambda: writes(one, cluster, began).keys() >= set(uses),
            lambda: (writes(one, cluster, began).keys(), [load.output()[-300:] for load in loads]),
        )

    loads += [one.spawn(python(RAW, device=part)), one.spawn(python(SWAP))]
    used("raw", "swap")  # its open is asked for while the daemon has the CPU
    loads += [one.spawn(python(LOAD, root=root)) for root in ("/run/e", "/run/x")]
    used(*USES)
    held = {k: r.value["guarantee"] for k, r in etcd.records("/enforcer/lab/res/").items() if k.endswith("/node-1")}
    logs = one.run("cat /run/revoker.log; tail -n 20 /run/enforcerd.log /run/keeper.log").out
    assert len(held) == len(USES) and set(held.values()) == {"cut"}, (held, cluster.ask(one, "status")["lost"], logs)
    story.works(one, ONLY_OVERLAY)  # what it has written last is in memory still
    story.works(one, HIDDEN.format(where="/run/lower", dev=lower) + " && test -e /run/over/late/security")

    loaded = [disk.mark() for disk in disks]
    one.link(False)
    cut = time.monotonic()
    while "/enforcer/lab/node/node-1" in etcd.records("/enforcer/lab/node/"):
        assert time.monotonic() - cut < cluster.ttl_s + 10
        time.sleep(0.1)
    ended = [disk.mark() for disk in disks]
    gone_s = time.monotonic() - cut
    under_load = writes(one, cluster, loaded).keys()
    assert under_load >= {"ext4", "xfs", "raw", "swap"}, under_load
    mine = {"ext4": two.device(cluster.ext4), "xfs": two.device(cluster.xfs)}
    take = f"/run/attempt mount {mine['ext4']} /run/e ext4"
    story.works(two, f"mkdir -p /run/e /run/x; until {take}; do sleep 0.2; done")
    took_s, worst_s = time.monotonic() - cut, takeovers.printed_s(two)
    print(f"session gone after {gone_s:.1f} s, taken over after {took_s:.1f} s")
    taken([takeovers.died("the loss of the network under a cut", took_s, worst_s)])
    assert took_s < worst_s
    story.works(two, f"mount -t xfs {mine['xfs']} /run/x")
    story.works(two, f"mkfs.ext4 -qF {story.part(two)} && mkfs.ext4 -qF {story.part(two, 2)}", 60)
    mine |= {"lazy": story.part(two, 3), "lower": two.device(cluster.twin)}
    story.works(two, f"mkdir -p /run/l /run/o; mount -t ext4 {mine['lazy']} /run/l && mount {mine['lower']} /run/o")
    story.works(two, "touch /run/l/mine /run/o/mine && cmp /etc/security/limits.conf /run/o/first/security/limits.conf")

    one.link(True)
    began_s = time.monotonic()
    loads[0].kill()
    back = one.spawn("sync; for m in e x over; do umount /run/$m; echo $m $?; done; sync; exit 0")
    assert back.wait(30) == 0, one.run("dmesg | tail -n 40").out
    print(f"sync and umount took {time.monotonic() - began_s:.1f} s: {back.output()!r}")
    assert {"e 0", "x 0"} <= set(back.output().splitlines()), back.output()
    time.sleep(2)
    states = one.run("cat /sys/block/sd*/device/state; dmesg | grep enforcer-revoker; cat /run/revoker.log").out
    print(states)
    wrong = writes(one, cluster, ended)
    assert not wrong, ({use: (len(found), found[0]) for use, found in wrong.items()}, states)
    status = cluster.ask(one, "status")
    assert status["lost"]["cut"] and not status["lost"]["failed"], status["lost"]
    story.works(two, "sync && umount /run/e /run/x /run/l /run/o && " + CLEAN.format(**mine), 120)
    for name in (*mine.values(), story.part(two), story.part(two, 2)):
        cluster.wait_free(two, name)
