# SPDX-License-Identifier: GPL-2.0-or-later
"""``enforcer-keeper``: keeps the node's session alive and tells the kernel until when.

It is a process of its own so that nothing the daemon does (a policy reload, a long scan, a restart, a crash) can
delay a renewal. It has no policy and serves no upcall. If it dies, the kernel's deadline passes by itself and every
guarded device is refused: it cannot fail open.

All of it is locked into memory, so it must be small, and what costs memory is settled here, before anything is loaded
that would take it.
"""

from __future__ import annotations

import argparse
import logging
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

from enforcer import settings
from enforcer.lost import alone
from enforcer.lost.memory import STACK_BYTES, lock_memory

NAME = "enforcer-keeper"
log = logging.getLogger(NAME)


def _stay_small(endpoints: Sequence[str]) -> None:
    """asyncio loads OpenSSL if it can, 6 MB that would be locked for nothing where no endpoint speaks TLS.

    None in sys.modules makes an import fail (importlib, "The module cache"); asyncio does without, as it does in a
    Python that was built so.
    """
    threading.stack_size(STACK_BYTES)
    if "asyncio" not in sys.modules and not any(url.lower().startswith("https:") for url in endpoints):
        cast(dict[str, Any], sys.modules).setdefault("ssl", None)


def parser() -> argparse.ArgumentParser:
    """The command line, for ``main`` and for the tests of the manual page."""
    made = argparse.ArgumentParser(
        prog=NAME,
        description="Keeps this node's session in the lease store alive.",
        epilog="example: enforcer-keeper --config /etc/enforcer/enforcer.toml",
    )
    made.add_argument("--config", type=Path, metavar="FILE", help="settings, if not /etc/enforcer/enforcer.toml")
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    """Run; returns the exit code."""
    options = parser().parse_args(arguments)
    return alone.run(NAME, lambda: _serve(options.config))


def _serve(config: Path | None) -> None:
    chosen = settings.load(config, fencing=False)
    _stay_small(chosen.store.endpoints)
    import asyncio

    from enforcer.keeper.duties import Keeper, serve

    keeper = Keeper(chosen)
    alone.lock(NAME, Path(chosen.paths.run_dir) / "keeper.lock")
    lock_memory(log)  # a keeper that waits for a page from a hung disk cannot renew
    asyncio.run(serve(keeper))


if __name__ == "__main__":
    sys.exit(main())
