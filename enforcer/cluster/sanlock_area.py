# SPDX-License-Identifier: GPL-2.0-or-later
"""What the nodes of a sanlock cluster have in common: one device, and on it a place for each host's records.

=================  ==================================================================================================
at                 holds
=================  ==================================================================================================
0                  sanlock's lock space: a delta lease for each host id (src/leader.h of sanlock 3.8)
1 MiB              sanlock's lease that whoever writes holds meanwhile; each acquisition makes its ``lver`` grow by one
2 MiB              our own head, then two headers of 4 KiB for each host id
3 MiB              two bodies for each host id
=================  ==================================================================================================

**A write that comes too late** harms nobody. A process may stop for an hour between taking the lease and writing, and
sanlock gives its lease to others when the host counts as dead. So each host writes into its own places only, a body
bears the ``lver`` under which it was written as its sequence, and the highest one on the disk counts. The late writer
overwrites nothing of others, its sequence is lower than theirs, and it learns of it: a write counts only if the lease
on the disk is still its own *after* it. Until then nobody else can have read anything that lacked it.

**A damaged copy** never brings back what was before. Both copies are written, one after the other, before a write
counts. So one of them may be torn or rot; if no good copy bears the highest sequence that any header shows, or if
both headers of a host are gone (blank ones are not: all were written at the beginning), the answer is UNKNOWN.

Everything goes past the page cache (O_DIRECT), which would hide other hosts' writes.
"""

from __future__ import annotations

import fcntl
import hashlib
import mmap
import os
import stat
import struct
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from enforcer.model.errors import BadConfiguration, StoreUnavailable

MIB: Final = 1 << 20
LOCK_AT, HEAD_AT, BODIES_AT = MIB, 2 * MIB, 3 * MIB
BLOCK: Final = 4096
LOCK: Final = "enforcer-records"  # sanlock's name of the lease
HOSTS: Final = 32
BODY_BYTES: Final = MIB
COPIES: Final = (0, 1)

_DELTA, _PAXOS = 0x12212010, 0x06152010  # DELTA_DISK_MAGIC, PAXOS_DISK_MAGIC
_RECORD = struct.Struct("<4I5Q48s48sQ")  # struct leader_record up to its timestamp
_HEAD = struct.Struct("<16sIIQQ48s")  # magic, version, hosts, bytes of a body, first token, lock space
_SLOT = struct.Struct("<8sIIQQQ32s")  # magic, host id, copy, first token, sequence, length, SHA-256 of the body
_HEAD_MAGIC, _SLOT_MAGIC, VERSION = b"enforcer leases\0", b"enfslot\0", 1
_DIGEST: Final = 32
_BLKSSZGET, _BLKGETSIZE64 = 0x1268, 0x80081272  # include/uapi/linux/fs.h


@dataclass(frozen=True, slots=True)
class Leader:
    """Who holds, or held, the lease that writers hold."""

    lver: int
    host_id: int
    generation: int
    held: bool


@dataclass(frozen=True, slots=True)
class Delta:
    """What a host wrote into the lock space last."""

    generation: int
    timestamp: int  # its monotonic clock in seconds; 0: it has left


@dataclass(frozen=True, slots=True)
class Geometry:
    """The head."""

    hosts: int
    body_bytes: int
    first_token: int
    space: str

    @property
    def end(self) -> int:
        """Bytes of the whole area."""
        return BODIES_AT + self.hosts * len(COPIES) * self.body_bytes

    def header_at(self, host_id: int, copy: int) -> int:
        return HEAD_AT + BLOCK * (1 + len(COPIES) * (host_id - 1) + copy)

    def body_at(self, host_id: int, copy: int) -> int:
        return BODIES_AT + self.body_bytes * (len(COPIES) * (host_id - 1) + copy)


@dataclass(frozen=True, slots=True)
class Image:
    """One read of the area. Whether it is of one moment, the leader before and after it tells."""

    geometry: Geometry
    sequence: int
    body: bytes
    whole: bool  # both copies of it are good
    deltas: Mapping[int, Delta]


class Area:
    """The area on ``device``. Every call blocks for as long as the disk does, and raises StoreUnavailable."""

    def __init__(self, device: str, space: str) -> None:
        self.device, self.space = device, space

    def leader(self) -> Leader:
        """The lease as it stands on the disk now."""
        with self._opened(os.O_RDONLY) as fd:
            return self._leader(fd)

    def read(self) -> Image:
        """Everything. Raises BadConfiguration for a device that was not made for this."""
        with self._opened(os.O_RDONLY) as fd:
            geometry, found = self._headers(fd)
            body, whole = self._newest(fd, geometry, found)
            return Image(geometry, max(found.values()), body, whole, self._deltas(fd, geometry.hosts))

    def deltas(self) -> Mapping[int, Delta]:
        """The lock space alone."""
        with self._opened(os.O_RDONLY) as fd:
            return self._deltas(fd, HOSTS)

    def write(self, lease: Leader, sequence: int, body: bytes, *, end_s: float) -> None:
        """Both copies of this host, which ``lease`` names; nothing is begun after ``end_s`` (monotonic clock).

        Raises StoreUnavailable if the lease is not ours any more: what was written does not count then.
        """
        with self._opened(os.O_RDWR | os.O_DSYNC) as fd:
            geometry, found = self._headers(fd)
            if len(body) > geometry.body_bytes:
                what = f"the records do not fit into the {geometry.body_bytes} bytes of a body"
                raise self._trouble(what, "enforcer who shows leases that nobody needs")
            if not 0 < lease.host_id <= geometry.hosts:
                raise BadConfiguration(f"{self.device} is made for host ids 1 to {geometry.hosts}")
            self._still(fd, lease)
            if time.monotonic() >= end_s:
                raise self._trouble("took too long", "look for disk errors in the kernel log")
            worse_first = sorted(COPIES, key=lambda copy: found.get((lease.host_id, copy), -1))
            for copy in worse_first:
                slot = (_SLOT_MAGIC, lease.host_id, copy, geometry.first_token, sequence, len(body))
                _pwrite(fd, geometry.body_at(lease.host_id, copy), body)
                _pwrite(fd, geometry.header_at(lease.host_id, copy), _sealed(_SLOT.pack(*slot, _digest(body))))
            self._still(fd, lease)
            if max(self._headers(fd)[1].values()) != sequence:
                raise self._trouble("was written by another host at the same time", "restart sanlock on every node")

    def format(self, body: bytes, first_token: int, hosts: int = HOSTS, body_bytes: int = BODY_BYTES) -> None:
        """The head and an empty slot for every host id. The head comes last: half an area is none."""
        geometry = Geometry(hosts, body_bytes, first_token, self.space)
        with self._opened(os.O_RDWR | os.O_DSYNC) as fd:
            _pwrite(fd, HEAD_AT, b"")
            for host_id in range(1, hosts + 1):
                for copy in COPIES:
                    slot = (_SLOT_MAGIC, host_id, copy, first_token, first_token, len(body))
                    _pwrite(fd, geometry.body_at(host_id, copy), body)
                    _pwrite(fd, geometry.header_at(host_id, copy), _sealed(_SLOT.pack(*slot, _digest(body))))
            head = (_HEAD_MAGIC, VERSION, hosts, body_bytes, first_token, self.space.encode())
            _pwrite(fd, HEAD_AT, _sealed(_HEAD.pack(*head)))

    def sector_bytes(self) -> int:
        """512 or 4096; a file has 512."""
        with self._opened(os.O_RDONLY) as fd:
            if not stat.S_ISBLK(os.fstat(fd).st_mode):
                return 512
            return int(struct.unpack("i", fcntl.ioctl(fd, _BLKSSZGET, b"\0" * 4))[0])

    def occupied(self) -> tuple[str, bool]:
        """What stands in the way of formatting, as a clause, "" for nothing; and whether there is an area of ours."""
        with self._opened(os.O_RDONLY) as fd:
            size = _size(fd)
            end = Geometry(HOSTS, BODY_BYTES, 0, "").end
            if size < end:
                return f"is too short: {size} bytes, and {end} are needed", False
            if _genuine(_pread(fd, HEAD_AT, BLOCK), _HEAD.size):
                geometry = self._geometry(fd)
                here = [str(number) for number, delta in self._deltas(fd, geometry.hosts).items() if delta.timestamp]
                return f"is in use by host {', '.join(here)}" if here else "", True
            for at in (*range(0, end, MIB), (size - MIB) // BLOCK * BLOCK):
                if _pread(fd, at, MIB).strip(b"\0"):
                    return f"is not blank: there is something in the MiB at byte {at}", False
        return "", False

    # -- pieces ----------------------------------------------------------------------------------------------------

    def _still(self, fd: int, lease: Leader) -> None:
        if self._leader(fd) != lease:
            raise self._trouble("was written too late: sanlock has given the lease away", "systemctl status sanlock")

    def _leader(self, fd: int) -> Leader:
        record = _RECORD.unpack_from(_pread(fd, LOCK_AT, BLOCK))
        magic, _, _, _, _, _, owner, generation, lver, space, name, stamp = record
        if (magic, _text(space), _text(name)) != (_PAXOS, self.space, LOCK):
            raise self._trouble(
                f"holds no lease {self.space}/{LOCK} of sanlock", f"enforcer sanlock init {self.device}"
            )
        return Leader(lver, owner, generation, stamp != 0)

    def _deltas(self, fd: int, hosts: int) -> Mapping[int, Delta]:
        (sector,) = struct.unpack_from("<I", _pread(fd, 0, BLOCK), 12)
        if sector not in (512, BLOCK):
            raise self._trouble("holds no lock space of sanlock", f"enforcer sanlock init {self.device}")
        data = _pread(fd, 0, -(-hosts * sector // BLOCK) * BLOCK)
        found = {}
        for number in range(1, hosts + 1):
            magic, *_, generation, _lver, space, _name, stamp = _RECORD.unpack_from(data, (number - 1) * sector)
            if magic != _DELTA or _text(space) != self.space:
                raise self._trouble(f"has no delta lease of {self.space} for host id {number}", "sanlock direct dump")
            found[number] = Delta(generation, stamp)
        return found

    def _geometry(self, fd: int) -> Geometry:
        data = _pread(fd, HEAD_AT, BLOCK)
        magic, version, hosts, body_bytes, first_token, space = _HEAD.unpack_from(data)
        if not _genuine(data, _HEAD.size) or magic != _HEAD_MAGIC or version != VERSION:
            hint = f"enforcer sanlock init {self.device}, once, on one node"
            raise BadConfiguration(f"{self.device} is no record area of enforcer, or a damaged one", hint=hint)
        if _text(space) != self.space:
            hint = "set [store] cluster, or another device"
            raise BadConfiguration(f"{self.device} is of the cluster {_text(space)!r}, not {self.space!r}", hint=hint)
        return Geometry(hosts, body_bytes, first_token, self.space)

    def _headers(self, fd: int) -> tuple[Geometry, dict[tuple[int, int], int]]:
        """(host id, copy) -> sequence of every good header; there is one at least for each host."""
        geometry = self._geometry(fd)
        data = _pread(fd, HEAD_AT, BLOCK * (1 + len(COPIES) * geometry.hosts))
        found: dict[tuple[int, int], int] = {}
        for host_id in range(1, geometry.hosts + 1):
            for copy in COPIES:
                at = geometry.header_at(host_id, copy) - HEAD_AT
                slot = _SLOT.unpack_from(data, at)
                expected = (_SLOT_MAGIC, host_id, copy, geometry.first_token)
                if slot[:4] == expected and _genuine(data[at : at + BLOCK], _SLOT.size):
                    found[host_id, copy] = slot[4]
            if not any((host_id, copy) in found for copy in COPIES):
                raise self._damaged(f"both headers of host id {host_id}")
        return geometry, found

    def _newest(self, fd: int, geometry: Geometry, found: Mapping[tuple[int, int], int]) -> tuple[bytes, bool]:
        highest = max(found.values())
        good = []
        places = [place for place, sequence in found.items() if sequence == highest]
        for host_id, copy in places if highest > geometry.first_token else places[: len(COPIES)]:
            *_, length, digest = _SLOT.unpack_from(_pread(fd, geometry.header_at(host_id, copy), BLOCK))
            if length <= geometry.body_bytes:
                body = _pread(fd, geometry.body_at(host_id, copy), -(-length // BLOCK) * BLOCK)[:length]
                if _digest(body) == digest:
                    good.append(body)
        if not good:
            raise self._damaged(f"no copy of the records with sequence {highest}")
        return good[0], len(good) >= len(COPIES)

    def _damaged(self, what: str) -> StoreUnavailable:
        return self._trouble(f"is damaged: {what} can be read", f'see docs/sanlock.md, "Damage", about {self.device}')

    def _trouble(self, what: str, hint: str) -> StoreUnavailable:
        return StoreUnavailable(f"the record area {self.device} {what}", hint=hint)

    @contextmanager
    def _opened(self, flags: int) -> Iterator[int]:
        try:
            fd = os.open(self.device, flags | os.O_DIRECT | os.O_CLOEXEC)
            try:
                yield fd
            finally:
                os.close(fd)
        except (OSError, struct.error, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            raise self._trouble(f"cannot be used: {reason}", "look for disk errors in the kernel log") from None


def _pread(fd: int, at: int, size: int) -> bytes:
    if not size:
        return b""
    with mmap.mmap(-1, size) as buffer:
        got = os.preadv(fd, [buffer], at)
        if got != size:
            raise ValueError(f"{got} of {size} bytes at {at} were read")
        return buffer[:]


def _pwrite(fd: int, at: int, data: bytes) -> None:
    """Padded to whole blocks, one at least."""
    size = max(1, -(-len(data) // BLOCK)) * BLOCK
    with mmap.mmap(-1, size) as buffer:
        buffer[: len(data)] = data
        put = os.pwritev(fd, [buffer], at)
        if put != size:
            raise ValueError(f"{put} of {size} bytes at {at} were written")


def _size(fd: int) -> int:
    found = os.fstat(fd)
    if not stat.S_ISBLK(found.st_mode):
        return found.st_size
    return int(struct.unpack("Q", fcntl.ioctl(fd, _BLKGETSIZE64, b"\0" * 8))[0])


def _digest(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def _sealed(data: bytes) -> bytes:
    return data + _digest(data)


def _genuine(data: bytes, size: int) -> bool:
    return data[size : size + _DIGEST] == _digest(data[:size])


def _text(field: bytes) -> str:
    return field.split(b"\0")[0].decode("utf-8", "replace")
