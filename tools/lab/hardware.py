# SPDX-License-Identifier: GPL-2.0-or-later
"""What a machine of the lab is made of, as QEMU's command line."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from tools.lab.channel import Message
from tools.lab.disk import SharedDisk
from tools.lab.kernels import Kernel
from tools.lab.network import Network, hardware_address

COMMAND_LINE = (
    "console=ttyS0 quiet panic=-1 oops=panic mitigations=off nokaslr tsc=reliable no_timer_check"
    " cryptomgr.notests random.trust_cpu=on"
)


@dataclass(eq=False)
class Hardware:
    """A machine that is switched off. Its sockets and logs lie in ``workdir``."""

    name: str
    kernel: Kernel
    initramfs: Path
    workdir: Path
    disks: tuple[SharedDisk, ...] = ()
    networks: tuple[Network, ...] = ()
    memory_mib: int = 1024
    cpus: int = 1
    append: str = ""
    qemu: tuple[str, ...] = ()  # further arguments of QEMU
    accel: str = "tcg,thread=multi"

    def socket(self, end: str) -> Path:
        """Where QEMU serves ``agent`` or ``qmp``."""
        return self.workdir / f"{self.name}.{end}"

    def scsi_disk(self, disk: SharedDisk, path: int) -> Message:
        """The device by which the guest has this path of a disk, as -device and device_add take it."""
        index = self.disks.index(disk)
        return {
            "driver": "scsi-hd",
            "bus": "scsi.0",
            "scsi-id": index + 100 * path,
            "drive": f"disk{index}-{path}",
            "id": f"lun{index}-{path}",
            "share-rw": True,
            "wwn": disk.wwn,
            "serial": disk.serial or disk.name,
            "rotation_rate": 7200 if disk.rotational else 1,
        }

    def command(self, console: Path) -> list[str]:
        """What switches it on; the guest's console goes to a file."""
        addresses = ",".join(f"eth{index}:{net.address}" for index, net in enumerate(self.networks))
        reached = [guest.partition(":")[0] for net in self.networks for guest, _ in net.forwards]
        arp = ",".join(f"{guest}-{hardware_address(guest)}" for guest in reached)
        line = f"{COMMAND_LINE} lab.node={self.name} lab.ip={addresses} lab.arp={arp} {self.append}"
        command = ["qemu-system-x86_64", "-name", self.name, "-nodefaults", "-no-user-config", "-no-reboot"]
        command += ["-machine", "q35,sata=off,smbus=off,usb=off", "-accel", self.accel]
        command += ["-cpu", "host" if self.accel.startswith("kvm") else "max,la57=off"]
        command += ["-smp", str(self.cpus), "-m", str(self.memory_mib), "-display", "none", "-vga", "none"]
        command += ["-kernel", str(self.kernel.image), "-initrd", str(self.initramfs), "-append", line]
        command += ["-chardev", f"file,id=console,path={console}", "-serial", "chardev:console"]
        command += ["-qmp", f"unix:{self.socket('qmp')},server=on,wait=off"]
        command += ["-virtfs", "local,path=/,mount_tag=root,security_model=none,readonly=on,multidevs=remap"]
        command += ["-device", "virtio-serial-pci"]
        command += ["-chardev", f"socket,id=lab,path={self.socket('agent')},server=on,wait=off"]
        command += ["-device", "virtserialport,chardev=lab,name=lab"]
        for network in self.networks:
            command += network.arguments()
        if self.disks:
            command += ["-device", "virtio-scsi-pci,id=scsi"]
        for index, disk in enumerate(self.disks):
            for path in range(disk.paths):
                block = {
                    "driver": "nbd",
                    "node-name": f"disk{index}-{path}",
                    "server": {"type": "unix", "path": str(disk.socket)},
                    "export": self.name,
                    "cache": {"direct": True, "no-flush": False},
                    "discard": "unmap",
                }
                command += ["-blockdev", json.dumps(block)]
                command += ["-device", json.dumps(self.scsi_disk(disk, path))]
        return [*command, *self.qemu]
