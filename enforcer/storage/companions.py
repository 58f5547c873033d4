# SPDX-License-Identifier: GPL-2.0-or-later
"""The other block devices that one mount opens.

The mount names one device. The kernel opens more of them by itself, and replays a log onto them before anybody can
look: all must be leased as one set, or none. What it opens is read where the kernel reads it:

=================  ==========================================================================================
ext2, ext3, ext4   external journal: ext4_open_journal, ext4_get_journal_blkdev in fs/ext4/super.c
xfs                ``logdev=``, ``rtdev=``: xfs_open_devices in fs/xfs/xfs_super.c
btrfs              every device with the fsid that was scanned, ``device=``: device_list_add, fs/btrfs/volumes.c
f2fs               device table in the superblock: f2fs_scan_devices in fs/f2fs/super.c
jfs                external log: lmLogOpen in fs/jfs/jfs_logmgr.c
reiserfs           ``jdev=`` or the number in the superblock: journal_init_dev in fs/reiserfs/journal.c
=================  ==========================================================================================

A device that holds no such superblock has no companions and no problem: the kernel refuses that mount by itself,
and tells better why. What is found can be one device too many; if it is one too few, the guard in the kernel
refuses the exact device number that nobody leased.

Not resolved, so such a mount is denied or fails: seeds of a btrfs (their fsid stands in its chunk tree; the number of
devices then does not come out), and btrfs on a zoned disk, whose superblock moves. The tables of bcachefs and erofs
are not read.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from uuid import UUID

from enforcer.model.errors import EnforcerError
from enforcer.model.resource import DevNum
from enforcer.storage import stack, superblocks, sysfs
from enforcer.storage.identity import Identities
from enforcer.storage.mountdata import Options, last, parse_number, parse_options

Read = Callable[[DevNum, int, int], bytes]

#: How much of a path from an option or a disk goes into a sentence.
_SHOWN = 200


@dataclass(frozen=True, slots=True)
class Companions:
    """What a mount opens beside the device that it names."""

    devices: tuple[DevNum, ...]  # sorted, without that device
    problem: str = ""  # one sentence: what could not be resolved; such a mount is denied, by name


def companions(
    dev: DevNum,
    fstype: str,
    options: bytes,
    *,
    resolve: Callable[[bytes], DevNum | None],
    all_devices: Callable[[], Sequence[DevNum]],
    read: Read | None = None,
    root: Path = Path("/"),
    scratch: Path | None = None,
) -> Companions:
    """The other devices of the filesystem on ``dev``. Never raises for what is on a disk or in the options.

    ``options`` is the data of mount(2), or the same made of fsconfig(2) calls. ``resolve`` says what a path means to
    the caller. For the types above it reads ``dev``, and for btrfs every device there is, which takes as long as the
    slowest of them: call it in a thread, with a limit. Any other type is answered without a look.
    """
    look = _TYPES.get(fstype)
    if look is None:
        return Companions(())
    reader = read or partial(superblocks.read_device, root=root, scratch=scratch)
    search = _Search(dev, parse_options(options), resolve, all_devices, reader, root)
    try:
        look(search)
    except _Unresolved as error:
        search.problem = search.problem or str(error)
    except (OSError, EnforcerError) as error:
        search.problem = search.problem or f"the companions of {search.name(dev)} cannot be learnt: {_why(error)}"
    return Companions(tuple(sorted(search.devices - {dev})), search.problem)


class _Unresolved(Exception):
    """The sentence for ``problem``."""


def _why(error: Exception) -> str:
    return os.strerror(error.errno) if isinstance(error, OSError) and error.errno else str(error) or repr(error)


@dataclass(slots=True)
class _Search:
    """One look at one mount."""

    dev: DevNum
    options: Options
    resolve: Callable[[bytes], DevNum | None]
    list_all: Callable[[], Sequence[DevNum]]
    read: Read
    root: Path
    devices: set[DevNum] = field(default_factory=set)
    problem: str = ""
    _present: frozenset[DevNum] | None = None

    def name(self, dev: DevNum) -> str:
        """``sdb (8:16)``, as far as the kernel says it."""
        with suppress(sysfs.Unreadable):
            if directory := sysfs.device_dir(self.root, dev):
                return f"{sysfs.escape(os.fsencode(directory.name))} ({dev})"
        return str(dev)

    def present(self) -> frozenset[DevNum]:
        if self._present is None:
            self._present = frozenset(self.list_all())
        return self._present

    def main(self, offset: int, length: int) -> bytes:
        """Bytes of the device that the mount names."""
        return self.bytes_of(self.dev, offset, length)

    def bytes_of(self, dev: DevNum, offset: int, length: int) -> bytes:
        try:
            return self.read(dev, offset, length)
        except OSError as error:
            raise _Unresolved(f"{self.name(dev)} cannot be read: {_why(error)}") from error

    def path(self, what: str, path: bytes) -> DevNum:
        """The device that a path means to the caller."""
        dev = self.resolve(path)
        if dev is None:
            shown = sysfs.escape(path[:_SHOWN])
            raise _Unresolved(f"{what} of {self.name(self.dev)} is no block device that can be seen: {shown}")
        return dev

    def others(self) -> Iterator[DevNum]:
        """Every other device that may have to be looked at.

        Not the single paths of a multipath map: the map shows the same blocks, and a passive path of an array
        answers with errors, late, or by moving the LUN to its other controller. Nor their partitions.
        """
        for dev in sorted(self.present() - {self.dev}):
            with suppress(sysfs.Unreadable):
                layer = stack.read_layer(self.root, dev)
                if layer.kind is stack.Kind.PARTITION:
                    layer = stack.read_layer(self.root, layer.below[0])
                if stack.is_multipath_path(layer):
                    continue
            yield dev

    def log(self, what: str, number: DevNum, uuid: bytes, uuid_on: Callable[[DevNum], bytes | None]) -> None:
        """Take a log device that the kernel opens by this very number, if it carries the log with this uuid.

        Numbers change at every boot. A log that has moved is looked for, to be named; it is never taken instead,
        because the kernel would still open the other device.
        """
        self.devices.add(number)
        if number not in self.present():
            trouble = f"{what} of {self.name(self.dev)} should be on {number}, and there is no such device"
        elif number == self.dev or uuid_on(number) != uuid:
            trouble = f"{self.name(number)} does not carry {what} of {self.name(self.dev)}"
        else:
            return
        for other in self.others() if any(uuid) else ():
            with suppress(_Unresolved):
                if uuid_on(other) == uuid:
                    trouble += f"; it is on {self.name(other)}, in numbers 0x{superblocks.encode_dev(other):x}"
                    break
        raise _Unresolved(trouble)


def _ext4(search: _Search) -> None:
    place = 1
    if (given := last(search.options, b"sb")) is not None:
        number = parse_number(given[1])
        if number is None:
            raise _Unresolved(f"sb= of {search.name(search.dev)} is no number: {sysfs.escape(given[1][:_SHOWN])}")
        place = number
    own = superblocks.ext4(search.main(place * superblocks.EXT4_UNIT, superblocks.EXT4_SIZE))
    if own is None or not own.has_journal or own.journal_inode:
        return  # with both an inode and a device the kernel refuses before it opens anything
    stored = parse_options(own.options)
    if last(search.options + stored, b"noload", b"norecovery"):
        return
    device = superblocks.decode_dev(own.journal_number)
    # parse_apply_sb_mount_options: what is stored on the disk replaces what the caller said.
    override = last(stored, b"journal_dev", b"journal_path") or last(search.options, b"journal_dev", b"journal_path")
    if override is not None:
        device = _journal_option(search, *override) or device
    if device == (0, 0):
        if any(own.journal_uuid):
            raise _Unresolved(f"{search.name(search.dev)} has an external journal and does not say where")
        return

    def uuid_on(other: DevNum) -> bytes | None:
        journal = superblocks.ext4(search.bytes_of(other, superblocks.EXT4_UNIT, superblocks.EXT4_SIZE))
        return journal.uuid if journal is not None and journal.is_journal else None

    search.log("the external journal", device, own.journal_uuid, uuid_on)


def _journal_option(search: _Search, name: bytes, value: bytes) -> DevNum | None:
    if name == b"journal_path":
        return search.path("journal_path=", value)
    number = parse_number(value)
    if number is None:
        raise _Unresolved(f"journal_dev= of {search.name(search.dev)} is no number: {sysfs.escape(value[:_SHOWN])}")
    return superblocks.decode_dev(number) if number else None


def _xfs(search: _Search) -> None:
    """Both paths are opened before the superblock is read, so they count whatever is on the disk."""
    for name in (b"logdev", b"rtdev"):
        if (given := last(search.options, name)) is not None:
            search.devices.add(search.path(f"{name.decode()}=", given[1]))
    external = superblocks.xfs_external_log(search.main(superblocks.XFS_AT, superblocks.XFS_SIZE))
    if external and last(search.options, b"logdev") is None:
        raise _Unresolved(f"{search.name(search.dev)} has an external log and needs logdev=")


def _btrfs(search: _Search) -> None:
    """The kernel opens every device of the fsid that it was ever told of; so every device that shows it counts.

    Except another image of the very device that is mounted (a path of it, a copy made by the array): there is one
    entry for each devid and uuid, and the mount has just filled it with the device that it names.
    """
    for name, value in search.options:
        if name == b"device":
            search.devices.add(search.path("device=", value))
    own = superblocks.btrfs(search.main(superblocks.BTRFS_AT, superblocks.BTRFS_SIZE))
    if own is None:
        return
    found, unread = {search.dev: own}, 0
    for other in search.others():
        try:
            theirs = superblocks.btrfs(search.read(other, superblocks.BTRFS_AT, superblocks.BTRFS_SIZE))
        except OSError:
            unread += 1
            continue
        if theirs is None:
            continue
        if theirs.fsid == own.fsid or (theirs.metadata_uuid == own.metadata_uuid and theirs.changing):
            found[other] = theirs
    search.devices |= _upper(
        search, {dev: each for dev, each in found.items() if (each.devid, each.uuid) != (own.devid, own.uuid)}
    )
    if half := next((dev for dev, each in found.items() if each.changing), None):
        raise _Unresolved(f"the change of the fsid of {search.name(half)} was never finished (btrfstune)")
    same = [each for each in found.values() if each.metadata_uuid == own.metadata_uuid]
    # The kernel believes the newest superblock, too. The target of a replacement (devid 0) is not counted there.
    wanted = max(same, key=lambda each: each.generation).num_devices
    visible = len({each.devid for each in same if each.devid})
    if visible < wanted and last(search.options, b"degraded") is None:
        trouble = f"{visible} of {wanted} devices of the btrfs {UUID(bytes=own.fsid)} are visible"
        raise _Unresolved(trouble + (f", and {unread} more cannot be read" if unread else ""))


def _upper(search: _Search, members: dict[DevNum, superblocks.Btrfs]) -> set[DevNum]:
    """Without the devices whose superblock shows through a device above them.

    A member of an md array with its metadata at the end, a leg of a mirror, a partition below a loop: the upper
    one is what the filesystem was made on, and whoever leases it takes all that is below. The lower one alone
    would be half of a mirror.
    """
    if len(members) < 2:
        return set(members)
    identities = Identities(search.root)
    covered: set[DevNum] = set()
    for dev, each in members.items():
        for lower in identities.below(dev):
            image = members.get(lower)
            if image is not None and (image.devid, image.uuid) == (each.devid, each.uuid):
                covered.add(lower)
    return set(members) - covered


def _f2fs(search: _Search) -> None:
    """Both copies of the superblock count, because which one is valid is a long story in the kernel.

    The first path is the main device itself. Before Linux 6.6 it was opened by that path once more, whatever it
    means today; if it means nothing, that is the kernel's business.
    """
    for at in superblocks.F2FS_AT:
        for number, path in enumerate(superblocks.f2fs_paths(search.main(at, superblocks.F2FS_SIZE)) or ()):
            if len(path) >= superblocks.F2FS_PATH:
                raise _Unresolved(f"path {number} in the device table of {search.name(search.dev)} has no end")
            if number:
                search.devices.add(search.path(f"device {number}", path))
            elif (dev := search.resolve(path)) is not None:
                search.devices.add(dev)


def _jfs(search: _Search) -> None:
    """A read-only mount does not open the log; but a later remount does, and mount flags are not seen here."""
    own = superblocks.jfs(search.main(superblocks.JFS_AT, superblocks.JFS_SIZE))
    if own is None or own.inline_log:
        return
    if (given := last(search.options, b"integrity", b"nointegrity")) and given[0] == b"nointegrity":
        return  # open_dummy_log

    def uuid_on(other: DevNum) -> bytes | None:
        return superblocks.jfs_log_uuid(search.bytes_of(other, superblocks.JFS_LOG_AT, superblocks.JFS_LOG_SIZE))

    search.log("the external log", superblocks.decode_dev(own.log_number), own.log_uuid, uuid_on)


def _reiserfs(search: _Search) -> None:
    """Its journal has no uuid to be compared, only the number."""
    if (given := last(search.options, b"jdev")) is not None and given[1]:
        search.devices.add(search.path("jdev=", given[1]))
        return
    for at in superblocks.REISERFS_AT:
        number = superblocks.reiserfs_journal(search.main(at, superblocks.REISERFS_SIZE))
        if number:
            device = superblocks.decode_dev(number)
            search.devices.add(device)
            if device not in search.present():
                raise _Unresolved(f"the journal of {search.name(search.dev)} should be on {device}, which is not there")


_TYPES: dict[str, Callable[[_Search], None]] = {
    "ext2": _ext4,
    "ext3": _ext4,
    "ext4": _ext4,
    "xfs": _xfs,
    "btrfs": _btrfs,
    "f2fs": _f2fs,
    "jfs": _jfs,
    "reiserfs": _reiserfs,
}
