# SPDX-License-Identifier: GPL-2.0-or-later
"""ext4: the external journal is found by number, by path and by what is stored on the disk, or it is a problem."""

from __future__ import annotations

import struct
from pathlib import Path

from companion_disks import NONE, RAW, A, B, C, D, Disks, sparse, tool

from enforcer.model.resource import DevNum
from enforcer.storage import superblocks
from enforcer.storage.companions import Companions


def test_ext4_with_an_external_journal(ext4: Disks) -> None:
    for fstype in ("ext2", "ext3", "ext4"):
        assert ext4.look(fstype) == Companions((B,))


def test_ext4_with_an_internal_journal_or_none(ext4: Disks, ext4_pair: tuple[Path, Path]) -> None:
    ext4.poke(A, 1024 + 0xE0, b"\x08\0\0\0")
    assert ext4.look("ext4", b"journal_dev=0x820") == NONE  # both: the kernel refuses before it opens anything
    ext4.image(A, ext4_pair[0]).poke(A, 1024 + 0x5C, bytes(4))
    assert ext4.look("ext4") == NONE
    assert set(ext4.reads) == {A}


def test_ext4_journal_of_another_filesystem_is_a_problem_that_says_where_the_right_one_is(ext4: Disks) -> None:
    ext4.pieces[C] = {0: bytearray(ext4.pieces[B][0])}
    ext4.poke(B, 1024 + 0x68, b"\xee" * 16)
    found = ext4.look("ext4")
    assert found.devices == (B,)
    assert found.problem == ("8:16 does not carry the external journal of 8:0; it is on 8:32, in numbers 0x820")
    assert ext4.look("ext4", b"ro,journal_dev=0x820") == Companions((C,))


def test_ext4_a_filesystem_is_no_journal_even_with_the_right_uuid(ext4: Disks) -> None:
    ext4.poke(B, 1024 + 0x60, bytes(4))
    assert ext4.look("ext4").problem == "8:16 does not carry the external journal of 8:0"


def test_ext4_journal_device_that_does_not_exist(ext4: Disks) -> None:
    ext4.pieces[DevNum(259, 70000)] = ext4.pieces.pop(B)
    ext4.put(D, 0, b"").broken.add(D)  # looked at before it, and not in the way
    found = ext4.look("ext4")
    assert found.devices == (B,)
    assert found.problem == (
        "the external journal of 8:0 should be on 8:16, and there is no such device; "
        "it is on 259:70000, in numbers 0x11110370"
    )
    assert ext4.look("ext4", b"journal_dev=0x11110370") == Companions((DevNum(259, 70000),))


def test_ext4_journal_device_that_cannot_be_read(ext4: Disks) -> None:
    ext4.broken.add(B)
    assert ext4.look("ext4") == Companions((B,), "8:16 cannot be read: Input/output error")


def test_ext4_journal_on_the_filesystem_itself(ext4: Disks) -> None:
    ext4.poke(A, 1024 + 0xE4, struct.pack("<I", 0x800)).poke(A, 1024 + 0x60, struct.pack("<I", 8))
    ext4.poke(A, 1024 + 0x68, RAW)
    assert ext4.look("ext4").devices == ()
    assert "8:0 does not carry the external journal of 8:0; it is on 8:16" in ext4.look("ext4").problem


def test_ext4_without_a_number_of_the_journal(ext4: Disks) -> None:
    ext4.poke(A, 1024 + 0xE4, bytes(4))
    assert ext4.look("ext4") == Companions((), "8:0 has an external journal and does not say where")
    assert ext4.look("ext4", b"journal_dev=0") == Companions((), "8:0 has an external journal and does not say where")
    assert ext4.look("ext4", b"journal_dev=2064") == Companions((B,))
    ext4.poke(A, 1024 + 0xD0, bytes(16))
    assert ext4.look("ext4") == NONE


def test_ext4_options_name_the_journal_and_the_last_one_counts(ext4: Disks) -> None:
    ext4.poke(A, 1024 + 0xE4, struct.pack("<I", 0x8F0))
    paths = {b"/dev/journal": B, b"/dev/other": D}
    for options in (
        b"journal_path=/dev/journal",
        b"journal_dev=0x10,journal_path=/dev/journal",
        b"journal_path=/dev/other,journal_dev=04020",
        b"rw,\xff\xfe,=x,,journal_dev=2064\0journal_dev=1",
    ):
        assert ext4.look("ext4", options, paths=paths) == Companions((B,)), options
    assert ext4.look("ext4", b"journal_path=/dev/\xffno", paths=paths).problem == (
        "journal_path= of 8:0 is no block device that can be seen: /dev/%FFno"
    )
    assert ext4.look("ext4", b"journal_dev=0x").problem == "journal_dev= of 8:0 is no number: 0x"
    assert len(ext4.look("ext4", b"journal_path=" + b"x" * 4000).problem) < 300


def test_ext4_options_stored_on_the_disk_win_over_those_of_the_caller(ext4: Disks) -> None:
    ext4.poke(A, 1024 + 0x200, b"nodelalloc,journal_path=/dev/j\0")
    assert ext4.look("ext4", b"journal_dev=0x820", paths={b"/dev/j": B}) == Companions((B,))
    ext4.poke(A, 1024 + 0x200, b"journal_dev=0".ljust(64, b"\0"))
    assert ext4.look("ext4", b"journal_dev=0x820") == Companions((B,))


def test_ext4_where_tune2fs_and_the_reader_agree_on_the_stored_options(tmp_path: Path) -> None:
    image = sparse(tmp_path / "fs", 8)
    tool("mkfs.ext4", "-q", "-F", image)
    tool("tune2fs", "-E", "mount_opts=journal_dev=0x810", image)
    own = superblocks.ext4(image.read_bytes()[1024:2048])
    assert own is not None and own.options == b"journal_dev=0x810" and own.journal_inode == 8


def test_ext4_that_is_not_to_load_its_journal_does_not_open_it(ext4: Disks) -> None:
    for options in (b"ro,noload", b"norecovery"):
        assert ext4.look("ext4", options) == NONE
    assert ext4.look("ext4", b"noload=0x,noloads").devices == ()
    ext4.poke(A, 1024 + 0x200, b"noload\0")
    assert ext4.look("ext4") == NONE


def test_ext4_superblock_at_another_place(ext4: Disks) -> None:
    """The first one is overwritten; the caller names the copy at 32768 blocks of 4 KiB."""
    copy = bytes(ext4.pieces[A][0][1024:2048])
    ext4.put(A, 131072 * 1024, copy)
    ext4.put(A, 0, b"")
    assert ext4.look("ext4") == NONE
    assert ext4.look("ext4", b"sb=131072") == Companions((B,))
    assert ext4.look("ext4", b"sb=one").problem == "sb= of 8:0 is no number: one"
