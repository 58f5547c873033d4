# SPDX-License-Identifier: GPL-2.0-or-later
"""Superblocks of cluster filesystems, as the mkfs programs of gfs2-utils and ocfs2-tools write them."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enforcer.model.resource import DevNum
from enforcer.policy.modes import ClusterFs
from enforcer.storage import clusterfs

DEV = DevNum(8, 1)


def gfs2(protocol: bytes = b"lock_dlm", table: bytes = b"mg:lun11") -> bytes:
    data = bytearray(clusterfs.GFS2_SIZE)
    struct.pack_into(">II", data, 0, 0x01161970, 1)
    data[96 : 96 + len(protocol)], data[160 : 160 + len(table)] = protocol, table
    return bytes(data)


def ocfs2(incompat: int = 0x4000, *, block: int = 4096, stack: bytes = b"o2cb", cluster: bytes = b"mg") -> bytes:
    data = bytearray(clusterfs.OCFS2_SIZE)
    at = 2 * block
    data[at : at + 6] = b"OCFSV2"
    struct.pack_into("<I", data, at + 0xC0 + 0x20, incompat)
    struct.pack_into("<I", data, at + 0xC0 + 0x38, block.bit_length() - 1)
    data[at + 0xC0 + 0xA0 : at + 0xC0 + 0xA4] = stack
    data[at + 0xC0 + 0xA8 : at + 0xC0 + 0xA8 + len(cluster)] = cluster
    return bytes(data)


def test_gfs2_tells_its_lock_protocol_and_table() -> None:
    assert clusterfs.gfs2(gfs2()) == ClusterFs("gfs2", "dlm", "mg", "mg:lun11")
    assert clusterfs.gfs2(gfs2(b"lock_nolock")) == ClusterFs("gfs2", "", "mg", "mg:lun11")
    assert clusterfs.gfs2(gfs2()[:300]) is None


@pytest.mark.parametrize("block", [512, 1024, 2048, 4096])
def test_ocfs2_tells_its_stack(block: int) -> None:
    assert clusterfs.ocfs2(ocfs2(block=block)) == ClusterFs("ocfs2", "o2cb", "mg")
    assert clusterfs.ocfs2(ocfs2(0x80, block=block, stack=b"pcmk")) == ClusterFs("ocfs2", "pcmk", "mg")
    assert clusterfs.ocfs2(ocfs2(0, block=block, stack=b"")) == ClusterFs("ocfs2", "o2cb", "")
    assert clusterfs.ocfs2(ocfs2(0x4008, block=block)) == ClusterFs("ocfs2", "", "")


@given(st.binary(max_size=64), st.integers(0, clusterfs.OCFS2_SIZE), st.booleans())
def test_any_bytes_are_read(noise: bytes, at: int, of_gfs2: bool) -> None:
    data = bytearray(gfs2() if of_gfs2 else ocfs2())
    data[at : at + len(noise)] = noise
    clusterfs.gfs2(bytes(data))
    clusterfs.ocfs2(bytes(data))


def test_both_are_looked_for_where_they_lie() -> None:
    image = gfs2().rjust(clusterfs.GFS2_AT + clusterfs.GFS2_SIZE, b"\0")
    read = lambda _dev, offset, length: image[offset : offset + length]  # noqa: E731, with a name it reads better
    assert clusterfs.cluster_fs(DEV, read=read) == ClusterFs("gfs2", "dlm", "mg", "mg:lun11")


def test_what_is_mounted_here_is_told_from_sysfs(tmp_path: Path) -> None:
    place = tmp_path / "sys/fs/gfs2/mg:lun11"
    (place / "lock_module").mkdir(parents=True)
    (place / "id").write_text("8:1\n")
    (place / "lock_module/proto_name").write_text("lock_nolock\n")
    assert not clusterfs.mounted_shared(DEV, "sda1", root=tmp_path)
    (place / "lock_module/proto_name").write_text("lock_dlm\n")
    assert clusterfs.mounted_shared(DEV, "sda1", root=tmp_path)
    assert not clusterfs.mounted_shared(DevNum(8, 2), "sda2", root=tmp_path)
    beat = tmp_path / "sys/kernel/config/cluster/mg/heartbeat"
    (beat / "F4D8").mkdir(parents=True)
    (beat / "F4D8/dev").write_text("sda2\n")
    (beat / "dead_threshold").write_text("31\n")
    assert clusterfs.mounted_shared(DevNum(8, 2), "sda2", root=tmp_path)
