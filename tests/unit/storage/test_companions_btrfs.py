# SPDX-License-Identifier: GPL-2.0-or-later
"""btrfs: every member is found from each side, copies are opened but not counted, and one missing is a problem."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
from companion_disks import NEW, NONE, RAW, UUID, A, B, C, D, Disks, sparse, tool
from conftest import Machine

from enforcer.model.resource import DevNum
from enforcer.storage import superblocks
from enforcer.storage.companions import Companions


def test_btrfs_members_are_found_from_each_side(btrfs: Disks) -> None:
    btrfs.put(C, 0, b"").put(D, 65536, b"_BHRfS_M" * 512)
    assert btrfs.look("btrfs") == Companions((B,))
    assert btrfs.look("btrfs", dev=B) == Companions((A,))


def test_btrfs_with_a_member_missing(btrfs: Disks) -> None:
    present = (A, C)
    btrfs.put(C, 0, b"")
    sentence = f"1 of 2 devices of the btrfs {UUID} are visible"
    assert btrfs.look("btrfs", present=present) == Companions((), sentence)
    assert btrfs.look("btrfs", b"compress=zstd,degraded", present=present) == NONE
    assert btrfs.look("btrfs", b"nodegraded", present=present).problem == sentence
    btrfs.broken.add(C)
    assert btrfs.look("btrfs", present=present).problem == sentence + ", and 1 more cannot be read"


def test_btrfs_that_is_whole_does_not_mind_a_broken_stranger(btrfs: Disks) -> None:
    btrfs.broken.add(C)
    assert btrfs.look("btrfs", present=(A, B, C)) == Companions((B,))


def test_btrfs_devices_by_option(btrfs: Disks) -> None:
    btrfs.put(C, 0, b"")
    paths = {b"/b": B, b"/c": C, b"/a": A}
    assert btrfs.look("btrfs", b"device=/a,device=/b,device=/c", paths=paths) == Companions((B, C))
    assert btrfs.look("btrfs", b"device=/no", paths=paths).problem.startswith("device= of 8:0 is no block device")


def test_btrfs_copy_of_the_device_itself_is_not_opened(btrfs: Disks) -> None:
    btrfs.pieces[C] = {0: bytearray(btrfs.pieces[A][0])}
    assert btrfs.look("btrfs") == Companions((B,))
    assert btrfs.look("btrfs", present=(A, C)).problem.startswith("1 of 2 ")
    btrfs.poke(C, 65536 + 201 + 66, b"another device!!")
    assert btrfs.look("btrfs") == Companions((B, C))


def test_btrfs_copies_of_another_member_are_all_taken_and_count_once(btrfs: Disks) -> None:
    btrfs.pieces[C] = {0: bytearray(btrfs.pieces[B][0])}
    btrfs.poke(A, 65536 + 136, struct.pack("<Q", 3))
    btrfs.poke(A, 65536 + 72, struct.pack("<Q", 1 << 40))
    assert btrfs.look("btrfs") == Companions((B, C), f"2 of 3 devices of the btrfs {UUID} are visible")


def test_btrfs_the_newest_superblock_tells_the_number_of_devices(btrfs: Disks) -> None:
    btrfs.poke(B, 65536 + 136, struct.pack("<Q", 3)).poke(B, 65536 + 72, struct.pack("<Q", 1 << 40))
    assert btrfs.look("btrfs") == Companions((B,), f"2 of 3 devices of the btrfs {UUID} are visible")
    btrfs.poke(B, 65536 + 72, struct.pack("<Q", 1))
    assert btrfs.look("btrfs") == Companions((B,))


def test_btrfs_target_of_a_replacement_is_opened_but_not_counted(btrfs: Disks) -> None:
    btrfs.poke(B, 65536 + 201, bytes(8))
    assert btrfs.look("btrfs") == Companions((B,), f"1 of 2 devices of the btrfs {UUID} are visible")


def test_btrfs_copies_of_the_superblock_are_not_members(btrfs: Disks) -> None:
    btrfs.poke(B, 65536 + 48, struct.pack("<Q", 64 << 20))
    assert btrfs.look("btrfs").devices == ()
    btrfs.poke(A, 65536 + 48, bytes(8))
    assert btrfs.look("btrfs") == NONE


def test_btrfs_where_btrfstune_and_the_reader_agree_on_the_metadata_uuid(tmp_path: Path) -> None:
    image = sparse(tmp_path / "one", 130)
    tool("mkfs.btrfs", "-q", "-U", UUID, image)
    tool("btrfstune", "-f", "-M", NEW, image)
    own = superblocks.btrfs(image.read_bytes()[65536:][:4096])
    assert own is not None and (own.fsid.hex(), own.metadata_uuid, own.num_devices, own.devid) == (
        NEW.replace("-", ""),
        RAW,
        1,
        1,
    )
    assert not own.changing and own.uuid not in (own.fsid, own.metadata_uuid, bytes(16)) and own.generation
    lines = [line.split() for line in tool("btrfs", "inspect-internal", "dump-super", image).splitlines()]
    shown = {words[0]: words[1] for words in lines if len(words) > 1}
    assert shown[b"dev_item.uuid"].replace(b"-", b"").decode() == own.uuid.hex()
    assert int(shown[b"generation"]) == own.generation


def test_btrfs_with_another_fsid_than_its_metadata(btrfs: Disks) -> None:
    """Copies of both members that btrfstune gave another fsid are another filesystem."""
    for dev, original in ((C, A), (D, B)):
        btrfs.pieces[dev] = {0: bytearray(btrfs.pieces[original][0])}
        (flags,) = struct.unpack_from("<Q", btrfs.pieces[dev][0], 65536 + 188)
        btrfs.poke(dev, 65536 + 188, struct.pack("<Q", flags | 1 << 10)).poke(dev, 65536 + 571, RAW)
        btrfs.poke(dev, 65536 + 32, bytes.fromhex(NEW.replace("-", "")))
    assert btrfs.look("btrfs", dev=C) == Companions((D,))
    assert btrfs.look("btrfs", dev=A) == Companions((B,))
    # The same fsid over other metadata is not the same filesystem: opened perhaps, counted never.
    btrfs.poke(D, 65536 + 571, b"\1" * 16)
    assert btrfs.look("btrfs", dev=C) == Companions((D,), f"1 of 2 devices of the btrfs {NEW} are visible")


@pytest.mark.parametrize("bit", [35, 36])
@pytest.mark.parametrize("dev", [A, B])
def test_btrfs_with_a_half_changed_fsid(btrfs: Disks, bit: int, dev: DevNum) -> None:
    btrfs.poke(dev, 65536 + 56, struct.pack("<Q", 1 << bit))
    assert btrfs.look("btrfs") == Companions((B,), f"the change of the fsid of {dev} was never finished (btrfstune)")


def test_btrfs_half_changed_member_shows_by_its_metadata(btrfs: Disks) -> None:
    (flags,) = struct.unpack_from("<Q", btrfs.pieces[B][0], 65536 + 188)
    btrfs.poke(B, 65536 + 188, struct.pack("<Q", flags | 1 << 10)).poke(B, 65536 + 571, RAW)
    btrfs.poke(B, 65536 + 32, b"\x99" * 16)
    assert btrfs.look("btrfs").devices == ()
    btrfs.poke(B, 65536 + 56, struct.pack("<Q", 1 << 36))
    assert btrfs.look("btrfs").devices == (B,)


def test_btrfs_single_device(tmp_path: Path) -> None:
    image = sparse(tmp_path / "one", 130)
    tool("mkfs.btrfs", "-q", image)
    disks = Disks().image(A, image)
    assert disks.look("btrfs") == NONE
    disks.poke(A, 65536 + 136, b"\xff" * 8)
    assert disks.look("btrfs").problem.startswith(f"1 of {2**64 - 1} devices")


def test_btrfs_the_upper_of_two_images_is_taken(btrfs: Disks, san: Machine) -> None:
    """md with its metadata at the end: the legs show the same superblock as the array."""
    san.virtual("md0", "9:0", md__level="raid1\n")
    san.stack("md0", "sda1", "sdc1")
    md, leg, other = DevNum(9, 0), DevNum(8, 1), DevNum(8, 33)
    for dev in (md, leg, other):
        btrfs.pieces[dev] = {0: bytearray(btrfs.pieces[B][0])}
    del btrfs.pieces[B]
    main = DevNum(8, 49)
    btrfs.pieces[main] = btrfs.pieces.pop(A)
    assert btrfs.look("btrfs", dev=main, root=san.root) == Companions((md,))
    named = btrfs.look("btrfs", b"device=/leg", dev=main, paths={b"/leg": leg}, root=san.root)
    assert named == Companions((leg, md))
    btrfs.poke(leg, 65536 + 201, struct.pack("<Q", 7))  # another device of the set: not an image of the array
    assert btrfs.look("btrfs", dev=main, root=san.root) == Companions((leg, md))


def test_btrfs_paths_of_a_multipath_map_are_not_even_read(btrfs: Disks, san: Machine) -> None:
    dm = san.dm(0, "mpatha", "mpath-36aaaa", "sda", "sdb")
    main = DevNum(8, 49)
    btrfs.pieces = {main: btrfs.pieces[A], dm: btrfs.pieces[B], **{DevNum(8, n): {} for n in (0, 1, 2, 16, 33)}}
    assert btrfs.look("btrfs", dev=main, root=san.root) == Companions((dm,))
    assert set(btrfs.reads) == {main, dm, DevNum(8, 33)}
