# SPDX-License-Identifier: GPL-2.0-or-later
"""How hardware identities and device-mapper names are spelt in resource names and rule masks.

A LUN name is a key in the cluster's store and must come out the same, byte for byte, on every node, whatever
kernel and locale it runs. Hence one alphabet, ``[A-Za-z0-9._:-]``, everything else ``%XX``, no slash (a slash
parts the LUN from what lies in it), at most ``LIMIT`` characters. The prefix says which kind of identity it
is, so that a serial number which somebody chose can never spell another kind's name.
"""

from __future__ import annotations

import hashlib
import re
from typing import NamedTuple

#: Longest LUN name in characters; longer ones are cut and end in a digest of the whole.
LIMIT = 128

#: Prefix of names that say "on this node only"; no hardware identity is ever spelt so.
NODE_PREFIX = "node-"

_ALPHABET = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._:-")
_LVM_UUID = re.compile(r"LVM-(?P<vg>.{32})(?P<lv>.{32})(?:-(?P<layer>.+))?", re.DOTALL)
_PART_UUID = re.compile(r"part(?P<number>[0-9]{1,4})-(?P<rest>.+)", re.DOTALL)


def sanitise(text: str) -> str:
    """One component in the alphabet of names. ``%XX`` that ``sysfs.escape`` made stays as it is.

    Runs of blanks become one underscore, as in udev's ``ID_SERIAL``.
    """
    text = "_".join(text.split())
    out = []
    for char in text:
        if char in _ALPHABET or char == "%":
            out.append(char)
        else:
            out.extend(f"%{byte:02X}" for byte in char.encode("utf-8", "surrogateescape"))
    return "".join(out)


def lun_name(kind: str, *parts: str) -> str:
    """``kind-part_part``, sanitised and bounded.

    >>> lun_name("scsi", "QEMU", "QEMU HARDDISK", "a/b")
    'scsi-QEMU_QEMU_HARDDISK_a%2Fb'
    """
    name = f"{kind}-" + "_".join(part for part in map(sanitise, parts) if part)
    if len(name) <= LIMIT:
        return name
    digest = hashlib.sha256(name.encode()).hexdigest()[:32]
    return f"{name[: LIMIT - 33]}:{digest}"


def node_name(node: str, device: str) -> str:
    """The name of a disk that reports no identity: ``node-<node>:<kernel name>``."""
    return lun_name("node", f"{node}:{device}")


def is_node_only(lun: str) -> bool:
    """True if the name says nothing beyond this node: never publish it, never count it as multi-attached."""
    return lun.startswith(NODE_PREFIX)


def usable_serial(serial: str | None) -> str:
    """The serial number, or "" if it is one that says nothing (absent, blank, all zeros or dashes)."""
    serial = (serial or "").strip()
    return "" if not serial.strip("0-_. ") else serial


class LvmUuid(NamedTuple):
    """The parts of a device-mapper uuid of LVM: ``LVM-`` + 32 of the VG + 32 of the LV (+ ``-layer``)."""

    vg: str
    lv: str
    layer: str  # "", or e.g. "real", "cow", "tpool", "tdata": lib/activate/dev_manager.c of LVM2


def lvm_uuid(uuid: str) -> LvmUuid | None:
    """Split a dm uuid of LVM2's, or None if it is none."""
    match = _LVM_UUID.fullmatch(uuid)
    return LvmUuid(match["vg"], match["lv"], match["layer"] or "") if match else None


def lvm_names(name: str) -> tuple[str, str, str] | None:
    """VG, LV and layer out of a dm name, or None.

    LVM2 doubles the dashes inside a name and parts the names with single ones (dm_split_lvm_name in libdm).

    >>> lvm_names("vg--a-lv--b-real")
    ('vg-a', 'lv-b', 'real')
    """
    parts = [part.replace("\0", "-") for part in name.replace("--", "\0").split("-")]
    if len(parts) < 2 or not parts[0] or not parts[1]:
        return None
    return parts[0], parts[1], "-".join(parts[2:])


def is_multipath(uuid: str) -> bool:
    """True for the uuid that multipath-tools give their maps (UUID_PREFIX in libmultipath/devmapper.c)."""
    return uuid.startswith("mpath-")


def kpartx_part(uuid: str) -> tuple[int, str] | None:
    """Partition number and uuid of the whole, for a map that kpartx made (``part1-mpath-...``), or None."""
    match = _PART_UUID.fullmatch(uuid)
    return (int(match["number"]), match["rest"]) if match else None
