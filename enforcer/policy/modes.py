# SPDX-License-Identifier: GPL-2.0-or-later
"""The mode of a lease follows the use, never a rule: which uses may share a LUN with other nodes. Pure.

Everything is exclusive but one thing: a cluster filesystem, mounted as such, whose lock manager keeps the nodes apart.
The superblock says that it is one, and the caller's options may take it back: gfs2 with ``lockproto=lock_nolock`` or
another lock table, ocfs2 with ``nocluster``, are ordinary filesystems that happen to lie where a cluster has its own.
Options that nobody could read, and every other word by which locking or the heartbeat could be changed, count as that.
So what is not known to be shared is exclusive: the mistake is a refusal.

ocfs2 with the stack o2cb has a second use: mount.ocfs2 opens the device for writing to hand it to the heartbeat in the
kernel, before it mounts. That open is let through under the shared lease, by the path of the program, because nothing
else tells it from any other writer's; the kernel's half is ``starts_heartbeat()`` in bpf/task.h.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from enforcer.model.resource import Mode, UseKind

GFS2, OCFS2 = "gfs2", "ocfs2"
TYPES = frozenset({GFS2, OCFS2})
HEARTBEAT = frozenset({"/usr/sbin/mount.ocfs2", "/sbin/mount.ocfs2"})
DLM, O2CB = "dlm", "o2cb"


@dataclass(frozen=True, slots=True)
class ClusterFs:
    """What the superblock of a cluster filesystem says. Strings come from the disk, escaped."""

    fstype: str
    stack: str  # "dlm", "o2cb", another stack's own name, or "" for a filesystem of one node
    cluster: str  # its name
    table: str = ""  # gfs2: the whole lock table, CLUSTER:NAME


def is_candidate(kind: UseKind, fstype: str, program: str) -> bool:
    """True if the use may be a shared one, so that the superblock is worth a look."""
    return (kind is UseKind.MOUNT and fstype in TYPES) or (kind is UseKind.WRITE_OPEN and program in HEARTBEAT)


def mode_of(
    kind: UseKind, fstype: str, found: ClusterFs | None, options: Mapping[bytes, bytes] | None, program: str = ""
) -> Mode:
    """CW for a cluster filesystem used as one, EX for everything else; the stack is the caller's to ask about.

    ``options``: of the mount, the last of each name; None if they are not known. ``program``: path of the caller.
    """
    if found is None or not found.stack or not is_candidate(kind, fstype, program):
        return Mode.EX
    if kind is UseKind.WRITE_OPEN:
        return Mode.CW if (found.fstype, found.stack) == (OCFS2, O2CB) else Mode.EX
    if found.fstype != fstype or options is None:
        return Mode.EX
    return Mode.CW if (_as_gfs2 if fstype == GFS2 else _as_ocfs2)(found, options) else Mode.EX


def _as_gfs2(found: ClusterFs, options: Mapping[bytes, bytes]) -> bool:
    """gfs2_lm_mount() and init_names(), fs/gfs2/ops_fstype.c: an option goes before what the superblock says."""
    return (
        options.get(b"lockproto", b"lock_dlm") == b"lock_dlm"
        and options.get(b"locktable", found.table.encode()) == found.table.encode()
        and b"hostdata" not in options
    )


def _as_ocfs2(found: ClusterFs, options: Mapping[bytes, bytes]) -> bool:
    """ocfs2_verify_heartbeat() and ocfs2_mount_local(), fs/ocfs2/super.c. What heartbeat there is, mount.ocfs2 says."""
    wanted = {b"local", b"global"} if found.stack == O2CB else {b"none"}
    return b"nocluster" not in options and options.get(b"heartbeat") in wanted
