# SPDX-License-Identifier: GPL-2.0-or-later
"""The compiled object, read by a program that shares no code with libbpf: all that is attached stands here by name."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from elftools.elf.elffile import ELFFile

from enforcer.kernel import prerequisites, program
from tools import bpf

PROGRAMS = {
    "cgroup/dev": "guard_device",
    "fentry/bdev_add": "forget_at_birth",
    "fentry/bdev_file_open_by_dev": "mark_open_by_dev",
    "fentry/put_fs_context": "forget_params",
    "fentry/vfs_get_tree": "note_get_tree",
    "fexit/bdev_file_open_by_dev": "unmark_open_by_dev",
    "fexit/lookup_bdev": "note_lookup",
    "fexit/vfs_get_tree": "note_got_tree",
    "lsm.s/file_ioctl": "gate_file_ioctl",
    "lsm.s/file_open": "gate_file_open",
    "lsm.s/sb_alloc_security": "gate_sb_alloc",
    "lsm.s/sb_kern_mount": "check_kern_mount",
    "lsm.s/sb_mount": "gate_sb_mount",
    "lsm.s/sb_remount": "check_remount",
    "lsm.s/sb_umount": "note_umount",
    "lsm/file_free_security": "uncount_file",
    "lsm/file_ioctl_compat": "gate_file_ioctl_compat",
    "lsm/fs_context_parse_param": "note_param",
    "lsm/move_mount": "check_move_mount",
    "lsm/sb_free_security": "note_super_gone",
    "lsm/task_free": "note_task_gone",
}
TABLES = {
    "asks",
    "config",
    "deadline",
    "fstypes",
    "guard",
    "ledger",
    "params",
    "selves",
    "stats",
    "supers",
    "tasks",
    "uses",
}
MAPS = TABLES | {"blank_ask", "blank_params", "blank_task", "events"}


@pytest.fixture(scope="module")
def elf(object_file: Path) -> ELFFile:
    return ELFFile.load_from_path(str(object_file))


def symbols(elf: ELFFile, section: str | int) -> set[str]:
    """Global symbols of a section, by name or by a special index."""
    wanted = section if isinstance(section, str) else None
    found = set()
    for symbol in elf.get_section_by_name(".symtab").iter_symbols():
        index = symbol["st_shndx"]
        place = elf.get_section(index).name if isinstance(index, int) else index
        if symbol["st_info"]["bind"] == "STB_GLOBAL" and place == (wanted or section):
            found.add(symbol.name)
    return found


def test_machine_and_license(elf: ELFFile) -> None:
    assert elf["e_machine"] == "EM_BPF" and elf["e_type"] == "ET_REL" and elf.little_endian
    assert elf.get_section_by_name("license").data() == b"GPL\0"


def test_programs(elf: ELFFile) -> None:
    sections = [s.name for s in elf.iter_sections() if s["sh_flags"] & 4 and s["sh_size"] and s.name != ".text"]
    assert sorted(sections) == sorted(PROGRAMS)
    for section, name in PROGRAMS.items():
        assert symbols(elf, section) == {name}
    assert set(program.MARKS) | {program._GUARD_PROGRAM} <= set(PROGRAMS.values())


def test_maps(elf: ELFFile) -> None:
    assert symbols(elf, ".maps") == MAPS


def test_kernel_functions_are_those_that_are_checked_for(elf: ELFFile) -> None:
    assert symbols(elf, "SHN_UNDEF") == set(prerequisites._KFUNCS)
    traced = {name.partition("/")[2] for name in PROGRAMS if name.startswith(("fentry/", "fexit/"))}
    assert traced == set(prerequisites._TRACED)


def test_types_are_kept_and_nothing_else(elf: ELFFile) -> None:
    names = {section.name for section in elf.iter_sections()}
    assert {".BTF", ".BTF.ext"} <= names
    assert not [name for name in names if name.startswith(".debug")]
    assert str(bpf.ROOT).encode() not in elf.get_section_by_name(".BTF").data()


def test_two_places_give_the_same_bytes(object_file: Path, tmp_path: Path) -> None:
    (tmp_path / "bpf").symlink_to(bpf.ROOT / "bpf")
    again = tmp_path / "enforcer.bpf.o"
    bpf.compile_object(again, tmp_path)
    assert again.read_bytes() == object_file.read_bytes()


def test_what_never_sleeps_may_not_sleep() -> None:
    """Tracing programs and the guard are not sleepable: a second task on their CPU would go unseen."""
    for section in PROGRAMS:
        if not section.startswith("lsm"):
            assert ".s/" not in section


def test_every_refusal_of_the_decision_is_explained() -> None:
    """Each answer of enf_decide() says why on its own line: nobody can check what is not argued."""
    body = (bpf.ROOT / "bpf/decide.h").read_text().split("int enf_decide(")[1]
    returns = [line for line in body.splitlines() if re.search(r"\breturn\b", line)]
    assert returns and all("/*" in line for line in returns)
