# SPDX-License-Identifier: GPL-2.0-or-later
"""sanlock's daemon, asked through its socket: join a lock space, see its hosts, hold one lease for a moment.

The protocol is that of libsanlock (src/sanlock_sock.h, src/client.c and src/sanlock.h of sanlock 3.8, protocol 1): a
header, then the structures of the call; the result comes back in the header's ``data``. It is spoken here, and not by
the library, because the library blocks: a daemon that was stopped would keep a thread of ours for ever. Here whoever
has waited long enough closes the connection, and sanlock then gives back by itself what was acquired through it.

sanlock knows a holder by its connection. It ends the process behind one (SIGTERM, then SIGKILL) that still holds a
lease when its own renewals have failed for 8 io_timeouts.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import struct
from collections.abc import AsyncIterator
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from enforcer.model.errors import StoreUnavailable

SOCKET: Final = "/run/sanlock/sanlock.sock"
WATCHDOG_FIRE_S: Final = 60  # DEFAULT_WATCHDOG_FIRE_TIMEOUT, src/sanlock_internal.h
NAME_BYTES: Final = 48  # SANLK_NAME_LEN
PATH_BYTES: Final = 1023  # SANLK_PATH_LEN and its terminator
MOST_REPLY: Final = 1 << 20  # MAX_CLIENT_MSG

_HEADER = struct.Struct("<8I")  # struct sm_header
_MAGIC, _PROTOCOL = 0x04282010, 1
_DISK = struct.Struct("<1024sQ8x")  # struct sanlk_disk
_SPACE = struct.Struct("<48sQI4x")  # struct sanlk_lockspace, before its disk
_RESOURCE = struct.Struct("<48s48sQQ4I")  # struct sanlk_resource, before its disks
_OPTIONS = struct.Struct("<48sII")  # struct sanlk_options
_HOST = struct.Struct("<3Q2I")  # struct sanlk_host
_ALIGN_1M, _SECTOR_512, _SECTOR_4K = 0x10, 0x100, 0x200  # SANLK_LSF_*, SANLK_RES_*
_OWNER_NOWAIT = 0x8  # SANLK_ACQUIRE_OWNER_NOWAIT
_ASYNC = 0x1  # SANLK_ADD_ASYNC, SANLK_REM_ASYNC

_MEANINGS = {  # src/sanlock_rv.h
    -202: "a request to the disk took longer than its io_timeout",
    -223: "the disk holds no such lock space",
    -226: "the disk holds another lock space",
    -227: "the disk holds another lease",
    -229: "a record on the disk is damaged",
    -262: "another host uses this host id",
}
# SANLK_ACQUIRE_IDLIVE, _OWNED, _OTHER, _OWNED_RETRY: somebody else holds it, or was faster
BUSY: Final = frozenset({-243, -244, -245, -247, -errno.EAGAIN, -errno.EBUSY, -errno.EEXIST})


class _Call(IntEnum):
    """SM_CMD_*"""

    REGISTER = 1
    ADD_LOCKSPACE = 2
    REM_LOCKSPACE = 3
    ACQUIRE = 7
    RELEASE = 8
    INQ_LOCKSPACE = 16
    WRITE_LOCKSPACE = 18
    WRITE_RESOURCE = 19
    GET_HOSTS = 23


class HostState(IntEnum):
    """SANLK_HOST_*: what the daemon makes of a host's renewals."""

    UNKNOWN = 1  # not watched for long enough
    FREE = 2  # it has left
    LIVE = 3
    FAIL = 4  # not renewed for 8 io_timeouts
    DEAD = 5  # nor for the time in which its watchdog must have fired


@dataclass(frozen=True, slots=True)
class Space:
    """A lock space at the start of a device, as one host joins it."""

    name: str
    device: str
    host_id: int
    io_timeout_s: int = 10
    sector_bytes: int = 512

    def packed(self) -> bytes:
        """struct sanlk_lockspace. Only what formats tells the sizes; else the daemon takes them from the disk."""
        return _SPACE.pack(self.name.encode(), self.host_id, 0) + _disk(self.device, 0)

    def formatting(self) -> bytes:
        """The same, for a disk that is to be formatted."""
        return _SPACE.pack(self.name.encode(), 1, self.sizes) + _disk(self.device, 0)

    @property
    def sizes(self) -> int:
        """Areas of 1 MiB, whatever the sectors."""
        return _ALIGN_1M | (_SECTOR_512 if self.sector_bytes == 512 else _SECTOR_4K)

    def resource(self, name: str, sizes: int = 0) -> bytes:
        """struct sanlk_resource on the same disk, without its disks."""
        return _RESOURCE.pack(self.name.encode(), name.encode(), 0, 0, 0, 0, sizes, 1)

    @property
    def dead_after_s(self) -> int:
        """How long after its last renewal a host counts as dead (calc_host_dead_seconds)."""
        return 8 * self.io_timeout_s + WATCHDOG_FIRE_S


def _disk(path: str, offset: int) -> bytes:
    return _DISK.pack(os.fsencode(path), offset)


class SanlockDaemon:
    """The daemon behind one socket. All calls raise StoreUnavailable if it does not answer within their budget."""

    def __init__(self, path: str = SOCKET) -> None:
        self.path = path

    async def join(self, space: Space, *, budget_s: float) -> int:
        """Begin to join, if that has not begun. 0: joined, -EINPROGRESS: under way, else sanlock's reason."""
        joined = await self._call(_Call.INQ_LOCKSPACE, space.packed(), budget_s=budget_s)
        if joined != -errno.ENOENT:
            return joined
        begun = await self._call(
            _Call.ADD_LOCKSPACE, space.packed(), flags=_ASYNC, data=space.io_timeout_s, budget_s=budget_s
        )
        return -errno.EINPROGRESS if begun == 0 else begun

    async def joined(self, space: Space, *, budget_s: float) -> bool:
        """Whether this host is in the lock space now."""
        return await self._call(_Call.INQ_LOCKSPACE, space.packed(), budget_s=budget_s) == 0

    async def leave(self, space: Space, *, budget_s: float, wait: bool = True) -> int:
        """Leave the lock space; what is held in it is given back, and its holders are ended."""
        flags = 0 if wait else _ASYNC
        return await self._call(_Call.REM_LOCKSPACE, space.packed(), flags=flags, budget_s=budget_s)

    async def hosts(self, space: Space, *, budget_s: float) -> dict[tuple[int, int], HostState]:
        """(host id, generation) -> state, of all that were ever seen in it. Empty right after joining."""
        async with self._connection(budget_s) as (reader, writer):
            writer.write(_message(_Call.GET_HOSTS, _SPACE.pack(space.name.encode(), 0, 0) + _disk("", 0)))
            result, count, length = await _answer(reader)
            if result == -errno.EAGAIN:
                return {}
            if result < 0 or count * _HOST.size != length:
                raise self._trouble(f"does not tell the hosts of {space.name}: {meaning(result)}")
            found = _HOST.iter_unpack(await reader.readexactly(length))
            return {(number, generation): HostState(flags & 0xF) for number, generation, _, _, flags in found}

    async def format(self, space: Space, resource: str, offset: int, *, budget_s: float) -> None:
        """Write an empty lock space at 0 and one free lease at ``offset``. Whatever was there is gone."""
        done = await self._call(_Call.WRITE_LOCKSPACE, space.formatting(), data2=space.io_timeout_s, budget_s=budget_s)
        if done == 0:
            body = space.resource(resource, space.sizes) + _disk(space.device, offset)
            done = await self._call(_Call.WRITE_RESOURCE, body, budget_s=budget_s)
        if done:
            raise self._trouble(f"cannot format {space.device}: {meaning(done)}")

    async def hold(self, space: Space, resource: str, offset: int, *, budget_s: float) -> Hold | int:
        """Take the lease if it is free, or say by which of sanlock's results it is not."""
        reader, writer = await self._connect(budget_s)
        kept = False
        try:
            async with asyncio.timeout(budget_s):
                writer.write(_message(_Call.REGISTER))
                body = space.resource(resource) + _disk(space.device, offset) + _OPTIONS.pack(b"", 0, 0)
                writer.write(_message(_Call.ACQUIRE, body, flags=_OWNER_NOWAIT, data=1, data2=0xFFFFFFFF))
                result, _, _ = await _answer(reader)
            kept = result == 0
            return Hold(reader, writer, space.resource(resource)) if kept else result
        except (TimeoutError, OSError, EOFError) as error:
            raise self._silent(error, budget_s) from None
        finally:
            if not kept:
                writer.close()

    async def _call(
        self, call: _Call, body: bytes = b"", *, flags: int = 0, data: int = 0, data2: int = 0, budget_s: float
    ) -> int:
        async with self._connection(budget_s) as (reader, writer):
            writer.write(_message(call, body, flags=flags, data=data, data2=data2))
            return (await _answer(reader))[0]

    @contextlib.asynccontextmanager
    async def _connection(self, budget_s: float) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
        reader, writer = await self._connect(budget_s)
        try:
            async with asyncio.timeout(budget_s):
                yield reader, writer
        except (TimeoutError, OSError, EOFError) as error:
            raise self._silent(error, budget_s) from None
        finally:
            writer.close()

    async def _connect(self, budget_s: float) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        try:
            async with asyncio.timeout(budget_s):
                return await asyncio.open_unix_connection(self.path)
        except (TimeoutError, OSError) as error:
            raise self._silent(error, budget_s) from None

    def _silent(self, error: Exception, budget_s: float) -> StoreUnavailable:
        if isinstance(error, (FileNotFoundError, ConnectionRefusedError)):
            return self._trouble("is not running")
        if isinstance(error, TimeoutError):
            return self._trouble(f"did not answer within {budget_s:.1f} s")
        return self._trouble(f"broke off: {error}")

    def _trouble(self, what: str) -> StoreUnavailable:
        return StoreUnavailable(f"sanlock ({self.path}) {what}", hint="systemctl status sanlock; sanlock client status")


class Hold:
    """The lease, held until it is given back or the connection ends."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, resource: bytes) -> None:
        self._reader, self._writer, self._resource = reader, writer, resource

    async def give_back(self, *, budget_s: float) -> None:
        """Never raises: a connection that ends gives back as well."""
        with contextlib.suppress(TimeoutError, OSError, EOFError, StoreUnavailable):
            async with asyncio.timeout(budget_s):
                self._writer.write(_message(_Call.RELEASE, self._resource, data=1, data2=0xFFFFFFFF))
                await _answer(self._reader)
        self.drop()

    def drop(self) -> None:
        """Give back without waiting."""
        self._writer.close()


def meaning(result: int) -> str:
    """What a result of sanlock says, for people."""
    if result in _MEANINGS:
        return _MEANINGS[result]
    return os.strerror(-result) if -200 < result < 0 else f"result {result}"


def _message(call: _Call, body: bytes = b"", *, flags: int = 0, data: int = 0, data2: int = 0) -> bytes:
    return _HEADER.pack(_MAGIC, _PROTOCOL, call, flags, _HEADER.size + len(body), 0, data, data2) + body


async def _answer(reader: asyncio.StreamReader) -> tuple[int, int, int]:
    """(result, data2, bytes that follow). Raises OSError for what is no answer of sanlock's."""
    magic, _, _, _, length, _, data, data2 = _HEADER.unpack(await reader.readexactly(_HEADER.size))
    if magic != _MAGIC or not _HEADER.size <= length <= MOST_REPLY + _HEADER.size:
        raise OSError(errno.EPROTO, "an answer that is none of sanlock's")
    result = data - (1 << 32) if data >= 1 << 31 else data
    return result, data2, length - _HEADER.size
