# SPDX-License-Identifier: GPL-2.0-or-later
"""The few FUSE requests that one executable file with extended attributes needs (include/uapi/linux/fuse.h).

Spoken directly: the Python FUSE libraries do not pass INTERRUPT on, and the answer to it is what lets a waiting
mount be killed. Pure: bytes in, bytes out, nothing raised but :class:`FuseError` whatever the bytes are.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum

from enforcer.model.errors import EnforcerError

ROOT_NODE, FILE_NODE = 1, 2
FILE_NAME = b"anchor"
READ_BUFFER_BYTES = 1 << 17  # FUSE_MIN_READ_BUFFER is 8192; room for max_write and then some
MAX_WRITE_BYTES = 4096

_IN = struct.Struct("<IIQQIIIHH")  # fuse_in_header
_OUT = struct.Struct("<IiQ")  # fuse_out_header


class FuseError(EnforcerError):
    """Bytes from /dev/fuse that are no request we know how to read."""


class Opcode(IntEnum):
    LOOKUP = 1
    FORGET = 2
    GETATTR = 3
    OPEN = 14
    READ = 15
    STATFS = 17
    RELEASE = 18
    GETXATTR = 22
    FLUSH = 25
    INIT = 26
    ACCESS = 34
    INTERRUPT = 36
    BATCH_FORGET = 42


SILENT = frozenset({Opcode.FORGET, Opcode.INTERRUPT, Opcode.BATCH_FORGET})  # want no answer


@dataclass(frozen=True, slots=True)
class Request:
    """One request: ``tid`` is the thread that caused it, as seen from the mount's pid namespace."""

    opcode: int
    unique: int
    node: int
    uid: int
    tid: int
    body: bytes


def parse(data: bytes) -> Request:
    """Read one request. Raises FuseError."""
    if len(data) < _IN.size:
        raise FuseError(f"{len(data)} bytes from /dev/fuse are too few for a request")
    length, opcode, unique, node, uid, _gid, tid, extlen, _pad = _IN.unpack_from(data)
    if length != len(data) or extlen * 8 > length - _IN.size:
        raise FuseError(f"request {unique} claims {length} bytes and has {len(data)}")
    return Request(opcode, unique, node, uid, tid, data[_IN.size :])


def answer(unique: int, data: bytes = b"", error: int = 0) -> bytes:
    """One reply; ``error`` is a positive errno, with which no data goes out."""
    body = b"" if error else data
    return _OUT.pack(_OUT.size + len(body), -error, unique) + body


def init(request: Request) -> bytes:
    """struct fuse_init_out: protocol 7.31, no optional features. Raises FuseError for a kernel before 7.12."""
    if len(request.body) < 8:
        raise FuseError("INIT is too short")
    major, minor = struct.unpack_from("<II", request.body)
    if (major, minor) < (7, 12):
        raise FuseError(f"the kernel speaks FUSE {major}.{minor}, which is too old")
    return struct.pack("<IIIIHHII", 7, 31, 0, 0, 64, 48, MAX_WRITE_BYTES, 1) + bytes(36)


def attributes(node: int, size_bytes: int) -> bytes:
    """struct fuse_attr of the root directory or of the executable."""
    mode = 0o40755 if node == ROOT_NODE else 0o100755
    return struct.pack(
        "<6Q10I", node, size_bytes, (size_bytes + 511) // 512, 0, 0, 0, 0, 0, 0, mode, 1, 0, 0, 0, 4096, 0
    )


def entry(node: int, size_bytes: int) -> bytes:
    """struct fuse_entry_out, valid for an hour: nothing about the file ever changes."""
    return struct.pack("<QQQQII", node, 0, 3600, 3600, 0, 0) + attributes(node, size_bytes)


def attr_reply(node: int, size_bytes: int) -> bytes:
    """struct fuse_attr_out."""
    return struct.pack("<QII", 3600, 0, 0) + attributes(node, size_bytes)


def opened() -> bytes:
    """struct fuse_open_out."""
    return struct.pack("<QII", 1, 0, 0)


def read_range(request: Request) -> tuple[int, int]:
    """(offset, size) of a READ. Raises FuseError."""
    if len(request.body) < 20:
        raise FuseError("READ is too short")
    _handle, offset, size = struct.unpack_from("<QQI", request.body)
    return offset, size


def name_of(request: Request) -> bytes:
    """The name in a LOOKUP."""
    return request.body.split(b"\0", 1)[0]


def xattr(request: Request) -> tuple[bytes, int]:
    """(name, room in bytes) of a GETXATTR; room 0 asks for the size only. Raises FuseError."""
    if len(request.body) < 9:
        raise FuseError("GETXATTR is too short")
    (room,) = struct.unpack_from("<I", request.body)
    return request.body[8:].split(b"\0", 1)[0], room


def xattr_size(size_bytes: int) -> bytes:
    """struct fuse_getxattr_out."""
    return struct.pack("<II", size_bytes, 0)


def interrupted_unique(request: Request) -> int:
    """Which request an INTERRUPT is about. Raises FuseError."""
    if len(request.body) < 8:
        raise FuseError("INTERRUPT is too short")
    (unique,) = struct.unpack_from("<Q", request.body)
    return int(unique)
