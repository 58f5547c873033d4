# SPDX-License-Identifier: GPL-2.0-or-later
"""Asking an etcd that may not let us in, as a node does."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator

import pytest
from lab_tls import PASSWORD

from enforcer.cluster.etcd_access import EtcdAccess
from enforcer.cluster.etcd_api import Etcd, get_prefix
from enforcer.cluster.etcd_session import SessionFacts
from enforcer.cluster.etcd_store import EtcdStore
from enforcer.model.errors import StoreUnavailable
from enforcer.model.lease import Claim, Denied, Holder, Standing
from enforcer.model.resource import ResourceId
from enforcer.settings import Store

ROOT = "/enforcer/test/"


@pytest.fixture(autouse=True)
def no_secret_is_logged(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Whatever happens in a test, at the most talkative level."""
    caplog.set_level(1)
    yield
    said = "\n".join(record.getMessage() for when in ("setup", "call") for record in caplog.get_records(when))
    assert PASSWORD not in said
    assert "authorization" not in said.lower()


def refusal(store: Store, *, budget_s: float = 5.0) -> StoreUnavailable:
    """What a node reads that asks an etcd which does not let it in; soon, and as a refusal of the device."""

    async def ask() -> StoreUnavailable:
        access = EtcdAccess(store)
        begun = time.monotonic()
        with pytest.raises(StoreUnavailable) as told:
            await Etcd(access).read([get_prefix(ROOT)], budget_s=budget_s)
        assert time.monotonic() - begun < 2, "a refusal needs no patience"
        me = Holder("n", "b", "s")
        leases = EtcdStore(access, "test", me, session=lambda: SessionFacts(1, 1, 9), ttl_s=9)
        denied = await leases.acquire(frozenset({Claim(ResourceId("a"))}), {}, budget_s=budget_s)
        assert denied == Denied(Standing.UNKNOWN, str(told.value), remedy=told.value.hint)
        assert told.value.hint
        assert PASSWORD not in f"{told.value} {told.value.hint} {access!r} {vars(access)}"
        await access.close()
        return told.value

    return asyncio.run(ask())


def lets_in(store: Store) -> None:
    async def ask() -> None:
        access = EtcdAccess(store)
        await Etcd(access).read([get_prefix(ROOT)], budget_s=3)
        await access.close()

    asyncio.run(ask())
