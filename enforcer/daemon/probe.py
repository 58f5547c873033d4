# SPDX-License-Identifier: GPL-2.0-or-later
"""The self-test before READY: a mount of a type that does not exist must come back with the verdict that we gave.

It goes the whole way: the hook, the upcall, the loop, the verdict, the caller's errno. A gate that is attached but
does not reach us would show here and nowhere else until it was too late.
"""

from __future__ import annotations

import asyncio
import ctypes
import errno

from enforcer.model.errors import EnforcerError

FSTYPE = b"enforcer-probe"
ERRNO = errno.EL2HLT  # no filesystem gives this; without the gate the kernel says ENODEV


def _mount() -> int:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mount(b"probe", b"/", FSTYPE, 0, None)
    return ctypes.get_errno()


async def drive() -> None:
    """Raises EnforcerError if the gate did not answer as it was told within 10 s."""
    try:
        async with asyncio.timeout(10):
            seen = await asyncio.to_thread(_mount)
    except TimeoutError as late:
        raise EnforcerError(
            "the self-test got no answer within 10 s", hint="enforcer doctor; please report it"
        ) from late
    if seen != ERRNO:
        name = errno.errorcode.get(seen, str(seen))
        raise EnforcerError(
            f"the self-test came back with {name}: the gate does not reach the daemon",
            hint="enforcer doctor; please report it",
        )
