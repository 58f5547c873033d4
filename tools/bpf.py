# SPDX-License-Identifier: GPL-2.0-or-later
"""Compile bpf/ into the object that the package carries: ``python tools/bpf.py [OUTPUT]``, ``--check`` keeps nothing.

One place for the flags, because three callers must not disagree: ``make build``, ``make lint`` and the wheel. The
standard library alone is imported, since the wheel is built in an environment that has nothing else. DWARF is
stripped and paths are mapped to the source tree's root, so the same sources give the same bytes anywhere; BTF stays.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SOURCE = "bpf/enforcer.bpf.c"
OBJECT = ROOT / "enforcer/kernel/enforcer.bpf.o"
# How libbpf's bpf_tracing.h calls the architectures whose registers it knows.
_ARCHITECTURES = {"x86_64": "x86", "aarch64": "arm64"}


class CompileError(Exception):
    """There is no object; the message is the compiler's, or says what is missing."""


def architecture() -> str:
    """This machine's name in bpf_tracing.h. Raises CompileError."""
    machine = os.uname().machine
    if machine not in _ARCHITECTURES:
        raise CompileError(f"{machine} is not supported: {', '.join(_ARCHITECTURES)}")
    return _ARCHITECTURES[machine]


def flags(root: Path = ROOT) -> list[str]:
    """Everything between ``clang`` and the source. Raises CompileError."""
    result = [
        "-O2",
        "-g",
        "-target",
        "bpf",
        f"-D__TARGET_ARCH_{architecture()}",
        "-Wall",
        "-Wextra",
        "-Wno-unused-parameter",  # a hook has the arguments that the kernel gives it
        "-Werror",
        f"-ffile-prefix-map={root}=.",
    ]
    # <asm/types.h> is Debian's multiarch; after everything else, or it would shadow clang's own headers
    multiarch = Path(f"/usr/include/{os.uname().machine}-linux-gnu")
    return [*result, "-idirafter", str(multiarch)] if multiarch.is_dir() else result


def _run(command: list[str], root: Path) -> None:
    try:
        done = subprocess.run(command, cwd=root, capture_output=True, text=True)
    except FileNotFoundError as missing:
        raise CompileError(f"{command[0]} is not installed: apt install clang llvm libbpf-dev") from missing
    if done.returncode:
        raise CompileError(done.stderr.strip() or f"{command[0]} failed")


def compile_object(output: Path, root: Path = ROOT) -> None:
    """Write ``output`` whole or not at all. Raises CompileError."""
    with tempfile.TemporaryDirectory(dir=output.parent, prefix=".bpf-") as place:
        draft = Path(place) / output.name
        _run(["clang", *flags(root), "-c", SOURCE, "-o", str(draft)], root)
        if shutil.which("llvm-strip"):
            _run(["llvm-strip", "-g", str(draft)], root)
        draft.rename(output)


def main(arguments: list[str]) -> int:
    """Returns the exit code."""
    parser = argparse.ArgumentParser(prog="tools/bpf.py", description="Compile bpf/ into one object.")
    parser.add_argument("output", nargs="?", type=Path, default=OBJECT)
    parser.add_argument("--check", action="store_true", help="compile, and keep nothing")
    wanted = parser.parse_args(arguments)
    try:
        if wanted.check:
            with tempfile.TemporaryDirectory() as place:
                compile_object(Path(place) / OBJECT.name)
        else:
            compile_object(wanted.output.absolute())
    except (CompileError, OSError) as error:
        print(f"bpf: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
