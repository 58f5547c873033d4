# SPDX-License-Identifier: GPL-2.0-or-later
"""What a source string means to the task that gave it.

``/dev/sdb`` in a container is not our ``/dev/sdb``. The string is resolved in the caller's own root and mount
namespace, through ``/proc/<tid>/root``, and with openat2(2) and RESOLVE_IN_ROOT, so that an absolute symbolic
link or a ``..`` ends in the caller's root and not in ours (Linux 5.6). O_PATH opens nothing: no device is
touched, no automount at the end of the path is triggered. Automounts and dead servers *on the way* could make
us wait, so the lookup is first tried with RESOLVE_CACHED (Linux 5.12), which never does.

The answer is a hint for rules and for taking leases early. The caller can change the path afterwards; the
guard in the kernel judges the exact device number again.
"""

from __future__ import annotations

import ctypes
import errno
import os
from pathlib import Path

from enforcer.model.resource import DevNum
from enforcer.storage.nodes import number_of

_SYS_OPENAT2 = 437  # the same on every architecture but alpha (include/uapi/asm-generic/unistd.h)

#: include/uapi/linux/openat2.h
RESOLVE_NO_MAGICLINKS = 0x02
RESOLVE_BENEATH = 0x08
RESOLVE_IN_ROOT = 0x10
RESOLVE_CACHED = 0x20

_PATH_MAX = 4096


class _OpenHow(ctypes.Structure):
    _fields_ = (("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64))


_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long


def resolve(tid: int, source: bytes, *, proc: Path = Path("/proc"), may_block: bool = True) -> DevNum | None:
    """The block device that ``source`` names for task ``tid``, or None if it names none that we can see.

    With ``may_block`` false only what the kernel has cached is looked at. Never raises.
    """
    if not source or len(source) >= _PATH_MAX or b"\0" in source:
        return None
    try:
        fd = _open(proc / str(tid), source, may_block)
    except OSError:
        return None
    try:
        return number_of(os.fstat(fd))
    except OSError:
        return None
    finally:
        os.close(fd)


def openat2(dirfd: int, path: bytes, flags: int, resolve: int) -> int:
    """openat2(2). Returns a descriptor; raises OSError."""
    how = _OpenHow(flags | os.O_CLOEXEC, 0, resolve)
    fd: int = _libc.syscall(
        ctypes.c_long(_SYS_OPENAT2),
        ctypes.c_int(dirfd),
        ctypes.c_char_p(path),
        ctypes.byref(how),
        ctypes.c_size_t(ctypes.sizeof(how)),
    )
    if fd < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), path)
    return fd


def _open(task: Path, source: bytes, may_block: bool) -> int:
    if source.startswith(b"/"):
        return _lookup(task / "root", source, RESOLVE_IN_ROOT, may_block)
    try:
        return _lookup(task / "cwd", source, RESOLVE_BENEATH, may_block)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
    # It leaves the working directory, by ".." or an absolute link, so the caller's root is needed as a limit.
    return _lookup(task / "root", _path_of_cwd(task, may_block) + b"/" + source, RESOLVE_IN_ROOT, may_block)


def _path_of_cwd(task: Path, may_block: bool) -> bytes:
    """The working directory as a path in the caller's root, proven to lead there. Raises OSError."""
    root, cwd = (os.fsencode((task / name).readlink()) for name in ("root", "cwd"))
    root = root.rstrip(b"/")
    if cwd != root and not cwd.startswith(root + b"/"):
        raise OSError(errno.EXDEV, "the working directory is outside of the root", cwd)
    path = cwd[len(root) :] or b"/"
    fd = _lookup(task / "root", path, RESOLVE_IN_ROOT, may_block)
    try:
        if not os.path.samestat(os.fstat(fd), (task / "cwd").stat()):
            raise OSError(errno.ESTALE, "the working directory has another path", cwd)
    finally:
        os.close(fd)
    return path


def _lookup(directory: Path, path: bytes, resolve: int, may_block: bool) -> int:
    dirfd = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        try:
            return openat2(dirfd, path, os.O_PATH, resolve | RESOLVE_NO_MAGICLINKS | RESOLVE_CACHED)
        except OSError as error:
            # EINVAL: a kernel before 5.12 does not know the flag. EAGAIN: not in the cache.
            if error.errno not in (errno.EAGAIN, errno.EINVAL) or not may_block:
                raise
        return openat2(dirfd, path, os.O_PATH, resolve | RESOLVE_NO_MAGICLINKS)
    finally:
        os.close(dirfd)
