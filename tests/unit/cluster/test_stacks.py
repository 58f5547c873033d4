# SPDX-License-Identifier: GPL-2.0-or-later
"""What real stacks said in the lab, well and unwell: only the first lets anything be mounted."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enforcer.cluster import dlm
from enforcer.cluster import o2cb as o2cb_module
from enforcer.cluster.dlm import Dlm, status_of
from enforcer.cluster.o2cb import O2cb

HEAD = "cluster nodeid 1 quorate 1 ring seq 9 9\ndaemon now 31 fence_pid 0 \n"
ONE = "node 1 M add 27 rem 0 fail 0 fence 0 at 0 0\n"
TWO = "node 2 M add 28 rem 0 fail 0 fence 0 at 0 0\n"
LEFT = "node 2 X add 28 rem 32 fail 0 fence 0 at 0 0\n"
FENCES = "post_join_delay=30\nenable_fencing=1 (dlm.conf)\nenable_startup_fencing=0 (dlm.conf)\n"


def asked(
    tmp_path: Path, status: str = HEAD + ONE + TWO, config: str = FENCES, *, name: str = "mg\n", cluster: str = "mg"
) -> str:
    (tmp_path / "cluster_name").write_text(name)

    async def run(verb: str) -> str:
        return {"status": status, "dump_config": config}[verb]

    return asyncio.run(Dlm(run, tmp_path / "cluster_name").state(cluster)).trouble


@pytest.mark.parametrize(
    "peer", [TWO, LEFT, *(each.replace("fail 0 fence 0", "fail 201 fence 230") for each in (TWO, LEFT)), ""]
)
def test_a_dlm_that_is_well_says_nothing(tmp_path: Path, peer: str) -> None:
    assert asked(tmp_path, HEAD + ONE + peer) == ""


@pytest.mark.parametrize(
    ("status", "why"),
    [
        ("", "does not answer"),
        ("cannot connect to dlm_controld\n", "does not answer"),
        (HEAD.replace("quorate 1", "quorate 0") + ONE + TWO, "no quorum"),
        (HEAD.replace("9 9", "9 13") + ONE + TWO, "changing"),
        (HEAD.replace("fence_pid 0", "fence_pid 866") + ONE + TWO, "being fenced"),
        (HEAD + "fence 2 nodedown pid 866 actor 1 fail 201 fence 0 now 205\n" + ONE + LEFT, "being fenced"),
        (HEAD + ONE + "node 2 X add 28 rem 201 fail 201 fence 0 at 0 0\n", "node 2 failed and was not fenced"),
        (HEAD + ONE + TWO.replace("fail 0", "fail 201"), "node 2 failed and was not fenced"),  # a member, and not clean
        (HEAD + "fence 2 nodedown delay actor 1 fail 1 fence 0 now 2 killed\n" + ONE + TWO, "being fenced"),
        (HEAD + "fence_init 1\n" + ONE, "not ready"),
        (HEAD + ONE + "node 2 Y add 28 rem 0 fail 0 fence 0 at 0 0\n", "not ready"),
        (HEAD, "no member"),
        (HEAD + TWO, "no member"),
    ],
)
def test_a_dlm_that_is_unwell_denies(tmp_path: Path, status: str, why: str) -> None:
    assert why in asked(tmp_path, status)


@pytest.mark.parametrize(
    ("config", "why"),
    [
        ("enable_fencing=0 (dlm.conf)\n", "fencing is off"),
        ("", "does not say"),
        ("enable_fencing=yes\n", "does not say"),
    ],
)
def test_a_dlm_that_does_not_fence_denies(tmp_path: Path, config: str, why: str) -> None:
    assert why in asked(tmp_path, config=config)


def test_another_cluster_is_named(tmp_path: Path) -> None:
    assert "'other'" in asked(tmp_path, name="other\n")
    assert asked(tmp_path, name="other\n", cluster="") == ""


def test_no_dlm_no_answer_and_no_tool_deny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "does not run here" in asyncio.run(Dlm(cluster_name=tmp_path / "none").state("mg")).trouble
    (tmp_path / "cluster_name").write_text("mg")
    tool = tmp_path / "dlm_tool"
    tool.write_text("#!/bin/sh\nexec sleep 60\n")
    tool.chmod(0o755)
    monkeypatch.setattr(dlm, "ASK_S", 0.3)
    for path, why in (
        (tool, "did not answer"),
        (tmp_path / "gone", "No such file"),
        (Path("/bin/false"), "ended with"),
    ):
        monkeypatch.setattr(dlm, "TOOL", str(path))
        assert why in asyncio.run(Dlm(cluster_name=tmp_path / "cluster_name").state("mg")).trouble


@given(st.text(max_size=40), st.integers(0, 4))
def test_nothing_unexpected_is_taken_for_well(noise: str, line: int) -> None:
    lines = (HEAD + ONE + TWO).splitlines()
    lines.insert(line, noise)
    if noise.strip():
        assert status_of("\n".join(lines)) is not None


def o2cb(root: Path, files: Mapping[str, str]) -> None:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)


CONFIG = "sys/kernel/config/cluster/mg"
ONLINE = {
    "sys/fs/ocfs2/cluster_stack": "o2cb\n",
    f"{CONFIG}/node/node1/num": "1\n",
    f"{CONFIG}/node/node1/local": "1\n",
    f"{CONFIG}/node/node2/num": "2\n",
    f"{CONFIG}/node/node2/local": "0\n",
    f"{CONFIG}/heartbeat/mode": "local\n",
}
MOUNTED = {
    **ONLINE,
    f"{CONFIG}/heartbeat/F4D8/dev": "sda1\n",
    "sys/kernel/debug/o2hb/livenodes": "1 2 \n",
    "sys/kernel/debug/o2net/connected_nodes": "2 \n",
}


@pytest.mark.parametrize("files", [ONLINE, MOUNTED, {**ONLINE, f"{CONFIG}/heartbeat/F4D8/dev": "\n"}])
def test_an_o2cb_that_is_well_says_nothing(tmp_path: Path, files: Mapping[str, str]) -> None:
    o2cb(tmp_path, files)
    assert asyncio.run(O2cb(tmp_path).state("mg")).trouble == asyncio.run(O2cb(tmp_path).state("")).trouble == ""


@pytest.mark.parametrize(
    ("files", "why"),
    [
        ({}, "not loaded"),
        ({"sys/fs/ocfs2/cluster_stack": "pcmk\n"}, "'pcmk'"),
        ({"sys/fs/ocfs2/cluster_stack": "o2cb\n"}, "no o2cb cluster is online"),
        ({**ONLINE, f"{CONFIG}/node/node1/local": "0\n"}, "no node"),
        ({**ONLINE, f"{CONFIG}/node/node1/num": "\n"}, "cannot be read"),
        ({**MOUNTED, "sys/kernel/debug/o2hb/livenodes": "2 \n"}, "own heartbeat"),
        ({**MOUNTED, "sys/kernel/debug/o2net/connected_nodes": "\n"}, "node 2 beats and cannot be reached"),
        ({**ONLINE, f"{CONFIG}/heartbeat/F4D8/dev": "sda1\n"}, "cannot be read"),
    ],
)
def test_an_o2cb_that_is_unwell_denies(
    tmp_path: Path, files: Mapping[str, str], why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(o2cb_module, "TRIES", 2)
    o2cb(tmp_path, files)
    assert why in asyncio.run(O2cb(tmp_path).state("mg")).trouble


def test_a_node_that_has_just_begun_to_beat_is_waited_for(tmp_path: Path) -> None:
    o2cb(tmp_path, {**MOUNTED, "sys/kernel/debug/o2net/connected_nodes": "\n"})

    async def connects() -> str:
        asked = asyncio.create_task(O2cb(tmp_path).state("mg"))
        await asyncio.sleep(0.1)
        o2cb(tmp_path, MOUNTED)
        return (await asked).trouble

    assert asyncio.run(connects()) == ""


def test_another_o2cb_cluster_is_named(tmp_path: Path) -> None:
    o2cb(tmp_path, ONLINE)
    assert "of 'other'" in asyncio.run(O2cb(tmp_path).state("other")).trouble
