# SPDX-License-Identifier: GPL-2.0-or-later
"""What ``make run`` does: on a kernel that can enforce, watch this machine; on any other, tell the story in the lab.

Watching refuses nothing and leaves nothing: every rule is in audit mode, no link is pinned, and the lease store is a
file in a temporary directory. What was asked and what would have been answered is shown as it happens.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path

from enforcer.cli.main import main as enforcer
from enforcer.kernel import prerequisites
from enforcer.kernel.prerequisites import Prerequisite
from enforcer.model.errors import EnforcerError, Exit
from enforcer.settings import Settings

ROOT = Path(__file__).resolve().parent.parent
POLICY = ROOT / "policy/run"
LOADING = "LSM programs can be loaded"
PATIENCE_S = 10.0
_MNT_DETACH = 2


def obstacle(found: Sequence[Prerequisite]) -> Prerequisite | None:
    """What to name as the reason: the kernel's own refusal before anything that could be mended, None if all is ok."""
    failed = [item for item in found if not item.ok]
    ranked = [item for item in failed if item.name == LOADING] or [i for i in failed if not i.privilege] or failed
    return ranked[0] if ranked else None


def settings_text(place: Path) -> str:
    """A settings file whose every path lies in ``place``."""
    quoted = {name: json.dumps(str(place / name)) for name in ("state", "run", "log")}
    return (
        f"[paths]\nstate_dir = {quoted['state']}\nrun_dir = {quoted['run']}\nlog_dir = {quoted['log']}\n"
        '[store]\nkind = "sqlite"\n'
    )


def command(settings: Path) -> list[str]:
    """The daemon, which does not outlive this process."""
    return [
        *("setpriv", "--pdeathsig", "TERM", "--"),
        *(sys.executable, "-m", "enforcer.daemon.main"),
        *("--config", str(settings), "--policy", str(POLICY), "--audit-only", "--no-pin"),
    ]


def watch() -> int:
    """Run the daemon and show its audit log until Ctrl-C; returns the exit code."""
    pins = Path(Settings().paths.bpffs)
    if pins.exists():
        raise EnforcerError(
            f"a gate is in force on this node already ({pins})", hint="enforcer audit --follow shows what it does"
        )
    place = Path(tempfile.mkdtemp(prefix="enforcer-watch-", dir="/run"))
    settings = place / "enforcer.toml"
    settings.write_text(settings_text(place))
    daemon = None
    try:
        # a process group of its own: Ctrl-C is for this process, which then ends the daemon
        daemon = subprocess.Popen(command(settings), cwd=ROOT, stdin=subprocess.DEVNULL, process_group=0)
        ending = threading.Thread(target=_tell_end, args=(daemon,), daemon=True)
        ending.start()
        print("watching: mounts, swap and raw writes are shown and never refused; Ctrl-C ends it", flush=True)
        enforcer(["audit", "--follow", "--file", str(place / "log/audit.jsonl")])
        own_end = daemon.poll()
        if own_end is not None:
            print(f"run: enforcerd ended before anybody asked it to ({_how(own_end)})", file=sys.stderr)
            return own_end if own_end >= 0 else int(Exit.FAILURE)
        return int(Exit.OK)
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        if daemon is not None:
            _end(daemon)
        ctypes.CDLL(None).umount2(os.fsencode(place / "run/upcall"), _MNT_DETACH)
        shutil.rmtree(place, ignore_errors=True)
        print("\nended: nothing stays in force", flush=True)


def _how(code: int) -> str:
    return f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"


def _tell_end(daemon: subprocess.Popen[bytes]) -> None:
    """A log that nobody writes any more must not be followed for ever."""
    os.waitid(os.P_PID, daemon.pid, os.WEXITED | os.WNOWAIT)
    os.kill(os.getpid(), signal.SIGINT)


def _end(daemon: subprocess.Popen[bytes]) -> None:
    daemon.terminate()
    try:
        daemon.wait(PATIENCE_S)
    except subprocess.TimeoutExpired:
        daemon.kill()
        daemon.wait()


def main() -> int:
    """Returns the exit code."""
    if os.geteuid() != 0:
        print("run: must be started by root: it loads kernel programs or starts virtual machines", file=sys.stderr)
        return int(Exit.NO_PERMISSION)
    for number in (signal.SIGINT, signal.SIGTERM):  # a shell's background jobs begin with SIGINT ignored
        signal.signal(number, signal.default_int_handler)
    try:
        reason = obstacle(prerequisites.check())
        if reason is None:
            return watch()
        print(f"run: {reason.sentence}; so two virtual machines with Debian's kernel show it", flush=True)
        from tools.lab import story

        return story.main(["6.12"])
    except EnforcerError as error:
        print(f"run: {error}", file=sys.stderr)
        if error.hint:
            print(f"  hint: {error.hint}", file=sys.stderr)
        return int(error.exit_code)
    except KeyboardInterrupt:
        with contextlib.suppress(BrokenPipeError):
            print("\nended", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
