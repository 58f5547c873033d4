# SPDX-License-Identifier: GPL-2.0-or-later
"""Shared disks, and a record outside every guest of who wrote what.

One nbdkit process serves one raw image to all guests over a unix socket: one file in one process, so the
guests see each other's writes as those of a SAN would be seen. Its log filter names the NBD export of every
new connection, and the file plugin serves any export name: each QEMU asks for an export that is called as its
node, and the log tells the nodes apart without trusting any of them. A request is logged before it is carried
out: what the log does not have, the disk does not have either.
"""

from __future__ import annotations

import hashlib
import re
import socket
import subprocess
import threading
import time
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from tools.lab import process

_LINE = re.compile(r"(\S+ \S+) connection=(\d+) (Connect|Write|Trim|Zero|Flush|Cache|Read|Extents) (.*)$")
_FIELD = re.compile(r"(\w+)=(?:\"([^\"]*)\"|'([^']*)'|(\S+))")
CHANGING = frozenset({"write", "trim", "zero"})


class DiskError(Exception):
    """The disk's server does not do what it should."""


@dataclass(frozen=True, slots=True)
class Request:
    """One request of one node, as the server saw it arrive."""

    number: int  # position among all requests; marks are such numbers
    node: str
    connection: int  # a node that boots again connects again
    kind: str  # write, trim, zero, read, flush, cache, extents
    offset: int
    count: int
    at_s: float = 0.0  # when it came, by the host's clock
    connected_s: float = 0.0  # when its connection was made

    @property
    def changes(self) -> bool:
        return self.kind in CHANGING


@dataclass(slots=True)
class LogReader:
    """Turns the log filter's lines into requests; feed it what was appended since the last time."""

    requests: list[Request] = field(default_factory=list)
    exports: dict[int, str] = field(default_factory=dict)
    connected: dict[int, float] = field(default_factory=dict)
    _rest: str = ""

    def feed(self, text: str) -> None:
        *lines, self._rest = (self._rest + text).split("\n")
        for line in lines:
            match = _LINE.match(line)
            if match is None:
                continue  # the returns ("...Write id=1 return=0") and everything else
            connection, kind = int(match[2]), match[3].lower()
            at_s = datetime.fromisoformat(match[1] + "+00:00").timestamp()  # gmtime_r in nbdkit's filters/log
            fields = {m[1]: m[2] or m[3] or m[4] or "" for m in _FIELD.finditer(match[4])}
            if kind == "connect":
                self.connected[connection] = at_s
                self.exports[connection] = fields.get("export", "")
                continue
            self.requests.append(
                Request(
                    number=len(self.requests),
                    node=self.exports.get(connection, "?"),
                    connection=connection,
                    kind=kind,
                    offset=int(fields.get("offset", "0"), 0),
                    count=int(fields.get("count", "0"), 0),
                    at_s=at_s,
                    connected_s=self.connected.get(connection, 0.0),
                )
            )


@dataclass
class SharedDisk:
    """One LUN. ``filters`` are further nbdkit filters and parameters, e.g. ``("delay", "wdelay=50ms")``:
    a word without ``=`` names a filter, a word with it is a parameter."""

    name: str
    size_bytes: int = 256 << 20
    wwn: int = 0x5000C500_15EA71AC
    serial: str = ""
    filters: tuple[str, ...] = ()
    nodes: tuple[int, ...] = ()  # numbers of the nodes that see it; all if empty
    rotational: bool = False
    paths: int = 1  # as how many disks each node sees it
    partitions: str = ""  # input of sfdisk(8): laid out before any node sees the disk
    _workdir: Path | None = None
    _server: subprocess.Popen[bytes] | None = None
    _reader: LogReader = field(default_factory=LogReader)
    _read_to: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def wwid(self) -> str:
        """As /sys/block/*/device/wwid has it."""
        return f"naa.{self.wwn:016x}"

    @property
    def image(self) -> Path:
        return self._path("img")

    @property
    def socket(self) -> Path:
        return self._path("sock")

    @property
    def log(self) -> Path:
        return self._path("log")

    def _path(self, suffix: str) -> Path:
        if self._workdir is None:
            raise DiskError(f"disk {self.name} was not started")
        return self._workdir / f"{self.name}.{suffix}"

    def start(self, workdir: Path) -> None:
        """Make the image (if there is none) and serve it."""
        self._workdir = workdir
        if not self.image.exists():
            with self.image.open("wb") as file:
                file.truncate(self.size_bytes)
            if self.partitions:
                table = self.partitions.encode()
                subprocess.run(
                    ["sfdisk", "--quiet", str(self.image)], input=table, check=True, stdout=subprocess.DEVNULL
                )
        filters = [word for word in self.filters if "=" not in word]
        command = ["nbdkit", "--foreground", "--threads=16", f"--unix={self.socket}", "--filter=log"]
        command += [f"--filter={name}" for name in filters]
        command += ["file", f"file={self.image}", f"logfile={self.log}", "logappend=true"]
        command += [word for word in self.filters if "=" in word]
        self.socket.unlink(missing_ok=True)
        self._server = process.start(command, self._path("nbdkit.log"))
        end = time.monotonic() + 10
        while not self._answers():
            if self._server.poll() is not None or time.monotonic() > end:
                raise DiskError(f"nbdkit does not serve {self.name}: {process.tail(self._path('nbdkit.log'))}")
            time.sleep(0.02)

    def _answers(self) -> bool:
        with socket.socket(socket.AF_UNIX) as probe:
            try:
                probe.connect(str(self.socket))
            except OSError:
                return False
        return True

    def stop(self) -> None:
        if self._server is not None:
            process.stop(self._server)
            self._server = None

    def requests(self, *, since: int = 0) -> list[Request]:
        """All requests from a mark on, in the order in which they arrived."""
        with self._lock:
            with self.log.open() as file:
                file.seek(self._read_to)
                text = file.read()
                self._read_to = file.tell()
            self._reader.feed(text)
            return self._reader.requests[since:]

    def mark(self) -> int:
        """A point in the record, for ``since``."""
        self.requests()
        return len(self._reader.requests)

    def writes_of(self, node: object, *, since: int = 0) -> list[Request]:
        """What a node (its name, or the Node) changed or tried to change."""
        name = str(getattr(node, "name", node))
        return [request for request in self.requests(since=since) if request.changes and request.node == name]

    def sha256(self) -> str:
        """Of the whole image, as it is now."""
        with self.image.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    def read(self, offset: int, count: int) -> bytes:
        """Bytes of the image, as no guest sees them."""
        with self.image.open("rb") as file:
            file.seek(offset)
            return file.read(count)
