# SPDX-License-Identifier: GPL-2.0-or-later
"""The story that ``make run`` tells where this kernel cannot enforce: two nodes, one LUN, a real cluster store.

Every sentence that it prints was checked first; the oracle for "untouched" is the storage server's own log, not what
any node says. The tests play the same story on every kernel series.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tools.lab import ways
from tools.lab.cluster import Cluster
from tools.lab.vm import CommandFailed, GuestError, LostVM, Node, Result
from tools.lab.ways import Way

Record = dict[str, Any]


class NotAsTold(Exception):
    """A step of the story did not go as it should."""


class Story:
    """Plays on a cluster whose LUNs are free. ``say`` prints one line."""

    def __init__(self, cluster: Cluster, say: Callable[[str], None]) -> None:
        self.cluster, self.say = cluster, say
        self.one, self.two = cluster.nodes[:2]
        self.disk = cluster.disk
        self.audit: dict[str, bytes] = {}
        self.boot_id = ""  # of the boot of node-2 that ended
        self.off_s = 0.0  # when that was, time.monotonic()

    def part(self, node: Node, number: int = 1) -> str:
        """The node's name for a partition of the LUN."""
        return f"{node.device(self.disk)}{number}"

    def refused(self, node: Node, way: Way, dev: str, holder: str, fstype: str = "ext4") -> Record:
        """The way must be refused with EBUSY, naming the holder, in one record. Raises NotAsTold."""
        before = self.cluster.now_ns(node)
        outcome = node.run(way.started(dev, fstype), 60)
        if outcome.ok:
            raise NotAsTold(f"{node.name}: {way.name} on {dev} was let through")
        found = self.cluster.new_records(node, before)
        refusals = [r for r in found if r["effect"] == "refuse" and r["caller"]["comm"] == way.comm]
        if not refusals:
            raise NotAsTold(f"{node.name}: {way.name} left no record of a refusal: {_said(outcome)} {found}")
        record = refusals[0]
        wrong = [
            what
            for what, fine in {
                "errno": record["errno"]["name"] == "EBUSY",
                "holder": (record["holder"] or {}).get("node") == holder,
                "kind": record["kind"] == way.kind,
                "one record": way.kind != "mount" or len(found) == 1,
                "errno of the caller": way.comm != "attempt" or outcome.rc == 1,
                "words of the caller": way.says in (outcome.out + outcome.err).lower(),
            }.items()
            if not fine
        ]
        if wrong:
            raise NotAsTold(f"{node.name}: {way.name}: wrong {', '.join(wrong)}: {_said(outcome)} {found}")
        return record

    def works(self, node: Node, command: str, timeout_s: float = 60) -> Result:
        """The command must succeed at the first try. Raises NotAsTold."""
        outcome = node.run(command, timeout_s)
        if not outcome.ok:
            records = self.cluster.records(node)[-2:]
            raise NotAsTold(f"{node.name}: {command}: {_said(outcome)}; last records: {records}")
        return outcome

    def untouched(self, node: Node, since: int) -> None:
        """The storage must not have seen a write of the node. Raises NotAsTold."""
        writes = self.disk.writes_of(node, since=since)
        if writes:
            raise NotAsTold(f"the storage saw {len(writes)} writes of {node.name}, the first: {writes[0]}")

    def tell(self) -> None:
        """The whole story. Raises NotAsTold at the first step that is not as told."""
        self.first_mount()
        self.every_way_refused()
        self.another_namespace()
        self.handed_over()
        self.powered_off()
        self.stranded()
        self.confirmed()

    def first_mount(self) -> None:
        dev = self.part(self.one)
        self.works(self.one, f"mkfs.ext4 -qF {dev}")
        self.cluster.wait_free(self.one, dev.removeprefix("/dev/"))
        self.works(
            self.one,
            f"mount -t ext4 {dev} {ways.MOUNT_POINT} && echo 'written by node-1' > {ways.MOUNT_POINT}/f && sync",
        )
        self.say(f"node-1 makes an ext4 on {dev} and mounts it: permitted, the lease is its own")

    def every_way_refused(self) -> None:
        mark, dev, disk = self.disk.mark(), self.part(self.two), self.two.device(self.disk)
        self.say(f"node-2 tries to get at {dev}:")
        for way in (*ways.MOUNTS, *ways.RAW, ways.SWAP):
            record = self.refused(self.two, way, dev, "node-1")
            self.say(f"  {way.name:32} EBUSY: {record['reason']}")
        self.say(f"node-2 tries to get at the whole disk {disk}, of which node-1 uses a part:")
        for way in ways.WHOLE_DISK:
            record = self.refused(self.two, way, disk, "node-1")
            self.say(f"  {way.name:32} EBUSY: {record['reason']}")
        self.untouched(self.two, mark)
        self.say("the storage server's log: not one write of node-2")

    def another_namespace(self) -> None:
        holder = self.one.spawn("exec unshare -m --propagation private sleep 600")
        time.sleep(1.5)
        self.works(self.one, f"umount {ways.MOUNT_POINT} && ! grep -q {ways.MOUNT_POINT} /proc/mounts")
        self.say("node-1 unmounts, but another mount namespace there still has the filesystem")
        time.sleep(2.5)
        mark = self.disk.mark()
        self.refused(self.two, ways.MOUNTS[0], self.part(self.two), "node-1")
        self.untouched(self.two, mark)
        self.say("  node-2's mount is refused still: umount(2) returning 0 proves nothing")
        holder.kill()
        self.cluster.wait_free(self.one, self.part(self.one).removeprefix("/dev/"))
        self.say("that namespace ends: node-1 gives the lease back")

    def handed_over(self) -> None:
        before = max(r["token"] for r in self.cluster.records(self.one) if r.get("effect") == "permit")
        since = self.cluster.now_ns(self.two)
        dev = self.part(self.two)
        self.works(self.two, f"mount -t ext4 {dev} {ways.MOUNT_POINT}")
        read = self.works(self.two, f"cat {ways.MOUNT_POINT}/f").out.strip()
        record = self.cluster.new_records(self.two, since)[0]
        if read != "written by node-1" or record["token"] <= before:
            raise NotAsTold(f"node-2 reads {read!r} under token {record['token']}, node-1 had {before}")
        self.say(
            f"node-2 mounts it at the first try, with token {record['token']} (node-1 had {before}), and reads: {read}"
        )

    def powered_off(self) -> None:
        self.audit["node-2"] = self.two.get("/var/log/enforcer/audit.jsonl")
        self.boot_id, self.off_s = self.two.boot_id, time.monotonic()
        self.two.power_off()
        self.say("node-2 is powered off")

    def stranded(self) -> None:
        self.wait_stranded("node-2")
        dev = self.part(self.one)
        record = self.refused(self.one, ways.MOUNTS[0], dev, "node-2")
        command = self.command()
        if "stranded" not in record["reason"] or record["remedy"] != command:
            raise NotAsTold(f"not stranded with the command to type: {record}")
        self.say(f"node-1's mount is refused: {record['reason']}")
        self.say(f"  to do, once node-2 is known to be off: {command}")

    def confirmed(self) -> None:
        command, dev = self.command(), self.part(self.one)
        self.works(self.one, self.cluster.cli(command.removeprefix("enforcer ")))
        self.works(self.one, f"mount -t ext4 {dev} {ways.MOUNT_POINT} && grep -q node-1 {ways.MOUNT_POINT}/f")
        self.say("that was typed: node-1 mounts it")
        self.audit["node-1"] = self.one.get("/var/log/enforcer/audit.jsonl")

    def command(self) -> str:
        """What must be typed once node-2 is known to be off."""
        return f"enforcer fence confirm node-2 --boot-id {self.boot_id}"

    def wait_stranded(self, name: str, timeout_s: float = 60) -> None:
        """Wait until a node's session has run out."""
        end = time.monotonic() + timeout_s
        while time.monotonic() < end:
            leases = self.cluster.ask(self.one, "who").get("leases", [])
            if any(h["holder"]["node"] == name and h["liveness"] == "stranded" for h in leases):
                return
            time.sleep(1)
        raise NotAsTold(f"the session of {name} did not run out within {timeout_s:.0f} s")


def _said(outcome: Result) -> str:
    return f"exit {outcome.rc}, {(outcome.out + outcome.err).strip()[:400]!r}"


def show_audit(files: dict[str, bytes], workdir: Path) -> None:
    """The audit tables of the nodes, as ``enforcer audit`` draws them."""
    from enforcer.cli.main import main as cli

    for node, content in sorted(files.items()):
        path = workdir / f"{node}.jsonl"
        path.write_bytes(content)
        print(f"\nThe audit log of {node}:", flush=True)
        cli(["audit", "--file", str(path)])


def main(arguments: Sequence[str] = ()) -> int:
    """Tell the story on the kernel series named first (6.12 by default); 0 only if every step was as told."""
    series = arguments[0] if arguments else "6.12"
    began = time.monotonic()

    def say(line: str) -> None:
        print(f"[{time.monotonic() - began:6.1f} s] {line}", flush=True)

    say(f"two nodes with Debian's kernel {series} boot, an etcd and a storage server with a log of its own start")
    say("(on emulated CPUs that takes most of a minute)")
    try:
        with Cluster(series, say=lambda line: say(f"  {line}")) as cluster:
            say(
                f"both nodes enforce (kernel {cluster.lab.kernel.version}): one policy, one rule for the LUN they share"
            )
            story = Story(cluster, say)
            story.tell()
            show_audit(story.audit, cluster.lab.workdir)
    except (NotAsTold, LostVM, CommandFailed, GuestError) as error:
        print(f"\nNOT AS TOLD: {error}", file=sys.stderr)
        return 1
    say("every step was as told")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
