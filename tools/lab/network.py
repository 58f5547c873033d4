# SPDX-License-Identifier: GPL-2.0-or-later
"""What guests can reach: the lab's etcd, and, if a test wants it, each other. Nothing else, no host network.

The way to etcd is QEMU's user network, shut by ``restrict=on`` but for single addresses that lead to a relay.
Its hardware addresses are fixed in the guests: a cut cable is then silence and nothing else, where a failed
ARP would answer the first connection after the healing with "no route to host". The cable between two guests
is a pair of unix datagram sockets and not a stream: either end may lose its power and come back.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

RELAY = Path(__file__).resolve().parent / "relay.py"
SUBNET = "10.0.77"


@dataclass(frozen=True, slots=True)
class Network:
    """One network card: ``etcd`` with its forwards, or ``peer`` with the two ends of a cable."""

    name: str
    address: str  # with prefix length
    mac: str
    forwards: tuple[tuple[str, int], ...] = ()  # ("10.0.77.100:2379", port on the host's loopback)
    ends: tuple[Path, Path] | None = None  # of a cable: ours, theirs

    def arguments(self) -> list[str]:
        """For QEMU's command line."""
        if self.ends is not None:
            ours, theirs = self.ends
            netdev = f"dgram,id={self.name},local.type=unix,local.path={ours}"
            netdev += f",remote.type=unix,remote.path={theirs}"
        else:
            netdev = f"user,id={self.name},restrict=on,ipv6=off,net={SUBNET}.0/24"
            for guest, port in self.forwards:
                command = f"/usr/bin/python3 -I -S -B '{RELAY}' {port}".replace(",", ",,")
                netdev += f",guestfwd=tcp:{guest}-cmd:{command}"
        return ["-netdev", netdev, "-device", f"virtio-net-pci,netdev={self.name},mac={self.mac},romfile="]


def etcd_address(index: int) -> str:
    """Where guests find one member of etcd."""
    return f"{SUBNET}.{100 + index}:2379"


def hardware_address(address: str) -> str:
    """What QEMU's user network answers to ARP for one of its addresses: 52:55 and the address itself."""
    numbers = address.partition(":")[0].split(".")
    return "52:55:" + ":".join(f"{int(number):02x}" for number in numbers)


def etcd_network(number: int, ports: list[int]) -> Network:
    """The card of node ``number`` that leads to etcd's members on these ports of the host."""
    forwards = tuple((etcd_address(index), port) for index, port in enumerate(ports))
    return Network("etcd", f"{SUBNET}.{14 + number}/24", f"52:54:00:77:00:{number:02x}", forwards)


def peer_network(number: int, workdir: Path) -> Network:
    """One end of the cable between node 1 and node 2."""
    ends = (workdir / f"cable{number}", workdir / f"cable{3 - number}")
    return Network("peer", f"192.0.2.{number}/24", f"52:54:00:02:00:{number:02x}", ends=ends)
