# SPDX-License-Identifier: GPL-2.0-or-later
"""``enforcer who DEVICE``: one row a layer, so that they can be read against each other. Fits 80 columns.

A layer that has nothing to say still has its row: an empty place on the disk is an answer, too.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

from rich.table import Table
from rich.text import Text

from enforcer.audit.loose import mapping, mappings, number, text, texts
from enforcer.cli.render import cell, fencing

Row = tuple[str, str, str]  # layer, whom it names, what it says
SENTENCE: Final = 1024
_DISK: Final = {
    "ext4-mmp": "ext4 MMP",
    "ocfs2-slot": "OCFS2 slots",
    "sanlock": "sanlock",
    "lvm-system-id": "LVM",
}
_FREE: Final = "-"


def drawn(data: Mapping[str, object]) -> list[Table | Text]:
    """A table for each device, then what does not agree, where the eye ends."""
    found: list[Table | Text] = []
    for layers in mappings(data, "layers"):
        name = f"{text(layers, 'name')} ({text(layers, 'dev')})"
        found.append(cell(f"{name} = {', '.join(texts(layers, 'resources')) or 'nothing that can be leased'}", "bold"))
        table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="bold")
        for column, widest in (("  layer", 14), ("names", 20), ("says", None)):
            table.add_column(column, overflow="fold", max_width=widest)
        for layer, names, says in rows(layers):
            table.add_row(cell(f"  {layer}"), cell(names), cell(says, limit=SENTENCE))
        found += [table, Text("")]
    for lease in mappings(data, "leases"):
        found += fencing(lease)
    said = texts(data, "disagreements")
    found += [cell(f"! {line}", "bold red", SENTENCE) for line in said]
    return found if said else [*found, Text("all layers agree", style="green")]


def rows(layers: Mapping[str, object]) -> Iterator[Row]:
    """Every layer of one device, in the order from the cluster down to the disk."""
    store = mapping(layers, "store")
    leases = mappings(store, "leases")
    if text(store, "trouble"):
        yield text(store, "kind"), "?", f"did not answer: {text(store, 'trouble', SENTENCE)}"
    elif not leases:
        yield f"store ({text(store, 'kind')})", _FREE, "free"
    for lease in leases:
        holder, facts = mapping(lease, "holder"), mapping(lease, "facts")
        use = " ".join(filter(None, (text(facts, "fstype"), text(facts, "target"), text(facts, "comm"))))
        says = f"{text(lease, 'mode')} of {text(lease, 'resource')}, token {number(lease, 'token')}"
        says += f", {text(lease, 'liveness')}, guarantee {text(lease, 'guarantee')}, since {text(lease, 'since')}"
        yield f"store ({text(store, 'kind')})", text(holder, "node"), f"{says}; {use}" if use else says
    for use_of in mappings(layers, "conflicts"):
        yield "  double use", text(use_of, "node"), f"{text(use_of, 'says')} there, without a lease"
    yield _cluster(mapping(layers, "cluster"))
    held = [f"token {number(h, 'token')}, {text(h, 'hold')}" for h in mappings(layers, "enforcerd")]
    yield "enforcerd", "this node" if held else _FREE, "; ".join(held) or "holds nothing of it"
    yield _kernel(mapping(layers, "kernel"))
    yield _proc(mapping(layers, "proc"))
    yield from _disk(mapping(layers, "disk"))


def _cluster(cluster: Mapping[str, object]) -> Row:
    if text(cluster, "kind") == "none":
        return "cluster", _FREE, "no cluster manager"
    runs_on = cluster.get("runs_on")
    where = ", ".join(texts(cluster, "runs_on")) if isinstance(runs_on, list) else ""
    says = "runs nowhere" if isinstance(runs_on, list) and not where else "runs there" if where else "not managed"
    return text(cluster, "kind"), where or _FREE, f"{says}, quorum {text(cluster, 'quorum')}"


def _kernel(kernel: Mapping[str, object]) -> Row:
    state, left = text(kernel, "state"), kernel.get("deadline_in_s")
    says = f"{state}, token {number(kernel, 'token')}" if number(kernel, "token") else state
    if state == "live" and isinstance(left, int | float):
        says += f", deadline {f'in {left:.0f} s' if left > 0 else f'passed {-left:.0f} s ago'}"
    says += f", uses {number(kernel, 'uses')}"
    if number(kernel, "inflight"):
        says += f", opens under way {number(kernel, 'inflight')}"
    rule = text(kernel, "rule")
    return "kernel", "this node" if state == "live" else _FREE, f"{says}, by {rule}" if rule else says


def _proc(proc: Mapping[str, object]) -> Row:
    found = [f"mounted at {place}" for place in texts(proc, "mounted_at")]
    found += ["active swap"] if proc.get("swap") is True else []
    found += [f"held by {name}" for name in texts(proc, "holders")]
    found += [f"open for writing by {text(w, 'comm')} (pid {number(w, 'pid')})" for w in mappings(proc, "writers")]
    return "/proc", "this node" if text(proc, "says") else _FREE, "; ".join(found) or "not in use"


def _disk(disk: Mapping[str, object]) -> Iterator[Row]:
    if text(disk, "unread"):
        yield "disk", "?", f"cannot be read: {text(disk, 'unread')}"
        return
    marks = mappings(disk, "marks")
    for mark in marks:
        moves = (
            {True: "; it moves: somebody writes it now", False: "; it stands still"}.get(mark.get("moves") is True, "")
            if isinstance(mark.get("moves"), bool)
            else ""
        )
        yield (
            _DISK.get(text(mark, "layer"), text(mark, "layer")),
            text(mark, "owner") or "?",
            (text(mark, "says", SENTENCE) + moves),
        )
    missing = [shown for layer, shown in _DISK.items() if layer not in {text(m, "layer") for m in marks}]
    if missing:
        yield "disk", _FREE, f"no mark of {', '.join(missing)}"
    reserved = mapping(disk, "reservation")
    if not reserved:
        yield "SCSI PR", _FREE, "no reservation"
        return
    registered = mappings(reserved, "registrants")
    holders = ", ".join(dict.fromkeys(text(r, "initiator") for r in registered if r.get("holds") is True))
    keys = ", ".join(f"{text(r, 'key')} of {text(r, 'initiator')}" for r in registered)
    allowed = "this node may write" if reserved.get("ours") is True else "this node may not write"
    says = f"{text(reserved, 'kind')}, key {text(reserved, 'key')}; {allowed}"
    yield "SCSI PR", holders or text(reserved, "key"), f"{says}; registered: {keys}" if keys else says
