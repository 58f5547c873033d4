# SPDX-License-Identifier: GPL-2.0-or-later
"""Only a cluster filesystem that is used as one is shared; whatever is not known to be that is exclusive."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enforcer.model.resource import Mode, UseKind
from enforcer.policy.modes import ClusterFs, mode_of

GFS2 = ClusterFs("gfs2", "dlm", "mg", "mg:lun11")
NOLOCK = ClusterFs("gfs2", "", "mg", "mg:lun11")
OCFS2 = ClusterFs("ocfs2", "o2cb", "mg")
PCMK = ClusterFs("ocfs2", "pcmk", "mg")
MOUNT_OCFS2 = "/usr/sbin/mount.ocfs2"


@pytest.mark.parametrize(
    ("found", "options"),
    [
        (GFS2, {}),
        (GFS2, {b"noatime": b"", b"spectator": b""}),
        (GFS2, {b"lockproto": b"lock_dlm", b"locktable": b"mg:lun11"}),
        (OCFS2, {b"heartbeat": b"local"}),
        (OCFS2, {b"heartbeat": b"global", b"cluster_stack": b"o2cb"}),
        (PCMK, {b"heartbeat": b"none"}),
    ],
)
def test_a_cluster_filesystem_is_shared(found: ClusterFs, options: dict[bytes, bytes]) -> None:
    assert mode_of(UseKind.MOUNT, found.fstype, found, options) is Mode.CW


@pytest.mark.parametrize(
    ("fstype", "found", "options"),
    [
        pytest.param("gfs2", GFS2, {b"lockproto": b"lock_nolock"}, id="without locks"),
        pytest.param("gfs2", GFS2, {b"locktable": b"mg:other"}, id="in another lock space"),
        pytest.param("gfs2", GFS2, {b"hostdata": b"jid=0"}, id="in a journal of its choice"),
        pytest.param("gfs2", NOLOCK, {b"lockproto": b"lock_dlm"}, id="made for one node"),
        pytest.param("gfs2", GFS2, None, id="with options that nobody read"),
        pytest.param("gfs2", None, {}, id="no superblock"),
        pytest.param("ext4", GFS2, {}, id="another type on it"),
        pytest.param("ocfs2", GFS2, {b"heartbeat": b"local"}, id="the other type on it"),
        pytest.param("ocfs2", ClusterFs("ocfs2", "", ""), {b"heartbeat": b"local"}, id="local"),
        pytest.param("ocfs2", OCFS2, {b"heartbeat": b"local", b"nocluster": b""}, id="nocluster"),
        pytest.param("ocfs2", OCFS2, {}, id="without a word of the heartbeat"),
        pytest.param("ocfs2", OCFS2, {b"heartbeat": b"none"}, id="without a heartbeat"),
    ],
)  # grouped by meaning  # fmt: skip
def test_what_takes_its_locks_away_is_exclusive(
    fstype: str, found: ClusterFs | None, options: dict[bytes, bytes] | None
) -> None:
    assert mode_of(UseKind.MOUNT, fstype, found, options) is Mode.EX


@given(
    kind=st.sampled_from([kind for kind in UseKind if kind is not UseKind.MOUNT]),
    found=st.sampled_from([GFS2, OCFS2, PCMK]),
    program=st.sampled_from(["", MOUNT_OCFS2, "/usr/sbin/fsck.ocfs2", "/tmp/mount.ocfs2", "/usr/bin/dd"]),
)
def test_no_other_use_is_shared_but_the_heartbeats_open(kind: UseKind, found: ClusterFs, program: str) -> None:
    heartbeat = kind is UseKind.WRITE_OPEN and found is OCFS2 and program == MOUNT_OCFS2
    shared = mode_of(kind, found.fstype, found, {b"heartbeat": b"local"}, program) is Mode.CW
    assert shared == heartbeat
