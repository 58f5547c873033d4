# SPDX-License-Identifier: GPL-2.0-or-later
"""Signals, stops and the freezer while a mount waits: one ask, one record, and the verdict in the end."""

from __future__ import annotations

import pytest

from tools.lab.cluster import Cluster
from tools.lab.vm import Node

pytestmark = pytest.mark.full

# a parent that only looks on; the child has handlers with SA_RESTART, as every Go program has for SIGURG
WAITER = """
import ctypes, os, signal, time
child = os.fork()
if not child:
    libc = ctypes.CDLL(None, use_errno=True)
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    for number in (signal.SIGURG, signal.SIGCHLD):
        signal.signal(number, lambda *_: None)
        signal.siginterrupt(number, False)
    os._exit(0 if libc.mount(dev.encode(), b"/run/m", b"xfs", 0, None) == 0 else ctypes.get_errno())
time.sleep(1.5)
DISTURB
_, status = os.waitpid(child, 0)
result = os.WTERMSIG(status) + 1000 if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)
"""
DISTURBANCES = {
    "SIGURG": "for _ in range(20): os.kill(child, signal.SIGURG); time.sleep(0.05)",
    "SIGCHLD": "for _ in range(20): os.kill(child, signal.SIGCHLD); time.sleep(0.05)",
    "stop and continue": "os.kill(child, signal.SIGSTOP); time.sleep(2); os.kill(child, signal.SIGCONT)",
    "the freezer": """
os.makedirs("/sys/fs/cgroup/frozen", exist_ok=True)
open("/sys/fs/cgroup/frozen/cgroup.procs", "w").write(str(child))
open("/sys/fs/cgroup/frozen/cgroup.freeze", "w").write("1"); time.sleep(2)
open("/sys/fs/cgroup/frozen/cgroup.freeze", "w").write("0")""",
}


@pytest.mark.parametrize("what", DISTURBANCES)
def test_a_disturbed_waiter_ends_with_the_verdict(held: str, two: Node, cluster: Cluster, what: str) -> None:
    before, asks = cluster.now_ns(two), cluster.ask(two, "status")["counters"]["asks"]
    assert two.py(WAITER.replace("DISTURB", DISTURBANCES[what]), 60, dev=held) == 16, "EBUSY, the verdict"
    assert cluster.ask(two, "status")["counters"]["asks"] == asks + 1
    records = cluster.new_records(two, before)
    assert [r["effect"] for r in records] == ["refuse"], records


def test_ctrl_c_ends_it_at_once(held: str, two: Node, cluster: Cluster) -> None:
    before = cluster.now_ns(two)
    disturb = "began = time.monotonic(); os.kill(child, signal.SIGINT)"
    source = WAITER.replace("DISTURB", disturb) + "\nresult = [result, time.monotonic() - began]"
    how, seconds = two.py(source, 60, dev=held)
    assert how == 1002 and seconds < 1.0
    record = cluster.only_record(two, before, timeout_s=20)
    assert record["source"] == "caller-gone"
