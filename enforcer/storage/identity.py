# SPDX-License-Identifier: GPL-2.0-or-later
"""From a device number down to the LUNs that it lies on.

==================  ==================================================================================
disk                its LUN, by hardware identity (``hardware``)
partition           LUN + ``p<number>``
logical volume      every resource below + ``lv-<uuid>``: an LV over three PVs is three resources
multipath map       the resource of its paths, which must agree; map and paths are carriers
other dm, md, ...   the resources below, as they are: a linear map on sda uses sda whole
loop on a device    the resources of that device
loop on a file      none: it is not a use of the LUN beyond the mount which holds the file
ram, zram, empty    none
==================  ==================================================================================

Only what two nodes may use side by side gets a name of its own. So a partition of an md array or of an
encrypted volume inherits all that lies below, and so does a thin volume of its pool: two of them share
metadata and must meet. Layers that LVM puts under a volume later (``-real`` of a snapshot) keep the volume's
own name, so that it does not change under a live mount.

A loop over an image on a network or cluster filesystem, which two nodes could attach at once, is *not*
covered: the image has no name here. Nor is the cache device of a bcache set, which the kernel does not link
in ``slaves``.

Nothing is remembered between calls: a device number has no identity of its own and may be another device's by
now.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from enforcer.model.resource import Device, DevNum, ResourceId
from enforcer.storage import hardware, names, sysfs
from enforcer.storage.stack import Kind, Layer, held_by_carriers, is_multipath_path, read_layer

#: Deepest stack that is followed; the kernel's own limits are far lower in practice.
MAX_DEPTH = 16

_POOL_LAYERS = ("tpool", "vpool")


@dataclass(frozen=True, slots=True)
class _Found:
    """One device, resolved with everything below it."""

    layer: Layer | None
    resources: frozenset[ResourceId] = frozenset()
    below: tuple[DevNum, ...] = ()
    serials: tuple[str, ...] = ()
    also: tuple[str, ...] = ()
    attached_by: str = hardware.LOCAL
    problem: str = ""


class Identities:
    """Resolver over one sysfs. Cheap to make; ``system`` may be replaced whenever it was computed anew."""

    def __init__(self, root: Path = Path("/"), *, node: str = "", system: Mapping[DevNum, str] | None = None) -> None:
        """``node`` is this node's name in the cluster, for disks without identity; default: the host name."""
        self.root = root
        self.node = node or sysfs.read_text(root / "proc/sys/kernel/hostname") or "unnamed"
        self.system: Mapping[DevNum, str] = system or {}

    def resolve(self, dev: DevNum) -> Device:
        """The device as it is now. Never raises: what cannot be resolved has ``problem`` set."""
        for _ in range(3):
            before = self._generation(dev)
            device = self._describe(dev)
            if before == self._generation(dev):
                return device
        return Device(dev, str(dev), (), (), problem=f"{dev} kept changing while it was looked at")

    def all(self) -> tuple[Device, ...]:
        """Every block device, by number. Raises Unreadable if sysfs itself is not there to be listed."""
        return tuple(map(self.resolve, sysfs.all_devices(self.root)))

    def lying_on(self, lun: str) -> tuple[Device, ...]:
        """Every device with a resource on the LUN, disks first: what holds cached blocks of it."""
        found = [each for each in self.all() if any(resource.lun == lun for resource in each.resources)]
        return tuple(sorted(found, key=lambda each: (len(each.below), each.dev)))

    def below(self, dev: DevNum) -> tuple[DevNum, ...]:
        """All devices that ``dev`` stands on, nearest first, as far as they can be seen."""
        return self._resolve(dev, {}, ()).below

    def of_table(self, uuid: str, lower: Iterable[DevNum]) -> tuple[tuple[ResourceId, ...], str]:
        """Resources that a dm device with this uuid would have over these devices, and the problem or "".

        For a table that is about to be loaded, when sysfs does not show it yet.
        """
        memo: dict[DevNum, _Found] = {}
        found = [self._resolve(dev, memo, ()) for dev in lower]
        kind, number = Kind.USE, 0
        if names.lvm_uuid(uuid):
            kind = Kind.LV
        elif names.is_multipath(uuid):
            kind = Kind.MULTIPATH
        elif part := names.kpartx_part(uuid):
            kind, number = Kind.PIECE, part[0]
        resources, problem = _combine(kind, number, uuid, found)
        return tuple(sorted(resources)), _first([problem, *(each.problem for each in found)])

    def carries(self, dev: DevNum) -> bool:
        """True for a path with its multipath map, and for a map with pieces: being held from above is no use of it."""
        try:
            directory = sysfs.device_dir(self.root, dev)
            return directory is not None and held_by_carriers(directory)
        except sysfs.Unreadable:
            return False

    def is_multipath(self, dev: DevNum) -> bool:
        """True for a multipath map, with paths or without. What cannot be told may be one."""
        try:
            directory = sysfs.device_dir(self.root, dev)
            return directory is not None and names.is_multipath(sysfs.read_text(directory / "dm/uuid") or "")
        except sysfs.Unreadable:
            return True

    def dm_device(self, *, name: str = "", uuid: str = "") -> DevNum | None:
        """The mapped device of this (escaped) name or uuid, or None. Like the kernel, by name first."""
        for attribute, wanted in (("name", name), ("uuid", uuid)):
            if not wanted:
                continue
            for entry in sysfs.children(self.root / "sys/block"):
                if (
                    entry.startswith("dm-")
                    and sysfs.read_text(self.root / "sys/block" / entry / "dm" / attribute) == wanted
                ):
                    return sysfs.read_dev(self.root / "sys/block" / entry)
        return None

    def _generation(self, dev: DevNum) -> tuple[str, str] | None:
        try:
            return sysfs.generation(self.root, dev)
        except sysfs.Unreadable:
            return None

    def _describe(self, dev: DevNum) -> Device:
        found = self._resolve(dev, {}, ())
        resources = tuple(sorted(found.resources))
        system = self.system.get(dev, "")
        if found.layer is None:
            return Device(dev, str(dev), resources, (), found.below, system=system, problem=found.problem)
        layer, size, carrier, problem = found.layer, 0, found.layer.kind is Kind.MULTIPATH, found.problem
        aliases: tuple[str, ...] = tuple(map(str, resources))
        try:
            size = max(0, sysfs.read_int(layer.directory / "size") or 0) * 512
            carrier = carrier or (layer.kind is Kind.DISK and is_multipath_path(layer))
            aliases = _aliases(found, resources)
        except sysfs.Unreadable as error:
            problem = problem or str(error)
        return Device(
            dev,
            layer.name,
            resources,
            aliases,
            found.below,
            size,
            system,
            found.attached_by,
            carrier,
            problem,
        )

    def _resolve(self, dev: DevNum, memo: dict[DevNum, _Found], above: tuple[DevNum, ...]) -> _Found:
        if dev in memo:
            return memo[dev]
        if dev in above:
            return _Found(None, problem=f"{dev} stands on itself")
        if len(above) >= MAX_DEPTH:
            return _Found(None, problem=f"more than {MAX_DEPTH} layers below {above[0]}")
        try:
            layer = read_layer(self.root, dev)
        except sysfs.Unreadable as error:
            found = _Found(None, problem=str(error))
        else:
            found = self._of_layer(layer, [self._resolve(lower, memo, (*above, dev)) for lower in layer.below])
        memo[dev] = found
        return found

    def _of_layer(self, layer: Layer, lower: list[_Found]) -> _Found:
        if layer.kind is Kind.UNKNOWN:
            return _Found(layer, problem=f"{layer.name} is a virtual device and the kernel does not say what is below")
        if layer.kind is Kind.DISK:
            disk = hardware.identify(layer.directory, self.node)
            resources = frozenset({ResourceId(disk.lun)}) if disk.lun else frozenset()
            serials = (disk.serial,) if disk.serial else ()
            return _Found(layer, resources, (), serials, disk.also, disk.attached_by, disk.problem)
        resources, problem = _combine(layer.kind, layer.partition, layer.dm_uuid, lower)
        below = dict.fromkeys(layer.below)
        for each in lower:
            below.update(dict.fromkeys(each.below))
        same_lun = layer.kind in (Kind.PARTITION, Kind.MULTIPATH, Kind.PIECE)
        return _Found(
            layer,
            resources,
            tuple(below),
            tuple(dict.fromkeys(serial for each in lower for serial in each.serials)) if same_lun else (),
            tuple(dict.fromkeys(name for each in lower for name in each.also)) if layer.kind is Kind.MULTIPATH else (),
            _first([each.attached_by for each in lower if each.attached_by != hardware.LOCAL]) or hardware.LOCAL,
            _first([problem, *(each.problem for each in lower)]),
        )


def _first(texts: Iterable[str]) -> str:
    return next((text for text in texts if text), "")


def _combine(kind: Kind, number: int, uuid: str, lower: list[_Found]) -> tuple[frozenset[ResourceId], str]:
    """The resources of a device over these, and a problem or ""."""
    below = frozenset(resource for each in lower for resource in each.resources)
    if kind is Kind.MULTIPATH and len(below) > 1:
        return below, "the paths of one multipath map lead to different LUNs: " + ", ".join(map(str, sorted(below)))
    if kind in (Kind.PARTITION, Kind.PIECE):
        whole = all(each.layer is not None and each.layer.kind in (Kind.DISK, Kind.MULTIPATH) for each in lower)
        return (_inside(below, f"p{number}") if whole else below), ""
    if kind is Kind.LV and (volume := names.lvm_uuid(uuid)) is not None:
        if any(_is_pool(each) for each in lower):
            return below, ""
        return _inside(below, "lv-" + names.sanitise(volume.lv)), ""
    return below, ""


def _inside(resources: frozenset[ResourceId], part: str) -> frozenset[ResourceId]:
    """Each resource with one more step, except where it already ends in that step."""
    return frozenset(
        each if each.path[-1:] == (part,) else ResourceId(each.lun, (*each.path, part)) for each in resources
    )


def _is_pool(found: _Found) -> bool:
    volume = names.lvm_uuid(found.layer.dm_uuid) if found.layer is not None else None
    return volume is not None and volume.layer in _POOL_LAYERS


def _aliases(found: _Found, resources: tuple[ResourceId, ...]) -> tuple[str, ...]:
    """What masks are held against, canonical names first, in printable ASCII. Raises Unreadable."""
    layer = found.layer
    assert layer is not None
    uevent = sysfs.read_uevent(layer.directory)
    out = [*map(str, resources), *found.also]
    if layer.kind in (Kind.PARTITION, Kind.PIECE):
        out += [f"{each.lun}-part{each.path[0][1:]}" for each in resources if len(each.path) == 1]
    out += [f"/dev/{uevent.get('DEVNAME') or layer.name.replace('!', '/')}", layer.name]
    if layer.dm_name:
        out += [f"dm:{layer.dm_name}", f"/dev/mapper/{layer.dm_name}"]
        if names.lvm_uuid(layer.dm_uuid) and (lvm := names.lvm_names(layer.dm_name)):
            vg, lv, hidden = lvm
            out += [f"vg:{vg}", f"lv:{vg}/{lv}"]
            if not hidden:
                out.append(f"/dev/{vg}/{lv}")
    out += [f"serial:{serial}" for serial in found.serials]
    for key, prefix in (
        ("PARTUUID", "partuuid:"),
        ("PARTNAME", "partlabel:"),
    ):  # block/partitions, newer kernels
        if value := uevent.get(key):
            out.append(prefix + value)
    return tuple(dict.fromkeys(out))
