# SPDX-License-Identifier: GPL-2.0-or-later
"""Who this node is in this boot, and the session that its keeper holds for it.

Two processes must agree on it: the keeper owns the session in the store, the daemon hangs its transactions on it.
They meet in small files below the run directory, which a reboot empties; each is written whole and then renamed.
"""

from __future__ import annotations

import json
import os
import uuid
from dataclasses import asdict
from pathlib import Path

from enforcer.cluster.etcd_session import SessionFacts
from enforcer.model.errors import BadConfiguration
from enforcer.model.guarantee import Tiers
from enforcer.model.lease import Holder

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def node_name(configured: str) -> str:
    """The configured name, or the kernel's host name. Raises BadConfiguration for one that names nothing."""
    name = configured or os.uname().nodename
    if name in ("", "localhost", "(none)"):
        raise BadConfiguration(
            f"{name or 'an empty string'} cannot be this node's name in the cluster", hint="set [node] name"
        )
    return name


def holder(name: str, run_dir: Path) -> Holder:
    """This node in this boot in this session; the first process of the boot that asks makes the session's id."""
    run_dir.mkdir(parents=True, exist_ok=True, mode=0o755)
    path = run_dir / "session-id"
    draft = run_dir / f"session-id.{os.getpid()}"
    try:
        if not path.exists():  # whole from the first moment, for keeper and daemon may start at once
            draft.touch(0o600)
            draft.write_text(uuid.uuid4().hex)
            os.link(draft, path)
    except FileExistsError:
        pass
    finally:
        draft.unlink(missing_ok=True)
    session = path.read_text().strip()
    if len(session) != 32:
        raise BadConfiguration(f"{path} is damaged", hint=f"rm {path}, then start enforcer-keeper and enforcerd again")
    return Holder(name, _BOOT_ID.read_text().strip(), session)


def write_session(run_dir: Path, facts: SessionFacts | None, trouble: str = "", tiers: Tiers | None = None) -> None:
    """What the keeper holds now and what it leaves time for before its end, or why it holds nothing."""
    body: dict[str, object] = (
        {"trouble": trouble}
        if facts is None
        else {
            "lease_id": facts.lease_id,
            "create_revision": facts.create_revision,
            "ttl_s": facts.ttl_s,
            "tiers": asdict(tiers or Tiers()),
        }
    )
    draft = run_dir / "session.json.new"
    draft.write_text(json.dumps(body) + "\n")
    draft.rename(run_dir / "session.json")


def promise_nothing(run_dir: Path) -> None:
    """The session goes on, and nobody is there to keep what was promised with it. Raises OSError."""
    facts, _ = read_session(run_dir)
    if facts is not None:
        write_session(run_dir, facts)


def read_tiers(run_dir: Path) -> Tiers | None:
    """What the keeper of the session leaves time for; None without a session. Never raises."""
    if read_session(run_dir)[0] is None:
        return None
    try:
        body = json.loads((run_dir / "session.json").read_text())["tiers"]
        return Tiers(float(body["cut_s"]), float(body["watchdog_s"]), bool(body["pauses"]))
    except (OSError, ValueError, KeyError, TypeError):
        return Tiers()  # of a keeper that knows no such thing: it leaves time for nothing


def read_session(run_dir: Path) -> tuple[SessionFacts | None, str]:
    """The session, or None and why there is none. Never raises."""
    try:
        body = json.loads((run_dir / "session.json").read_text())
        if "lease_id" not in body:
            return None, str(body.get("trouble", ""))
        return SessionFacts(int(body["lease_id"]), int(body["create_revision"]), int(body["ttl_s"])), ""
    except FileNotFoundError:
        return None, "enforcer-keeper is not running"
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return None, f"{run_dir / 'session.json'} cannot be read: {error}"
