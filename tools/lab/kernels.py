# SPDX-License-Identifier: GPL-2.0-or-later
"""Debian's own kernels for the lab, chosen by series and unpacked without being installed.

The gate stands on hooks whose behaviour changes from one kernel to the next, so the lab boots what
administrators boot: Debian's stock images. They come through a private apt state, because the machine's own
sources name one release, and because a test must not change what ``apt upgrade`` would do tomorrow. A series
names the newest package of that series on the mirror: an exact version is gone from mirrors within weeks.

Three things are prepared once, here, since an emulated CPU pays for them at every boot: the ELF image is
taken out of its bzImage (the guest does not decompress it), the modules that the guests load are
decompressed, and the module index is made. A kernel is unpacked under another name and renamed when it is
whole; what has no marker is not used. A cached series touches no network until ``refresh`` is asked for.
"""

from __future__ import annotations

import argparse
import fcntl
import lzma
import os
import re
import shutil
import struct
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

SUITES = ("trixie", "trixie-backports", "bookworm-backports")
SERIES = ("6.12", "6.18", "newest")
MARKER = "complete-2"  # raise the number when the layout below changes

# What the guests load: decompressed once, the rest stays as it was shipped.
PLAIN = (
    "arch/x86/crypto",
    "crypto",
    "drivers/block",
    "drivers/char",
    "drivers/md",
    "drivers/net",
    "drivers/scsi",
    "drivers/target",
    "drivers/virtio",
    "drivers/watchdog/softdog",
    "fs",
    "lib",
    "net/9p",
    "net/core",
)
PLAIN_NOT = ("drivers/net/ethernet", "drivers/net/wireless", "drivers/net/usb", "drivers/net/can")

_PACKAGE = re.compile(r"linux-(?:image|binary)-(\d+)\.(\d+)(?:\.(\d+))?\+deb(\d+)(?:\.(\d+))?-amd64")


class KernelError(Exception):
    """No kernel of that series can be had; the message says why."""


@dataclass(frozen=True, slots=True)
class Kernel:
    """One unpacked kernel. All paths lie under ``root``, outside the checkout."""

    version: str  # as in uname -r
    root: Path

    @property
    def image(self) -> Path:
        """The ELF image, for QEMU's PVH entry."""
        return self.root / "vmlinux"

    @property
    def modules(self) -> Path:
        """What a guest sees as /lib/modules/VERSION."""
        return self.root / "lib/modules" / self.version

    @property
    def config(self) -> Path:
        """The kernel's configuration; beside the modules since 7.x."""
        beside = self.modules / "config"
        return beside if beside.exists() else self.root / "boot" / f"config-{self.version}"


def cache_dir() -> Path:
    """Where downloads and unpacked kernels stay between runs."""
    return Path(os.environ.get("ENFORCER_CACHE", "/var/cache/mount-enforcer"))


def mirror_of(texts: Iterable[str]) -> str:
    """The URI of the first archive that is not the security archive, from sources files of either format."""
    for text in texts:
        for line in text.splitlines():
            words = re.sub(r"\[[^]]*\]", "", line.split("#")[0]).split()
            if len(words) > 1 and words[0] in ("URIs:", "deb"):
                for word in words[1:]:
                    if "://" in word and "security" not in word:
                        return word.rstrip("/")
    raise KernelError("no Debian mirror found in /etc/apt/sources.list or /etc/apt/sources.list.d")


def _machine_sources() -> list[str]:
    parts = Path("/etc/apt/sources.list.d")
    paths = [
        *sorted(parts.glob("debian*.sources")),
        Path("/etc/apt/sources.list"),
        *sorted(parts.glob("*.sources")),
    ]
    return [path.read_text() for path in paths if path.exists()]


def choose(packages: Iterable[str], series: str) -> list[str]:
    """Versions (as in uname -r) of a series, newest first; of two builds of one the later Debian's."""
    found: dict[tuple[int, ...], str] = {}
    for package in packages:
        match = _PACKAGE.fullmatch(package.strip())
        if match is None:  # rt, cloud, dbg, unsigned and the metapackages
            continue
        key = tuple(int(group or 0) for group in match.groups())
        if series in ("newest", f"{key[0]}.{key[1]}"):
            found[key] = package.strip().split("-", 2)[2]
    return [found[key] for key in sorted(found, reverse=True)]


def say(text: str) -> None:
    print(f"kernels: {text}", file=sys.stderr, flush=True)


class _Apt:
    """apt-get and apt-cache over a state of their own."""

    def __init__(self, state: Path) -> None:
        for name in ("lists/partial", "parts", "cache/archives/partial"):
            (state / name).mkdir(parents=True, exist_ok=True)
        keyring = "/usr/share/keyrings/debian-archive-keyring.gpg"
        (state / "parts/kernels.sources").write_text(
            f"Types: deb\nURIs: {mirror_of(_machine_sources())}\nSuites: {' '.join(SUITES)}\n"
            f"Components: main\nArchitectures: amd64\nSigned-By: {keyring}\n"
        )
        self.options = [
            f"-oDir::State::Lists={state}/lists",
            "-oDir::Etc::SourceList=/dev/null",
            f"-oDir::Etc::SourceParts={state}/parts",
            f"-oDir::Cache={state}/cache",
            "-oAPT::Sandbox::User=root",
            "-oAcquire::Languages=none",
            "-oAcquire::Retries=2",
        ]

    def update(self) -> None:
        done = subprocess.run(["apt-get", *self.options, "-qq", "update"], capture_output=True, text=True)
        if done.returncode:
            raise KernelError(f"apt-get update failed: {done.stderr.strip()[-300:]}")

    def names(self) -> list[str]:
        command = ["apt-cache", *self.options, "pkgnames", "linux-"]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()

    def unpack(self, package: str, into: Path) -> None:
        with tempfile.TemporaryDirectory(dir=into) as place:
            done = subprocess.run(
                ["apt-get", *self.options, "-qq", "download", package],
                cwd=place,
                capture_output=True,
                text=True,
            )
            debs = list(Path(place).glob("*.deb"))
            if done.returncode or len(debs) != 1:
                raise KernelError(f"{package} cannot be downloaded: {done.stderr.strip()[-300:]}")
            subprocess.run(["dpkg", "-x", str(debs[0]), str(into)], check=True)


def extract_elf(image: bytes) -> bytes:
    """The ELF image inside a bzImage (Documentation/arch/x86/boot.rst: payload_offset, payload_length)."""
    if image[0x202:0x206] != struct.pack("<I", struct.unpack_from("<I", image, 0x202)[0]) or image[:2] != b"MZ":
        raise KernelError("not a bzImage")
    start = ((image[0x1F1] or 4) + 1) * 512
    offset, length = struct.unpack_from("<II", image, 0x248)
    payload = image[start + offset : start + offset + length - 4]  # the last four bytes tell the size
    if payload.startswith(b"\xfd7zXZ"):
        elf = lzma.decompress(payload)
    else:
        elf = subprocess.run(["zstd", "-dcq"], input=payload, check=True, capture_output=True).stdout
    if not elf.startswith(b"\x7fELF"):
        raise KernelError("no ELF image in the bzImage")
    return elf


def _decompress_modules(kernel_dir: Path) -> int:
    count = 0
    for path in kernel_dir.rglob("*.ko.xz"):
        name = str(path.relative_to(kernel_dir))
        if name.startswith(PLAIN) and not name.startswith(PLAIN_NOT):
            path.with_suffix("").write_bytes(lzma.decompress(path.read_bytes()))
            path.unlink()
            count += 1
    return count


def _prepare(version: str, place: Path, apt: _Apt) -> None:
    names = apt.names()
    if f"linux-binary-{version}" in names:  # split since 7.x; linux-base has the list of what is built in
        for part in ("binary", "modules", "base"):
            if f"linux-{part}-{version}" in names:
                apt.unpack(f"linux-{part}-{version}", place)
    else:
        apt.unpack(f"linux-image-{version}", place)
    if (place / "usr/lib/modules").is_dir() and not (place / "lib").exists():
        (place / "lib").symlink_to("usr/lib")
    modules = place / "lib/modules" / version
    images = [place / "boot" / f"vmlinuz-{version}", modules / "vmlinuz"]
    image = next((path for path in images if path.exists()), None)
    if image is None:
        raise KernelError(f"linux {version} holds no vmlinuz")
    (place / "vmlinux").write_bytes(extract_elf(image.read_bytes()))
    say(f"{version}: {_decompress_modules(modules / 'kernel')} modules decompressed")
    subprocess.run(["depmod", "-b", str(place), version], check=True, stderr=subprocess.DEVNULL)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("another run prepares kernels, waiting")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _cached(version: str) -> Kernel | None:
    root = cache_dir() / "kernels" / version
    return Kernel(version, root) if (root / MARKER).exists() else None


def newest(series: str, *, refresh: bool = False) -> Kernel:
    """The newest kernel of a series (``6.12``, ``6.18``, ``newest``); from the cache if one was chosen."""
    base = cache_dir() / "kernels"
    chosen = base / f"series-{series}"
    with _locked(base / "lock"):
        if not refresh and chosen.exists() and (kernel := _cached(chosen.read_text().strip())):
            return kernel
        apt = _Apt(base / "apt")
        say("reading the package lists of " + ", ".join(SUITES))
        apt.update()
        versions = choose(apt.names(), series)
        if not versions:
            raise KernelError(f"the mirror has no kernel of series {series}")
        failure: KernelError | None = None
        for version in versions[:3]:  # a mirror may list what it does not have yet
            kernel = _cached(version)
            if kernel is None:
                say(f"{version}: downloading and unpacking")
                root, partial = base / version, base / f"{version}.partial"
                for leftover in (root, partial):
                    shutil.rmtree(leftover, ignore_errors=True)
                partial.mkdir()
                try:
                    _prepare(version, partial, apt)
                except KernelError as error:
                    failure = error
                    say(str(error))
                    shutil.rmtree(partial)
                    continue
                (partial / MARKER).touch()
                partial.rename(root)
                kernel = Kernel(version, root)
            chosen.write_text(kernel.version + "\n")
            return kernel
        raise failure or KernelError(f"no kernel of series {series}")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tools.lab.kernels", description="Fetch a kernel for the lab.")
    parser.add_argument("series", help="6.12, 6.18, newest")
    parser.add_argument("--refresh", action="store_true", help="ask the mirror even if the cache has one")
    arguments = parser.parse_args()
    try:
        print(newest(arguments.series, refresh=arguments.refresh).root)
    except KernelError as error:
        print(f"kernels: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
