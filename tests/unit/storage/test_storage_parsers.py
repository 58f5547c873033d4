# SPDX-License-Identifier: GPL-2.0-or-later
from __future__ import annotations

import contextlib
import ctypes
import os
import struct
from pathlib import Path

import pytest
from conftest import designator, naa, page, page83
from hypothesis import given, settings
from hypothesis import strategies as st

from enforcer.model.resource import DevNum
from enforcer.storage import dmtable, mounts, names, sysfs, uevents, vpd
from enforcer.storage.dmtable import DmTableError, LowerDevice

anything = st.binary(max_size=4096)
few = settings(max_examples=60, deadline=None)


def spec(type_: str, params: bytes, *, start: int = 0, length: int = 8, next_: int | None = None) -> bytes:
    body = params + b"\0"
    body += b"\0" * (-(40 + len(body)) % 8)
    step = 40 + len(body) if next_ is None else next_
    return struct.pack("=QQiI16s", start, length, 0, step, type_.encode()) + body


def request(
    *specs: bytes,
    name: str = "x",
    uuid: str = "",
    count: int | None = None,
    dev: int = 0,
    start: int = 312,
    size: int | None = None,
) -> bytes:
    data = b"".join(specs)
    head = struct.pack(
        "=3I3Ii3IQ128s129s7x",
        4,
        0,
        0,
        312 + len(data) if size is None else size,
        start,
        len(specs) if count is None else count,
        0,
        0,
        0,
        0,
        dev,
        name.encode(),
        uuid.encode(),
    )
    assert len(head) == 312
    return head + data


def lower(type_: str, params: str) -> list[str]:
    found = dmtable.lower_devices(dmtable.parse(request(spec(type_, params.encode()))))
    return [str(each.dev) if each.dev else each.path.decode() for each in found]


@pytest.mark.parametrize(
    ("type_", "params", "devices"),
    [
        ("linear", "8:0 2048", ["8:0"]),
        ("linear", "sda 2048", ["sda"]),
        ("linear", r"/dev/my\ disk 0", ["/dev/my disk"]),
        ("striped", "2 128 8:0 0 8:16 0", ["8:0", "8:16"]),
        ("crypt", "aes-xts-plain64 :64:logon:cryptsetup:x 0 /dev/sdb 4096 1 allow_discards", ["/dev/sdb"]),
        ("mirror", "disk 3 8:32 1024 sync 2 8:0 0 8:16 0", ["8:32", "8:0", "8:16"]),
        ("raid", "raid1 3 0 region_size 1024 2 8:1 8:2 - 8:4", ["8:1", "8:2", "8:4"]),
        ("snapshot", "8:0 8:16 P 16", ["8:0", "8:16"]),
        ("thin-pool", "8:0 8:16 128 0", ["8:0", "8:16"]),
        ("thin", "253:3 1 8:16", ["253:3", "8:16"]),
        ("cache", "8:0 8:16 8:32 512 0 default 0", ["8:0", "8:16", "8:32"]),
        (
            "verity",
            "1 8:0 8:16 4096 4096 9 1 sha256 ab - 2 use_fec_from_device 8:32",
            ["8:0", "8:16", "8:32"],
        ),
        ("integrity", "8:0 0 4 J 1 meta_device:/dev/sdc", ["8:0", "/dev/sdc"]),
        ("delay", "8:0 0 5 8:16 0 5", ["8:0", "8:16"]),
        ("error", "", []),
        ("zero", "/dev/sda", []),
        ("made-up", "a 8:0 b=1 /dev/sdc 12", ["8:0", "/dev/sdc"]),
        (
            "linear",
            "4096:0 0",
            ["4096:0"],
        ),  # too large for a dev_t: it stays a word, which no device answers to
    ],
)
def test_every_device_that_a_target_would_open_is_found(type_: str, params: str, devices: list[str]) -> None:
    assert lower(type_, params) == devices


def test_the_paths_of_a_multipath_target_are_marked_as_carried() -> None:
    params = b"0 0 1 1 service-time 0 2 2 8:0 1 1 8:16 1 1"
    found = dmtable.lower_devices(dmtable.parse(request(spec("multipath", params))))
    assert found == (LowerDevice(DevNum(8, 0), b"", True), LowerDevice(DevNum(8, 16), b"", True))


def test_a_chain_of_targets_is_followed_and_the_header_is_read() -> None:
    data = request(spec("linear", b"8:0 0"), spec("linear", b"8:16 0", start=8), name="a\n", uuid="LVM-1", dev=0xFD01)
    table = dmtable.parse(data)
    assert [(each.start, each.length, each.type, each.params) for each in table.targets] == [
        (0, 8, "linear", b"8:0 0"),
        (8, 8, "linear", b"8:16 0"),
    ]
    assert (table.name, table.uuid, table.dev) == ("a%0A", "LVM-1", DevNum(253, 1))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        request(),
        request(spec("linear", b"8:0 0"), count=2),
        request(spec("linear", b"8:0 0"), count=1 << 31),
        request(spec("linear", b"8:0 0"), start=0),
        request(spec("linear", b"8:0 0"), start=0xFFFFFFF8),
        request(spec("linear", b"8:0 0", next_=0), spec("linear", b"")),
        request(spec("linear", b"x"), size=1 << 30),
        request(spec("linear", b"x" * 7), size=312 + 40 + 4),
    ],
)
def test_a_table_that_the_kernel_would_refuse_is_an_error(data: bytes) -> None:
    with pytest.raises(DmTableError):
        dmtable.parse(data)


@few
@given(anything, st.integers(0, 400), st.binary(max_size=64))
def test_no_bytes_make_the_table_parser_fail_in_another_way(data: bytes, at: int, patch: bytes) -> None:
    whole = request(spec("linear", b"8:0 0"), spec("striped", b"1 8 8:0 0"))
    for each in (data, whole[:312] + data, whole[:at] + patch + whole[at + len(patch) :]):
        with contextlib.suppress(DmTableError):
            dmtable.lower_devices(dmtable.parse(each))


def test_a_table_is_read_from_a_tasks_memory_and_a_bad_address_is_an_error() -> None:
    data = request(spec("linear", b"8:0 0"), name="mine")
    buffer = ctypes.create_string_buffer(data, len(data))
    assert dmtable.read_table(os.getpid(), ctypes.addressof(buffer)).name == "mine"
    for address in (0, 8, -1, 1 << 63, 1 << 70):
        with pytest.raises(DmTableError):
            dmtable.read_table(os.getpid(), address)
    huge = ctypes.create_string_buffer(request(size=(16 << 20) + 1))
    with pytest.raises(DmTableError, match="bytes long"):
        dmtable.read_table(os.getpid(), ctypes.addressof(huge))


MESSAGE = (
    b"add@/devices/pci0/block/sda/sda1\0ACTION=add\0DEVPATH=/devices/pci0/block/sda/sda1\0SUBSYSTEM=block\0"
    b"MAJOR=8\0MINOR=1\0DEVNAME=sda1\0DEVTYPE=partition\0PARTNAME=a\nb\0SEQNUM=42\0"
)


def test_a_block_uevent_is_read_and_its_strings_are_escaped() -> None:
    event = uevents.parse(MESSAGE)
    assert event is not None
    assert (event.action, event.dev, event.name, event.devtype, event.seqnum) == (
        "add",
        DevNum(8, 1),
        "sda1",
        "partition",
        42,
    )
    assert event.env["PARTNAME"] == "a%0Ab" and event.media_or_table_changed


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"libudev\0\xfe\xed\xca\xfe",
        MESSAGE.replace(b"SUBSYSTEM=block", b"SUBSYSTEM=net"),
        MESSAGE.replace(b"ACTION=add", b"ACTION=remove"),
        MESSAGE.replace(b"MINOR=1", b"MINOR=-1"),
        MESSAGE.replace(b"MINOR=1", b"MINOR=\xc2\xb2"),
        MESSAGE.replace(b"MINOR=1\0", b""),
    ],
)
def test_what_is_no_block_uevent_is_ignored(data: bytes) -> None:
    assert uevents.parse(data) is None


@few
@given(anything, st.integers(0, 200))
def test_no_bytes_make_the_uevent_parser_fail(data: bytes, at: int) -> None:
    uevents.parse(data)
    uevents.parse(MESSAGE[:at] + data)


class FakeSocket:
    def __init__(self, *answers: object) -> None:
        self.answers = list(answers)

    def setblocking(self, _: bool) -> None: ...

    def recvmsg(self, _: int) -> object:
        answer = self.answers.pop(0) if self.answers else BlockingIOError()
        if isinstance(answer, Exception):
            raise answer
        return answer


def test_only_the_kernels_messages_count_and_lost_ones_ask_for_a_rescan() -> None:
    sock = uevents.UeventSocket(
        FakeSocket(
            (MESSAGE, [], 0, (4711, 1)),
            (MESSAGE, [], 0, (0, 1)),
            OSError(105, "ENOBUFS"),
            (MESSAGE, [], 0, (0, 1)),
        )
    )
    assert len(sock.drain()) == 2 and sock.take_rescan() and not sock.take_rescan() and sock.drain() == []


def test_the_real_socket_can_be_opened_and_drained() -> None:
    try:
        sock = uevents.UeventSocket()
    except OSError as error:
        pytest.skip(f"no uevent socket here: {error}")
    with sock:
        assert sock.fileno() >= 0 and isinstance(sock.drain(), list)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to have the kernel announce a device")
def test_the_kernels_own_announcement_is_received() -> None:
    import select

    try:
        sock = uevents.UeventSocket()
    except OSError as error:
        pytest.skip(f"no uevent socket here: {error}")
    with sock:
        try:
            Path("/sys/class/block/loop0/uevent").write_text("change")
        except OSError as error:
            pytest.skip(f"no loop0 to announce: {error}")
        if not select.select([sock], [], [], 2)[0]:
            pytest.skip("uevents do not reach this network namespace")
        assert "loop0" in [event.name for event in sock.drain()]


@few
@given(anything)
def test_no_bytes_make_the_vpd_parsers_fail_in_another_way(data: bytes) -> None:
    for parse in (vpd.parse_page83, vpd.parse_page80):
        for each in (data, page(0x83, data), page(0x80, data)):
            with contextlib.suppress(vpd.VpdError):
                parse(each)
    for found in vpd.parse_page83(page83(*(designator(t, data[:255]) for t in range(16)))):
        assert "/" not in found.lun_name and found.lun_name.isascii() and found.lun_name.isprintable()


def test_useless_designators_give_no_name() -> None:
    useless = (
        naa("0" * 16),
        naa("5000"),
        designator(0, b"drive0", code_set=2),
        designator(3, b""),
        naa("f" * 16),
    )
    assert vpd.parse_page83(page83(*useless)) == ()


def test_a_scsi_name_string_and_the_binary_form_are_one_name() -> None:
    string = designator(8, b"naa.5000C50015EA71AC\0\0\0\0", code_set=3)
    assert [d.lun_name for d in vpd.parse_page83(page83(string, naa("5000c50015ea71ac")))] == ["wwn-0x5000c50015ea71ac"]


@few
@given(anything)
def test_any_attribute_becomes_printable_text_that_different_bytes_do_not_share(data: bytes) -> None:
    text = sysfs.escape(data)
    assert text.isascii() and (text.isprintable() or not text)
    assert (
        bytes.fromhex(
            "".join(
                part[:2] + part[2:].encode().hex() if number else part.encode().hex()
                for number, part in enumerate(text.split("%"))
            )
        )
        == data
    )


def test_a_reader_tells_missing_from_unreadable(tmp_path: Path) -> None:
    assert sysfs.read_text(tmp_path / "no") is None and sysfs.read_text(tmp_path / "no/deeper") is None
    (tmp_path / "big").write_bytes(b"x" * (sysfs.LIMIT + 1))
    (tmp_path / "nan").write_text("one\n")
    for failing in (
        lambda: sysfs.read_text(tmp_path / "big"),
        lambda: sysfs.read_int(tmp_path / "nan"),
        lambda: sysfs.read_text(tmp_path),
    ):
        with pytest.raises(sysfs.Unreadable):
            failing()


def test_a_value_with_a_newline_cannot_replace_an_earlier_key(tmp_path: Path) -> None:
    (tmp_path / "uevent").write_bytes(b"DEVNAME=sda1\nPARTNAME=x\nDEVNAME=sdb\nrest\n")
    assert sysfs.read_uevent(tmp_path)["DEVNAME"] == "sda1"


@few
@given(st.text(max_size=300), st.text(max_size=300))
def test_lun_names_keep_to_their_alphabet_whatever_the_text(one: str, two: str) -> None:
    name = names.lun_name("scsi", one, two)
    assert len(name) <= names.LIMIT and all(char in names._ALPHABET or char == "%" for char in name)


def test_long_names_that_differ_at_the_end_stay_different() -> None:
    assert names.lun_name("scsi", "x" * 500 + "a") != names.lun_name("scsi", "x" * 500 + "b")


@few
@given(st.lists(st.text("ab-", min_size=1, max_size=6).filter(lambda s: s.strip("-") == s), min_size=2, max_size=3))
def test_lvm_name_escaping_is_undone(parts: list[str]) -> None:
    name = "-".join(part.replace("-", "--") for part in parts)
    assert names.lvm_names(name) == (parts[0], parts[1], "".join(parts[2:]))


@few
@given(anything)
def test_no_bytes_make_the_mountinfo_parser_fail(data: bytes) -> None:
    for mount in mounts.parse(data + b"\n1 2 8:1 / " + data + b" rw - ext4 /dev/sda1 rw\n"):
        mounts.split_options(mount.options)
        assert mount.shown_target.isprintable() or not mount.shown_target


def test_mountinfo_escapes_and_optional_fields_are_understood() -> None:
    (mount,) = mounts.parse(b"36 35 8:1 /sub /mnt/a\\040b rw shared:1 master:2 - ext4 /dev/s\\134da1 rw,data=x\n")
    assert (mount.target, mount.source, mount.dev) == (b"/mnt/a b", b"/dev/s\\da1", DevNum(8, 1))
