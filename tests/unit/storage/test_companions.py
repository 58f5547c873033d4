# SPDX-License-Identifier: GPL-2.0-or-later
"""What a mount opens besides its device: an answer or a problem, whatever is on the disk and in the options."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from companion_disks import NONE, A, B, C, Disks
from conftest import Machine
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from enforcer.model.resource import DevNum
from enforcer.storage import superblocks, sysfs
from enforcer.storage.companions import Companions, companions
from enforcer.storage.mountdata import parse_number, parse_options


@pytest.mark.parametrize("fstype", ["vfat", "tmpfs", "gfs2", "", "fuseblk", "ext4 "])
def test_other_types_are_answered_without_a_look(fstype: str) -> None:
    def never(*_: object) -> Any:
        raise AssertionError("looked")

    options = b"logdev=/dev/sdb,device=/dev/sdc,journal_dev=0x810"
    assert companions(A, fstype, options, resolve=never, all_devices=never, read=never) == NONE


@pytest.mark.parametrize("fstype", ["ext2", "ext3", "ext4", "xfs", "btrfs", "f2fs", "jfs", "reiserfs"])
def test_a_device_without_such_a_superblock_is_left_to_the_kernel(fstype: str) -> None:
    disks = Disks().put(A, 0, b"").put(B, 0, b"")
    assert disks.look(fstype) == NONE
    disks.size = 3000
    assert disks.look(fstype) == NONE


@pytest.mark.parametrize("fstype", ["ext2", "ext3", "ext4", "xfs", "btrfs", "f2fs", "jfs", "reiserfs"])
def test_a_device_that_is_gone_is_a_problem(fstype: str) -> None:
    assert Disks().look(fstype) == Companions((), "8:0 cannot be read: Input/output error")


def test_the_kernels_name_is_in_the_sentence(san: Machine) -> None:
    assert Disks().look("xfs", dev=DevNum(8, 33), root=san.root).problem.startswith("sdc1 (8:33) cannot be read")


def test_a_list_of_devices_that_cannot_be_had_is_a_problem(btrfs: Disks) -> None:
    def unreadable() -> Sequence[DevNum]:
        raise sysfs.Unreadable("cannot list sys/dev/block")

    found = companions(A, "btrfs", b"", resolve=lambda _: None, all_devices=unreadable, read=btrfs.read)
    assert found == Companions((), "the companions of 8:0 cannot be learnt: cannot list sys/dev/block")


def test_options_as_the_kernel_splits_them() -> None:
    assert parse_options(b"ro,,a=b=c,=x,d=\0e") == ((b"ro", b""), (b"a", b"b=c"), (b"d", b""))


@pytest.mark.parametrize(
    ("text", "number"),
    [
        (b"0x810", 0x810),
        (b"0X10\n", 16),
        (b"+7", 7),
        (b"010", 8),
        (b"0", 0),
        (b"4294967295", 2**32 - 1),
        (b"4294967296", None),
        (b"08", None),
        (b"", None),
        (b"-1", None),
        (b"0x", None),
        (b" 1", None),
        (b"1_0", None),
        (b"9" * 5000, None),
        (b"\xb2", None),
    ],
)
def test_numbers_as_the_kernel_takes_them(text: bytes, number: int | None) -> None:
    assert parse_number(text) == number


@given(st.integers(0, 4095), st.integers(0, (1 << 20) - 1))
def test_encoded_device_numbers(major: int, minor: int) -> None:
    dev = DevNum(major, minor)
    assert superblocks.decode_dev(superblocks.encode_dev(dev)) == dev


READERS: tuple[Callable[[bytes], object], ...] = (
    superblocks.ext4,
    superblocks.xfs_external_log,
    superblocks.btrfs,
    superblocks.f2fs_paths,
    superblocks.jfs,
    superblocks.jfs_log_uuid,
    superblocks.reiserfs_journal,
)
MAGICS = (
    (1024 + 0x38, b"\x53\xef"),
    (1024 + 0x5C, b"\x04\0\0\0"),
    (1024 + 0xE0, bytes(4)),
    (0, b"XFSB"),
    (48, bytes(8)),
    (65536 + 64, b"_BHRfS_M"),
    (65536 + 48, struct.pack("<Q", 65536)),
    (1024, b"\x10\x20\xf5\xf2"),
    (0x8000, b"JFS1"),
    (65536 + 52, b"ReIsEr2Fs"),
    (8192 + 52, b"ReIsErFs"),
    (4096, b"\x21\x43\x65\x87"),
)


@given(st.sampled_from(READERS), st.binary(max_size=128), st.integers(0, 4096))
def test_no_reader_raises(reader: Callable[[bytes], object], head: bytes, size: int) -> None:
    reader((head * (size // max(1, len(head)) + 1))[:size])


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    fstype=st.sampled_from(["ext4", "xfs", "btrfs", "f2fs", "jfs", "reiserfs"]),
    seed=st.binary(min_size=1, max_size=64),
    pokes=st.lists(st.tuples(st.integers(0, 69000), st.binary(min_size=1, max_size=16)), max_size=8),
    magics=st.sets(st.sampled_from(MAGICS)),
    options=st.lists(
        st.sampled_from([b"logdev=/b", b"device=/b", b"journal_dev=0x810", b"journal_path=/b", b"sb=8", b"jdev=/b"])
        | st.binary(max_size=20)
    ),
    size=st.integers(0, 70000),
)
def test_hostile_disks_and_options_end_in_an_answer(
    fstype: str,
    seed: bytes,
    pokes: list[tuple[int, bytes]],
    magics: set[tuple[int, bytes]],
    options: list[bytes],
    size: int,
) -> None:
    image = bytearray((seed * (70000 // len(seed) + 1))[:70000])
    for offset, data in [*pokes, *magics]:
        image[offset : offset + len(data)] = data
    disks = Disks().put(A, 0, image).put(B, 0, image[::-1]).put(C, 0, image)
    disks.size = size
    found = disks.look(fstype, b",".join(options), paths={b"/b": B})
    assert A not in found.devices and list(found.devices) == sorted(set(found.devices))
    assert found.problem.isascii() and "\n" not in found.problem and len(found.problem) < 500
