# SPDX-License-Identifier: GPL-2.0-or-later
"""The Debian packages that building, testing and the lab stand on, and their installation where they are missing.

The guests run the host's own root, so what a test starts in a guest is listed here too.
``python -m tools.lab.prerequisites [build|lab]...`` installs, all of them unless told which; ``--list`` prints.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

BUILD = (
    "clang",
    "gcc",
    "groff-base",
    "libbpf-dev",
    "libbpf1",
    "libc6-dev",
    "linux-libc-dev",
    "llvm",
    "make",
    "python3-venv",
    "util-linux",
)
HOST = (
    "busybox-static",
    "corosync",
    "etcd-server",
    "fence-agents-ipmilan",
    "ipmitool",
    "kmod",
    "nbdkit",
    "openipmi",
    "pacemaker",
    "pacemaker-cli-utils",
    "qemu-system-x86",
    "resource-agents",
    "sanlock",
    "systemd",
    "util-linux",
    "zstd",
)
GUEST = (
    "btrfs-progs",
    "corosync",
    "dlm-controld",
    "dmsetup",
    "e2fsprogs",
    "fdisk",
    "gfs2-utils",
    "iproute2",
    "kmod",
    "lvm2",
    "ocfs2-tools",
    "open-iscsi",
    "procps",
    "python3",
    "python3-bpfcc",
    "sanlock",
    "util-linux",
    "xfsprogs",
)
SETS = {"build": BUILD, "lab": tuple(sorted({*HOST, *GUEST}))}
PACKAGES = tuple(sorted({*BUILD, *HOST, *GUEST}))
DEBIAN_12 = {"fence-agents-ipmilan": "fence-agents"}  # all agents are one package there


class PrerequisiteError(Exception):
    """The packages cannot be installed; the message says why."""


class NeedsRoot(PrerequisiteError):
    """They could be, by root."""


def named(packages: tuple[str, ...], version: str) -> tuple[str, ...]:
    """What they are called in this version of Debian (VERSION_ID of os-release(5), empty: the one to come)."""
    return tuple(DEBIAN_12.get(name, name) for name in packages) if version == "12" else packages


def _here(packages: tuple[str, ...]) -> tuple[str, ...]:
    try:
        return named(packages, platform.freedesktop_os_release().get("VERSION_ID", ""))
    except OSError:
        return packages


def missing(status: Mapping[str, str], packages: tuple[str, ...] = PACKAGES) -> list[str]:
    """Those that are not installed, by dpkg's status (``install ok installed``)."""
    return [name for name in packages if not status.get(name, "").endswith("ok installed")]


def installed(packages: tuple[str, ...]) -> dict[str, str]:
    """Package -> status, as dpkg has it."""
    query = ["dpkg-query", "-W", "-f", "${Package}\t${Status}\n", *packages]
    lines = subprocess.run(query, capture_output=True, text=True).stdout.splitlines()
    return dict(line.split("\t", 1) for line in lines)


def _apt(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["apt-get", "-qq", "-y", *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"},
    )


def ensure(packages: tuple[str, ...] = PACKAGES) -> None:
    """Install what is missing; nothing at all happens if nothing is. Raises PrerequisiteError."""
    if shutil.which("dpkg-query") is None:
        raise PrerequisiteError("this is not a Debian system")
    packages = _here(packages)
    wanted = missing(installed(packages), packages)
    if not wanted:
        return
    if os.geteuid() != 0:
        raise NeedsRoot(f"run it as root once, which is needed for: apt-get install {' '.join(wanted)}")
    print(f"packages: installing {' '.join(wanted)}", file=sys.stderr, flush=True)
    # Services of these packages must not start on the machine that runs the tests.
    policy = Path("/usr/sbin/policy-rc.d")
    ours = not policy.exists()
    if ours:
        handle, temporary = tempfile.mkstemp(dir=policy.parent)
        with os.fdopen(handle, "w") as file:
            file.write("#!/bin/sh\nexit 101\n")
        Path(temporary).chmod(0o755)
        Path(temporary).rename(policy)
    try:
        install = ("install", "--no-install-recommends", *wanted)
        done = _apt(*install)
        if done.returncode:  # the package lists may be old, or not there yet
            print("packages: reading the package lists", file=sys.stderr, flush=True)
            updated = _apt("update")
            done = _apt(*install) if updated.returncode == 0 else updated
        if done.returncode:
            raise PrerequisiteError(f"apt-get failed: {done.stderr.strip()[-500:]}")
    finally:
        if ours:
            policy.unlink()


def main(arguments: list[str]) -> int:
    """Returns the exit code, 4 (no permission) if only root could go on."""
    names = [word for word in arguments if word != "--list"]
    if unknown := set(names) - set(SETS):
        print(f"packages: there is no set {', '.join(sorted(unknown))}: {', '.join(SETS)}", file=sys.stderr)
        return 2
    packages = tuple(sorted({package for name in names or SETS for package in SETS[name]}))
    if "--list" in arguments:
        print("\n".join(_here(packages)))
        return 0
    try:
        ensure(packages)
    except PrerequisiteError as error:
        print(f"packages: {error}", file=sys.stderr)
        return 4 if isinstance(error, NeedsRoot) else 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
