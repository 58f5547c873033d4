# SPDX-License-Identifier: GPL-2.0-or-later
"""Nothing that an external peer says wrongly becomes a permit, an exception or a control character on a terminal."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from lab_cluster import Node
from lab_external import OTHER, Json, Script, grant, lease, must_not_know, scripted

from enforcer.cluster import external_peer
from enforcer.cluster import external_protocol as protocol
from enforcer.cluster.external_store import ExternalStore
from enforcer.model.errors import EnforcerError, StoreUnavailable
from enforcer.model.lease import Denied, Granted, Standing
from enforcer.model.resource import Mode, ResourceId

Says = Callable[[Json], Json | bytes | None]


def play(shared: Path, says: Says, scenario: Callable[[Node, Script], Awaitable[Any]]) -> None:
    async def run() -> None:
        async with scripted(shared, says) as (node, script):
            await scenario(node, script)

    asyncio.run(run())


def to_authorise(said: Json | bytes | None) -> Says:
    """The same to every ask, and nothing wrong to everything else."""
    return lambda request: {
        "hello": None,
        "authorise": said,
        "refused": {"answer": "released", "resources": request.get("resources")},
    }[request["call"]]


async def given_back(script: Script, *, expected: bool) -> list[Json]:
    for _ in range(200 if expected else 2):
        if script.refused():
            break
        await asyncio.sleep(0.01)
    return [{"resources": call["resources"], "token": call["token"]} for call in script.refused()]


def test_the_form_that_the_tests_break_is_granted_when_it_is_whole(tmp_path: Path) -> None:
    async def scenario(node: Node, script: Script) -> None:
        answer = await node.take("a")
        assert isinstance(answer, Granted)
        assert (answer.token, answer.fresh) == (7, True)
        assert not script.refused()
        (ask,) = script.calls
        assert ask["claims"] == [{"resource": "a", "mode": "EX"}]
        assert (ask["schema"], ask["holding"], ask["keep"], ask["facts"]) == (1, {}, False, {"fstype": "ext4"})

    play(tmp_path, to_authorise(grant("a")), scenario)


WRONG_GRANTS = {
    "token 0": grant("a", 0),
    "token below": grant("a", -1),
    "token too high": grant("a", 1 << 63),
    "token true": grant("a", True),
    "token 7.0": grant("a", 7.0),  # on purpose
    "token text": grant("a", "7"),  # on purpose
    "no token": {k: v for k, v in grant("a").items() if k != "token"},
    "other LUN": grant("b"),
    "nothing": grant("a", leases=[]),
    "more than asked": grant("a", leases=[lease("a"), lease("b")]),
    "twice": grant("a", leases=[lease("a"), lease("a")]),
    "weaker mode": grant("a", leases=[lease("a", mode="PR")]),
    "unknown mode": grant("a", leases=[lease("a", mode="SH")]),
    "two tokens": grant("a", leases=[lease("a", 8)]),
    "to another node": grant("a", leases=[lease("a", holder=OTHER)]),
    "to another session": grant(
        "a", leases=[lease("a", holder={"node": "node-1", "boot_id": "boot-of-node-1", "session": "s0"})]
    ),
    "kept, and never told": grant("a", kept=True),
    "kept is a word": grant("a", kept="no"),
    "over a live one": grant("a", taken_over=[lease("a", 6, holder=OTHER, liveness="live")]),
    "over a stranded one": grant("a", taken_over=[lease("a", 6, holder=OTHER, liveness="stranded")]),
    "over a mystery": grant("a", taken_over=[lease("a", 6, holder=OTHER, liveness="asleep")]),
    "no last": grant("a", last={}),
    "last is older": grant("a", last={"a": {"node": "node-1", "token": 6}}),
    "last is another's": grant("a", last={"a": {"node": "node-2", "token": 7}}),
    "unknown key": grant("a", quorum=True),
    "unknown key in a lease": grant("a", leases=[lease("a", until="tomorrow")]),
    "no guarantee of ours": grant("a", leases=[lease("a", guarantee="hope")]),
    "a name with ESC": grant("a", leases=[lease("a\x1b[2J")]),
    "facts are no texts": grant("a", leases=[lease("a", facts={"x": 1})]),
    "leases is no list": grant("a", leases={"a": 1}),
    "blocked by nobody": {"answer": "blocked", "leases": []},
    "blocked by a reader of something else": {"answer": "blocked", "leases": [lease("b", holder=OTHER)]},
    "blocked by who is silent": {"answer": "blocked", "leases": [lease("a", holder=OTHER, liveness="fenced")]},
    "changed for ever": {"answer": "changed", "leases": []},
    "free": {"answer": "free"},
    "no answer": {},
    "answer is a list": {"answer": ["granted"]},
    "done": {"answer": "done"},
    "unknown without a reason": {"answer": "unknown"},
}


@pytest.mark.parametrize("said", WRONG_GRANTS.values(), ids=WRONG_GRANTS)
def test_an_answer_that_is_not_what_was_asked_for_denies(said: Json, tmp_path: Path) -> None:
    async def scenario(node: Node, script: Script) -> None:
        reason = await must_not_know(node, "a")
        assert reason.isprintable()
        token = said.get("token")
        told = type(token) is int and 0 < token < 1 << 63 and said["kept"] is not True
        assert await given_back(script, expected=told) == ([{"resources": ["a"], "token": 7}] if told else [])

    play(tmp_path, to_authorise(said), scenario)


def line(**body: Any) -> bytes:
    return json.dumps({"schema": 1, "id": 2, **body}).encode() + b"\n"


WRONG_LINES = {
    "no JSON": b"granted\n",
    "empty": b"\n",
    "a list": b"[1]\n",
    "deep": b"[" * 100_000 + b"\n",
    "NaN": line(**grant("a")).replace(b'"token": 7', b'"token": NaN', 1),
    "one key twice": line(**grant("a")).replace(b'"token": 7', b'"token": 7, "token": 7', 1),
    "another schema": line(**{**grant("a"), "schema": 2}),
    "schema true": line(**{**grant("a"), "schema": True}),
    "no schema": line(**grant("a")).replace(b'"schema": 1, ', b""),
    "no id": line(**grant("a")).replace(b'"id": 2, ', b""),
    "an id of nobody": line(**{**grant("a"), "id": 77}),
    "a number too long": line(**grant("a")).replace(b'"token": 7', b'"token": ' + b"7" * 5000, 1),
    "no UTF-8": line(**grant("a")).replace(b"EX", b"\xff\xfe"),
    "a long line": b" " * (protocol.LINE_BYTES + 10) + line(**grant("a")),
}


@pytest.mark.parametrize("said", WRONG_LINES.values(), ids=WRONG_LINES)
def test_a_line_that_is_none_ends_the_connection_and_the_next_ask_makes_another(said: bytes, tmp_path: Path) -> None:
    said_once: list[bytes] = [said]

    def says(request: Json) -> Json | bytes | None:
        if request["call"] == "hello":
            return None
        return said_once.pop() if said_once else grant("a")

    async def scenario(node: Node, script: Script) -> None:
        reason = await must_not_know(node, "a")
        assert "talks nonsense" in reason and reason.isprintable()
        assert isinstance(await node.take("a"), Granted)
        assert script.greetings == 2

    play(tmp_path, says, scenario)


def test_all_who_wait_on_a_line_that_breaks_are_told_at_once(tmp_path: Path) -> None:
    def says(request: Json) -> Json | bytes | None:
        last = [claim["resource"] for claim in request.get("claims", ())] == ["lun-9"]
        return b"oops\n" if last else None

    async def scenario(node: Node, script: Script) -> None:
        reasons = await asyncio.gather(*(must_not_know(node, f"lun-{n}", budget_s=3) for n in range(10)))
        assert all("no JSON" in reason and "did not answer" not in reason for reason in reasons)

    play(tmp_path, says, scenario)


def test_what_a_peer_says_to_people_is_escaped_and_short(tmp_path: Path) -> None:
    said = {"answer": "unknown", "reason": "no quorum\x1b[31m\n" + "x" * 9999, "remedy": "call\u202e me"}

    async def scenario(node: Node, script: Script) -> None:
        answer = await node.take("a")
        assert isinstance(answer, Denied) and answer.standing is Standing.UNKNOWN
        assert "cannot tell: no quorum\\x1b[31m\\x0a" in answer.reason
        assert answer.reason.isprintable() and len(answer.reason) < 500
        assert answer.remedy == "call\\u202e me"

    play(tmp_path, to_authorise(said), scenario)


def test_who_is_in_the_way_is_named_with_what_to_type(tmp_path: Path) -> None:
    stranded = lease("a/p1", 3, holder=OTHER, liveness="stranded")

    async def scenario(node: Node, script: Script) -> None:
        answer = await node.take("a")
        assert isinstance(answer, Denied) and answer.standing is Standing.ELSEWHERE
        assert answer.remedy == "enforcer fence confirm node-2 --boot-id boot-of-node-2"

    play(tmp_path, to_authorise({"answer": "blocked", "leases": [stranded]}), scenario)


def test_a_peer_of_another_schema_or_that_does_not_want_us_is_named(tmp_path: Path) -> None:
    for said, words in (
        ({"schema": 2, "answer": "hello", "peer": "x", "optional": []}, "schema 2, and this enforcer speaks 1"),
        ({"answer": "hello", "peer": "x", "optional": ["reboot"]}, "a call that is none"),
        (
            {"answer": "unknown", "reason": "not quorate", "remedy": "pcs status"},
            "does not serve this node: not quorate",
        ),
    ):

        async def scenario(node: Node, script: Script, words: str = words) -> None:
            assert words in await must_not_know(node, "a")

        play(tmp_path, lambda _, said=said: said, scenario)


def test_a_peer_is_asked_to_prepare_only_if_it_wants_to_and_its_no_is_a_no(tmp_path: Path) -> None:
    calls: list[str] = []

    def says(request: Json) -> Json:
        calls.append(request["call"])
        if request["call"] == "hello":
            return {"answer": "hello", "peer": "x", "optional": ["prepare"]}
        if request["call"] == "prepare" and request["resources"] == ["b"]:
            return {"answer": "unknown", "reason": "lock space did not come up", "remedy": "dlm_tool ls"}
        return {"answer": "done"} if request["call"] == "prepare" else grant("a")

    async def scenario(node: Node, script: Script) -> None:
        assert isinstance(await node.take("a"), Granted)
        assert "lock space did not come up" in await must_not_know(node, "b")
        assert calls == ["hello", "prepare", "authorise", "prepare"]

    play(tmp_path, says, scenario)


def test_a_peer_that_owes_too_much_is_asked_no_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(external_peer, "MOST_OWED", 5)

    async def scenario(node: Node, script: Script) -> None:
        await asyncio.gather(*(must_not_know(node, f"lun-{n}", budget_s=0.1) for n in range(5)))
        assert "owes 5 answers" in await must_not_know(node, "a")

    play(tmp_path, lambda request: None, scenario)


def test_a_socket_that_somebody_else_serves_is_not_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Credentials:
        size = external_peer.PEERCRED.size

        @staticmethod
        def unpack(raw: bytes) -> tuple[int, int, int]:
            return 1, 65534, 65534

    monkeypatch.setattr(external_peer, "PEERCRED", Credentials)

    async def scenario(node: Node, script: Script) -> None:
        assert "is served by user 65534" in await must_not_know(node, "a")
        assert script.greetings == 0

    play(tmp_path, to_authorise(grant("a")), scenario)


STATE = {"answer": "state", "leases": [], "nodes": [], "fenced": [], "last": {"a": {"node": "node-2", "token": 9}}}
NODE = {"holder": OTHER, "policy": "", "luns": [], "live": True}


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"last": {}}, "has forgotten grants"),
        ({"last": {"a": {"node": "node-2", "token": 8}}}, "has forgotten grants"),
        ({"leases": [lease("b", 3)]}, "never granted"),
        ({"leases": [lease("a", 10)]}, "never granted"),
        ({"nodes": [NODE, {**NODE, "holder": {**OTHER, "boot_id": "another"}}]}, "live twice"),
        ({"nodes": [{**NODE, "live": 1}]}, '"live"'),
        ({"fenced": [["node-2", "boot"]]}, '"fenced"'),
        ({"fenced": [{"node": "node-2", "boot_id": "boot"}]}, '"since"'),
    ],
)
def test_a_state_that_cannot_be_is_not_shown(wrong: Json, said: str, tmp_path: Path) -> None:
    answers = [{**STATE, **wrong}, STATE]

    async def scenario(node: Node, script: Script) -> None:
        assert await node.store.last_grants() == {"a": ("node-2", 9)}
        with pytest.raises(StoreUnavailable, match=said):
            await node.store.leases()

    play(tmp_path, lambda request: answers.pop() if request["call"] == "who" else None, scenario)


def test_an_answer_is_measured_by_what_was_known_when_it_was_asked_for(tmp_path: Path) -> None:
    """Answers may overtake each other: a look that began before a grant does not see it, and that is no fault."""

    def says(request: Json) -> Json | bytes | None:
        if request["call"] == "authorise":  # the look's answer comes after the grant's, and is older
            first = {"schema": 1, "id": request["id"], **grant("a", 12)}
            second = {"schema": 1, "id": request["id"] - 1, **STATE}
            return json.dumps(first).encode() + b"\n" + json.dumps(second).encode() + b"\n"
        return None

    async def scenario(node: Node, script: Script) -> None:
        looking = asyncio.create_task(node.store.last_grants())
        await asyncio.sleep(0.05)
        assert isinstance(await node.take("a"), Granted)
        assert await asyncio.gather(looking, return_exceptions=True) == [{"a": ("node-2", 9)}]

    play(tmp_path, says, scenario)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9) | st.sampled_from(["a", "granted"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from([*grant("a"), "x"]), inner, max_size=6),
    max_leaves=12,
)


@hypothesis_settings(max_examples=150, deadline=None)
@given(st.dictionaries(st.sampled_from([*grant("a"), *STATE, "reason", "remedy"]), JSON))
def test_readers_raise_nonsense_and_nothing_else(body: Json) -> None:
    for read in (protocol.read_grant, protocol.read_state, protocol.read_leases, protocol.read_why, protocol.answer):
        try:
            read(body)
        except protocol.Nonsense as error:
            assert str(error).isprintable()


def test_a_request_that_is_too_long_is_not_sent(tmp_path: Path) -> None:
    async def scenario(node: Node, script: Script) -> None:
        with pytest.raises(EnforcerError, match="longer than"):
            await node.store.publish(frozenset({"x" * (protocol.LINE_BYTES + 1)}), "digest")
        assert isinstance(node.store, ExternalStore)
        assert isinstance(await node.take("a"), Granted), "the line is not disturbed"

    play(tmp_path, to_authorise(grant("a")), scenario)


def test_modes_cover_as_they_do_elsewhere(tmp_path: Path) -> None:
    async def scenario(node: Node, script: Script) -> None:
        answer = await node.take("a", mode=Mode.CW)
        assert isinstance(answer, Granted)
        assert answer.leases[0].resource == ResourceId("a")

    play(tmp_path, to_authorise(grant("a")), scenario)
