# SPDX-License-Identifier: GPL-2.0-or-later
"""The upcall server: one FUSE mount with one file, served from the daemon's own loop.

Reading the attribute ``user.enforcer.ask`` of that file is the question of a gate that sleeps in the kernel; the
value given back is its verdict. Requests are answered in any order, so one slow store holds up nobody else. On
INTERRUPT the request is answered with EINTR at once, because the caller has a signal to handle; what was asked is
kept by :mod:`enforcer.workflow.asks`, and a restarted syscall joins it.

``user.enforcer.probe`` is for the keeper: it is answered by the same loop, so an answer proves progress.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import errno
import logging
import os
import signal
import stat
from collections.abc import Callable
from pathlib import Path

from enforcer.kernel import anchor, fuse
from enforcer.kernel.fuse import Opcode
from enforcer.kernel.libbpf import KernelError
from enforcer.model.clock import boot_ns

ASK, PROBE = b"user.enforcer.ask", b"user.enforcer.probe"
START_NS = 10_000_000_000
_MNT_DETACH, _MS_NOSUID, _MS_NODEV = 2, 2, 4
log = logging.getLogger(__name__)


class UpcallServer:
    """Serve the upcall mount at ``where``. ``asked(tid, unique)`` must lead to :meth:`verdict` for that unique;
    ``interrupted(unique)`` tells that the caller has gone off to handle a signal (its request is answered already).
    """

    def __init__(
        self,
        where: Path,
        asked: Callable[[int, int], None],
        interrupted: Callable[[int], None],
        lost: Callable[[], None],
    ) -> None:
        """``lost()`` is called once if the connection ends under us: nobody can be answered any more."""
        self._lost = lost
        self._where, self._asked, self._interrupted = where, asked, interrupted
        self._image = anchor.image()
        self._waiting: set[int] = set()
        self._fd = -1
        self.connection = 0  # /sys/fs/fuse/connections/N
        self.anchor_pid = 0

    async def start(self) -> None:
        """Mount, serve, start the anchor. Raises KernelError or OSError."""
        loop = asyncio.get_running_loop()
        libc = ctypes.CDLL(None, use_errno=True)
        while libc.umount2(os.fsencode(self._where), _MNT_DETACH) == 0:
            log.info("removed a dead upcall mount at %s", self._where)
        self._where.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._fd = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)
        options = f"fd={self._fd},rootmode=40000,user_id=0,group_id=0,allow_other".encode()
        if libc.mount(b"enforcer", os.fsencode(self._where), b"fuse", _MS_NOSUID | _MS_NODEV, options):
            raise KernelError(f"cannot mount the upcall file system at {self._where}", errno=ctypes.get_errno())
        loop.add_reader(self._fd, self._readable)
        await self.start_anchor()
        self.connection = os.minor((await asyncio.to_thread(os.stat, self._where)).st_dev)

    async def start_anchor(self) -> None:
        """Start the anchor and wait until it runs our file. Raises KernelError if three tries of 10 s fail."""
        path = str(self._where / fuse.FILE_NAME.decode())
        seen = ""
        for _ in range(3):
            pid = anchor.start(path)
            end_ns = boot_ns() + START_NS
            while boot_ns() < end_ns:
                with contextlib.suppress(OSError):
                    if str(Path(f"/proc/{pid}/exe").readlink()) == path:
                        self.anchor_pid = pid
                        return
                await asyncio.sleep(0.02)
            seen = _whereabouts(pid)
            log.warning("the upcall anchor is not there after 10 s (%s); trying again", seen)
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            with contextlib.suppress(ChildProcessError):
                await asyncio.to_thread(os.waitpid, pid, 0)
        raise KernelError(f"the upcall anchor did not start ({seen})", hint=f"is {self._where} mounted noexec?")

    def identity(self) -> tuple[int, int, int]:
        """(pid, inode, kernel dev_t) of the anchor, for the configuration table."""
        device = Path(f"/proc/{self.anchor_pid}/exe").stat().st_dev
        return self.anchor_pid, fuse.FILE_NODE, os.major(device) << 20 | os.minor(device)

    def verdict(self, unique: int, value: bytes) -> None:
        """Answer a waiting request; one that is gone meanwhile (killed, aborted) is ignored."""
        if unique in self._waiting:
            self._waiting.discard(unique)
            self._write(fuse.answer(unique, value))

    def waiting(self) -> int:
        """How many gates sleep right now."""
        return len(self._waiting)

    def close(self) -> None:
        """Unmount; whoever still waits gets an error, which the programs take as no answer."""
        if self._fd >= 0:
            with contextlib.suppress(RuntimeError):
                asyncio.get_running_loop().remove_reader(self._fd)
            os.close(self._fd)
            self._fd = -1
        if self.anchor_pid:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.anchor_pid, 9)
            with contextlib.suppress(ChildProcessError):
                os.waitpid(self.anchor_pid, 0)
        ctypes.CDLL(None).umount2(os.fsencode(self._where), _MNT_DETACH)

    def _readable(self) -> None:
        for _ in range(64):  # then let the loop breathe
            try:
                data = os.read(self._fd, fuse.READ_BUFFER_BYTES)
            except OSError as error:
                if error.errno in (
                    errno.EAGAIN,
                    errno.EINTR,
                    errno.ENOENT,
                ):  # ENOENT: aborted before we read it
                    return
                log.critical("the upcall connection is gone (%s)", error)
                asyncio.get_running_loop().remove_reader(self._fd)
                self._lost()
                return
            try:
                self._serve(fuse.parse(data))
            except fuse.FuseError as error:
                log.error("request on the upcall connection ignored: %s", error)
            except Exception:
                log.exception("a request on the upcall connection could not be served")

    def _serve(self, request: fuse.Request) -> None:
        size = len(self._image)
        unique = request.unique
        match request.opcode:
            case Opcode.GETXATTR:
                self._getxattr(request)
            case Opcode.INTERRUPT:
                target = fuse.interrupted_unique(request)
                if target in self._waiting:
                    self._waiting.discard(target)
                    self._write(fuse.answer(target, error=errno.EINTR))
                    self._interrupted(target)
            case Opcode.INIT:
                self._write(fuse.answer(unique, fuse.init(request)))
            case Opcode.LOOKUP:
                known = request.node == fuse.ROOT_NODE and fuse.name_of(request) == fuse.FILE_NAME
                found = fuse.entry(fuse.FILE_NODE, size) if known else b""
                self._write(fuse.answer(unique, found, 0 if known else errno.ENOENT))
            case Opcode.GETATTR:
                self._write(fuse.answer(unique, fuse.attr_reply(request.node, size)))
            case Opcode.OPEN:
                self._write(fuse.answer(unique, fuse.opened()))
            case Opcode.READ:
                offset, count = fuse.read_range(request)
                self._write(fuse.answer(unique, self._image[offset : offset + count]))
            case Opcode.RELEASE | Opcode.FLUSH:
                self._write(fuse.answer(unique))
            case opcode if opcode not in fuse.SILENT:
                self._write(fuse.answer(unique, error=errno.ENOSYS))

    def _getxattr(self, request: fuse.Request) -> None:
        name, room = fuse.xattr(request)
        if request.node != fuse.FILE_NODE or name not in (ASK, PROBE):
            # never ENOSYS: the kernel would stop asking for ever (fuse_getxattr, fs/fuse/xattr.c)
            self._write(fuse.answer(request.unique, error=errno.ENODATA))
        elif name == PROBE:
            value = boot_ns().to_bytes(8, "little")
            self._write(fuse.answer(request.unique, value if room else fuse.xattr_size(len(value))))
        elif not room:
            self._write(fuse.answer(request.unique, error=errno.ENODATA))  # only the programs ask, and they bring room
        else:
            self._waiting.add(request.unique)
            try:
                self._asked(request.tid, request.unique)
            except Exception:
                self.verdict(request.unique, b"")  # no answer: the fail-mode decides
                raise

    def _write(self, data: bytes) -> None:
        try:
            os.write(self._fd, data)
        except OSError as error:
            if error.errno != errno.ENOENT:  # the request was aborted or its caller killed
                log.error("answer on the upcall connection failed: %s", error)


def _whereabouts(pid: int) -> str:
    """State and kernel function of a process, for a message."""
    try:
        stat_line = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return f"pid {pid} in state {stat_line[0]}, {Path(f'/proc/{pid}/wchan').read_text() or 'running'}"
    except (OSError, IndexError):
        return f"pid {pid} is gone"


def is_mounted(where: Path) -> bool:
    """True if a file system of ours answers at ``where``."""
    try:
        return stat.S_ISDIR(where.stat().st_mode) and where.stat().st_dev != where.parent.stat().st_dev
    except OSError:
        return False
