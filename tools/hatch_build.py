# SPDX-License-Identifier: GPL-2.0-or-later
"""The wheel carries the compiled kernel programs: nothing is compiled on a node (hatchling's custom build hook).

The object runs on one architecture and on every kernel that has BTF, so the wheel is tagged for the architecture
and for no particular Python. An editable install stands on the checkout, where ``make build`` puts the object.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

OBJECT = "enforcer/kernel/enforcer.bpf.o"


class ObjectHook(BuildHookInterface):  # type: ignore[misc]  # hatchling is there only while a wheel is built
    """Compiles bpf/ unless the installation is an editable one."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Called before a wheel is put together. Raises CalledProcessError; the compiler's words are on stderr."""
        if version == "editable":
            return
        root = Path(self.root)
        # a process of its own: in the build environment tools/ is no package that could be imported
        subprocess.run([sys.executable, str(root / "tools/bpf.py"), str(root / OBJECT)], check=True)
        build_data["pure_python"] = False
        build_data["tag"] = f"py3-none-linux_{os.uname().machine}"
