# SPDX-License-Identifier: GPL-2.0-or-later
"""Marks of use on real images; and whatever the bytes are, a reader answers, bounded, or says that they are damaged."""

from __future__ import annotations

import contextlib
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from veto_disks import PV, Ext4, Image, make
from veto_marks import HERE, MIB, anything, bounded, only, owners, seen

from enforcer.storage.vetoes import lvm, medium, mmp, ocfs2, reservation, sanlock
from enforcer.storage.vetoes.local import Local
from enforcer.storage.vetoes.look import HEAD_BYTES, look
from enforcer.storage.vetoes.marks import Damaged
from enforcer.storage.vetoes.reservation import Action

# -- ext4 ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def ext4_bytes(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("ext4") / "image"
    return make(path, 2 * MIB, "mke2fs", "-q", "-F", "-t", "ext4", "-O", "mmp,metadata_csum", "{}").read_bytes()


@pytest.fixture
def ext4(ext4_bytes: bytes) -> Ext4:
    return Ext4(ext4_bytes)


def test_a_clean_ext4_has_no_mark(ext4: Ext4) -> None:
    assert seen(ext4) == ()
    assert struct.unpack("<II", ext4.peek(ext4.block_at, 8)) == (mmp.MAGIC, mmp.CLEAN)


def test_a_mounted_ext4_names_node_and_device(ext4: Ext4) -> None:
    mark = only(ext4.mounted("node-2", time_s=1_795_000_000))
    assert (mark.layer, mark.owner, mark.written_s) == ("ext4-mmp", "node-2", 1_795_000_000)
    assert mark.says == "its MMP block: mounted on node-2 as sda1" and "clear_mmp" in mark.remedy
    assert ext4.reads == 2


def test_e2fsck_is_a_use_like_a_mount(ext4: Ext4) -> None:
    mark = only(ext4.mounted("node-2", seq=mmp.FSCK))
    assert mark.owner == "node-2" and "checked by fsck" in mark.says


def test_each_write_of_the_block_is_a_pulse(ext4: Ext4) -> None:
    pulses = {seen(ext4.mounted("node-2", seq=s, time_s=t))[0].pulse for s, t in ((1, 5), (2, 5), (2, 6))}
    assert len(pulses) == 3


def test_the_real_tool_agrees_about_the_block(ext4: Ext4, tmp_path: Path) -> None:
    path = tmp_path / "image"
    path.write_bytes(ext4.mounted("node-2", seq=77).peek(0, 2 * MIB))
    shown = subprocess.run(["e2mmpstatus", "-i", path], capture_output=True, text=True).stdout
    assert "node-2" in shown and "sda1" in shown and "0x00004d" in shown


@pytest.mark.parametrize(
    "harm",
    [
        lambda disk: disk.poke(disk.block_at, b"XXXX"),
        lambda disk: disk.poke(disk.block_at + 20, b"?"),  # the checksum is over this
        lambda disk: disk.poke(1024 + 0x168, struct.pack("<Q", 1 << 40)),
        lambda disk: disk.poke(1024 + 0x168, bytes(8)),
        lambda disk: disk.poke(1024 + 0x18, b"\xff"),
        lambda disk: setattr(disk, "size", disk.block_at + 100),
    ],
)
def test_a_damaged_mmp_block_is_nobodys(ext4: Ext4, harm: Callable[[Ext4], object]) -> None:
    harm(ext4.mounted("node-2"))
    assert owners(ext4) == [("ext4-mmp", None)]


def test_an_ext4_without_the_feature_is_not_asked(tmp_path: Path) -> None:
    disk = Image.of(make(tmp_path / "image", 4 * MIB, "mke2fs", "-q", "-F", "-t", "ext4", "{}"))
    assert seen(disk) == () and disk.reads == 1


# -- OCFS2 -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session", params=[(4096, 4096), (1024, 32768)], ids=["4k", "1k"])
def ocfs2_path(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Path:
    block, cluster = request.param
    command = (
        f"mkfs.ocfs2 -q -x -b {block} -C {cluster} -N 4 -J size=4M -L lun9 --cluster-stack=o2cb --cluster-name=mg -F"
    )
    return make(tmp_path_factory.mktemp("ocfs2") / "image", 96 * MIB, *command.split(), "{}")


def place(path: Path, name: str) -> int:
    """Where the tools have a system file, in bytes."""
    environment = {"PAGER": "cat", "PATH": "/usr/sbin:/sbin:/usr/bin:/bin"}
    run = ["debugfs.ocfs2", "-R", f"stat //{name}", str(path)]
    shown = subprocess.run(run, env=environment, capture_output=True, text=True).stdout
    line = shown.splitlines()[next(i for i, each in enumerate(shown.splitlines()) if "Block#" in each) + 1]
    with path.open("rb") as file:
        block = next(b for b in (512, 1024, 2048, 4096) if file.seek(2 * b) and file.read(6) == b"OCFSV2")
    return int(line.split()[3]) * block


def joined(path: Path, slot: int, number: int, *, beat_s: int = 1_795_000_000, sector: int = 512) -> Image:
    disk = Image.of(path)
    disk.poke(place(path, "slot_map") + slot * 8, struct.pack("<B3xI", 1, number))
    return disk.poke(place(path, "heartbeat") + number * sector, struct.pack("<QB3xIQI", beat_s, number, 1, 2, 62000))


def test_an_ocfs2_that_nobody_has_mounted_has_no_mark(ocfs2_path: Path) -> None:
    disk = Image.of(ocfs2_path)
    assert seen(disk) == () and disk.reads < 8


@pytest.mark.parametrize("sector", ocfs2.SECTORS)
def test_a_slot_names_its_node_and_moves_with_its_heartbeat(ocfs2_path: Path, sector: int) -> None:
    mark = only(joined(ocfs2_path, 3, 2, sector=sector))
    assert (mark.layer, mark.owner, mark.written_s) == ("ocfs2-slot", "node-2", 1_795_000_000)
    assert mark.says == "its slot map: mounted on node-2 in slot 3"
    later = only(joined(ocfs2_path, 3, 2, beat_s=1_795_000_002, sector=sector))
    assert later.key == mark.key and later.pulse != mark.pulse


def test_a_node_that_no_configuration_names_has_its_number(ocfs2_path: Path) -> None:
    assert owners(joined(ocfs2_path, 0, 7)) == [("ocfs2-slot", "o2cb node 7")]


def test_an_ocfs2_for_one_node_only_has_no_slots(tmp_path: Path) -> None:
    path = make(
        tmp_path / "image",
        64 * MIB,
        *["mkfs.ocfs2", "-q", "-x", "-M", "local", "-b", "4096", "-C", "4096", "-J", "size=4M", "-F", "{}"],
    )
    assert seen(Image.of(path)) == ()


# -- sanlock ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def space(tmp_path: Path) -> Image:
    path = make(tmp_path / "leases", 2 * MIB, "sanlock", "direct", "init", "-s", "mg:0:{}:0")
    return Image.of(path)


def host(disk: Image, number: int, name: str, stamp: int) -> Image:
    at = (number - 1) * 512
    disk.poke(at + 32, struct.pack("<QQQ48s48sQ", number, 1, 0, b"mg", name.encode(), stamp))
    return disk


def test_a_lock_space_without_hosts_has_no_mark(space: Image) -> None:
    assert seen(space) == () and space.bytes_read <= HEAD_BYTES + MIB


def test_each_host_in_the_lock_space_is_a_mark(space: Image) -> None:
    host(space, 3, "hostA", 14561)
    host(space, 1999, "11111111-2222-3333-4444-555555555555.node-2", 77)
    host(space, 5, "gone", 0)  # it has left
    assert owners(space) == [("sanlock", "hostA"), ("sanlock", "node-2")]
    first = seen(space)[0]
    assert first.says == "sanlock's lock space mg: joined by hostA (host id 3)"
    assert seen(host(space, 3, "hostA", 14563))[0].pulse != first.pulse


def test_sanlock_reads_what_the_test_wrote(space: Image, tmp_path: Path) -> None:
    path = tmp_path / "again"
    path.write_bytes(host(space, 3, "hostA", 14561).peek(0, 2 * MIB))
    run = ["sanlock", "direct", "read_leader", "-s", f"mg:3:{path}:0"]
    shown = subprocess.run(run, capture_output=True, text=True).stdout
    assert "owner_id 3" in shown and "resource_name hostA" in shown and "timestamp 14561" in shown


def test_a_lease_that_is_held_is_a_mark(tmp_path: Path) -> None:
    disk = Image.of(make(tmp_path / "lease", 2 * MIB, "sanlock", "direct", "init", "-r", "mg:lun7:{}:0"))
    assert seen(disk) == ()
    disk.poke(32, struct.pack("<QQQ48s48sQ", 3, 1, 9, b"mg", b"lun7", 55))
    assert [(m.owner, m.says) for m in seen(disk)] == [("sanlock host 3", "sanlock's lease mg/lun7: held by host id 3")]


# -- LVM -------------------------------------------------------------------------------------------------------------


MDA_AT = PV.find(b" LVM2 x[5A%r0N*>") - 4
(MDA_SIZE,) = struct.unpack_from("<Q", PV, MDA_AT + 32)


def signed(disk: Image) -> Image:
    disk.poke(512 + 16, struct.pack("<I", lvm.crc(disk.peek(512 + 20, 492))))
    return disk.poke(MDA_AT, struct.pack("<I", lvm.crc(disk.peek(MDA_AT + 4, 508))))


def rewritten(text: bytes, *, at: int = 4096) -> Image:
    """The disk of ``PV`` with another text in its metadata area, at ``at`` in its ring."""
    disk = Image(PV + bytes(MIB))
    before_end = min(len(text), MDA_SIZE - at)
    disk.poke(MDA_AT + at, text[:before_end]).poke(MDA_AT + 512, text[before_end:])
    return signed(disk.poke(MDA_AT + 40, struct.pack("<QQII", at, len(text), 0, 0)))


def test_a_volume_group_with_a_system_id_belongs_to_it() -> None:
    mark = only(Image(PV))
    assert (mark.layer, mark.owner, mark.says) == (
        "lvm-system-id",
        "ha1",
        "the system ID of its volume group mgvg: ha1",
    )
    assert mark.pulse == b"" and mark.written_s is None


@pytest.mark.parametrize(
    "text", [b'vg {\nid = "x"\nseqno = 1\nlock_type = "sanlock"\n}\n', b'vg {\nseqno = 1\nsystem_id = ""\n}\n']
)
def test_a_group_for_everybody_has_no_mark(text: bytes) -> None:
    assert seen(rewritten(text)) == ()


def test_only_the_groups_own_system_id_counts() -> None:
    assert (
        seen(rewritten(b'vg {\nseqno = 1\nlogical_volumes {\nlv {\nsystem_id = "ha9"\n}\n}\n}\nsystem_id = "ha8"\n'))
        == ()
    )


def test_the_text_goes_round_the_ring() -> None:
    disk = rewritten(b'vg {\nseqno = 4\nsystem_id = "ha2"\n}\n', at=MDA_SIZE - 12)
    assert owners(disk) == [("lvm-system-id", "ha2")]


def test_a_label_that_was_left_over_is_no_label() -> None:
    assert seen(Image(PV).poke(512 + 40, b"\xff")) == ()


def test_metadata_that_cannot_be_made_out_is_nobodys() -> None:
    assert owners(Image(PV).poke(4096 + 10, b"\xff")) == [("lvm-system-id", None)]
    assert owners(rewritten(b"no group")) == [("lvm-system-id", None)]


# -- whatever the bytes are ------------------------------------------------------------------------------------------


@anything
@given(st.binary(max_size=5000), st.integers(0, 8192))
def test_any_bytes_anywhere(data: bytes, at: int) -> None:
    bounded(Image(bytes(32768)).poke(at, data))


spoils = st.lists(st.tuples(st.integers(0, 2047), st.binary(min_size=1, max_size=8)), max_size=6)


@anything
@given(spoils, st.integers(0, 2 * MIB))
def test_a_spoilt_ext4(ext4_bytes: bytes, spoilt: list[tuple[int, bytes]], size: int) -> None:
    disk = Ext4(ext4_bytes, size).mounted("node-2")
    for at, data in spoilt:
        disk.poke(at if at < 1024 else disk.block_at + at - 1024, data)
        disk.poke(1024 + at % 1024, data)
    bounded(disk)


@anything
@given(spoils, st.booleans())
def test_a_spoilt_volume_group(spoilt: list[tuple[int, bytes]], properly: bool) -> None:
    disk = Image(PV)
    for at, data in spoilt:
        disk.poke(512 + at if at < 512 else MDA_AT + at % 512, data)
    bounded(signed(disk) if properly else disk)


@anything
@given(st.binary(max_size=600))
def test_any_text_of_a_volume_group(text: bytes) -> None:
    with contextlib.suppress(Damaged):
        lvm.values(b"vg {\n" + text)
    bounded(rewritten(b"vg {\n" + text))


@pytest.fixture(scope="session")
def ocfs2_joined(ocfs2_path: Path) -> tuple[Image, tuple[int, ...]]:
    disk = joined(ocfs2_path, 1, 2)
    places: list[int] = []

    class Spy(Image):
        def read(self, offset: int, length: int) -> bytes:
            places.append(offset)
            return super().read(offset, length)

    assert owners(Spy(disk.base, pokes=disk.pokes)) == [("ocfs2-slot", "node-2")]
    return disk, (*places[1:], 2048, 8192)


@settings(anything, max_examples=60)
@given(st.data())
def test_a_spoilt_ocfs2(ocfs2_joined: tuple[Image, tuple[int, ...]], data: st.DataObject) -> None:
    image, places = ocfs2_joined
    disk = Image(image.base, pokes=list(image.pokes))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.sampled_from(places)) + data.draw(st.integers(0, 0x180))
        disk.poke(at, data.draw(st.binary(min_size=1, max_size=8)))
    bounded(disk)


def test_a_file_is_a_disk_without_reservations(tmp_path: Path) -> None:
    path = tmp_path / "disk"
    path.write_bytes(PV)
    with path.open("rb") as file:
        disk = medium.Disk(file.fileno())
        assert disk.read(512, 8) == b"LABELONE" and disk.read(8000, 4096) == PV[8000:]
        assert disk.reserve_in(Action.READ_RESERVATION) is None
        assert [mark.owner for mark in look(disk, lambda: HERE)] == ["ha1"]


def test_names_of_this_node_are_not_looked_up_for_nothing(ext4: Ext4, ocfs2_path: Path) -> None:
    def never() -> Local:
        raise AssertionError

    for disk in (ext4.mounted("node-2"), Image(PV), Image.of(ocfs2_path)):
        look(disk, never)


def test_a_disk_that_cannot_be_read_is_not_a_disk_without_marks(ext4: Ext4) -> None:
    ext4.broken = True
    with pytest.raises(OSError):
        seen(ext4)


def test_every_layer_has_its_own_name() -> None:
    layers = [mmp.LAYER, ocfs2.LAYER, sanlock.LAYER, lvm.LAYER, reservation.LAYER]
    assert layers == ["ext4-mmp", "ocfs2-slot", "sanlock", "lvm-system-id", "scsi-pr"]
