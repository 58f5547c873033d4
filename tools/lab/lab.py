# SPDX-License-Identifier: GPL-2.0-or-later
"""The whole lab as one context manager: disks, etcd and nodes come up together and go away together.

With emulated CPUs the boot is what costs, so all nodes boot at the same time and a test module should share
one lab. ``LAB_KVM=1`` asks for hardware virtualisation: it is believed only after a guest has booted with it
(there are machines with a /dev/kvm on which stock kernels hang), and the outcome is remembered for this boot
of the host.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO

from tools.lab import initramfs, network
from tools.lab.disk import SharedDisk
from tools.lab.etcd import EtcdServer
from tools.lab.kernels import Kernel, cache_dir, newest
from tools.lab.network import Network
from tools.lab.vm import LostVM, Node

TCG = "tcg,thread=multi"
KVM_PATIENCE_S = 25.0


class Lab:
    """N nodes, named node1 .. nodeN, that share disks."""

    def __init__(
        self,
        kernel: Kernel | str = "6.12",
        nodes: int = 2,
        disks: Sequence[SharedDisk] = (),
        workdir: Path | None = None,
        *,
        etcd: bool | int = True,
        peer_network: bool = False,
        memory_mib: int = 1024,
        cpus: int = 1,
        append: str = "",
        qemu: Sequence[str] = (),
        say: Callable[[str], None] | None = None,
    ) -> None:
        """``say`` is told how the start goes; without it the lab tells standard error, and its end too."""
        self.kernel = newest(kernel) if isinstance(kernel, str) else kernel
        self.disks = list(disks)
        self.say = say or self._to_stderr
        self._talkative = say is None
        self._began = time.monotonic()
        self._own_workdir = workdir is None
        self.workdir = workdir.absolute() if workdir else _new_workdir()
        self.workdir.mkdir(parents=True, exist_ok=True)
        if len(str(self.workdir)) > 80:
            raise ValueError(f"{self.workdir}: too long, a unix socket's path has 108 bytes")
        self._lock = _lock(self.workdir)
        self.etcd: EtcdServer | None = EtcdServer(self.workdir, int(etcd)) if etcd else None
        self.nodes: list[Node] = []
        for number in range(1, nodes + 1):
            self.nodes.append(
                Node(
                    name=f"node{number}",
                    kernel=self.kernel,
                    initramfs=self.workdir / "initramfs",
                    workdir=self.workdir,
                    disks=tuple(disk for disk in self.disks if not disk.nodes or number in disk.nodes),
                    networks=self._networks(number, nodes, peer_network),
                    memory_mib=memory_mib,
                    cpus=cpus,
                    append=append,
                    qemu=tuple(qemu),
                )
            )

    def _networks(self, number: int, nodes: int, peer: bool) -> tuple[Network, ...]:
        found: list[Network] = []
        if self.etcd is not None:
            found.append(network.etcd_network(number, [member.client_port for member in self.etcd.members]))
        if peer:
            if nodes != 2:
                raise ValueError("the peer network is one cable between two nodes")
            found.append(network.peer_network(number, self.workdir))
        return tuple(found)

    @property
    def etcd_urls(self) -> list[str]:
        """Where the guests find etcd."""
        members = self.etcd.members if self.etcd is not None else []
        return [f"http://{network.etcd_address(index)}" for index in range(len(members))]

    def _to_stderr(self, text: str) -> None:
        print(f"lab {time.monotonic() - self._began:6.1f} s  {text}", file=sys.stderr, flush=True)

    def start(self) -> None:
        """Bring everything up; raises LostVM if a node does not come."""
        self._began = time.monotonic()
        initramfs.build(self.kernel, self.workdir / "initramfs")
        for disk in self.disks:
            disk.start(self.workdir)
        if self.disks:
            self.say("the storage server is up")
        accel = accelerator(self.nodes[0]) if self.nodes else TCG
        for node in self.nodes:
            node.accel = accel
            node.start(wait=False)
        where = f", {self.workdir}" if self._talkative else ""
        self.say(f"{len(self.nodes)} nodes of {self.kernel.version} are switched on ({accel}){where}")
        if self.etcd is not None:
            self.etcd.start()
            self.say(f"etcd answers at {self.etcd.url}")
        for number, node in enumerate(self.nodes, 1):
            node.wait_up()
            self.say(f"node {number} has booted")

    def stop(self) -> None:
        """Pull all plugs and remove the lab's directory."""
        for node in self.nodes:
            node.kill()
        if self.etcd is not None:
            self.etcd.stop()
        for disk in self.disks:
            disk.stop()
        if self._own_workdir and "LAB_KEEP" not in os.environ:
            shutil.rmtree(self.workdir, ignore_errors=True)
        self._lock.close()
        if self._talkative:
            self.say("gone")

    def __enter__(self) -> Lab:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def _lock(workdir: Path) -> IO[str]:
    """A file that stays locked as long as this process lives: it must never exist unlocked before that."""
    file = (workdir / "lock.new").open("w")
    fcntl.flock(file, fcntl.LOCK_EX)
    (workdir / "lock.new").rename(workdir / "lock")
    return file


def _new_workdir() -> Path:
    """A new directory, and an end to those of labs that were killed and could not clean up."""
    base = Path("/var/tmp")
    for lock in base.glob("lab-*/lock"):
        with contextlib.suppress(OSError), lock.open() as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if "LAB_KEEP" not in os.environ:
                shutil.rmtree(lock.parent, ignore_errors=True)
    return Path(tempfile.mkdtemp(prefix="lab-", dir=base))


def accelerator(model: Node) -> str:
    """QEMU's -accel: TCG, or KVM where it was asked for and a guest has booted with it."""
    if os.environ.get("LAB_KVM") != "1" or not os.access("/dev/kvm", os.R_OK | os.W_OK):
        return TCG
    boot_id = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    verdict = cache_dir() / f"kvm-{boot_id}"
    if not verdict.exists():
        probe = Node("kvm-probe", model.kernel, model.initramfs, model.workdir, accel="kvm")
        try:
            probe.start(timeout_s=KVM_PATIENCE_S)
            outcome = "kvm"
        except LostVM:
            outcome = TCG
        finally:
            probe.kill()
        verdict.parent.mkdir(parents=True, exist_ok=True)
        verdict.write_text(outcome)
    return verdict.read_text().strip()
