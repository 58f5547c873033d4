# SPDX-License-Identifier: GPL-2.0-or-later
from __future__ import annotations

import contextlib
import errno
import os
import shutil
import struct
import subprocess
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from conftest import Machine
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from enforcer.model.resource import DevNum
from enforcer.storage import nodes, superblocks, sysfs
from enforcer.storage.companions import Companions, companions
from enforcer.storage.mountdata import parse_number, parse_options

A, B, C, D = (DevNum(8, minor) for minor in (0, 16, 32, 48))
UUID = "11111111-2222-3333-4444-555555555555"
NEW = "99999999-2222-3333-4444-555555555555"
RAW = bytes.fromhex(UUID.replace("-", ""))
NONE = Companions(())


class Disks:
    """Block devices in memory: sparse pieces by offset. What is not there reads as zeros."""

    def __init__(self) -> None:
        self.pieces: dict[DevNum, dict[int, bytearray]] = {}
        self.broken: set[DevNum] = set()
        self.size = 1 << 40
        self.reads: list[DevNum] = []

    def put(self, dev: DevNum, offset: int, data: bytes) -> Disks:
        self.pieces.setdefault(dev, {})[offset] = bytearray(data)
        return self

    def image(self, dev: DevNum, path: Path) -> Disks:
        """The head of a real image: all superblocks that are read lie in it."""
        with path.open("rb") as file:
            return self.put(dev, 0, file.read(65536 + 4096))

    def poke(self, dev: DevNum, offset: int, data: bytes) -> Disks:
        for start, piece in self.pieces[dev].items():
            if start <= offset and offset + len(data) <= start + len(piece):
                piece[offset - start : offset - start + len(data)] = data
                return self
        raise AssertionError

    def read(self, dev: DevNum, offset: int, length: int) -> bytes:
        self.reads.append(dev)
        assert 0 < length <= superblocks.LIMIT
        if dev in self.broken or dev not in self.pieces:
            raise OSError(errno.EIO, "Input/output error")
        data = bytearray(length)
        for start, piece in self.pieces[dev].items():
            low, high = max(start, offset), min(start + len(piece), offset + length)
            if low < high:
                data[low - offset : high - offset] = piece[low - start : high - start]
        return bytes(data[: max(0, self.size - offset)])

    def look(
        self,
        fstype: str,
        options: bytes = b"",
        *,
        dev: DevNum = A,
        paths: dict[bytes, DevNum] | None = None,
        present: Sequence[DevNum] | None = None,
        root: Path = Path("/nonexistent"),
    ) -> Companions:
        return companions(
            dev,
            fstype,
            options,
            resolve=(paths or {}).get,
            all_devices=lambda: sorted(self.pieces) if present is None else present,
            read=self.read,
            root=root,
        )


def tool(*command: str | Path, input: bytes | None = None) -> bytes:
    path = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
    if shutil.which(str(command[0]), path=path) is None:
        pytest.skip(f"{command[0]} is not installed")
    environment = os.environ | {"PATH": path, "LC_ALL": "C"}
    done = subprocess.run(command, input=input, capture_output=True, env=environment, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def sparse(path: Path, mebibytes: int) -> Path:
    with path.open("wb") as file:
        file.truncate(mebibytes << 20)
    return path


# ---- real filesystems, made once


@pytest.fixture(scope="module")
def btrfs_pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    where = tmp_path_factory.mktemp("btrfs")
    one, two = sparse(where / "one", 130), sparse(where / "two", 130)
    tool("mkfs.btrfs", "-q", "-U", UUID, "-d", "raid1", "-m", "raid1", one, two)
    return one, two


@pytest.fixture(scope="module")
def xfs_pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    where = tmp_path_factory.mktemp("xfs")
    data, log = sparse(where / "data", 320), sparse(where / "log", 80)
    tool("mkfs.xfs", "-q", "-l", f"logdev={log},size=64m", data)
    return data, log


@pytest.fixture(scope="module")
def xfs_single(tmp_path_factory: pytest.TempPathFactory) -> Path:
    data = sparse(tmp_path_factory.mktemp("xfs") / "data", 320)
    tool("mkfs.xfs", "-q", data)
    return data


@pytest.fixture(scope="module")
def ext4_pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A filesystem whose journal is on 8:16, as debugfs writes it, and that journal."""
    where = tmp_path_factory.mktemp("ext4")
    data, journal = sparse(where / "data", 16), sparse(where / "journal", 8)
    tool("mkfs.ext4", "-q", "-F", "-b", "4096", data)
    tool("mkfs.ext4", "-q", "-F", "-O", "journal_dev", "-b", "4096", "-U", UUID, journal)
    commands = f"ssv journal_inum 0\nssv journal_dev 0x810\nssv journal_uuid {UUID}\nssv mount_opts \n"
    tool("debugfs", "-w", "-f", "-", data, input=commands.encode())
    return data, journal


@pytest.fixture
def ext4(ext4_pair: tuple[Path, Path]) -> Disks:
    return Disks().image(A, ext4_pair[0]).image(B, ext4_pair[1])


@pytest.fixture
def btrfs(btrfs_pair: tuple[Path, Path]) -> Disks:
    return Disks().image(A, btrfs_pair[0]).image(B, btrfs_pair[1])


# ---- types without companions


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


# ---- ext4


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


# ---- XFS


def test_xfs_with_an_external_log(xfs_pair: tuple[Path, Path]) -> None:
    disks = Disks().image(A, xfs_pair[0]).image(B, xfs_pair[1])
    paths = {b"/dev/log": B, b"/dev/rt": C, b"/dev/me": A}
    assert disks.look("xfs") == Companions((), "8:0 has an external log and needs logdev=")
    assert disks.look("xfs", b"noatime,logdev=/dev/log", paths=paths) == Companions((B,))
    assert disks.look("xfs", b"rtdev=/dev/rt,logdev=/dev/log", paths=paths) == Companions((B, C))
    assert disks.look("xfs", b"logdev=/dev/rt,logdev=/dev/log", paths=paths) == Companions((B,))
    assert disks.look("xfs", b"logdev=/dev/me", paths=paths).devices == ()
    assert disks.look("xfs", b"logdev=").problem == "logdev= of 8:0 is no block device that can be seen: "
    assert disks.look("xfs", b"rtdev=/dev/rt", paths=paths).problem == "8:0 has an external log and needs logdev="


def test_xfs_with_an_internal_log(xfs_single: Path) -> None:
    disks = Disks().image(A, xfs_single)
    assert disks.look("xfs") == NONE
    assert disks.look("xfs", b"rtdev=/rt", paths={b"/rt": C}) == Companions((C,))


def test_xfs_opens_its_devices_before_it_looks_at_the_superblock() -> None:
    assert Disks().put(A, 0, b"").look("xfs", b"logdev=/l", paths={b"/l": B}) == Companions((B,))


# ---- btrfs


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


# ---- F2FS, JFS, reiserfs: no tools at hand, so the structures are written down once more


def f2fs(*paths: bytes) -> bytes:
    head = struct.pack("<IHH7IQ13I3I", 0xF2F52010, 1, 16, *[0] * 7, 0, *[0] * 13, 0, 0, 0)
    body = head[:108] + b"U" * 16 + b"V" * 1024 + struct.pack("<I", 64) + b"E" * 512 + struct.pack("<I", 0)
    body += b"a" * 256 + b"b" * 256 + struct.pack("<IB", 0, 0) + b"s" * 16
    body += b"".join(path.ljust(64, b"\0") + struct.pack("<I", 7) for path in paths).ljust(8 * 68, b"\0")
    body += struct.pack("<3I", 1, 2, 3) + b"h" + struct.pack("<HH", 1, 1) + bytes(306) + b"CRC!"
    assert len(body) == 3072
    return body


def test_f2fs_devices() -> None:
    paths = {b"/dev/a": A, b"/dev/b": B, b"/dev/c": C}
    disks = Disks().put(A, 1024, f2fs(b"/dev/a", b"/dev/c", b"/dev/b"))
    assert disks.look("f2fs", paths=paths) == Companions((B, C))
    assert disks.look("f2fs", paths={b"/dev/c": C, b"/dev/b": B}) == Companions((B, C))  # its own name has changed
    assert (
        disks.look("f2fs", paths={b"/dev/c": C}).problem
        == "device 2 of 8:0 is no block device that can be seen: /dev/b"
    )
    assert disks.look("f2fs", paths=paths | {b"/dev/a": D}) == Companions((B, C, D))
    assert Disks().put(A, 1024, f2fs()).look("f2fs", paths=paths) == NONE
    assert Disks().put(A, 1024, f2fs(b"/dev/a", b"", b"/dev/b")).look("f2fs", paths=paths) == NONE
    eight = f2fs(*[b"/dev/a"] * 7, b"/dev/b")
    assert Disks().put(A, 1024, eight).look("f2fs", paths=paths) == Companions((B,))


def test_f2fs_copy_of_the_superblock_and_a_path_without_end() -> None:
    disks = Disks().put(A, 5120, f2fs(b"/dev/a", b"/dev/b"))
    assert disks.look("f2fs", paths={b"/dev/b": B}) == Companions((B,))
    disks = Disks().put(A, 1024, f2fs(b"/dev/a", b"x" * 64))
    assert disks.look("f2fs") == Companions((), "path 1 in the device table of 8:0 has no end")


def jfs(flag: int, number: int) -> bytes:
    data = struct.pack(
        "<4sIQIHHIHHIIII8s8sII", b"JFS1", 2, 0, 4096, 12, 3, 512, 9, 0, 0, flag, 0, 0, b"", b"", number, 0
    )
    data += bytes(8 + 8 + 8 + 4 + 1 + 11 + 8 + 8 + 8) + b"F" * 16 + b"label".ljust(16, b"\0") + RAW
    assert len(data) == 184
    return data


def jfs_log(uuid: bytes) -> bytes:
    return struct.pack("<9I", 0x87654321, *[0] * 8) + uuid + bytes(16)


def test_jfs_external_log() -> None:
    disks = Disks().put(A, 0x8000, jfs(0, 0x810)).put(B, 4096, jfs_log(RAW))
    assert disks.look("jfs", b"iocharset=utf8") == Companions((B,))
    assert disks.look("jfs", b"integrity,nointegrity") == NONE
    assert disks.look("jfs", b"nointegrity,integrity") == Companions((B,))
    disks.put(B, 4096, jfs_log(b"x" * 16))
    assert disks.look("jfs") == Companions((B,), "8:16 does not carry the external log of 8:0")
    disks.put(C, 4096, jfs_log(RAW))
    assert disks.look("jfs").problem.endswith("; it is on 8:32, in numbers 0x820")
    assert "there is no such device" in disks.look("jfs", present=(A,)).problem
    assert Disks().put(A, 0x8000, jfs(0x800, 0x810)).look("jfs") == NONE
    disks.put(A, 0x8000, jfs(0, 0x810)[:-16] + bytes(16)).put(C, 4096, jfs_log(bytes(16)))  # no uuid, nothing to find
    assert disks.look("jfs").problem == "8:16 does not carry the external log of 8:0"


def reiserfs(number: int) -> bytes:
    return struct.pack("<3I8I4H10s2x", 1, 1, 1, 18, number, *[0] * 6, 4096, 0, 0, 0, b"ReIsEr2Fs")


def test_reiserfs_journal() -> None:
    for offset in (8192, 65536):
        disks = Disks().put(A, offset, reiserfs(0x810)).put(B, 0, b"")
        assert disks.look("reiserfs") == Companions((B,))
        assert disks.look("reiserfs", b"jdev=/c", paths={b"/c": C}) == Companions((C,))
        assert disks.look("reiserfs", b"jdev=/d").problem.startswith("jdev= of 8:0 is no block device")
        assert disks.look("reiserfs", present=(A,)) == Companions(
            (B,), "the journal of 8:0 should be on 8:16, which is not there"
        )
        assert Disks().put(A, offset, reiserfs(0)).look("reiserfs") == NONE


# ---- options and numbers


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


# ---- whatever is on the disk

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


# ---- reading


@pytest.fixture
def file_as_device(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    path = tmp_path / "disk"
    path.write_bytes(bytes(range(256)) * 50 + b"end")

    @contextlib.contextmanager
    def opened(dev: DevNum, flags: int, *, root: Path, scratch: Path | None) -> Iterator[int]:
        assert (dev, root, scratch) == (A, tmp_path, tmp_path / "s")
        assert flags == os.O_RDONLY | os.O_DIRECT
        fd = os.open(path, os.O_RDONLY)
        try:
            yield fd
        finally:
            os.close(fd)

    monkeypatch.setattr(nodes, "opened", opened)
    return path


def read(offset: int, length: int, root: Path) -> bytes:
    return superblocks.read_device(A, offset, length, root=root, scratch=root / "s")


def test_reads_are_aligned_and_cut_at_the_end(
    file_as_device: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = file_as_device.read_bytes()
    real, asked = os.preadv, []

    def preadv(fd: int, buffers: Sequence[memoryview], offset: int) -> int:
        asked.append((offset % 4096, len(buffers[0]) % 4096) if offset < len(data) else (0, 0))
        return real(fd, buffers, offset)

    monkeypatch.setattr(os, "preadv", preadv)
    for offset, length in ((0, 1), (1024, 1024), (4000, 200), (4096, 4096), (12000, 4096), (20000, 10), (12803, 1)):
        assert read(offset, length, tmp_path) == data[offset : offset + length]
    assert set(asked) == {(0, 0)}


def test_a_read_that_comes_in_pieces_is_put_together(
    file_as_device: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.preadv
    monkeypatch.setattr(os, "preadv", lambda fd, buffers, at: real(fd, [buffers[0][:512]], at))
    assert read(100, 5000, tmp_path) == file_as_device.read_bytes()[100:5100]


@pytest.mark.parametrize(("code", "ends"), [(errno.EINVAL, False), (errno.EIO, True)])
def test_a_device_without_direct_reads_is_read_through_the_cache(
    file_as_device: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, ends: bool
) -> None:
    real, calls, cleared = os.preadv, [], []

    def preadv(fd: int, buffers: Sequence[memoryview], offset: int) -> int:
        calls.append(offset)
        if len(calls) == 1:
            raise OSError(code, "")
        return real(fd, buffers, offset)

    monkeypatch.setattr(os, "preadv", preadv)
    monkeypatch.setattr(superblocks.fcntl, "fcntl", lambda fd, what, flags=0: cleared.append(flags) or os.O_DIRECT)
    if ends:
        with pytest.raises(OSError):
            read(1024, 16, tmp_path)
    else:
        assert read(1024, 16, tmp_path) == bytes(range(16)) and cleared == [0, 0]


@pytest.mark.parametrize(("offset", "length"), [(0, superblocks.LIMIT + 1), (0, 0), (-1, 8), (0, -1)])
def test_reads_are_bounded(offset: int, length: int, tmp_path: Path) -> None:
    with pytest.raises(OSError) as raised:
        read(offset, length, tmp_path)
    assert raised.value.errno == errno.EINVAL


def test_the_reader_by_default_goes_through_the_nodes(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, xfs_pair: tuple[Path, Path]
) -> None:
    @contextlib.contextmanager
    def opened(dev: DevNum, flags: int, *, root: Path, scratch: Path | None) -> Iterator[int]:
        if dev != A:
            raise FileNotFoundError(errno.ENOENT, "no device node")
        with xfs_pair[0].open("rb") as file:
            yield file.fileno()

    monkeypatch.setattr(nodes, "opened", opened)

    def look(dev: DevNum) -> Companions:
        return companions(dev, "xfs", b"", resolve=lambda _: None, all_devices=lambda: (), root=tmp_path)

    assert look(A).problem == "8:0 has an external log and needs logdev="
    assert look(B).problem == "8:16 cannot be read: No such file or directory"
