# SPDX-License-Identifier: GPL-2.0-or-later
"""``make run`` on a kernel that can enforce: it shows what it sees, refuses nothing and leaves nothing behind."""

from __future__ import annotations

import sys
import time

import pytest

from tools.lab import ways
from tools.lab.cluster import CHECKOUT, Cluster
from tools.lab.story import Story
from tools.lab.vm import Node

pytestmark = pytest.mark.full


def test_watching_shows_and_refuses_nothing(story: Story, one: Node, cluster: Cluster) -> None:
    story.works(one, f"umount {ways.MOUNT_POINT}; pkill -f [e]nforcer.keeper; pkill -f [e]nforcer.daemon; true")
    story.works(one, "while ! flock -n /run/enforcer/enforcerd.lock true; do sleep 0.2; done", 30)
    story.works(one, f"cd {CHECKOUT}; {sys.executable} -m enforcer.daemon.main --detach")
    watch = one.spawn(f"cd {CHECKOUT}; exec {sys.executable} -m tools.run")
    for _ in range(120):
        if "enforcement began" in watch.output():
            break
        time.sleep(0.5)
    dev = one.device(cluster.ext4)
    story.works(one, f"mount -t ext4 {dev} {ways.MOUNT_POINT} && umount {ways.MOUNT_POINT}")
    time.sleep(2)
    watch.kill("INT")
    assert watch.wait(30) == 0, watch.output()
    shown = watch.output()
    assert f"mount ext4 {dev}" in shown and "permit" in shown, shown
    assert "nothing stays in force" in shown, shown
    story.works(one, "test ! -e /sys/fs/bpf/enforcer && ! grep -q enforcer /proc/mounts")
