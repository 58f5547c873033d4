# SPDX-License-Identifier: GPL-2.0-or-later
"""``enforcer drain``: unmount what is guarded, and wait until its leases are given back.

enforcer-drain.service runs it at shutdown, while network and keeper are still there: systemd itself unmounts what
nobody wrote into fstab only after them, when the store cannot be told any more. Services that use the filesystems are
being stopped at the same time, so a busy one is tried again until the time is over.

umount(8) and swapoff(8) run as processes of their own: one that waits for a dead disk holds up nothing else.
"""

from __future__ import annotations

import os
import re
import stat
import subprocess
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator, Mapping
from pathlib import Path

from enforcer.audit.loose import mapping, mappings, text
from enforcer.cli.client import Client
from enforcer.cli.output import Output
from enforcer.model.errors import EnforcerError, Exit, UsageError
from enforcer.model.escape import for_terminal

SUMMARY = "unmount what is guarded here, and wait until its leases are given back"
EXAMPLE = "enforcer drain --wait 30"
POLL_S = 0.3
TRY_S = 1.0  # how long one umount is waited for before others have their turn

Command = tuple[str, ...]


def arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--wait", type=float, default=60.0, metavar="SECONDS", help="how long to try (default: 60)")
    parser.add_argument("--json", action="store_true", help="one object")


def run(options: Namespace, output: Output) -> int:
    if not options.wait >= 0:
        raise UsageError("--wait takes seconds, 0 or more", hint="enforcer drain --wait 30")
    client, end = Client(options.socket), time.monotonic() + options.wait
    running: dict[Command, subprocess.Popen[bytes]] = {}
    why: dict[Command, str] = {}
    while True:
        data = client.ask("who")
        left, trouble = held(data), text(data, "trouble", 1024)
        if not left and not trouble:
            break
        if time.monotonic() >= end:
            break
        for command in reversed(list(commands(data))):
            _advance(command, running, why)
        time.sleep(POLL_S)
    said = list(dict.fromkeys(why.values()))
    if options.json:
        output.json({"schema": 1, "ok": not left and not trouble, "left": left, "trouble": trouble, "why": said})
        return Exit.FAILURE if left or trouble else Exit.OK
    if trouble:
        raise EnforcerError(f"whether anything is left is not known: {trouble}", hint="enforcer status")
    if left:
        told = "; ".join(said)
        raise EnforcerError(
            f"not given back within {options.wait:g} s: {', '.join(left)}{f' ({told})' if told else ''}",
            hint="fuser -vm shows who uses a filesystem; once this node is off, another needs enforcer fence confirm",
        )
    output.line("nothing is held here")
    return Exit.OK


def held(data: Mapping[str, object]) -> list[str]:
    """What this node holds: in the store under this boot, or in the kernel's table."""
    me = (text(data, "node"), text(data, "boot_id"))
    found = [
        text(lease, "resource")
        for lease in mappings(data, "leases")
        if (text(mapping(lease, "holder"), "node"), text(mapping(lease, "holder"), "boot_id")) == me
    ]
    found += [text(device, "name") for device in live(data)]
    return list(dict.fromkeys(found))


def live(data: Mapping[str, object]) -> Iterator[Mapping[str, object]]:
    """Devices that are ours in the kernel's table."""
    return (device for device in mappings(data, "devices") if text(device, "state") in ("live", "closing"))


def commands(data: Mapping[str, object], root: Path = Path("/")) -> Iterator[Command]:
    """What ends the uses of our devices in this mount namespace, oldest mount first."""
    ours = {text(device, "dev") for device in live(data)}
    for line in (root / "proc/swaps").read_text().splitlines()[1:]:
        name = _plain(line.split()[0])
        if _number(name) in ours:
            yield ("swapoff", name)
    for line in (root / "proc/self/mountinfo").read_text().splitlines():  # proc_pid_mountinfo(5)
        fields, _, rest = line.partition(" - ")
        dev, target, source = fields.split()[2], _plain(fields.split()[4]), _plain(rest.split()[1])
        if dev in ours or (dev.startswith("0:") and _number(source) in ours):
            yield ("umount", "--no-canonicalize", target)


def _advance(command: Command, running: dict[Command, subprocess.Popen[bytes]], why: dict[Command, str]) -> None:
    """Try once more what is not being tried just now."""
    child = running.get(command)
    if child is None:
        child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        running[command] = child
    try:
        said, _ = child.communicate(timeout=TRY_S)
    except subprocess.TimeoutExpired:
        why[command] = f"{' '.join(for_terminal(word) for word in command)} does not end"
        return
    del running[command]
    why.pop(command, None)
    if child.returncode:
        why[command] = for_terminal(said.decode(errors="surrogateescape").strip(), 512)


def _plain(field: str) -> str:
    """A field of a table in /proc: blanks and backslashes are written in octal (mangle_path, fs/seq_file.c)."""
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), field)


def _number(path: str) -> str:
    """``8:1`` of a block device's node, or ""."""
    try:
        found = Path(path).stat()
    except (OSError, ValueError):
        return ""
    return f"{os.major(found.st_rdev)}:{os.minor(found.st_rdev)}" if stat.S_ISBLK(found.st_mode) else ""
