# SPDX-License-Identifier: GPL-2.0-or-later
"""What a block device stands on: its kind and the devices right below it.

The kernel tells it in four ways: a partition's directory lies in its disk's; stacking drivers (dm, md,
bcache, drbd) link their members in ``slaves`` (bd_link_disk_holder in block/holder.c); loop and zram name a
backing file; a disk has a ``device``. A virtual device that fits none of these may be a network client (rnbd,
ublk, nbd) whose storage other nodes see too, so it is *unknown*, not harmless.
"""

from __future__ import annotations

import fcntl
import os
import re
import struct
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from enforcer.model.resource import DevNum
from enforcer.storage import names, nodes
from enforcer.storage.sysfs import (
    Unreadable,
    device_dir,
    escape,
    linked_devices,
    read_bytes,
    read_dev,
    read_int,
    read_text,
)

#: include/uapi/linux/loop.h
LOOP_GET_STATUS64 = 0x4C05
_LOOP_INFO64 = struct.Struct("=QQQQQIIII64s64s32sQQ")


class Kind(StrEnum):
    """How a device comes by its resources."""

    DISK = "disk"  # hardware: it names a LUN
    PARTITION = "partition"  # a piece of the one device below
    LV = "lv"  # a logical volume: a named piece of every device below
    MULTIPATH = "multipath"  # the same LUN as every device below
    PIECE = "piece"  # a map that stands for a partition (kpartx)
    USE = "use"  # any other stacking: it uses the devices below as they are
    EMPTY = "empty"  # no storage below, or none now
    UNKNOWN = "unknown"  # no hardware, nothing below that the kernel would name


@dataclass(frozen=True, slots=True)
class Layer:
    """One device and what is right below it, read at one moment."""

    dev: DevNum
    name: str
    directory: Path
    kind: Kind
    below: tuple[DevNum, ...] = ()
    partition: int = 0  # number, for PARTITION and PIECE
    dm_name: str = ""  # escaped
    dm_uuid: str = ""  # escaped


def read_layer(root: Path, dev: DevNum) -> Layer:
    """Look at one device. Raises Unreadable if it is gone or half gone or cannot be read."""
    directory = device_dir(root, dev)
    if directory is None:
        raise Unreadable(f"there is no block device {dev}")
    number = read_int(directory / "partition")
    if number is not None:
        whole = read_dev(directory.parent)
        if whole is None:
            raise Unreadable(f"the disk of {directory.name} went away")
        return Layer(dev, directory.name, directory, Kind.PARTITION, (whole,), number)
    multipath = names.is_multipath(read_text(directory / "dm/uuid") or "")
    below = tuple(lower for _, lower in linked_devices(directory / "slaves", some=multipath))
    if (directory / "dm").exists():
        return _dm_layer(dev, directory, below)
    if below:
        return Layer(dev, directory.name, directory, Kind.USE, below)
    if (directory / "device").exists():
        return Layer(dev, directory.name, directory, Kind.DISK)
    return _virtual_layer(root, dev, directory)


def is_multipath_path(layer: Layer) -> bool:
    """True if a multipath map holds this device. Raises Unreadable."""
    return any(
        names.is_multipath(read_text(layer.directory / "holders" / name / "dm/uuid") or "")
        for name, _ in linked_devices(layer.directory / "holders")
    )


def held_by_carriers(directory: Path) -> bool:
    """True if all that holds a device is multipath maps and pieces of one (by their uuids). Raises Unreadable."""
    uuids = [
        read_text(directory / "holders" / name / "dm/uuid") or "" for name, _ in linked_devices(directory / "holders")
    ]
    parts = [names.kpartx_part(uuid) for uuid in uuids]
    return bool(uuids) and all(
        names.is_multipath(uuid) or (part is not None and names.is_multipath(part[1]))
        for uuid, part in zip(uuids, parts, strict=True)
    )


def _dm_layer(dev: DevNum, directory: Path, below: tuple[DevNum, ...]) -> Layer:
    dm_name = read_text(directory / "dm/name") or ""
    uuid = read_text(directory / "dm/uuid") or ""
    kind, number = Kind.USE, 0
    if not below and names.is_multipath(uuid):
        kind = Kind.UNKNOWN  # all of its paths are gone, and what waits in it is for the LUN that they led to
    elif not below:
        kind = Kind.EMPTY  # no table yet, or only error and zero targets
    elif names.lvm_uuid(uuid):
        kind = Kind.LV
    elif names.is_multipath(uuid):
        kind = Kind.MULTIPATH
    elif part := names.kpartx_part(uuid):
        kind, number = Kind.PIECE, part[0]
    return Layer(dev, directory.name, directory, kind, below, number, dm_name, uuid)


def _virtual_layer(root: Path, dev: DevNum, directory: Path) -> Layer:
    name = directory.name

    def layer(kind: Kind, *below: DevNum) -> Layer:
        return Layer(dev, name, directory, kind, below)

    if re.fullmatch(r"loop\d+", name):
        backing = loop_backing(root, dev, directory)
        return layer(Kind.USE, backing) if backing else layer(Kind.EMPTY)
    if re.fullmatch(r"zram\d+", name):
        path = _path(read_bytes(directory / "backing_dev"))  # drivers/block/zram: "none" or a path
        if path in (b"", b"none"):
            return layer(Kind.EMPTY)
        lower = _block_node(root, path)
        return layer(Kind.USE, lower) if lower else layer(Kind.EMPTY)
    if re.fullmatch(r"(ram|nullb|pmem)\d+", name) or (directory / "md").exists():
        return layer(Kind.EMPTY)  # memory of this node; an md array without members
    if re.fullmatch(r"nbd\d+", name) and not (directory / "pid").exists():
        return layer(Kind.EMPTY)  # not connected (drivers/block/nbd.c)
    if name.startswith("nvme"):
        return layer(Kind.DISK)  # a multipath head lies below devices/virtual/nvme-subsystem
    return layer(Kind.UNKNOWN)


def loop_backing(root: Path, dev: DevNum, directory: Path) -> DevNum | None:
    """The block device that a loop device maps, or None if it maps a regular file or nothing.

    The kernel is asked first (LOOP_GET_STATUS64, ``lo_rdevice``: drivers/block/loop.c), because the text in
    ``loop/backing_file`` is a path in whatever mount namespace and may name another file here. Raises
    Unreadable if neither tells.
    """
    path = _path(read_bytes(directory / "loop/backing_file"))
    if not path:
        return None
    try:
        with nodes.opened(dev, os.O_RDONLY, root=root) as fd:
            info = bytearray(_LOOP_INFO64.size)
            fcntl.ioctl(fd, LOOP_GET_STATUS64, info)
            rdevice: int = _LOOP_INFO64.unpack(info)[2]
            return DevNum(os.major(rdevice), os.minor(rdevice)) if rdevice else None
    except OSError:
        return _block_node(root, path)


def _path(data: bytes | None) -> bytes:
    """A path out of an attribute: only the newline that the kernel adds is not part of it."""
    return (data or b"").removesuffix(b"\n")


def _block_node(root: Path, path: bytes) -> DevNum | None:
    """The device that a node stands for, None for any other file. Raises Unreadable."""
    try:
        return nodes.number_of(nodes.below_root(root, path).stat())
    except (OSError, ValueError) as error:
        raise Unreadable(f"cannot tell what backs it: {escape(path)}: {error.__class__.__name__}") from error
