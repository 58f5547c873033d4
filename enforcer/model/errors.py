# SPDX-License-Identifier: GPL-2.0-or-later
"""What can go wrong, as an administrator hears of it: one sentence, one remedy, one exit code."""

from __future__ import annotations

from enum import IntEnum


class Exit(IntEnum):
    """Exit codes, named as in systemd.exec(5) (the LSB codes)."""

    OK = 0
    FAILURE = 1
    USAGE = 2
    NO_PERMISSION = 4
    NOT_INSTALLED = 5
    NOT_CONFIGURED = 6
    NOT_RUNNING = 7


class EnforcerError(Exception):
    """An expected failure. ``str()`` is the sentence; ``hint`` says what to do about it."""

    exit_code: Exit = Exit.FAILURE

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


class UsageError(EnforcerError):
    """The command line does not say what to do."""

    exit_code = Exit.USAGE


class PermissionRefused(EnforcerError):
    """The caller lacks a privilege."""

    exit_code = Exit.NO_PERMISSION


class PrerequisiteMissing(EnforcerError):
    """The machine lacks something that enforcement stands on."""

    exit_code = Exit.NOT_INSTALLED


class BadConfiguration(EnforcerError):
    """A policy or configuration file cannot be used; the message names file and line."""

    exit_code = Exit.NOT_CONFIGURED


class NotRunning(EnforcerError):
    """The daemon that should answer is not there."""

    exit_code = Exit.NOT_RUNNING


class StoreUnavailable(EnforcerError):
    """The lease store gave no linearizable answer in time. Whoever catches this must deny."""


class LeaseLost(EnforcerError):
    """The store says that what we held, or the session it hangs on, is no longer ours."""
