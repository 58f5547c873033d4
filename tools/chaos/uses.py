# SPDX-License-Identifier: GPL-2.0-or-later
"""What the nodes do with the LUNs: writers that begin, wait, are stopped and end, and how a lease stands meanwhile.

A node's own view is read from the kernel's tables, because the daemon may be dead or waiting at that moment. It only
decides *when* the runner does something; whether all went well is not asked here.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from enforcer.model.deadlines import RENEWALS, margin_s
from tools.chaos.plan import Use
from tools.lab.disk import SharedDisk
from tools.lab.vm import Node, Spawned

STAMP = "/run/stamp"
PERIOD_MS = 150
LIVE, CLOSING = 2, 3  # kernel/abi.py, State

# bpf(2) by hand: BPF_OBJ_GET (7) and BPF_MAP_LOOKUP_ELEM (1), include/uapi/linux/bpf.h; SYS_bpf is 321 on x86-64
_PEEK = """
import ctypes, os, struct, time
libc = ctypes.CDLL(None, use_errno=True)

def bpf(command, *fields):
    attr = ctypes.create_string_buffer(struct.pack("=" + "".join(f for f, _ in fields), *(v for _, v in fields)), 120)
    return libc.syscall(321, command, attr, 120)

def read(name, key, size):
    path = ctypes.create_string_buffer(f"/sys/fs/bpf/enforcer/maps/{name}".encode())
    fd = bpf(7, ("Q", ctypes.addressof(path)))
    if fd < 0:
        return None
    wanted, value = ctypes.create_string_buffer(struct.pack("=I", key), 4), ctypes.create_string_buffer(size)
    found = bpf(1, ("I", fd), ("I", 0), ("Q", ctypes.addressof(wanted)), ("Q", ctypes.addressof(value)))
    os.close(fd)
    return value.raw if found == 0 else None

number = os.stat(device).st_rdev
guard = read("guard", os.major(number) << 20 | os.minor(number), 32)
deadline = read("deadline", 0, 16)
ends = struct.unpack_from("=Q", deadline)[0] if deadline else 0
result = {
    "state": struct.unpack_from("=I", guard)[0] if guard else 0,
    "token": struct.unpack_from("=Q", guard, 16)[0] if guard else 0,
    "left_s": (ends - time.clock_gettime_ns(time.CLOCK_BOOTTIME)) / 1e9,
}
"""


class Missed(Exception):
    """A lease did not come into the state that a step names, in time."""


@dataclass(frozen=True, slots=True)
class Standing:
    """How the kernel of a node sees one device: the guard's state, and how long its session still lives, seconds."""

    state: int
    token: int
    left_s: float

    def expiring(self, ttl_s: float, renew_s: float) -> bool:
        """Live, and every renewal that may fail has failed (model/deadlines.py)."""
        return self.state == LIVE and 0 < self.left_s < ttl_s - margin_s(ttl_s) - RENEWALS * renew_s


def peek(node: Node, device: str) -> Standing:
    """The tables as they are. Raises LostVM, GuestError."""
    found: dict[str, Any] = node.py(_PEEK, timeout_s=30, device=device)
    return Standing(int(found["state"]), int(found["token"]), float(found["left_s"]))


@dataclass
class User:
    """A writer on one LUN of one node, perhaps in a filesystem."""

    node: Node
    disk: SharedDisk
    use: Use
    device: str
    spawned: Spawned

    @property
    def directory(self) -> str:
        return f"/run/chaos/{self.disk.name}"

    def open(self) -> bool:
        """Whether it has got at the LUN."""
        return "open" in self.spawned.output().splitlines()

    def end(self) -> None:
        """Let it end, and unmount; returns at once, whatever state the node is in but paused or off."""
        undo = f"while grep -q ' {self.directory} ' /proc/mounts; do umount {self.directory} || sleep 0.2; done"
        kill = f"kill -CONT -- -{self.spawned.pid}; kill -TERM -- -{self.spawned.pid}"
        self.node.spawn(f"{kill}; {undo if self.use is Use.MOUNT else ''}")

    def stop(self) -> None:
        """It writes nothing until it is ended: what was under way is on the disk when this returns."""
        self.spawned.kill("STOP")
        time.sleep(0.5)


def begin(node: Node, disk: SharedDisk, use: Use, *, patience_s: float = 30.0, count: int = 0) -> User:
    """Start a writer; it goes on trying for ``patience_s``. Returns at once."""
    device = node.device(disk)
    arguments = f"{node.name} {int(patience_s * 1000)} {PERIOD_MS} {count}"
    command = f"exec {STAMP} {device} {arguments}"
    user = User(node, disk, use, device, Spawned(node, 0, ""))
    if use is Use.MOUNT:
        where, tries = user.directory, max(1, int(patience_s))
        command = (
            f"mkdir -p {where}; for i in $(seq {tries}); do mount -t ext4 {device} {where} && "
            f"exec {STAMP} {where}/f {arguments}; sleep 1; done; echo refused; exit 1"
        )
    user.spawned = node.spawn(command)
    return user


def outcome(user: User, timeout_s: float) -> str:
    """How a writer with a count fared: granted, refused, or, killed after the time, undecided."""
    rc = user.spawned.wait(timeout_s)
    if rc is None:
        user.spawned.kill("KILL")
    user.end()
    return {0: "granted", None: "undecided"}.get(rc, "refused")
