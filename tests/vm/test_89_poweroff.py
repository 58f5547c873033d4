# SPDX-License-Identifier: GPL-2.0-or-later
"""A planned poweroff needs nobody: what was mounted by hand is unmounted, its lease given back, and another mounts it.

The guests have no systemd. What it would run is taken from the units: first enforcer-drain's stop, then SIGTERM for
enforcerd and for the keeper, then the power goes.
"""

from __future__ import annotations

import re
import time

import pytest

from tools.lab import ways
from tools.lab.cluster import CHECKOUT, Cluster
from tools.lab.story import Story
from tools.lab.vm import Node

pytestmark = [pytest.mark.full, pytest.mark.own_lab]
END_DAEMON = (
    "kill $(cat /run/enforcer/enforcerd.lock); while ! flock -n /run/enforcer/enforcerd.lock true; do sleep 0.1; done"
)
END_KEEPER = (
    "kill $(pgrep -f '[e]nforcer.keeper.main'); while ! flock -n /run/enforcer/keeper.lock true; do sleep 0.1; done"
)
MOUNT_LATENCY = """
import subprocess, time
began = time.clock_gettime(time.CLOCK_BOOTTIME)
done = subprocess.run(["mount", "-t", "ext4", dev, target], capture_output=True, text=True)
result = [done.returncode, done.stderr, time.clock_gettime(time.CLOCK_BOOTTIME) - began]
"""


def stop_command() -> str:
    """What systemd runs when enforcer-drain is stopped, as arguments of ``enforcer``."""
    text = (CHECKOUT / "tools/systemd/enforcer-drain.service").read_text()
    found = re.search(r"^ExecStop=\S+ -I -m enforcer\.cli\.main (.+)$", text, re.MULTILINE)
    assert found
    return found[1]


def test_a_daemon_that_ends_gives_back_what_was_just_unmounted(
    story: Story, one: Node, two: Node, cluster: Cluster
) -> None:
    dev = story.part(one)
    story.works(one, f"mkfs.ext4 -qF {dev} && mount {dev} {ways.MOUNT_POINT}")
    story.works(one, f"umount {ways.MOUNT_POINT}; {END_DAEMON}")
    assert cluster.ask(two, "who")["leases"] == []
    cluster.start_daemon(one)
    cluster.ready(one)


@pytest.mark.timeout(600)
def test_the_other_node_mounts_at_once_what_a_powered_off_node_had(
    story: Story, one: Node, two: Node, cluster: Cluster
) -> None:
    story.works(two, f"mount {story.part(two)} {ways.MOUNT_POINT} && echo two > {ways.MOUNT_POINT}/f")
    busy = two.spawn(f"exec sleep 3 9>{ways.MOUNT_POINT}/open")  # a service that takes a moment to end
    story.refused(one, ways.MOUNTS[0], story.part(one), "node-2")
    said = story.works(two, cluster.cli(stop_command())).out
    assert "nothing is held here" in said and busy.wait(0) is not None
    story.works(two, f"{END_DAEMON}; {END_KEEPER}")
    two.spawn("sync; echo o >/proc/sysrq-trigger")
    two.wait_gone()
    off = time.monotonic()
    code, error, guest_s = one.py(MOUNT_LATENCY, dev=story.part(one), target=ways.MOUNT_POINT)
    took_s = time.monotonic() - off
    print(f"mounted {took_s:.2f} s after the poweroff ({guest_s:.2f} s of them in mount(8))")
    assert code == 0, error
    assert took_s < 5
    assert one.run(f"cat {ways.MOUNT_POINT}/f").out == "two\n"
    story.works(one, f"umount {ways.MOUNT_POINT}")
    two.start()
    cluster.furnish(two)
    cluster.ready(two)
    cluster.wait_free(one, story.part(one))
