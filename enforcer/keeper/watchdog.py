# SPDX-License-Identifier: GPL-2.0-or-later
"""One watchdog device: opened, made sure of, fed, and stopped only in order (linux/watchdog.h,
Documentation/watchdog/watchdog-api.rst).

**Half the time.** Whoever is killed closes the device, and the kernel feeds the watchdog once more when it is closed
without a word (watchdog_release, drivers/watchdog/watchdog_dev.c); a process that was stopped between its look at the
clock and its ioctl feeds once when it goes on. Either may come at any moment before the machine is reset. So the device
is programmed with half of W: one meal that came too late is digested within W all the same.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import struct
from dataclasses import dataclass
from enum import IntFlag
from pathlib import Path
from typing import Protocol

from enforcer.model.errors import EnforcerError


class Can(IntFlag):
    """options of struct watchdog_info, as far as they matter."""

    SETTIMEOUT = 0x0080
    MAGICCLOSE = 0x0100
    ALARMONLY = 0x0400
    KEEPALIVEPING = 0x8000


def _ior(number: int, size: int, direction: int = 2) -> int:
    return direction << 30 | size << 16 | ord("W") << 8 | number


GETSUPPORT = _ior(0, 40)
KEEPALIVE = _ior(5, 4)
SETTIMEOUT = _ior(6, 4, 3)
GETTIMEOUT = _ior(7, 4)


class NoWatchdog(EnforcerError):
    """The device cannot be relied upon, or is not there."""


class Watchdog(Protocol):
    """What is fed."""

    def feed(self) -> None:
        """Once. Raises OSError."""

    def stop(self) -> None:
        """Nothing is to be reset any more; with nowayout the machine is reset nevertheless. Raises OSError."""

    def leave(self) -> None:
        """Close it as it is: it runs on."""


@dataclass(frozen=True, slots=True)
class Support:
    """The answer to WDIOC_GETSUPPORT."""

    options: Can
    identity: str

    def problem(self) -> str:
        """Why no promise can be built upon this driver, or ""."""
        if self.options & Can.ALARMONLY:
            return "it only sounds an alarm"
        if not self.options & Can.SETTIMEOUT:
            return "its time-out cannot be set"
        if not self.options & Can.KEEPALIVEPING:
            return "it takes no keep-alive"
        if not self.options & Can.MAGICCLOSE:
            return "a keeper that is killed would stop it"
        return ""


class Device:
    """A watchdog that is running and ours; the kernel gives it to one process at a time."""

    def __init__(self, fd: int, support: Support, timeout_s: int) -> None:
        self._fd = fd
        self.support, self.timeout_s = support, timeout_s

    def feed(self) -> None:
        fcntl.ioctl(self._fd, KEEPALIVE, bytearray(4))

    def stop(self) -> None:
        try:
            os.write(self._fd, b"V")
        finally:
            os.close(self._fd)

    def leave(self) -> None:
        os.close(self._fd)


def programmed_s(watchdog_s: float) -> int:
    """What a device is told where W = ``watchdog_s`` stands in the arithmetic."""
    return max(1, int(watchdog_s / 2))


def opened(path: str | Path, watchdog_s: float, *, idle: bool) -> Device:
    """Open it, which starts it, or takes it over while it runs: that alone does not feed it. Raises NoWatchdog.

    ``watchdog_s``: W. ``idle``: nothing guarded is in use here, so what is found unfit may be stopped again; else it
    is left as it is, because a keeper before us may have promised that it bites.
    """
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    except OSError as error:
        raise NoWatchdog(f"{path} cannot be opened: {error.strerror}", hint=_hint(error.errno)) from error
    try:
        support = _support(fd, path)
    except NoWatchdog:
        os.close(fd)  # nothing was started that could be stopped
        raise
    try:
        if problem := support.problem():
            raise NoWatchdog(f"{path} ({support.identity}) is of no use: {problem}", hint="name another device")
        return Device(fd, support, _programmed(fd, path, support, programmed_s(watchdog_s)))
    except NoWatchdog:
        with contextlib.suppress(OSError):
            if idle:
                os.write(fd, b"V")
        os.close(fd)
        raise


def _support(fd: int, path: str | Path) -> Support:
    answer = bytearray(40)
    try:
        fcntl.ioctl(fd, GETSUPPORT, answer)
    except OSError as error:
        raise NoWatchdog(f"{path} is no watchdog: {error.strerror}", hint="ls /dev/watchdog*") from error
    options, _, identity = struct.unpack("II32s", answer)
    return Support(Can(options), identity.partition(b"\0")[0].decode("ascii", "replace"))


def _programmed(fd: int, path: str | Path, support: Support, wanted_s: int) -> int:
    told = bytearray(struct.pack("i", wanted_s))
    try:
        fcntl.ioctl(fd, SETTIMEOUT, told)  # feeds it as well
        fcntl.ioctl(fd, GETTIMEOUT, told)
        (timeout_s,) = struct.unpack("i", told)
        wrong = "" if 0 < timeout_s <= wanted_s else f"it waits for {timeout_s} s instead"
    except OSError as error:
        timeout_s, wrong = 0, f"{error.strerror}"
    if wrong:
        what = f"{path} ({support.identity}) does not bite after {wanted_s} s, half of watchdog_timeout: {wrong}"
        raise NoWatchdog(what, hint="raise watchdog_timeout")
    return int(timeout_s)


def _hint(number: int | None) -> str:
    if number == errno.EBUSY:
        return "another process feeds it (systemd's RuntimeWatchdogSec, sbd, wdmd); give the keeper a device of its own"
    if number in (errno.ENOENT, errno.ENODEV, errno.ENXIO):
        return "load the driver of this machine's watchdog, or softdog, before the keeper starts"
    return ""
