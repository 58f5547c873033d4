# SPDX-License-Identifier: GPL-2.0-or-later
"""``enforcer sanlock init``: a blank disk becomes a store, and nothing else is ever overwritten."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest
from lab_sanlock import IO_TIMEOUT_S, Disk, SanlockHosts

from enforcer.cli.main import main
from enforcer.cluster.sanlock_area import BODY_BYTES, HOSTS, LOCK_AT, Geometry
from enforcer.model.lease import Claim, Granted, Holder
from enforcer.model.resource import ResourceId

SIZE = Geometry(HOSTS, BODY_BYTES, 0, "").end + (8 << 20)


def test_a_blank_disk_becomes_a_store_and_one_in_use_or_with_anything_on_it_is_refused(
    sanlock_hosts: SanlockHosts, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    disk = Disk(sanlock_hosts, tmp_path)
    config = tmp_path / "enforcer.toml"
    config.write_text(f'[store]\ncluster = "{disk.name}"\nio_timeout = "{IO_TIMEOUT_S}s"\n')
    image = Path(disk.device)
    init = ["sanlock", "init", str(image), "--config", str(config), "--sanlock-socket", sanlock_hosts.host(1).socket]

    def refused(why: str) -> bool:
        before = image.read_bytes()[LOCK_AT:]  # below, a host that is in writes by itself
        code = main(init)
        return code == 1 and why in capsys.readouterr().err and image.read_bytes()[LOCK_AT:] == before

    image.touch()
    os.truncate(image, 1 << 20)
    assert refused("too short")
    os.truncate(image, SIZE)
    for at in (1024, 60 << 20, SIZE - 512):
        with open(image, "r+b") as file:
            file.seek(at)
            file.write(b"x")
            file.flush()
            assert refused("not blank")
            file.seek(at)
            file.write(b"\0")
    assert main(init) == 0

    async def use(leave: bool) -> int:
        store = await disk.open(Holder("node-1", "boot", "s1"))
        granted = await store.acquire(frozenset({Claim(ResourceId("a"))}), {}, budget_s=5)
        assert isinstance(granted, Granted)
        assert await asyncio.to_thread(refused, "is in use by host 1")
        if leave:
            await store.release(frozenset({ResourceId("a")}), granted.token)
        await store.close()
        await disk.leave(1)
        return granted.token

    asyncio.run(use(leave=False))
    assert refused("holds 1 leases")
    token = asyncio.run(use(leave=True))
    assert main(init) == 0, "nobody is in it, and nobody holds anything"
    assert asyncio.run(use(leave=True)) > token
