# SPDX-License-Identifier: GPL-2.0-or-later
"""``enforcerd``: start the daemon, or take the gate out of force."""

from __future__ import annotations

import argparse
import asyncio
import fcntl
import logging
import os
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from enforcer import __version__, settings
from enforcer.kernel import prerequisites, program
from enforcer.model.errors import EnforcerError, Exit, PermissionRefused
from enforcer.model.escape import for_terminal
from enforcer.settings import Settings

log = logging.getLogger("enforcerd")


def parser() -> argparse.ArgumentParser:
    """The command line, for ``main`` and for the tests of the manual page."""
    made = argparse.ArgumentParser(
        prog="enforcerd",
        description="Asks the cluster before anything is mounted on this node.",
        epilog="example: enforcerd --audit-only --no-pin    # watch, refuse nothing, leave nothing behind",
    )
    made.add_argument("--config", type=Path, metavar="FILE", help="settings, if not /etc/enforcer/enforcer.toml")
    made.add_argument(
        "--policy",
        type=Path,
        action="append",
        metavar="DIR",
        help="policy directory or file, instead of those of the settings",
    )
    made.add_argument("--audit-only", action="store_true", help="every rule only watches; nothing is refused")
    made.add_argument("--no-pin", action="store_true", help="the gate ends with this process")
    made.add_argument("--detach", action="store_true", help="take the gate out of force and exit")
    made.add_argument("--verbose", action="store_true", help="log more")
    made.add_argument("--version", action="version", version=f"enforcerd {__version__}")
    return made


def kernel_switch(cmdline: str) -> str:
    """``off``, ``audit`` or "" from the kernel command line: the way in from an emergency shell."""
    found = [word.partition("=")[2] for word in cmdline.split() if word.startswith("enforcer=")]
    return found[-1] if found and found[-1] in ("off", "audit") else ""


def _lock(run_dir: Path) -> int:
    run_dir.mkdir(parents=True, exist_ok=True)
    path = run_dir / "enforcerd.lock"
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    for _ in range(5):  # the keeper's look at the lock takes a moment
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except BlockingIOError:
            time.sleep(0.1)
    else:
        other = os.pread(descriptor, 32, 0).decode("ascii", "replace").strip()
        raise EnforcerError(
            f"another enforcerd is running (pid {other or '?'})", hint="systemctl status enforcerd"
        ) from None
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
    return descriptor


def _detach(chosen: Settings) -> int:
    lock = _lock(Path(chosen.paths.run_dir))
    try:
        there = program.remove_pins(Path(chosen.paths.bpffs))
    finally:
        os.close(lock)
    print("enforcerd: the gate is out of force" if there else "enforcerd: no gate was in force")
    return Exit.OK


async def _serve(chosen: Settings, options: argparse.Namespace, audit_only: bool) -> None:
    from enforcer.daemon.service import Service

    service = Service(chosen, pinned=not options.no_pin, audit_only=audit_only)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, service.stop)

    def reload() -> None:
        try:
            service.reload()
        except EnforcerError as error:
            log.error(
                "the policy was not reloaded, generation %d stays in force: %s",
                service.policy.generation,
                error,
            )

    loop.add_signal_handler(signal.SIGHUP, reload)
    await service.run()


def _run(options: argparse.Namespace) -> int:
    if os.geteuid() != 0:
        raise PermissionRefused(
            "enforcerd must be started by root", hint="sudo enforcerd, or systemctl start enforcerd"
        )
    chosen = settings.load(options.config)
    if options.policy:
        chosen = replace(chosen, paths=replace(chosen.paths, policy_dirs=tuple(str(p) for p in options.policy)))
    if options.detach:
        return _detach(chosen)
    switch = kernel_switch(Path("/proc/cmdline").read_text())
    if switch == "off":
        print("enforcerd: the kernel command line says enforcer=off, so nothing is enforced")
        return Exit.OK
    from enforcer.daemon.policies import load_policy

    load_policy(chosen, 0, audit_only=False)  # its mistakes are told on any machine
    prerequisites.require()
    lock = _lock(Path(chosen.paths.run_dir))
    try:
        asyncio.run(_serve(chosen, options, options.audit_only or switch == "audit"))
    finally:
        os.close(lock)
    return Exit.OK


def main(arguments: Sequence[str] | None = None) -> int:
    """Run; returns the exit code."""
    options = parser().parse_args(arguments)
    logging.basicConfig(
        level=logging.DEBUG if options.verbose else logging.INFO,
        format="enforcerd: %(message)s",
        stream=sys.stderr,
    )
    try:
        return int(_run(options))
    except EnforcerError as error:
        for line in str(error).splitlines():
            sys.stderr.write(f"enforcerd: {for_terminal(line, 2048)}\n")
        if error.hint:
            sys.stderr.write(f"  hint: {for_terminal(error.hint, 2048)}\n")
        verifier = getattr(error, "log", "")
        if verifier and options.verbose:
            sys.stderr.write(verifier)
        return int(error.exit_code)
    except OSError as error:
        sys.stderr.write(f"enforcerd: {for_terminal(str(error), 2048)}\n")
        return int(Exit.FAILURE)
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
