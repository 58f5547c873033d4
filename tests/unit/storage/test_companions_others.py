# SPDX-License-Identifier: GPL-2.0-or-later
"""XFS, F2FS, JFS and reiserfs: their logs and further devices.

There are no tools at hand for the last three, so their structures are written down here once more.
"""

from __future__ import annotations

import struct
from pathlib import Path

from companion_disks import NONE, RAW, A, B, C, D, Disks

from enforcer.storage.companions import Companions


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
