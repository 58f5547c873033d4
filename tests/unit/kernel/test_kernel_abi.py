# SPDX-License-Identifier: GPL-2.0-or-later
"""The header that both halves speak and its mirror in Python: a change on one side alone is found without a kernel."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from enforcer.kernel import abi, program
from enforcer.kernel.libbpf import KernelError
from tools import bpf

HEADER = (bpf.ROOT / "bpf/enforcer.h").read_text()
KERNEL_ONLY = {"enf_frame_flag", "enf_permit_flag"}  # never leave the programs


def witness(place: Path, header: str) -> str:
    """An object that uses every mirrored struct and enum of ``header`` as a type, so that BTF describes all."""
    (place / "enforcer.h").write_text(header)
    lines = ["#include <linux/types.h>", '#include "enforcer.h"']
    lines += [f"struct {name} w_{name};" for name in abi.MIRRORS]
    lines += [f"enum {name} w_{name};" for name in abi.ENUMS]
    (place / "witness.c").write_text("\n".join(lines) + "\n")
    path = place / "witness.o"
    subprocess.run(
        ["clang", *bpf.flags(), "-I", str(place), "-c", str(place / "witness.c"), "-o", str(path)], check=True
    )
    return str(path)


def test_the_object_fits(object_file: Path) -> None:
    assert abi.mismatches(str(object_file)) == []


def test_every_struct_and_enum_fits(tmp_path: Path) -> None:
    assert abi.mismatches(witness(tmp_path, HEADER)) == []


def test_every_enum_of_the_header_is_mirrored() -> None:
    assert set(re.findall(r"^enum (\w+) \{", HEADER, re.M)) == set(abi.ENUMS) | KERNEL_ONLY


def test_constants() -> None:
    defined = {name: int(value) for name, value in re.findall(r"^#define ENF_(\w+) (\d+)", HEADER, re.M)}
    assert defined == {
        "ABI": abi.ABI,
        "PATH_BYTES": abi.PATH_BYTES,
        "FSTYPE_BYTES": abi.FSTYPE_BYTES,
        "COMM_BYTES": abi.COMM_BYTES,
        "FRAMES": abi.FRAMES,
        "OPENS": abi.OPENS,
        "SELVES": abi.SELVES,
        "PARAMS": abi.PARAMS,
        "EARLY": abi.EARLY,
    }


@pytest.mark.parametrize(
    ("old", "new", "names"),
    [
        pytest.param("\t__u64 nonce;\n\t__u64 intent;", "\t__u64 intent;\n\t__u64 nonce;", "enf_ask.nonce", id="moved"),
        pytest.param("\t__u64 token;\n\t__u64 resource;", "\t__u64 resource;", "struct enf_guard: ", id="removed"),
        pytest.param("char comm[ENF_COMM_BYTES];", "char comm[24];", "enf_event", id="longer"),
        pytest.param("__u64 renewed_ns;", "__u64 told_ns;", "enf_deadline.told_ns", id="renamed"),
        pytest.param("__u64 deadline_ns;", "__u32 deadline_ns;\n\t__u32 pad;", "enf_deadline.pad", id="narrower"),
        pytest.param("ENF_CLOSING = 3", "ENF_CLOSING = 7", "enum enf_state: ENF_CLOSING", id="enum value"),
        pytest.param("ENF_EV_UMOUNT = 9,", "", "enum enf_event_kind: ENF_EV_UMOUNT", id="enum constant gone"),
        pytest.param("\tENF_OP_FILE_IOCTL = 4,", "\tENF_OP_FILE_IOCTL = 4,\n\tENF_OP_NEW = 5,", "ENF_OP_NEW", id="new"),
    ],
)
def test_a_changed_header_is_found(tmp_path: Path, old: str, new: str, names: str) -> None:
    changed = HEADER.replace(old, new)
    assert changed != HEADER
    assert names in "\n".join(abi.mismatches(witness(tmp_path, changed)))


def test_the_whole_object_of_a_changed_header_is_not_loaded(tmp_path: Path) -> None:
    for place in ("bpf", "enforcer/kernel"):
        (tmp_path / place).mkdir(parents=True)
    for file in (bpf.ROOT / "bpf").iterdir():
        shutil.copy(file, tmp_path / "bpf")
    header = tmp_path / "bpf/enforcer.h"
    header.write_text(header.read_text().replace("__u64 token;\n\t__u64 resource;", "__u64 resource;\n\t__u64 token;"))
    output = tmp_path / "changed.bpf.o"
    bpf.compile_object(output, tmp_path)
    with pytest.raises(KernelError, match=r"enf_guard\.token") as caught:
        program.load(output, None)
    assert caught.value.hint == "make build"


def test_a_file_without_btf(tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.write_bytes(b"")
    with pytest.raises(KernelError, match="holds no BTF"):
        abi.mismatches(str(empty))
