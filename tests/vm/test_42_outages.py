# SPDX-License-Identifier: GPL-2.0-or-later
"""enforcerd dead, stopped or crash-looping for three times the TTL: no mount notices, and each stays leased."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from tools.lab.cluster import Cluster
from tools.lab.story import Story
from tools.lab.vm import Node, Spawned

pytestmark = pytest.mark.full
LIVE = "/run/live"
PATIENCE_S = 7.0  # for one write of a busy machine; the keeper would let a waiting one go on after 8 s
PID = "$(cat /run/enforcer/enforcerd.lock)"
WRITER = f"""exec python3 -c '
import os, time
worst = 0.0
while True:
    began = time.monotonic()
    with open("{LIVE}/f", "ab") as f:
        f.write(b"x" * 4096)
        os.fsync(f.fileno())
    worst = max(worst, time.monotonic() - began)
    with open("/run/writer.new", "w") as f:
        f.write(f"%.3f" % worst)
    os.rename("/run/writer.new", "/run/writer")
    time.sleep(0.1)
'"""


def _dead(_cluster: Cluster, node: Node, seconds: float) -> None:
    node.run(f"kill -9 {PID}; rm -f /run/enforcer/control.sock")
    time.sleep(seconds)


def _crash_looping(cluster: Cluster, node: Node, seconds: float) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        node.run(f"kill -9 {PID}; rm -f /run/enforcer/control.sock")
        cluster.start_daemon(node)
        time.sleep(6)  # somewhere in its start, each time elsewhere


def _stopped(_cluster: Cluster, node: Node, seconds: float) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        node.run(f"kill -STOP {PID}")  # the keeper ends it after its patience, and starts another
        time.sleep(3)


@pytest.fixture
def mounted(story: Story, cluster: Cluster) -> Iterator[dict[str, tuple[str, int, Spawned]]]:
    """Each node writes to a partition of its own: device, token, writer."""
    found = {}
    for number, node in enumerate(cluster.nodes, 1):
        dev = story.part(node, number)
        story.works(node, f"mkfs.ext4 -qF {dev} && mkdir -p {LIVE} && mount {dev} {LIVE}")
        found[node.name] = dev, int(cluster.state_of(node, dev)["token"]), node.spawn(WRITER)
    yield found
    for node in cluster.nodes:
        dev, _, writer = found[node.name]
        writer.kill()
        story.works(node, f"while ! umount {LIVE}; do sleep 0.2; done")
        cluster.wait_free(node, dev)


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    "outages", [(_crash_looping, _dead), (_dead, _stopped)], ids=["crash-looping and dead", "dead and stopped"]
)
def test_no_mount_is_disturbed_and_the_token_stays(
    mounted: dict[str, tuple[str, int, Spawned]], cluster: Cluster, outages: tuple[object, object]
) -> None:
    with ThreadPoolExecutor(2) as both:
        list(both.map(lambda how, node: how(cluster, node, 3.0 * cluster.ttl_s), outages, cluster.nodes))
    for node in cluster.nodes:
        dev, token, writer = mounted[node.name]
        assert writer.wait(0) is None, f"the writer failed: {writer.output()}"
        assert float(node.get("/run/writer")) < PATIENCE_S, "a write waited for the daemon"
        node.run(f"kill -CONT {PID}; kill -9 {PID}; rm -f /run/enforcer/control.sock")
        cluster.start_daemon(node)
        cluster.ready(node)
        state = cluster.state_of(node, dev)
        assert (state["state"], state["token"]) == ("live", token), state
