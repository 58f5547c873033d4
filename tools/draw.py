# SPDX-License-Identifier: GPL-2.0-or-later
"""``python -m tools.draw [LOG] [SVG]``: the README's picture, from records that a node has written.

What is drawn is what the product itself prints: the line on the refused caller's terminal and the table of
``enforcer audit``. Only the commands before them are typed here. rich asks for a font from the network in its
drawings; that is taken out, so that the picture shows the same without one.
"""

from __future__ import annotations

import io
import re
import sys
from collections.abc import Sequence
from datetime import UTC
from pathlib import Path

from rich.console import Console
from rich.terminal_theme import MONOKAI

from enforcer.audit import reader, tell
from enforcer.audit.view import Record
from enforcer.cli import render
from enforcer.model.intent import Effect

ROOT = Path(__file__).resolve().parent.parent
LOG, PICTURE = ROOT / "docs/refusal.jsonl", ROOT / "docs/refusal.svg"
WIDTH = 144


def draw(records: Sequence[Record]) -> str:
    """The SVG of a terminal in which the first refused mount of ``records`` happens. Raises ValueError without one."""
    refused = next((r for r in records if r.effect == Effect.REFUSE and r.kind == "mount" and r.target), None)
    if refused is None:
        raise ValueError("there is no refused mount among the records")
    console = Console(record=True, width=WIDTH, file=io.StringIO(), markup=False, emoji=False, highlight=False)
    prompt = render.cell(f"root@{refused.node}:~# ", "bold")
    console.print(prompt + render.cell(f"mount {refused.source_path} {refused.target}"))
    console.print(render.cell(tell.line(refused, UTC), "bold red"))
    name = f"{refused.source_path} already mounted or mount point busy."  # mount(8)'s word for EBUSY
    console.print(render.cell(f"mount: {refused.target}: {name}"))
    console.print(prompt + render.cell("enforcer audit --since today"))
    console.print(render.audit_table([r for r in records if r.effect], WIDTH, zone=UTC))
    svg = console.export_svg(title="mount-enforcer", theme=MONOKAI, unique_id="refusal")
    return re.sub(r"\s*(@font-face \{.*?\}|<!--.*?-->)", "", svg, flags=re.S)


def main(arguments: Sequence[str]) -> int:
    """Returns the exit code."""
    log, picture = [Path(given) for given in arguments] + [LOG, PICTURE][len(arguments) :]
    picture.write_text(draw(list(reader.read(log))))
    print(picture)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
