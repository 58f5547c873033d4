# SPDX-License-Identifier: GPL-2.0-or-later
from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from conftest import A, C, D, Machine, designator, lv_uuid, naa, page83

from enforcer.model.resource import Device, DevNum, ResourceId
from enforcer.storage import hardware, names, stack, sysfs
from enforcer.storage.identity import MAX_DEPTH, Identities


def at(machine: Machine, number: str) -> Device:
    return machine.ids().resolve(DevNum.parse(number))


def taken(device: Device) -> list[str]:
    return list(map(str, device.resources))


def test_a_san_disk_is_named_by_its_wwn_and_its_fabric_is_seen(san: Machine) -> None:
    device = at(san, "8:0")
    assert (taken(device), device.attached_by, device.problem, device.size_bytes) == (
        [A],
        "fc",
        "",
        2048 * 512,
    )
    assert device.aliases == (A, "/dev/sda", "sda", "serial:SER-a")


def test_a_partition_is_a_part_of_its_lun_and_has_the_names_that_udev_would_give(san: Machine) -> None:
    device = at(san, "8:1")
    assert taken(device) == [f"{A}/p1"] and device.below == (DevNum(8, 0),) and device.attached_by == "fc"
    assert device.aliases == (
        f"{A}/p1",
        f"{A}-part1",
        "/dev/sda1",
        "sda1",
        "serial:SER-a",
        "partuuid:1234-01",
        "partlabel:data one",
    )


def test_two_paths_to_one_lun_have_one_name(san: Machine) -> None:
    assert taken(at(san, "8:0")) == taken(at(san, "8:16"))
    assert not at(san, "8:0").carrier


def test_a_multipath_map_inherits_the_lun_and_it_and_its_paths_are_carriers(san: Machine) -> None:
    dev = san.dm(0, "mpatha", "mpath-36aaaa", "sda", "sdb")
    device = san.ids().resolve(dev)
    assert taken(device) == [A] and device.carrier and not device.problem
    assert at(san, "8:0").carrier and at(san, "8:16").carrier and not at(san, "8:32").carrier
    assert not at(san, "8:1").carrier
    assert {"dm:mpatha", "/dev/mapper/mpatha", "serial:SER-a"} <= set(device.aliases)


@pytest.mark.parametrize("reloaded", [False, True], ids=["the links of its paths are left", "its table has none"])
def test_a_map_without_paths_is_still_known_as_one(san: Machine, reloaded: bool) -> None:
    dev = san.dm(0, "mpatha", "mpath-36aaaa")
    if not reloaded:
        (san.dirs["dm-0"] / "slaves").mkdir(exist_ok=True)
        (san.dirs["dm-0"] / "slaves/sdz").symlink_to("../../gone")
    ids = san.ids()
    device = ids.resolve(dev)
    assert not device.resources and device.problem and ids.is_multipath(dev)
    assert not ids.is_multipath(san.dm(1, "vol", "CRYPT-x", "sda")) and not ids.is_multipath(DevNum(8, 0))


def test_paths_that_disagree_are_a_problem(san: Machine) -> None:
    assert "different LUNs" in san.ids().resolve(san.dm(0, "mpatha", "mpath-3", "sda", "sdc")).problem


def test_a_kpartx_map_is_the_same_resource_as_the_kernels_partition(san: Machine) -> None:
    san.dm(0, "mpatha", "mpath-36aaaa", "sda", "sdb")
    part = san.ids().resolve(san.dm(1, "mpatha-part2", "part2-mpath-36aaaa", "dm-0"))
    assert taken(part) == taken(at(san, "8:2")) == [f"{A}/p2"]
    assert not part.carrier and f"{A}-part2" in part.aliases


def test_an_lv_over_three_pvs_is_three_resources(san: Machine) -> None:
    device = san.ids().resolve(san.dm(0, "vg--one-lv--x", lv_uuid("x"), "sda1", "sdc1", "sdd1"))
    step = "lv-" + "x" * 32
    assert taken(device) == [f"{A}/p1/{step}", f"{C}/p1/{step}", f"{D}/p1/{step}"]
    assert {"vg:vg-one", "lv:vg-one/lv-x", "dm:vg--one-lv--x", "/dev/vg-one/lv-x"} <= set(device.aliases)
    assert set(device.below) == {DevNum(8, n) for n in (0, 1, 32, 33, 48, 49)}
    assert device.below[:3] == (DevNum(8, 1), DevNum(8, 33), DevNum(8, 49))


def test_two_lvs_on_one_pv_do_not_meet_but_each_meets_the_pv(san: Machine) -> None:
    one = san.ids().resolve(san.dm(0, "vg-a", lv_uuid("a"), "sda1")).resources[0]
    two = san.ids().resolve(san.dm(1, "vg-b", lv_uuid("b"), "sda1")).resources[0]
    assert not one.meets(two) and one.meets(at(san, "8:1").resources[0]) and two.meets(ResourceId(A))


def test_a_snapshot_does_not_rename_its_origin(san: Machine) -> None:
    before = san.ids().resolve(san.dm(0, "vg-o", lv_uuid("o"), "sda1")).resources
    san.dm(1, "vg-o-real", lv_uuid("o", "real"), "sda1")
    origin = san.ids().resolve(san.dm(2, "vg-o", lv_uuid("o"), "dm-1")).resources
    san.dm(3, "vg-s-cow", lv_uuid("s", "cow"), "sda1")
    snapshot = san.ids().resolve(san.dm(4, "vg-s", lv_uuid("s"), "dm-1", "dm-3")).resources
    assert before == origin and any(each.meets(origin[0]) for each in snapshot)


def test_two_thin_volumes_of_a_pool_meet(san: Machine) -> None:
    san.dm(0, "vg-p_tdata", lv_uuid("d", "tdata"), "sda1")
    san.dm(1, "vg-p_tmeta", lv_uuid("m", "tmeta"), "sdc1")
    san.dm(2, "vg-p-tpool", lv_uuid("p", "tpool"), "dm-0", "dm-1")
    one = san.ids().resolve(san.dm(3, "vg-t1", lv_uuid("1"), "dm-2"))
    two = san.ids().resolve(san.dm(4, "vg-t2", lv_uuid("2"), "dm-2"))
    assert one.resources == two.resources and len(one.resources) == 2 and not one.problem


@pytest.mark.parametrize("uuid", ["", "CRYPT-LUKS2-abc-x", "my-own-linear"])
def test_any_other_mapping_uses_the_whole_of_what_is_below(san: Machine, uuid: str) -> None:
    assert taken(san.ids().resolve(san.dm(0, "thing", uuid, "sda", "sdc1"))) == [A, f"{C}/p1"]


def test_an_md_array_uses_its_members_and_its_partitions_do_too(san: Machine) -> None:
    san.virtual("md0", "9:0", md__level="raid1\n")
    assert at(san, "9:0").resources == () and not at(san, "9:0").problem
    san.stack("md0", "sdc", "sdd")
    san.part("md0", 1, "259:0", name="md0p1")
    assert taken(at(san, "9:0")) == taken(at(san, "259:0")) == [C, D]


def test_a_loop_on_a_device_has_that_devices_resources(san: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    san.virtual("loop0", "7:0", loop__backing_file="/dev/sda1\n")
    san.write("dev/sda1", "")
    real = Path.stat

    def stat(path: Path, **kwargs: bool) -> os.stat_result:
        info = real(path, **kwargs)
        if path == san.root / "dev/sda1":
            fields = list(info)
            fields[0] = 0o60600
            return os.stat_result(fields, {"st_rdev": os.makedev(8, 1)})
        return info

    monkeypatch.setattr(Path, "stat", stat)
    assert taken(at(san, "7:0")) == [f"{A}/p1"] and at(san, "7:0").below[0] == DevNum(8, 1)


def test_a_loop_on_a_file_or_on_nothing_has_no_resources_and_no_problem(san: Machine) -> None:
    san.virtual("loop0", "7:0", loop__backing_file="/srv/image with\nnewline\n")
    san.write("srv/image with\nnewline", "x")
    san.virtual("loop1", "7:1")
    for number in ("7:0", "7:1"):
        assert (at(san, number).resources, at(san, number).problem) == ((), "")


def test_a_loop_whose_backing_cannot_be_seen_is_a_problem(san: Machine) -> None:
    san.virtual("loop0", "7:0", loop__backing_file="/gone (deleted)\n")
    assert "backs it" in at(san, "7:0").problem


@pytest.mark.parametrize(
    ("attributes", "name"),
    [
        ({"wwid": "eui.0025385b71b0a1c2\n"}, "eui-0025385b71b0a1c2"),
        (
            {"nguid": "36344730-5280-0041-0025-384500000001\n", "eui": "00 25 38 45 00 00 00 01\n"},
            "eui-36344730528000410025384500000001",
        ),
        ({"nguid": "00000000-0000-0000-0000-000000000000\n", "wwid": "uuid.AA-bb\n"}, "nvme-uuid.aa-bb"),
        ({"wwid": "nvme.8086-41-42-00000001\n"}, "nvme-8086-41-42-00000001"),
        (
            {"nsid": "1\n", "device__serial": "S/N 1 \n", "device__model": "Fast One\n"},
            "nvme-Fast_One_S%2FN_1_1",
        ),
    ],
)
def test_an_nvme_namespace_is_named_by_nguid_then_eui_then_uuid_then_serial(
    machine: Machine, attributes: dict[str, str], name: str
) -> None:
    machine.plain("nvme0n1", "259:0", "pci0/nvme/nvme0", **attributes)
    assert taken(at(machine, "259:0")) == [name] and at(machine, "259:0").attached_by == "local"


def test_an_nvme_namespace_over_tcp_is_on_a_fabric_also_with_native_multipath(machine: Machine) -> None:
    machine.plain(
        "nvme1n1",
        "259:1",
        "virtual/nvme-subsystem/nvme-subsys1",
        wwid="eui.0025385b71b0a1c2\n",
        device__nvme1__transport="tcp\n",
    )
    machine.plain("nvme2n1", "259:2", "virtual/nvme-fabrics/ctl/nvme2", device__transport="rdma\n")
    assert at(machine, "259:1").attached_by == "nvme-fabrics"
    assert "nvme-fabrics and reports no identity" in at(machine, "259:2").problem


def test_a_virtio_disk_is_named_by_its_serial(machine: Machine) -> None:
    machine.plain("vda", "254:0", serial="LUN 7")
    assert taken(at(machine, "254:0")) == ["virtio-LUN_7"]


def test_a_local_disk_without_identity_gets_a_name_that_no_other_node_can_have(machine: Machine) -> None:
    machine.plain("vda", "254:0", serial="")
    names_ = [Identities(machine.root, node=node).resolve(DevNum(254, 0)).resources[0].lun for node in ("n1", "n2")]
    assert names_ == ["node-n1:vda", "node-n2:vda"] and all(map(names.is_node_only, names_))
    assert taken(at(machine, "254:0")) == ["node-node1:vda"]


def test_no_serial_can_spell_a_node_only_name(machine: Machine) -> None:
    machine.plain("vda", "254:0", serial="node-n1:vda")
    assert not names.is_node_only(at(machine, "254:0").resources[0].lun)


@pytest.mark.parametrize("wire", ["host2/session1", "rport-3:0-1", "port-0:0/end_device-0:0"])
def test_a_fabric_disk_without_page_83_is_a_problem_and_not_named_by_something_weaker(
    machine: Machine, wire: str
) -> None:
    machine.scsi("sda", "8:0", wire=wire, serial="SER1")
    device = at(machine, "8:0")
    assert device.resources == () and "reports no identity" in device.problem and device.attached_by in device.problem


def test_a_local_scsi_disk_without_page_83_is_named_by_vendor_model_and_serial(machine: Machine) -> None:
    machine.scsi("sda", "8:0", serial=" LUN1 ", model="QEMU HARDDISK")
    assert taken(at(machine, "8:0")) == ["scsi-ACME_QEMU_HARDDISK_LUN1"]


def test_a_damaged_page_83_is_a_problem_even_if_a_serial_is_there(machine: Machine) -> None:
    machine.scsi("sda", "8:0", vpd83=page83(naa("5000c50015ea71ac"))[:-1], serial="SER1")
    assert at(machine, "8:0").resources == () and "cut short" in at(machine, "8:0").problem


def test_a_page_83_that_ends_early_between_designators_is_a_problem(machine: Machine) -> None:
    last = naa("6" + "1" * 31)
    machine.scsi("sda", "8:0", vpd83=page83(naa("5000c50015ea71ac"), last)[: -len(last)])
    assert at(machine, "8:0").resources == () and "cut short" in at(machine, "8:0").problem


def test_an_unreadable_identity_is_a_problem_and_every_device_above_has_it(
    san: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    dev = san.dm(0, "vg-x", lv_uuid("x"), "sda1", "sdc1")
    real = os.open

    def failing(path: object, flags: int, *rest: object, **more: object) -> int:
        if str(path).endswith("0:0:0:32/vpd_pg83") or str(path).endswith("sdc/device/vpd_pg83"):
            raise OSError(5, "Input/output error")
        return real(path, flags, *rest, **more)

    monkeypatch.setattr(os, "open", failing)
    assert "Input/output error" in san.ids().resolve(dev).problem and "Input/output" in at(san, "8:33").problem
    assert not at(san, "8:1").problem


def test_a_vanished_lower_device_is_a_problem_not_fewer_resources(san: Machine) -> None:
    dev = san.dm(0, "vg-x", lv_uuid("x"), "sda1", "sdc1")
    shutil.rmtree(san.dirs["sdc1"])
    assert "went away" in san.ids().resolve(dev).problem


def test_a_device_that_is_not_there_is_a_problem(machine: Machine) -> None:
    assert at(machine, "8:99").problem == "there is no block device 8:99"


def test_a_dm_device_without_a_table_has_no_resources_and_no_problem(machine: Machine) -> None:
    device = machine.ids().resolve(machine.dm(0, "empty", ""))
    assert (device.resources, device.problem) == ((), "")


def test_memory_disks_and_unconnected_nbd_have_no_resources_but_a_connected_nbd_is_a_problem(
    machine: Machine,
) -> None:
    for minor, name in enumerate(("ram0", "zram0", "nullb0", "nbd0")):
        machine.virtual(name, f"1:{minor}", backing_dev="none\n")
        assert (at(machine, f"1:{minor}").resources, at(machine, f"1:{minor}").problem) == ((), "")
    machine.virtual("nbd1", "43:32", pid="7\n")
    machine.virtual("ublkb0", "259:9")
    assert "virtual device" in at(machine, "43:32").problem and "virtual device" in at(machine, "259:9").problem


def test_a_stack_that_stands_on_itself_or_is_too_deep_is_a_problem(san: Machine) -> None:
    san.dm(0, "a", "")
    san.dm(1, "b", "", "dm-0")
    san.stack("dm-0", "dm-1")
    assert "stands on itself" in at(san, "253:0").problem
    san.dm(10, "l", "", "sda")
    for number in range(11, 12 + MAX_DEPTH):
        san.dm(number, "l", "", f"dm-{number - 1}")
    assert "layers" in at(san, f"253:{11 + MAX_DEPTH}").problem and not at(san, "253:12").problem


def test_a_number_that_keeps_changing_hands_is_a_problem(san: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    counter = iter(range(100))
    monkeypatch.setattr(sysfs, "generation", lambda *_: ("x", str(next(counter))))
    assert "kept changing" in at(san, "8:0").problem


def test_what_lies_on_a_lun_is_found_with_the_disks_first(san: Machine) -> None:
    san.dm(0, "mpatha", "mpath-3", "sda", "sdb")
    san.dm(1, "vg-x", lv_uuid("x"), "dm-0")
    found = [each.name for each in san.ids().lying_on(A)]
    assert found == ["sda", "sdb", "sda1", "sda2", "dm-0", "dm-1"]


def test_a_table_not_loaded_yet_has_the_resources_that_it_will_have(san: Machine) -> None:
    lower = (DevNum(8, 1), DevNum(8, 33))
    planned, problem = san.ids().of_table(lv_uuid("x"), lower)
    assert planned == san.ids().resolve(san.dm(0, "vg-x", lv_uuid("x"), "sda1", "sdc1")).resources and not problem
    assert "no block device" in san.ids().of_table("", (DevNum(1, 99),))[1]
    assert san.ids().dm_device(name="vg-x") == san.ids().dm_device(uuid=lv_uuid("x")) == DevNum(253, 0)
    assert san.ids().dm_device(name="nothing") is None


def test_the_system_reason_is_carried(san: Machine) -> None:
    ids = Identities(san.root, system={DevNum(8, 1): "holds /usr"})
    assert ids.resolve(DevNum(8, 1)).system == "holds /usr" and ids.resolve(DevNum(8, 2)).system == ""


def test_the_best_designator_wins_in_whatever_order_and_ports_do_not_count(machine: Machine) -> None:
    one, two, port = naa("6" + "1" * 31), naa("5000c50015ea71ac"), designator(3, b"\x60" * 16, association=1)
    name = designator(8, b"iqn.2026-11.example:lun7", code_set=3)
    t10 = designator(1, b"ACME    serial 1", code_set=2)
    luns = set()
    for number, order in enumerate(([one, two, port, name, t10], [t10, name, port, two, one])):
        machine.scsi(f"sd{number}", f"8:{number}", vpd83=page83(*order))
        luns.add(at(machine, f"8:{number}").resources[0].lun)
        assert {"wwn-0x5000c50015ea71ac", "scsi-iqn.2026-11.example:lun7", "scsi-ACME_serial_1"} <= set(
            at(machine, f"8:{number}").aliases
        )
    assert luns == {"wwn-0x6" + "1" * 31}


def test_names_are_printable_slashless_and_bounded_for_hostile_serials(machine: Machine) -> None:
    for number, serial in enumerate((b"a\nDEVNAME=sda", b"../../x", b"\xff\x1b[2J", b"x" * 4096, "\u00e9 %".encode())):
        machine.plain(f"vd{number}", f"254:{number}", f"pci0/virtio{number}", serial=serial)
        device = at(machine, f"254:{number}")
        lun = device.resources[0].lun
        assert lun.isascii() and lun.isprintable() and "/" not in lun and " " not in lun and len(lun) <= names.LIMIT
        assert all(alias.isascii() and alias.isprintable() for alias in device.aliases)


def test_a_serial_cannot_forge_an_escape(machine: Machine) -> None:
    machine.plain("vda", "254:0", "pci0/virtio0", serial=b"\n%0A"[1:])
    machine.plain("vdb", "254:1", "pci0/virtio1", serial=b"x\x01")
    machine.plain("vdc", "254:2", "pci0/virtio2", serial=b"x%01")
    assert len({at(machine, f"254:{n}").resources for n in range(3)}) == 3


def test_this_machines_own_devices_are_resolved_without_an_exception() -> None:
    for device in Identities().all():
        assert device.name and device.size_bytes >= 0 and device.resources == tuple(sorted(device.resources))
        assert all(alias.isascii() and alias.isprintable() for alias in device.aliases)


def test_loop_status_has_the_kernels_size() -> None:
    assert stack._LOOP_INFO64.size == 232


def test_transport_of_a_plain_disk_is_local(machine: Machine) -> None:
    assert hardware.transport(machine.plain("vda", "254:0")) == "local"
