# SPDX-License-Identifier: GPL-2.0-or-later
"""The kernel's deadline where sanlock renews: never later than a renewal that was seen allows."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lab_sanlock import IO_TIMEOUT_S, Disk, SanlockHosts

from enforcer.cluster.sanlock_area import Delta
from enforcer.keeper.renewals import Renewals, follow
from enforcer.model.clock import boot_ns
from enforcer.model.lease import Holder
from enforcer.settings import Store, StoreKind

SECOND = 1_000_000_000


@given(st.lists(st.tuples(st.booleans(), st.integers(1, 5), st.integers(0, 3)), max_size=30))
def test_t0_is_never_later_than_the_last_renewal_nor_older_than_one_read(steps: list[tuple[bool, int, int]]) -> None:
    """Each step: whether sanlock renews, how much later we read, how long the read takes."""
    renewals, now, stamp, renewed_at, reads = Renewals(), 10, 1, 0, list[int]()
    for renews, later, takes in steps:
        if renews:
            stamp, renewed_at = stamp + 1, now
        now += later
        reads.append(now)
        renewals.saw(Delta(1, stamp), now, ours=True)
        now += takes
        assert renewals.renewed_ns <= renewed_at
        if renews and len(reads) > 1:
            assert renewals.renewed_ns == reads[-2]


def test_what_another_host_writes_and_a_lock_space_that_was_left_renew_nothing() -> None:
    renewals = Renewals()
    renewals.saw(Delta(1, 100), 10, ours=True)
    assert renewals.renewed_ns == 0, "nobody knows how old that is"
    renewals.saw(Delta(1, 101), 20, ours=True)
    assert renewals.renewed_ns == 10
    renewals.saw(Delta(2, 500), 30, ours=False)
    renewals.saw(Delta(1, 0), 40, ours=True)
    assert renewals.renewed_ns == 10


@pytest.mark.sanlock
def test_the_deadline_follows_a_real_daemon_and_stands_still_when_that_does(tmp_path: Path) -> None:
    sanlock_hosts = SanlockHosts(tmp_path / "hosts")  # its own: one that others have stopped and killed may lag behind
    (tmp_path / "hosts").mkdir()
    told: list[tuple[int, int | None]] = []

    async def tell(deadline_ns: int | None, pause_s: float) -> None:
        told.append((boot_ns(), deadline_ns))
        await asyncio.sleep(pause_s / 5)

    async def scenario() -> None:
        disk = Disk(sanlock_hosts, tmp_path, ahead=1)
        store = await disk.open(Holder("node-1", "boot", "s1"))
        chosen = Store(StoreKind.SANLOCK, cluster=disk.name, device=disk.device, host_id=1, io_timeout_s=IO_TIMEOUT_S)
        task = asyncio.create_task(follow(chosen, tell, sanlock_hosts.host(1).socket))
        try:
            await asyncio.sleep(7)
            sanlock_hosts.host(1).signal(signal.SIGSTOP)
            stopped_ns = boot_ns()
            await asyncio.sleep(4)
            seen = list(told)
        finally:
            sanlock_hosts.host(1).signal(signal.SIGCONT)
            task.cancel()
            await store.close()
            await disk.close()
            sanlock_hosts.stop()
        lives_ns = int(chosen.deadlines().ttl_s * SECOND)
        known = [(at, deadline) for at, deadline in seen if deadline is not None]
        assert len({deadline for _, deadline in known}) >= 2, "it renews every 2 s"
        assert all(deadline < at + lives_ns for at, deadline in known)
        late = [((at - stopped_ns) / SECOND, (deadline - stopped_ns) / SECOND) for at, deadline in known]
        assert all(deadline_s < lives_ns / SECOND for _, deadline_s in late), late

    asyncio.run(scenario())
