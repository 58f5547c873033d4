# SPDX-License-Identifier: GPL-2.0-or-later
"""One connection from a guest to one port of the host's loopback: standard input and output to a TCP port.

QEMU's user network with ``restrict=on`` lets a guest reach nothing but what ``guestfwd`` names, and of its
two forms only ``cmd:`` serves several connections at a time: it starts this program for each of them. QEMU
hands over one socket as both ends; half-closes are passed on, and the program ends when either side is gone
altogether.
"""

import select
import socket
import sys

LIMIT = 1 << 18  # unsent bytes after which the other side is not read


def pump(left: socket.socket, right: socket.socket) -> None:
    """Move bytes both ways until both directions have ended."""
    other = {left: right, right: left}
    pending = {left: bytearray(), right: bytearray()}  # what is still to be sent to that side
    reading = {left, right}
    closing: set[socket.socket] = set()
    while reading or any(pending.values()):
        readers = [side for side in reading if len(pending[other[side]]) < LIMIT]
        writers = [side for side in pending if pending[side]]
        ready, writable, _ = select.select(readers, writers, [])
        for side in ready:
            data = side.recv(65536)
            pending[other[side]] += data
            if not data:
                reading.discard(side)
                closing.add(other[side])
        for side in writable:
            del pending[side][: side.send(pending[side])]
        for side in [side for side in closing if not pending[side]]:
            closing.discard(side)
            side.shutdown(socket.SHUT_WR)


def main(port: int) -> int:
    guest = socket.socket(fileno=0)
    try:
        host = socket.create_connection(("127.0.0.1", port), timeout=5)
    except OSError:
        return 1
    for side in (guest, host):
        side.setblocking(False)
    host.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    try:
        pump(guest, host)
    except OSError:
        return 0
    return 0


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1])))
