# SPDX-License-Identifier: GPL-2.0-or-later
"""The files of keeper, daemon and revoker in the run directory: until when, what, and whether it is done.

=================  ==========  =====================================================================================
``deadline.json``  keeper      from when on this node must be silent, and how long the cut may take
``promised.json``  enforcerd   the devices of all leases that promise a cut, the names of those that promise a reset
``revoker.json``   revoker     that it is at work, and what it has cut
=================  ==========  =====================================================================================

Each is written whole and renamed, so a reader has the one or the other; a writer that is stopped or dead leaves its
last word. All times are CLOCK_BOOTTIME, nanoseconds. Nothing here needs the gate or the daemon to be there.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from enforcer.model.clock import boot_ns

DEADLINE, PROMISED, REVOKER = "deadline.json", "promised.json", "revoker.json"
BEAT_NS = 200_000_000  # how often the revoker gives a sign of life
DEAD_NS = 2_000_000_000  # after which it counts as dead or hung


@dataclass(frozen=True, slots=True)
class Deadline:
    """The keeper's word. ``stop_ns`` 0: the session is lost already."""

    stop_ns: int
    cut_s: float
    watchdog_s: float
    renewed_ns: int


@dataclass(frozen=True, slots=True)
class Promise:
    """One device that may be written to under a lease that promises a cut."""

    dev: str  # "8:1"
    name: str
    resources: tuple[str, ...]
    lowest: tuple[str, ...]  # names of the disks below, as sda; each of them has a state that can be written


@dataclass(frozen=True, slots=True)
class Beat:
    """The revoker's word.

    ``failed``: why the cut could not be confirmed; the watchdog must not be fed any more. ``unable``: why it could not
    be, if it had to be now; nothing more is promised.
    """

    beat_ns: int
    pid: int
    cut: tuple[str, ...] = ()  # disks that are cut off
    cut_ns: int = 0  # when that was confirmed
    failed: str = ""
    unable: str = ""

    def silent(self, now_ns: int) -> bool:
        """True if it is dead or hung."""
        return now_ns - self.beat_ns > DEAD_NS

    def trouble(self, now_ns: int) -> str:
        """Why it cannot be relied upon, or ""."""
        if self.silent(now_ns):
            return (
                f"enforcer-revoker (pid {self.pid}) has given no sign of life for {(now_ns - self.beat_ns) / 1e9:.1f} s"
            )
        if self.failed:
            return f"enforcer-revoker could not cut: {self.failed}"
        return f"enforcer-revoker cannot cut: {self.unable}" if self.unable else ""


def write(path: Path, body: object) -> None:
    """Replace a file as a whole. Raises OSError."""
    draft = path.with_name(path.name + ".new")
    draft.write_text(json.dumps(body) + "\n")
    draft.rename(path)


def write_deadline(run_dir: Path, stop_ns: int, *, cut_s: float, watchdog_s: float) -> None:
    """After each renewal. Raises OSError: then the one before stays, which is earlier."""
    write(run_dir / DEADLINE, asdict(Deadline(stop_ns, cut_s, watchdog_s, boot_ns())))


def read_deadline(run_dir: Path) -> Deadline | None:
    """The keeper's last word; None if it never gave one. Raises ValueError, OSError."""
    try:
        body = json.loads((run_dir / DEADLINE).read_text())
        return Deadline(int(body["stop_ns"]), float(body["cut_s"]), float(body["watchdog_s"]), int(body["renewed_ns"]))
    except FileNotFoundError:
        return None
    except (KeyError, TypeError) as error:
        raise ValueError(f"{run_dir / DEADLINE} is damaged: {error!r}") from None


def write_promises(run_dir: Path, promises: tuple[Promise, ...], resets: tuple[str, ...] = ()) -> None:
    """Before anything may be written under them. ``resets``: resources whose leases promise the watchdog's, and that
    may be in use. Raises OSError."""
    write(run_dir / PROMISED, {"promised": [asdict(promise) for promise in promises], "resets": list(resets)})


def read_resets(run_dir: Path) -> tuple[str, ...]:
    """The resources for which the watchdog was promised. Raises ValueError, OSError."""
    try:
        return tuple(map(str, json.loads((run_dir / PROMISED).read_text()).get("resets", ())))
    except FileNotFoundError:
        return ()
    except (AttributeError, TypeError) as error:
        raise ValueError(f"{run_dir / PROMISED} is damaged: {error!r}") from None


def read_promises(run_dir: Path) -> tuple[Promise, ...]:
    """What was promised. Raises ValueError, OSError."""
    try:
        body = json.loads((run_dir / PROMISED).read_text())["promised"]
        return tuple(
            Promise(str(b["dev"]), str(b["name"]), tuple(map(str, b["resources"])), tuple(map(str, b["lowest"])))
            for b in body
        )
    except FileNotFoundError:
        return ()
    except (KeyError, TypeError) as error:
        raise ValueError(f"{run_dir / PROMISED} is damaged: {error!r}") from None


def write_beat(run_dir: Path, beat: Beat) -> None:
    """Raises OSError."""
    write(run_dir / REVOKER, asdict(beat))


def read_beat(run_dir: Path) -> Beat | None:
    """The revoker's last word; None if there is none, or none that can be read."""
    try:
        body = json.loads((run_dir / REVOKER).read_text())
        cut, at, failed = tuple(map(str, body["cut"])), int(body["cut_ns"]), str(body["failed"])
        return Beat(int(body["beat_ns"]), int(body["pid"]), cut, at, failed, str(body.get("unable", "")))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def revoker_trouble(run_dir: Path) -> str:
    """Why no cut can be promised now, or "": the revoker must be seen at work."""
    beat = read_beat(run_dir)
    return beat.trouble(boot_ns()) if beat is not None else "enforcer-revoker is not running"
