# SPDX-License-Identifier: GPL-2.0-or-later
"""Bytes from /dev/fuse: whatever they are, a request or a FuseError; and every reply has the kernel's own layout."""

from __future__ import annotations

import json
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enforcer.kernel import fuse
from enforcer.kernel.fuse import FuseError, Opcode, Request

STRUCTS = ("in_header", "out_header", "init_out", "attr", "entry_out", "attr_out", "open_out", "getxattr_out")
SOURCE = "\n".join(
    [
        "#include <stdio.h>",
        "#include <stddef.h>",
        "#include <linux/fuse.h>",
        "int main(void) {",
        *(f'printf("{{\\"{name}\\": %zu", sizeof(struct fuse_{name}));' for name in STRUCTS[:1]),
        *(f'printf(", \\"{name}\\": %zu", sizeof(struct fuse_{name}));' for name in STRUCTS[1:]),
        *(f'printf(", \\"{op.name}\\": %d", FUSE_{op.name});' for op in Opcode),
        'printf(", \\"attr.mode\\": %zu", offsetof(struct fuse_attr, mode));',
        'printf(", \\"attr.size\\": %zu", offsetof(struct fuse_attr, size));',
        'printf(", \\"entry.attr\\": %zu", offsetof(struct fuse_entry_out, attr));',
        'printf(", \\"init.max_write\\": %zu", offsetof(struct fuse_init_out, max_write));',
        'puts("}"); return 0; }',
    ]
)


@pytest.fixture(scope="module")
def kernel(gcc: Callable[..., Path]) -> dict[str, int]:
    """Sizes, offsets and numbers of include/uapi/linux/fuse.h."""
    result: dict[str, int] = json.loads(subprocess.run([gcc(SOURCE)], capture_output=True, check=True).stdout)
    return result


def request(opcode: int, body: bytes = b"", unique: int = 7, node: int = 1, tid: int = 42) -> bytes:
    return struct.pack("<IIQQIIIHH", 40 + len(body), opcode, unique, node, 0, 0, tid, 0, 0) + body


def test_layouts(kernel: dict[str, int]) -> None:
    init = fuse.init(fuse.parse(request(Opcode.INIT, struct.pack("<IIII", 7, 40, 0, 0))))
    assert {
        "in_header": fuse._IN.size,
        "out_header": fuse._OUT.size,
        "init_out": len(init),
        "attr": len(fuse.attributes(1, 5)),
        "entry_out": len(fuse.entry(2, 5)),
        "attr_out": len(fuse.attr_reply(2, 5)),
        "open_out": len(fuse.opened()),
        "getxattr_out": len(fuse.xattr_size(5)),
    }.items() <= kernel.items()
    assert {op.name: int(op) for op in Opcode}.items() <= kernel.items()
    assert struct.unpack_from("<I", fuse.attributes(2, 5), kernel["attr.mode"])[0] == 0o100755
    assert struct.unpack_from("<Q", fuse.attributes(2, 5), kernel["attr.size"])[0] == 5
    assert fuse.entry(2, 5)[kernel["entry.attr"] :] == fuse.attributes(2, 5)
    assert struct.unpack_from("<I", init, kernel["init.max_write"])[0] == fuse.MAX_WRITE_BYTES


READERS: tuple[Callable[[Request], object], ...] = (
    fuse.init,
    fuse.read_range,
    fuse.name_of,
    fuse.xattr,
    fuse.interrupted_unique,
)


@given(st.binary(max_size=200))
def test_any_bytes_are_a_request_or_an_error(data: bytes) -> None:
    try:
        read = fuse.parse(data)
    except FuseError:
        return
    for reader in READERS:
        try:
            reader(read)
        except FuseError:
            continue


@given(st.binary(max_size=64), st.sampled_from([*Opcode, 0, 4096]), st.integers(0, 2**64 - 1))
def test_any_body_of_a_whole_request(body: bytes, opcode: int, unique: int) -> None:
    read = fuse.parse(request(opcode, body, unique))
    assert (read.opcode, read.unique, read.tid, read.body) == (opcode, unique, 42, body)
    for reader in READERS:
        try:
            reader(read)
        except FuseError:
            continue


@given(st.binary(max_size=300).filter(lambda name: b"\0" not in name), st.integers(0, 2**32 - 1))
def test_xattr_round_trip(name: bytes, room: int) -> None:
    body = struct.pack("<II", room, 0) + name + b"\0"
    assert fuse.xattr(fuse.parse(request(Opcode.GETXATTR, body))) == (name, room)


@given(st.integers(0, 2**64 - 1), st.binary(max_size=64), st.integers(0, 133))
def test_answers(unique: int, data: bytes, error: int) -> None:
    out = fuse.answer(unique, data, error)
    length, negative, echoed = struct.unpack_from("<IiQ", out)
    assert (length, negative, echoed) == (len(out), -error, unique)
    assert out[16:] == (b"" if error else data)


@pytest.mark.parametrize("cut", range(1, 48))
def test_a_cut_request_is_an_error(cut: int) -> None:
    whole = request(Opcode.GETXATTR, struct.pack("<II", 24, 0))
    with pytest.raises(FuseError):
        fuse.parse(whole[:-cut])


def test_extensions_longer_than_the_request() -> None:
    data = bytearray(request(Opcode.LOOKUP, b"anchor\0"))
    struct.pack_into("<H", data, 36, 100)
    with pytest.raises(FuseError):
        fuse.parse(bytes(data))


def test_an_old_kernel_is_refused() -> None:
    with pytest.raises(FuseError, match=r"7\.8"):
        fuse.init(fuse.parse(request(Opcode.INIT, struct.pack("<IIII", 7, 8, 0, 0))))
