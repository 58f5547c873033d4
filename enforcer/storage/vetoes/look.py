# SPDX-License-Identifier: GPL-2.0-or-later
"""One look at one disk: every kind of mark that can be on it, from one read of its beginning and few more.

It can take as long as the disk takes, so it is no business of an event loop.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from enforcer.storage.vetoes import lvm, mmp, ocfs2, reservation, sanlock
from enforcer.storage.vetoes.local import Local
from enforcer.storage.vetoes.marks import Damaged, Mark, damaged
from enforcer.storage.vetoes.medium import Medium

HEAD_BYTES: Final = 1 << 14  # where every format begins: OCFS2's superblock ends at 12 KiB


def look(medium: Medium, local: Callable[[], Local]) -> tuple[Mark, ...]:
    """All marks on the disk, also excusable ones. Raises OSError if it cannot be read.

    ``local()`` is called only for a mark that needs a name of this node.
    """
    head = medium.read(0, HEAD_BYTES)
    readers: dict[str, Callable[[], tuple[Mark, ...]]] = {
        reservation.LAYER: lambda: reservation.marks(medium.reserve_in, lambda: local().initiators),
        sanlock.LAYER: lambda: sanlock.marks(head, medium.read),
        lvm.LAYER: lambda: lvm.marks(head, medium.read),
        mmp.LAYER: lambda: mmp.marks(head, medium.read),
        ocfs2.LAYER: lambda: ocfs2.marks(head, medium.read, lambda: local().ocfs2),
    }
    found: list[Mark] = []
    for layer, read in readers.items():
        try:
            found += read()
        except Damaged as error:
            found.append(damaged(layer, error))
    return tuple(found)
