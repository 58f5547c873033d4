# SPDX-License-Identifier: GPL-2.0-or-later
"""What every lease store promises while what is behind it is away, slow, clearing up, or out of touch with a node."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import pytest
from lab_cluster import Node, until
from lab_engines import ENGINES, WITH_ABSENCES, Absence, Engine
from lab_sanlock import JOIN_S

from enforcer.model.errors import LeaseLost, StoreUnavailable
from enforcer.model.lease import Claim, Denied, Granted, Liveness, Standing
from enforcer.model.resource import ResourceId

ABSENCES = [
    pytest.param(name, how, id=f"{name}-{how}") for name, kind in WITH_ABSENCES.items() for how in kind.absences
]
WITH_HISTORY = [name for name, kind in ENGINES.items() if kind.keeps_history]
OF_SEVERAL_NODES = [name for name, kind in ENGINES.items() if kind.knows_silence]
SLACK_S = 0.7  # over a budget, on a busy machine

pytestmark = pytest.mark.timeout(120)


def play(engine: Engine, scenario: Callable[[Engine], Awaitable[Any]]) -> None:
    async def run() -> None:
        try:
            await scenario(engine)
        finally:
            await engine.close()

    asyncio.run(run())


async def ask(engine: Engine, node: Node, *names: str) -> Granted | Denied:
    """With the budget of this engine. Fails if the answer comes later than that."""
    claims, began = frozenset(Claim(ResourceId.parse(name)) for name in names), time.monotonic()
    answer = await node.store.acquire(claims, {}, budget_s=engine.budget_s)
    assert time.monotonic() - began < engine.budget_s + SLACK_S
    return answer


async def gets(node: Node, name: str, *, within_s: float = 10.0) -> Granted:
    """Try until it is granted."""
    async with asyncio.timeout(within_s):
        while not isinstance(answer := await node.take(name), Granted):  # noqa: ASYNC110, there is no event for it
            await asyncio.sleep(0.02)
    return answer


async def shown(node: Node) -> dict[str, tuple[str, int]] | None:
    """Resource -> node and token, as the store tells it; None if it does not."""
    try:
        leases = await node.store.leases()
    except StoreUnavailable:
        return None
    return {str(h.lease.resource): (h.lease.holder.node, h.lease.token) for h in leases}


async def is_free(node: Node, name: str) -> bool:
    return not await node.store.leases(name)


async def soon(what: str, true: Callable[[], Awaitable[bool]]) -> None:
    """Wait for it."""
    try:
        await until(true)
    except TimeoutError:
        raise AssertionError(f"not after 10 s: {what}") from None


@pytest.mark.parametrize(("engine", "how"), ABSENCES, indirect=["engine"])
def test_while_the_server_is_away_nothing_is_free_and_after_it_nothing_is_lost(
    engine: Engine, how: Absence, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario(e: Engine) -> None:
        one, two = await e.boot("node-1"), await e.boot("node-2")
        held, going = await one.must_take("a", "b"), await one.must_take("going")
        granted: dict[str, int] = {}
        unsure: list[str] = []
        over = asyncio.Event()

        async def go_on() -> None:
            for n in itertools.count():
                if over.is_set():
                    return
                await asyncio.sleep(0.002)
                answer = await two.take(f"lun-{n}", budget_s=e.budget_s)
                if isinstance(answer, Granted):
                    granted[f"lun-{n}"] = answer.token
                else:
                    assert answer.standing is Standing.UNKNOWN
                    unsure.append(f"lun-{n}")

        writing = asyncio.create_task(go_on())
        await soon("node-2 is served", lambda: asyncio.sleep(0, len(granted) >= 3))
        await e.away(how)  # while node-2 is served
        asked = (one, "a"), (one, "c", "d"), (two, "a"), (two, "d", "e")
        for answer in await asyncio.gather(*(ask(e, *each) for each in asked)):
            # held here, held there or free: it makes no difference
            assert isinstance(answer, Denied) and answer.standing is Standing.UNKNOWN, answer
            assert answer.reason and answer.remedy and not answer.blocking
        over.set()
        await writing
        with monkeypatch.context() as patch:
            e.hurry(patch)
            began = time.monotonic()
            giving = asyncio.create_task(one.give(going.token, "going"))
            alone = await shown(two)
            with pytest.raises(StoreUnavailable):
                await giving
            assert time.monotonic() - began < e.budget_s + SLACK_S
            if e.shows_leases_alone is not None:
                assert (alone is not None) is e.shows_leases_alone, alone
            assert alone is None or alone["a"] == ("node-1", held.token)
        await e.back()
        for node in (one, two):
            await gets(node, f"again-on-{node.holder.node}", within_s=JOIN_S)
        now = await shown(two)
        assert now is not None, "it answers and says nothing"
        assert {name: now.get(name) for name in ("a", "b")} == dict.fromkeys(("a", "b"), ("node-1", held.token))
        assert {name: now.get(name) for name in granted} == {n: ("node-2", token) for n, token in granted.items()}
        again = await one.must_take("a", "b")
        assert (again.token, again.fresh) == (held.token, False)
        refused = await two.take("a")
        assert isinstance(refused, Denied) and refused.standing is Standing.ELSEWHERE
        with contextlib.suppress(LeaseLost):  # it may have been carried out late
            await one.give(going.token, "going")
        for name in ("going", "c", "d", "e", *unsure):  # whoever was refused left nothing that nobody can get
            new = await gets(two if name in ("going", "e", *unsure) else one, name)
            assert new.token > max(held.token, going.token)
            assert new.fresh

    play(engine, scenario)


@pytest.mark.parametrize("engine", ENGINES, indirect=True)
def test_an_answer_that_comes_too_late_denies_and_what_it_granted_stays_with_nobody_unknown(engine: Engine) -> None:
    async def scenario(e: Engine) -> None:
        e.led_round = True
        one, two = await e.boot("node-1"), await e.boot("node-2")
        kept = await one.must_take("kept")

        async def granted_late(name: str) -> bool:
            if e.knows_silence:
                return (await two.store.last_grants()).get(name, ("nobody", 0))[0] == "node-1"
            return bool(await two.store.leases(name))  # nobody else asks for it

        async def late() -> bool:
            """Ask for both, slowly; false if the machine was so busy that the asker gave up before it was granted."""
            await e.slow(e.budget_s * e.late_share)
            asking = asyncio.create_task(ask(e, one, "given-back", "asked-again"))
            await asyncio.sleep(e.budget_s / 2)
            other, answer = await ask(e, two, "kept"), await asking
            assert isinstance(answer, Denied) and answer.standing is Standing.UNKNOWN, answer
            assert isinstance(other, Denied) and other.standing in (Standing.UNKNOWN, Standing.ELSEWHERE), other
            await e.slow(0.0)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(3):
                    while not await granted_late("asked-again"):  # noqa: ASYNC110, nobody tells
                        await asyncio.sleep(0.02)
                    return True
            return False

        tries = 1
        while not await late():
            assert (tries := tries + 1) <= 5, "it was never granted"
        for name in ("given-back", "asked-again"):
            assert await granted_late(name)
            if e.gives_back_late:
                await soon(f"{name} is given back", partial(is_free, two, name))
                assert (await two.must_take(name)).fresh
                continue
            (left,) = await two.store.leases(name)
            assert left.lease.holder == one.holder
            refused = await two.take(name)
            assert isinstance(refused, Denied) and refused.standing is Standing.ELSEWHERE
            if name == "given-back":  # as the daemon does with what it did not know to hold
                await one.give(left.lease.token, name)
            else:
                again = await one.must_take(name)
                assert again.fresh, "nobody dropped its caches"
                await one.give(again.token, name)
            assert (await two.must_take(name)).fresh
        again = await one.must_take("kept")
        assert (again.token, again.fresh) == (kept.token, False)

    play(engine, scenario)


@pytest.mark.parametrize("engine", WITH_HISTORY, indirect=True)
def test_clearing_up_in_the_middle_of_use_costs_no_lease_no_token_and_no_answer(engine: Engine) -> None:
    async def scenario(e: Engine) -> None:
        one, two = await e.boot("node-1"), await e.boot("node-2")
        held = await one.must_take("a", "b")
        over = asyncio.Event()

        async def use(node: Node) -> list[int]:
            tokens = [held.token]
            while not over.is_set() or len(tokens) < 5:
                answer = await node.must_take(f"turn-of-{node.holder.node}")
                tokens.append(answer.token)
                await node.give(answer.token, f"turn-of-{node.holder.node}")
                await e.renew(one)
            return tokens

        using = [asyncio.create_task(use(node)) for node in (one, two)]
        for _ in range(4):
            await e.compact()
        over.set()
        for tokens in await asyncio.gather(*using):
            assert tokens == sorted(set(tokens))
        await e.compact()
        assert await shown(two) == dict.fromkeys(("a", "b"), ("node-1", held.token))
        again = await one.must_take("a", "b")
        assert (again.token, again.fresh) == (held.token, False)
        assert isinstance(await two.take("a"), Denied)
        await one.give(held.token, "a", "b")
        assert (await two.must_take("a")).token > held.token

    play(engine, scenario)


@pytest.mark.parametrize("engine", OF_SEVERAL_NODES, indirect=True)
def test_who_renews_stays_and_who_falls_silent_is_stranded_until_it_is_fenced(engine: Engine) -> None:
    async def scenario(e: Engine) -> None:
        two = await e.boot("node-2")
        e.cluster.ttl_s = int(e.ttl_s) or e.cluster.ttl_s
        one = await e.boot("node-1")
        held = await one.must_take("a")
        end = time.monotonic() + 1.5 * e.ttl_s
        while True:
            await e.renew(one)
            live = await two.take("a")
            assert isinstance(live, Denied) and live.reason == f"in use on node-1 since {held.leases[0].since}", live
            assert live.standing is Standing.ELSEWHERE and not live.remedy
            assert [h.liveness for h in live.blocking] == [Liveness.LIVE]
            if time.monotonic() >= end:
                break
            await asyncio.sleep(0.2)
        await e.silence(one)

        async def gone() -> bool:
            found = await two.store.leases("a")
            assert found, "nobody took it over"
            return found[0].liveness is not Liveness.LIVE

        await soon("it is gone", gone)
        for _ in range(2):
            stranded = await two.take("a")
            assert isinstance(stranded, Denied) and stranded.standing is Standing.ELSEWHERE, stranded
            assert [h.liveness for h in stranded.blocking] == [Liveness.STRANDED]
            assert stranded.reason == "stranded: node-1 (boot id boot-of-node-1) is gone but not proven silent"
            assert stranded.remedy == "enforcer fence confirm node-1 --boot-id boot-of-node-1"
            assert await shown(two) == {"a": ("node-1", held.token)}
        alive = {record.holder.node: record.live for record in await two.store.nodes()}
        assert alive == {"node-1": False, "node-2": True}
        await two.store.fence_confirm("node-1", "boot-of-node-1", "root")
        assert (await two.must_take("a")).token > held.token

    play(engine, scenario)
