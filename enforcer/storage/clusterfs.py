# SPDX-License-Identifier: GPL-2.0-or-later
"""What the superblock of gfs2 or ocfs2 says of its cluster, and whether such a filesystem is mounted here as one.

Read past the page cache, for another node may have made the filesystem a moment ago. What is no such superblock, or is
cut short, is ``None``: then nothing is shared. gfs2's numbers are big-endian, those of ocfs2 little-endian.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path

from enforcer.model.escape import from_bytes
from enforcer.model.resource import DevNum
from enforcer.policy.modes import DLM, GFS2, O2CB, OCFS2, ClusterFs
from enforcer.storage.superblocks import read_device
from enforcer.storage.sysfs import Unreadable, children, read_text

GFS2_AT, GFS2_SIZE = 128 * 512, 512  #: GFS2_SB_ADDR basic blocks; include/uapi/linux/gfs2_ondisk.h
OCFS2_SIZE = 1 << 14  #: block 2 (OCFS2_SUPER_BLOCK_BLKNO) of 4 KiB ends before it

_LOCAL_MOUNT, _USERSPACE_STACK, _CLUSTERINFO = 0x8, 0x80, 0x4000  # OCFS2_FEATURE_INCOMPAT_*, fs/ocfs2/ocfs2_fs.h
_BODY = 0xC0  # id2 of struct ocfs2_dinode: struct ocfs2_super_block

Read = Callable[[DevNum, int, int], bytes]


def cluster_fs(
    dev: DevNum, *, root: Path = Path("/"), scratch: Path | None = None, read: Read | None = None
) -> ClusterFs | None:
    """The cluster filesystem on a device. It takes as long as the disk does: not for an event loop. Raises OSError."""
    reader = read or partial(read_device, root=root, scratch=scratch)
    return gfs2(reader(dev, GFS2_AT, GFS2_SIZE)) or ocfs2(reader(dev, 0, OCFS2_SIZE))


def gfs2(data: bytes) -> ClusterFs | None:
    """struct gfs2_sb: magic and type of its header, sb_lockproto[64] at 96, sb_locktable[64] at 160."""
    if len(data) < GFS2_SIZE or struct.unpack_from(">II", data) != (0x01161970, 1):
        return None
    protocol, table = (_text(data[at : at + 64]) for at in (96, 160))
    return ClusterFs(GFS2, DLM if protocol == "lock_dlm" else "", table.partition(":")[0], table)


def ocfs2(data: bytes) -> ClusterFs | None:
    """struct ocfs2_super_block: s_feature_incompat at 0x20, s_cluster_info (ci_stack[4], ci_cluster[16]) at 0xA0."""
    for block in (512, 1024, 2048, 4096):
        body = data[2 * block + _BODY : 3 * block]
        if not data[2 * block :].startswith(b"OCFSV2") or len(body) < 0xB8:
            continue
        incompat, bits = struct.unpack_from("<I", body, 0x20)[0], struct.unpack_from("<I", body, 0x38)[0]
        if bits > 12 or 1 << bits != block:
            continue
        if incompat & _LOCAL_MOUNT:
            return ClusterFs(OCFS2, "", "")
        if not incompat & (_USERSPACE_STACK | _CLUSTERINFO):
            return ClusterFs(OCFS2, O2CB, "")  # of old: whichever cluster there is
        return ClusterFs(OCFS2, _text(body[0xA0:0xA4]), _text(body[0xA8:0xB8]))
    return None


def mounted_shared(dev: DevNum, name: str, *, root: Path = Path("/")) -> bool:
    """True if this node has the device mounted as a cluster filesystem (gfs2), or its heartbeat there (ocfs2).

    ``name``: the kernel's own. What cannot be read is no: then it counts as used by this node alone.
    """
    with suppress(Unreadable):
        for table in children(root / "sys/fs/gfs2"):
            place = root / "sys/fs/gfs2" / table
            with suppress(Unreadable):
                if _said(place / "id") == str(dev) and _said(place / "lock_module/proto_name") == "lock_dlm":
                    return True
    with suppress(Unreadable):
        clusters = root / "sys/kernel/config/cluster"
        for beats in (clusters / cluster / "heartbeat" for cluster in children(clusters)):
            with suppress(Unreadable):
                if any(_said(beats / region / "dev") == name for region in children(beats)):
                    return True
    return False


def _said(path: Path) -> str:
    with suppress(Unreadable, NotADirectoryError):
        return (read_text(path) or "").strip()
    return ""


def _text(raw: bytes) -> str:
    return from_bytes(raw.partition(b"\0")[0])
