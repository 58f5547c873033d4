# SPDX-License-Identifier: GPL-2.0-or-later
"""Which LUN a disk is, and over what wire it is reached, from what the hardware says of itself.

One fixed order of preference per driver, no configuration: the name must be the same on every node. Where a
better identity exists but could not be read, no weaker one is taken; the disk gets a problem instead. The
same holds for a disk on a fabric (iSCSI, FC, SAS, NVMe-oF) which reports nothing: SPC-4 demands page 83h, so
its absence means that a scan went wrong on this node, and the other node may well know the LUN by its WWN.

A *local* disk that reports nothing (a virtio disk without a serial, an SD card) is called
``node-<node>:<name>``. Such a name is never equal to any other node's, so a lease on it can neither be
blocked by another node nor block one, and ``names.is_node_only`` keeps it out of what nodes publish: it is
never taken for multi-attached. What that cannot do is protect such a disk *between* nodes, for example a
virtio disk without a serial that a hypervisor gives to two guests; a rule can refuse it by the mask
``node-*``.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from enforcer.storage import names, vpd
from enforcer.storage.sysfs import Unreadable, children, read_bytes, read_text

LOCAL = "local"


@dataclass(frozen=True, slots=True)
class Hardware:
    """A disk's identity. Exactly one of ``lun`` and ``problem`` is empty."""

    lun: str
    also: tuple[str, ...] = ()  # other names that the same hardware gives itself
    serial: str = ""  # escaped, as reported; "" if none
    attached_by: str = LOCAL
    problem: str = ""


def identify(disk: Path, node: str) -> Hardware:
    """Identity of the whole disk with the (real) sysfs directory ``disk``. Never raises for bad contents."""
    attached_by = LOCAL
    try:
        attached_by = transport(disk)
        found = _identify(disk, attached_by)
    except (Unreadable, vpd.VpdError) as error:
        return Hardware("", attached_by=attached_by, problem=f"identity of {disk.name} is unreadable: {error}")
    if found is not None:
        return found
    if attached_by != LOCAL:
        return Hardware(
            "",
            attached_by=attached_by,
            problem=f"{disk.name} is attached by {attached_by} and reports no identity",
        )
    return Hardware(names.node_name(node, disk.name))


def transport(disk: Path) -> str:
    """``iscsi``, ``fc``, ``sas``, ``nvme-fabrics`` or ``local``, from the path of the device. Raises
    Unreadable.

    The names of the directories are those of the transport classes: ``session1`` (scsi_transport_iscsi.c),
    ``rport-3:0-1`` (scsi_transport_fc.c), ``end_device-0:0`` (scsi_transport_sas.c).
    """
    for part in Path(os.path.realpath(disk)).parts:
        if re.fullmatch(r"session\d+", part):
            return "iscsi"
        if part.startswith("rport-"):
            return "fc"
        if part.startswith("end_device-"):
            return "sas"
    controller = disk / "device"
    if not disk.name.startswith("nvme"):
        return LOCAL
    # Without native multipath "device" is the controller; with it, the subsystem, which links its
    # controllers.
    wires = {read_text(controller / "transport")}
    wires |= {read_text(controller / name / "transport") for name in children(controller) if name.startswith("nvme")}
    return "nvme-fabrics" if wires & {"tcp", "rdma", "fc", "loop"} else LOCAL


def _identify(disk: Path, attached_by: str) -> Hardware | None:
    if disk.name.startswith("nvme"):
        return _nvme(disk, attached_by)
    device = disk / "device"
    if (device / "vpd_pg83").exists() or ((device / "vendor").exists() and (device / "model").exists()):
        return _scsi(disk, attached_by)
    if (fsid := read_text(device / "cluster_fsid")) is not None:  # drivers/block/rbd.c
        image = (
            read_text(device / "pool_id"),
            read_text(device / "image_id"),
            read_text(device / "current_snap"),
        )
        return Hardware(names.lun_name("rbd", fsid, *(part or "" for part in image)), attached_by="rbd")
    if uid := names.usable_serial(read_text(device / "uid")):  # drivers/s390/block/dasd_devmap.c
        return Hardware(names.lun_name("dasd", uid), serial=uid)
    if serial := names.usable_serial(read_text(disk / "serial")):  # drivers/block/virtio_blk.c, at most 20 bytes
        return Hardware(names.lun_name("virtio", serial), serial=serial)
    if serial := names.usable_serial(read_text(device / "serial")):  # e.g. drivers/mmc/core/mmc.c
        model = read_text(device / "model") or read_text(device / "name") or ""
        return Hardware(names.lun_name("disk", model, serial), serial=serial)
    return None


def _scsi(disk: Path, attached_by: str) -> Hardware | None:
    device = disk / "device"
    page80, page83 = read_bytes(device / "vpd_pg80"), read_bytes(device / "vpd_pg83")
    try:
        serial = names.usable_serial(vpd.parse_page80(page80)) if page80 else ""
    except vpd.VpdError:
        serial = ""
    designators: tuple[vpd.Designator, ...] = ()
    if page83:
        designators = vpd.parse_page83(page83)
    elif (wwid := read_text(device / "wwid")) and (one := vpd.parse_wwid(wwid)):
        designators = (one,)
    if designators:
        found = tuple(dict.fromkeys(each.lun_name for each in designators))
        return Hardware(found[0], found[1:], serial, attached_by)
    if not page83 and attached_by != LOCAL:
        return None
    serial = serial or names.usable_serial(read_text(device / "serial"))
    if not serial:
        return None
    parts = (read_text(device / "vendor") or "", read_text(device / "model") or "", serial)
    return Hardware(names.lun_name("scsi", *parts), (), serial, attached_by)


def _nvme(disk: Path, attached_by: str) -> Hardware | None:
    """Namespace attributes: drivers/nvme/host/sysfs.c (``wwid``, ``nguid``, ``eui``, ``uuid``, ``nsid``).

    The order is NGUID, EUI-64, UUID, then vendor, serial, model and namespace number.
    """
    serial = names.usable_serial(read_text(disk / "device/serial"))
    found: list[str] = []
    for attribute in ("nguid", "eui", "eui64"):
        text = re.sub(r"[\s-]", "", read_text(disk / attribute) or "").lower()
        if re.fullmatch(r"[0-9a-f]{16}|[0-9a-f]{32}", text) and text.strip("0"):
            found.append(f"eui-{text}")
    if uuid := names.usable_serial(read_text(disk / "uuid")):
        found.append(names.lun_name("nvme", f"uuid.{uuid.lower()}"))
    kind, _, value = (read_text(disk / "wwid") or "").partition(".")
    if kind == "eui" and re.fullmatch(r"[0-9a-f]{16}|[0-9a-f]{32}", value.lower()) and value.strip("0"):
        found.append(f"eui-{value.lower()}")
    elif kind == "uuid" and names.usable_serial(value):
        found.append(names.lun_name("nvme", f"uuid.{value.lower()}"))
    elif kind == "nvme" and value:
        found.append(names.lun_name("nvme", value))
    if not found and serial and (nsid := read_text(disk / "nsid")):
        found.append(names.lun_name("nvme", read_text(disk / "device/model") or "", serial, nsid))
    if not found:
        return None
    unique = tuple(dict.fromkeys(found))
    return Hardware(unique[0], unique[1:], serial, attached_by)
