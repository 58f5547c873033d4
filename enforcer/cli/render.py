# SPDX-License-Identifier: GPL-2.0-or-later
"""Tables and panels. Everything goes through ``cell``: escaped, and never taken for markup.

Columns have fixed widths, computed from the width of the terminal, so that a followed log lines up with the
table above it, and a long name folds in its column instead of pushing the others out.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import tzinfo

from rich.table import Table
from rich.text import Text

from enforcer.audit.loose import mapping, mappings, number, text, texts
from enforcer.audit.sentence import local
from enforcer.audit.view import Record, parse_time
from enforcer.cli import words
from enforcer.cli.words import Explanation
from enforcer.model.escape import PATH_LIMIT, for_terminal

STYLES = {"permit": "green", "refuse": "bold red", "would-refuse": "yellow"}
_LIVENESS = {"live": "green", "stranded": "bold red", "fenced": "yellow", "rebooted": "yellow"}
_STATES = {"live": "green", "elsewhere": "red", "unknown": "yellow", "closing": "yellow"}
_FIXED = {"time": 8, "event": 14, "effect": 6, "rule": 9, "ms": 5}
_SHARES = {"what": 0.38, "why / holder": 0.30, "caller": 0.32}
_ORDER = ("time", "event", "effect", "what", "why / holder", "caller", "rule", "ms")


def cell(value: object, style: str = "", limit: int = PATH_LIMIT) -> Text:
    """Text that shows what it holds and does nothing."""
    return Text(for_terminal(str(value), limit), style=style, overflow="fold")


def audit_table(records: Iterable[Record], width: int, *, header: bool = True, zone: tzinfo | None = None) -> Table:
    """One row per record, in ``width`` columns."""
    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False, show_header=header, header_style="bold")
    spare = max(30, width - sum(_FIXED.values()) - len(_ORDER))
    for name in _ORDER:
        wide = _FIXED.get(name) or int(spare * _SHARES[name])
        table.add_column(name, width=wide, overflow="fold", justify="right" if name == "ms" else "left")
    for record in records:
        at = local(record.when, zone)
        total = record.latency_us.get("total", 0)
        table.add_row(
            cell(f"{at:%H:%M:%S}" if at else "?"),
            cell(record.id),
            _effect(record),
            cell(words.what(record)),
            cell(words.why(record, zone)),
            cell(words.caller(record)),
            cell(record.rule) if record.rule else cell(record.default.replace("_", " "), "dim"),
            cell(words.milliseconds(total) if total else ""),
        )
    return table


def _effect(record: Record) -> Text:
    """The verdict in six columns; a record without one is a note of the daemon."""
    if record.effect == "would-refuse":
        return Text("would-\nrefuse", style=STYLES[record.effect])
    return cell(record.effect or "note", STYLES.get(record.effect, "magenta"))


def day(record: Record, zone: tzinfo | None = None) -> str:
    """The day of a record, as its rows are headed by."""
    at = local(record.when, zone)
    return f"{at:%A, %Y-%m-%d}" if at else ""


def explanation(found: Explanation, effect: str) -> list[Table | Text]:
    """``explain``: a headline, labelled lines, and what to type."""
    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column(overflow="fold")
    for label, said in found.rows:
        grid.add_row(Text("  " + label), cell(said))
    for index, step in enumerate(found.next_steps):
        grid.add_row(Text("" if index else "  next", style="bold"), cell(step, "bold"))
    return [cell(found.headline, STYLES.get(effect, "bold")), grid]


def status_grid(data: Mapping[str, object]) -> list[Table | Text]:
    """``status``: one screen, troubles last, where the eye ends."""
    store, kernel, keeper = mapping(data, "store"), mapping(data, "kernel"), mapping(data, "keeper")
    enforcing = data.get("enforcing") is True
    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column(overflow="fold")
    mode = text(data, "mode")
    grid.add_row("node", cell(f"{text(data, 'node')}, boot id {text(data, 'boot_id')}"))
    grid.add_row("session", cell(text(data, "session")))
    state = f"yes, mode {mode}" if enforcing else f"NO, mode {mode}"
    grid.add_row("enforcing", cell(state, "green" if enforcing else "bold red"))
    policy = f"generation {number(data, 'generation')}, digest {text(data, 'policy_digest')[:16]}"
    grid.add_row("policy", cell(policy))
    reachable = store.get("reachable") is True
    reach = "reachable" if reachable else "NOT REACHABLE: guarded devices are refused"
    detail = f", {text(store, 'detail')}" if text(store, "detail") else ""
    ttl = f", time to live {_plain(store.get('ttl_s'))} s" if store.get("ttl_s") else ""
    said = f"{text(store, 'kind')}: {reach}{ttl}{detail}"
    grid.add_row("store", cell(said, "green" if reachable else "bold red"))
    _add_cluster(grid, mapping(data, "cluster"))
    alive = keeper.get("alive") is True
    beat = f"alive, next deadline in {_plain(keeper.get('deadline_in_s'))} s" if alive else "NOT ALIVE"
    grid.add_row("keeper", cell(beat, "green" if alive else "bold red"))
    lost = mapping(data, "lost")
    if lost.get("worst_takeover_s"):
        promise = f"guarantee {text(lost, 'guarantee')}" + (
            f" ({text(lost, 'reason')})" if text(lost, "reason") else ""
        )
        worst = f"; a holder that cuts itself off is taken over within {_plain(lost.get('worst_takeover_s'))} s"
        grid.add_row("if lost", cell(promise + worst))
    if texts(lost, "cut"):
        gone = f"CUT OFF: {', '.join(texts(lost, 'cut'))}; end what uses them, or reboot this node"
        grid.add_row("", cell(gone, "bold red"))
    programs = kernel.get("programs")
    count = len(programs) if isinstance(programs, list) else _plain(programs)
    trouble = bool(kernel.get("misses") or kernel.get("drops"))
    kept = f"{count} programs, {_plain(kernel.get('misses'))} misses, {_plain(kernel.get('drops'))} drops"
    grid.add_row("kernel", cell(kept, "yellow" if trouble else ""))
    counters = mapping(data, "counters")
    grid.add_row("devices", cell(number(data, "devices")))
    grid.add_row("counters", cell(", ".join(f"{name} {_plain(value)}" for name, value in counters.items())))
    return [grid, *(cell(f"! {warning}", "bold yellow") for warning in texts(data, "warnings"))]


def _add_cluster(grid: Table, cluster: Mapping[str, object]) -> None:
    """One line about the cluster manager; none where nobody is asked."""
    if text(cluster, "view") not in ("", "none"):
        style = "green" if text(cluster, "quorum") == "held" else "bold red"
        grid.add_row("cluster", cell(text(cluster, "detail"), style))


def who_tables(data: Mapping[str, object]) -> list[Table | Text]:
    """``who``: leases, then this node's devices, then nodes, then what does not agree."""
    drawn: list[Table | Text] = []
    leases = mappings(data, "leases")
    if leases:
        drawn.append(_leases(leases))
    else:
        drawn.append(Text("no leases", style="dim"))
    devices = mappings(data, "devices")
    if devices:
        drawn += [Text(""), _devices(devices)]
    nodes = mappings(data, "nodes")
    if nodes:
        drawn += [Text(""), _nodes(nodes)]
    for lease in leases:
        drawn += fencing(lease)
    cluster = mapping(data, "cluster")
    if text(cluster, "view") not in ("", "none"):
        drawn += [Text(""), cell(text(cluster, "detail"), "" if text(cluster, "quorum") == "held" else "bold red")]
    drawn += [cell(f"! {said}", "bold red") for said in texts(data, "disagreements")]
    return drawn


def fencing(lease: Mapping[str, object]) -> list[Table | Text]:
    """What to type about a lease that is stranded; nothing for any other."""
    if text(lease, "liveness") != "stranded":
        return []
    node, boot = text(mapping(lease, "holder"), "node"), text(mapping(lease, "holder"), "boot_id")
    said = f"! {text(lease, 'resource')} is stranded: make sure that {node} is off, and only then:"
    return [cell(said, "bold yellow"), cell(f"  enforcer fence confirm {node} --boot-id {boot}", "bold")]


def _leases(leases: Sequence[Mapping[str, object]]) -> Table:
    table = _table("lease", "mode", "holder", "liveness", "since", "token", "use")
    for lease in leases:
        holder, facts = mapping(lease, "holder"), mapping(lease, "facts")
        use = " ".join(filter(None, (text(facts, "fstype"), text(facts, "target"), text(facts, "comm"))))
        liveness = text(lease, "liveness")
        began = local(parse_time(text(lease, "since")))
        table.add_row(
            cell(text(lease, "resource")),
            cell(text(lease, "mode")),
            cell(text(holder, "node")),
            cell(liveness, _LIVENESS.get(liveness, "")),
            cell(f"{began:%Y-%m-%d %H:%M}" if began else text(lease, "since")),
            cell(number(lease, "token")),
            cell(use),
        )
    return table


def _devices(devices: Sequence[Mapping[str, object]]) -> Table:
    table = _table("device", "dev", "state", "uses", "rule", "seen by", "resources")
    for device in devices:
        state = text(device, "state")
        system = text(device, "system")
        note = text(device, "problem") or (f"system: {system}" if system else "")
        table.add_row(
            cell(text(device, "name")),
            cell(text(device, "dev")),
            cell(state, _STATES.get(state, "")),
            cell(_plain(device.get("uses"))),
            cell(text(device, "rule")),
            cell(" ".join(texts(device, "seen_by"))),
            cell(", ".join(filter(None, (" ".join(texts(device, "resources")), note)))),
        )
    return table


def _nodes(nodes: Sequence[Mapping[str, object]]) -> Table:
    table = _table("node", "live", "boot id", "policy", "LUNs")
    digests = {text(node, "policy_digest") for node in nodes}
    for node in nodes:
        live = node.get("live") is True
        table.add_row(
            cell(text(node, "node")),
            cell("yes" if live else "no", "green" if live else "red"),
            cell(text(node, "boot_id")),
            cell(text(node, "policy_digest")[:12], "yellow" if len(digests) > 1 else ""),
            cell(len(texts(node, "luns"))),
        )
    return table


def plain_table(header: Sequence[str], rows: Iterable[Sequence[object]], styles: Mapping[str, str]) -> Table:
    """Any other table; a cell whose whole text is a key of ``styles`` gets that style."""
    table = _table(*header)
    for row in rows:
        table.add_row(*(cell(value, styles.get(str(value), "")) for value in row))
    return table


def _table(*header: str) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="bold")
    for name in header:
        table.add_column(name, overflow="fold")
    return table


def _plain(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.1f}"
    if isinstance(value, dict):
        return ", ".join(f"{for_terminal(str(k))} {for_terminal(str(v))}" for k, v in value.items())
    return for_terminal(str(value)) if value is not None else "?"
