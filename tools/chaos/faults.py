# SPDX-License-Identifier: GPL-2.0-or-later
"""The hands of the faults: what is done to a node, its cable or the store, and how it is undone.

A row here needs one in ``plan.FAULTS``, which says when it may be used. What ends a boot has no undoing: the runner
boots the node.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from tools.lab.cluster import Cluster
from tools.lab.etcd import EtcdServer
from tools.lab.vm import Node

DAEMON = "$(cat /run/enforcer/enforcerd.lock)"
KEEPER = "$(pgrep -f '[e]nforcer.keeper.main')"


@dataclass
class Scene:
    """What a fault is done to."""

    cluster: Cluster
    node: Node
    etcd: EtcdServer
    leader: int = field(default=0)


def _signal(number: str, whom: str) -> Callable[[Scene], None]:
    def send(scene: Scene) -> None:
        scene.node.run(f"kill -{number} {whom}")

    return send


def _start_daemon(scene: Scene) -> None:
    scene.node.run("rm -f /run/enforcer/control.sock")
    scene.cluster.start_daemon(scene.node)


def _start_keeper(scene: Scene) -> None:
    scene.node.spawn("exec /bin/bash /run/start-keeper")


def _kill_leader(scene: Scene) -> None:
    scene.leader = scene.etcd.leader()
    scene.etcd.kill(scene.leader)


def _nothing(_scene: Scene) -> None:
    """It is mended by a boot."""


Act = Callable[[Scene], None]
ACTS: dict[str, tuple[Act, Act]] = {
    "kill-enforcerd": (_signal("KILL", DAEMON), _start_daemon),
    "stop-enforcerd": (_signal("STOP", DAEMON), _signal("CONT", DAEMON)),
    "kill-keeper": (_signal("KILL", KEEPER), _start_keeper),
    "stop-keeper": (_signal("STOP", KEEPER), _signal("CONT", KEEPER)),
    "kill-leader": (_kill_leader, lambda scene: scene.etcd.start()),
    "freeze-etcd": (lambda scene: scene.etcd.pause(), lambda scene: scene.etcd.resume()),
    "cut-link": (lambda scene: scene.node.link(False), lambda scene: scene.node.link(True)),
    "pause-node": (lambda scene: scene.node.pause(), lambda scene: scene.node.resume()),
    "power-off": (lambda scene: scene.node.power_off(), _nothing),
}
