# SPDX-License-Identifier: GPL-2.0-or-later
"""A host that dies with the lease on the records in its hands. By sanlock's own times, so alone in its file."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest
from lab_sanlock import Disk, SanlockHosts

from enforcer.cluster.sanlock_area import LOCK, LOCK_AT
from enforcer.cluster.sanlock_socket import Hold, SanlockDaemon
from enforcer.cluster.sanlock_store import SanlockStore
from enforcer.model.errors import EnforcerError, StoreUnavailable
from enforcer.model.lease import Claim, Denied, Granted, Holder, Standing
from enforcer.model.resource import ResourceId


async def take(store: SanlockStore, lun: str) -> tuple[Granted | Denied, float]:
    began = time.monotonic()
    answer = await store.acquire(frozenset({Claim(ResourceId(lun))}), {}, budget_s=2.0)
    return answer, time.monotonic() - began


@pytest.mark.timeout(180)
def test_nobody_gets_anything_until_it_is_dead_and_nothing_of_its_own_before_it_is_fenced(
    sanlock_hosts: SanlockHosts, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async def scenario() -> None:
        disk = Disk(sanlock_hosts, tmp_path)
        one, two = [await disk.open(Holder(f"node-{n}", f"boot-{n}", "s1")) for n in (1, 2)]
        for name in ("clean", "a"):
            answer, _ = await take(one, name)
            assert isinstance(answer, Granted)
            if name == "clean":
                await one.release(frozenset({ResourceId("clean")}), answer.token)
                answer, clean_s = await take(two, "clean")
                assert isinstance(answer, Granted)
        with pytest.raises(EnforcerError, match="live"):
            await two.fence_confirm("node-1", "boot-1", "root")
        hold = await SanlockDaemon(sanlock_hosts.host(1).socket).hold(disk.space(1), LOCK, LOCK_AT, budget_s=5)
        assert isinstance(hold, Hold)
        sanlock_hosts.host(1).kill()
        await one.close()
        died = time.monotonic()
        while True:
            answer, took_s = await take(two, "b")
            assert took_s < 4
            if isinstance(answer, Granted):
                break
            assert answer.standing is Standing.UNKNOWN
            assert time.monotonic() - died < 120
            if time.monotonic() - died < 10:
                with pytest.raises(StoreUnavailable):
                    await two.leases()
        dead_s = time.monotonic() - died
        assert dead_s > 50, "it had renewed a moment before"
        stranded, _ = await take(two, "a")
        assert isinstance(stranded, Denied)
        assert stranded.remedy == "enforcer fence confirm node-1 --boot-id boot-1"
        await two.fence_confirm("node-1", "boot-1", "root")
        taken, fenced_s = await take(two, "a")
        assert isinstance(taken, Granted) and taken.fresh
        with capsys.disabled():
            print(f"\n  sanlock: records free {dead_s:.0f} s after the death of their holder (its own figure:")
            print(
                f"  {disk.space(1).dead_after_s} s); takeover {clean_s * 1000:.0f} ms after a clean release,", end=" "
            )
            print(f"{fenced_s * 1000:.0f} ms after a fencing fact")
        await two.close()
        disk.joined.discard(1)
        await disk.close()

    asyncio.run(scenario())
