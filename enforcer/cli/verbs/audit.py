# SPDX-License-Identifier: GPL-2.0-or-later
"""``enforcer audit``: the log, filtered, drawn, followed or verified. Works with the daemon dead."""

from __future__ import annotations

import time
from argparse import ArgumentParser, Namespace
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from fnmatch import fnmatchcase
from pathlib import Path

from enforcer.audit import reader
from enforcer.audit.verify import Verification, verify
from enforcer.audit.view import Record
from enforcer.audit.writer import LOG
from enforcer.cli.output import Output
from enforcer.cli.when import since
from enforcer.model.errors import Exit
from enforcer.model.escape import for_terminal
from enforcer.model.intent import Effect

SUMMARY = "show, follow or verify the audit log"
EXAMPLE = "enforcer audit --since 2h --effect refuse --device 'wwn-*'"
_BATCH = 200

Filter = Callable[[Record], bool]


def arguments(parser: ArgumentParser) -> None:
    parser.add_argument("-f", "--follow", action="store_true", help="go on with new records as they come")
    parser.add_argument("-n", "--lines", type=int, metavar="N", help="only the last N that fit")
    parser.add_argument("--since", metavar="TIME", help="2h, 12:00, yesterday, '2026-11-22 12:00'")
    parser.add_argument("--effect", choices=[str(effect) for effect in Effect])
    parser.add_argument("--device", metavar="MASK", help="device, path, LUN or alias; * and ? are wild")
    parser.add_argument("--rule", metavar="ID", help="decided by this rule or default")
    parser.add_argument("--node-pid", type=int, metavar="PID", help="asked by this process of the node")
    parser.add_argument("--json", action="store_true", help="the records as they are, one a line")
    parser.add_argument("--verify", action="store_true", help="check the hash chain, rotated files included")
    parser.add_argument("--file", type=Path, default=LOG, help=f"another log than {LOG}")


def run(options: Namespace, output: Output) -> int:
    if options.verify:
        return _verify(options, output)
    keep = _filter(options)
    records: Iterable[Record] = ()
    if options.file.exists() or not options.follow:
        rotated = options.since is not None
        records = (record for record in reader.read(options.file, rotated=rotated) if keep(record))
    if options.lines is not None:
        records = deque(records, maxlen=max(0, options.lines))
    elif options.follow and not options.since:
        records = deque(records, maxlen=10)
    show = _Json(output) if options.json else _Tables(output)
    show.all(records)
    if options.follow:
        for fresh in reader.follow(options.file):
            if fresh is None:
                continue
            if keep(fresh):
                show.all([fresh])
    return Exit.OK


class _Json:
    def __init__(self, output: Output) -> None:
        self._output = output

    def all(self, records: Iterable[Record]) -> None:
        for record in records:
            self._output.json(record.raw)


class _Tables:
    def __init__(self, output: Output) -> None:
        self._output = output
        self._day: str | None = None

    def all(self, records: Iterable[Record]) -> None:
        from enforcer.cli import render

        for day, batch in _batches(records, render.day):
            header = self._day is None
            if day != self._day:
                self._output.draw(render.cell(("" if header else "\n") + day, "dim") if day else "")
            width = self._output.console.width
            self._output.draw(render.audit_table(batch, width, header=header))
            self._day = day


def _batches(records: Iterable[Record], day_of: Callable[[Record], str]) -> Iterator[tuple[str, list[Record]]]:
    batch: list[Record] = []
    day = ""
    for record in records:
        if batch and (day_of(record) != day or len(batch) >= _BATCH):
            yield day, batch
            batch = []
        day = day_of(record)
        batch.append(record)
    if batch:
        yield day, batch


def _filter(options: Namespace) -> Filter:
    checks: list[Filter] = []
    if options.since:
        start = since(options.since, datetime.now().astimezone())
        checks.append(lambda record: (record.when or start) >= start)
    if options.effect:
        checks.append(lambda record: record.effect == options.effect)
    if options.device:
        checks.append(lambda record: _meets(record, options.device))
    if options.rule:
        checks.append(lambda record: options.rule in (record.rule, record.default))
    if options.node_pid is not None:
        checks.append(lambda record: options.node_pid in (record.caller.pid, record.caller.tid))
    return lambda record: all(check(record) for check in checks)


def _meets(record: Record, mask: str) -> bool:
    names = [record.source_path, record.device_name]
    if record.device:
        device = record.device
        names += [device.dev, device.name, f"/dev/{device.name}", *device.aliases, *device.resources]
        names += [resource.partition("/")[0] for resource in device.resources]
    return any(fnmatchcase(name, mask) for name in names if name)


def _verify(options: Namespace, output: Output) -> int:
    began = time.monotonic()
    last: str | None = None
    results: list[tuple[Path, Verification]] = []
    for file in reader.files(options.file):
        found = verify(reader.own_lines(file) if file == options.file else reader.lines(file), last)
        results.append((file, found))
        last = found.last_digest or last
    ok = all(found.ok for _, found in results)
    if options.json:
        files = [
            {
                "file": for_terminal(str(file)),
                "ok": found.ok,
                "lines": found.lines,
                "gaps": found.gaps,
                "lost": found.lost,
                "last_digest": found.last_digest,
                "first_break": {"line": found.first_break.line, "what": found.first_break.what}
                if found.first_break
                else None,
            }
            for file, found in results
        ]
        output.json({"schema": 1, "ok": ok, "files": files})
        return Exit.OK if ok else Exit.FAILURE
    for file, found in results:
        name = for_terminal(str(file))
        if found.first_break:
            output.line(f"{name}:{found.first_break.line}: {found.first_break.what}")
        lost = f", {found.lost} records lost in {found.gaps} gaps" if found.gaps else ""
        output.line(f"{name}: {found.lines} lines, {'unbroken' if found.ok else 'BROKEN'}{lost}")
    if ok and results:
        output.line(f"the chain ends with {last or 'nothing'}; checked in {time.monotonic() - began:.1f} s")
    return Exit.OK if ok else Exit.FAILURE
