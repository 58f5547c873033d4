# SPDX-License-Identifier: GPL-2.0-or-later
"""An example of an external lease store: the hand-shake of docs/external-protocol.md over one shared directory.

    gfs_clusterd.py DIRECTORY                   speaks on standard input and output, for [store] command
    gfs_clusterd.py DIRECTORY --socket PATH     serves one enforcerd at a time on a unix socket, for [store] socket

One of these runs on each node; the directory is what they have in common. Everything that they know is one JSON file
in it, written whole under one lock, so that a set is taken in one step or not at all. A node is live while its
gfs_clusterd holds the lock on ``alive/NODE``: flock(2), which ends with the process, however it ends. So the directory
must be on a filesystem whose locks hold between the nodes (NFSv4, GFS2), and never on a device that is guarded.

It shows the protocol and can be read in one go; it is no cluster manager: nobody here fences anybody. One thread
answers in the order of the questions, and by that alone keeps the promise that nothing of an earlier connection is
carried out after the next one's hello. The standard library is all that it needs.
"""

import argparse
import contextlib
import fcntl
import json
import os
import selectors
import signal
import socket
import sys
import time
import urllib.parse
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

SCHEMA = 1
LINE_BYTES = 1 << 20
NAME = "gfs_clusterd example 1"
Json = dict[str, Any]


class Refusal(Exception):
    """``kind`` is "unknown" (cannot tell) or "lost" (this boot has no right to anything any more)."""

    def __init__(self, reason: str, *, kind: str = "unknown", remedy: str = "") -> None:
        super().__init__(reason)
        self.body = {"answer": kind, "reason": reason, "remedy": remedy}


class Directory:
    """The shared state. ``locked()`` is one step; what it changed is on disk when it ends."""

    def __init__(self, path: Path) -> None:
        self.path = path
        (path / "alive").mkdir(parents=True, exist_ok=True)
        self._alive = -1  # our own lock, once we know the node that we serve

    @contextlib.contextmanager
    def locked(self) -> Iterator[Json]:
        with open(self.path / "lock", "a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            file = self.path / "state.json"
            before = file.read_text() if file.exists() else "{}"
            state = {"token": 0, "leases": [], "nodes": {}, "fenced": [], "last": {}, **json.loads(before)}
            yield state
            after = json.dumps(state, sort_keys=True)
            if after != before:
                draft = self.path / "state.new"
                with open(draft, "w") as new:
                    new.write(after)
                    new.flush()
                    os.fsync(new.fileno())
                draft.rename(file)

    def live(self, node: str) -> bool:
        """Call it in a step only: for a moment the lock is ours."""
        try:
            probe = os.open(self._alive_file(node), os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        try:
            fcntl.flock(probe, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(probe)
        return False

    def come_alive(self, node: str) -> bool:
        """False if another gfs_clusterd serves that node."""
        if self._alive < 0:
            mine = os.open(self._alive_file(node), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(mine, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(mine)
                return False
            self._alive = mine
        return True

    def _alive_file(self, node: str) -> Path:
        return self.path / "alive" / urllib.parse.quote(node, safe="")


class Node:
    """What one connection may ask, after its hello. Each call is one step on the shared directory."""

    def __init__(self, directory: Directory, me: Json) -> None:
        self.directory, self.me = directory, me

    def answer(self, call: str, body: Json) -> Json:
        calls: dict[str, Callable[[Json, Json], Json]] = {
            "authorise": self.authorise,
            "mounted": self.mounted,
            "gone": self.gone,
            "refused": self.gone,
            "who": self.who,
            "adopt": self.adopt,
            "forget": self.forget,
            "fenced": self.fenced,
            "publish": self.publish,
        }
        if call not in calls:
            raise Refusal(f"{call} is not spoken here")
        with self.directory.locked() as state:
            if fenced(state, self.me) and call != "who":
                raise Refusal("this boot was confirmed fenced", kind="lost", remedy="reboot this node")
            return calls[call](state, body)

    def authorise(self, state: Json, body: Json) -> Json:
        wanted = {claim["resource"]: claim["mode"] for claim in body["claims"]}
        mine = {lease["resource"]: lease for lease in state["leases"] if self.same_boot(lease["holder"])}
        mine = {resource: mine[resource] for resource in wanted if resource in mine}
        if body["holding"] != {resource: lease["token"] for resource, lease in mine.items()}:
            return {"answer": "changed", "leases": self.shown(state, mine.values())}
        for resource, lease in mine.items():
            if lease["mode"] != wanted[resource]:
                wanted[resource] = "EX"
        blocking: list[Json] = []
        silent: list[Json] = []
        for lease in state["leases"]:
            if not self.same_boot(lease["holder"]) and self.in_the_way(lease, wanted):
                proven = self.liveness(state, lease["holder"]) in ("fenced", "rebooted")
                (silent if proven else blocking).append(lease)
        if blocking:
            return {"answer": "blocked", "leases": self.shown(state, blocking)}
        luns = {resource.split("/")[0] for resource in wanted}
        tokens = {lease["token"] for lease in mine.values()}
        as_wanted = all(mine[r]["mode"] == m and mine[r]["holder"] == self.me for r, m in wanted.items() if r in mine)
        if body["keep"] and mine.keys() == wanted.keys() and len(tokens) == 1 and as_wanted:
            return self.granted(state, tokens.pop(), list(mine.values()), [], luns, kept=True)
        taken_over = self.shown(state, silent)
        state["token"] += 1
        common = {"holder": self.me, "token": state["token"], "since": utc_now(), "guarantee": "none"}
        leases = [{**common, "resource": r, "mode": wanted[r], "facts": body["facts"]} for r in sorted(wanted)]
        over = [*silent, *mine.values()]
        state["leases"] = [lease for lease in state["leases"] if lease not in over] + leases
        state["last"].update({lun: {"node": self.me["node"], "token": state["token"]} for lun in luns})
        return self.granted(state, state["token"], leases, taken_over, luns, kept=False)

    def granted(self, state: Json, token: int, leases: Any, over: Any, luns: set[str], *, kept: bool) -> Json:
        last = {lun: state["last"][lun] for lun in luns}
        told = {"leases": self.shown(state, leases), "taken_over": over, "last": last}
        return {"answer": "granted", "token": token, "kept": kept, **told}

    def mounted(self, state: Json, body: Json) -> Json:
        for lease in self.held(state, body):
            lease["facts"] = {**lease["facts"], "mounted": "yes"}
        return {"answer": "done"}

    def gone(self, state: Json, body: Json) -> Json:
        over = self.held(state, body)
        state["leases"] = [lease for lease in state["leases"] if lease not in over]
        return {"answer": "released", "resources": [lease["resource"] for lease in over]}

    def who(self, state: Json, body: Json) -> Json:
        nodes = [
            {**known, "live": self.liveness(state, known["holder"]) == "live"} for known in state["nodes"].values()
        ]
        leases = self.shown(state, state["leases"])
        return {"answer": "state", "leases": leases, "nodes": nodes, "fenced": state["fenced"], "last": state["last"]}

    def adopt(self, state: Json, body: Json) -> Json:
        mine = [lease for lease in state["leases"] if self.same_boot(lease["holder"])]
        for lease in mine:
            lease["holder"] = self.me
        return {"answer": "leases", "leases": self.shown(state, mine)}

    def forget(self, state: Json, body: Json) -> Json:
        node = self.me["node"]
        old = [x for x in state["leases"] if x["holder"]["node"] == node and not self.same_boot(x["holder"])]
        answer = {"answer": "leases", "leases": self.shown(state, old)}
        state["leases"] = [lease for lease in state["leases"] if lease not in old]
        state["fenced"] = [fact for fact in state["fenced"] if fact["node"] != node]
        return answer

    def fenced(self, state: Json, body: Json) -> Json:
        node, boot_id = body["node"], body["boot_id"]
        known = state["nodes"].get(node)
        if known and known["holder"]["boot_id"] == boot_id and self.directory.live(node) and not body["force"]:
            raise Refusal(f"{node} is live: its gfs_clusterd holds its lock")
        if not fenced(state, body):
            state["fenced"].append({"node": node, "boot_id": boot_id, "since": utc_now()})
        return {"answer": "done"}

    def publish(self, state: Json, body: Json) -> Json:
        state["nodes"][self.me["node"]].update(luns=body["luns"], policy=body["policy"])
        return {"answer": "done"}

    # -- who is in whose way -------------------------------------------------------------------------------------

    def in_the_way(self, lease: Json, wanted: Json) -> bool:
        if lease["holder"]["node"] == self.me["node"] and lease["resource"] in wanted:
            return True  # of an earlier boot of ours
        return any(
            meet(lease["resource"], resource) and not (lease["mode"] == mode != "EX")
            for resource, mode in wanted.items()
        )

    def liveness(self, state: Json, holder: Json) -> str:
        known = state["nodes"].get(holder["node"])
        if fenced(state, holder):
            return "fenced"
        if known is None or not self.directory.live(holder["node"]):
            return "stranded"
        return "live" if known["holder"]["boot_id"] == holder["boot_id"] else "rebooted"

    def held(self, state: Json, body: Json) -> list[Json]:
        return [
            lease
            for lease in state["leases"]
            if self.same_boot(lease["holder"])
            and lease["token"] == body["token"]
            and lease["resource"] in body["resources"]
        ]

    def shown(self, state: Json, leases: Any) -> list[Json]:
        return [{**lease, "liveness": self.liveness(state, lease["holder"])} for lease in leases]

    def same_boot(self, holder: Json) -> bool:
        return (holder["node"], holder["boot_id"]) == (self.me["node"], self.me["boot_id"])


def fenced(state: Json, holder: Json) -> bool:
    return any((fact["node"], fact["boot_id"]) == (holder["node"], holder["boot_id"]) for fact in state["fenced"])


def utc_now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def meet(one: str, other: str) -> bool:
    """True if one lies in the other: ``disk`` and ``disk/p1``, but not ``disk/p1`` and ``disk/p10``."""
    return f"{one}/".startswith(f"{other}/") or f"{other}/".startswith(f"{one}/")


class Server:
    """Connections of one node's enforcerd, of which the last that said hello is the one."""

    def __init__(self, directory: Directory) -> None:
        self.directory = directory
        self.nodes: dict[int, Node | None] = {}  # by the descriptor that is read
        self.buffers: dict[int, bytes] = {}
        self.selector = selectors.DefaultSelector()

    def add(self, reading: int, writing: int) -> None:
        self.nodes[reading], self.buffers[reading] = None, b""
        self.selector.register(reading, selectors.EVENT_READ, writing)

    def listen(self, path: str) -> None:
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        Path(path).unlink(missing_ok=True)
        listener.bind(path)
        Path(path).chmod(0o600)
        listener.listen()
        self.selector.register(listener, selectors.EVENT_READ, listener)

    def serve(self) -> None:
        """Until the last connection on standard input ends, or for ever."""
        while self.selector.get_map():
            for key, _ in self.selector.select():
                if isinstance(key.fileobj, socket.socket):
                    accepted = key.fileobj.accept()[0].detach()
                    self.add(accepted, accepted)
                elif key.fd in self.nodes:
                    try:
                        self.read(key.fd, key.data)
                    except (OSError, ValueError, KeyError, TypeError) as error:
                        print(f"{NAME}: a connection was ended: {error!r}", file=sys.stderr, flush=True)
                        self.drop(key.fd)

    def read(self, reading: int, writing: int) -> None:
        data = os.read(reading, 65536)
        *lines, rest = (self.buffers[reading] + data).split(b"\n")
        for line in lines:
            answer = self.answer(reading, line)
            sent = json.dumps(answer).encode() + b"\n"
            while sent:
                sent = sent[os.write(writing, sent) :]
        if not data or len(rest) > LINE_BYTES:
            self.drop(reading)
        else:
            self.buffers[reading] = rest

    def answer(self, reading: int, line: bytes) -> Json:
        request = json.loads(line)
        head = {"schema": SCHEMA, "id": request["id"]}
        try:
            if request["schema"] != SCHEMA:
                raise Refusal(f"schema {request['schema']} is not spoken here, but {SCHEMA}")
            if request["call"] == "hello":
                return {**head, **self.hello(reading, request)}
            node = self.nodes[reading]
            if node is None:
                raise Refusal("hello comes first")
            return {**head, **node.answer(request["call"], request)}
        except Refusal as refusal:
            return {**head, **refusal.body}

    def hello(self, reading: int, request: Json) -> Json:
        me = request["holder"]
        with self.directory.locked() as state:
            if fenced(state, me):
                raise Refusal("this boot was confirmed fenced", kind="lost", remedy="reboot this node")
            if not self.directory.come_alive(me["node"]):
                raise Refusal(f"another gfs_clusterd serves {me['node']}")
            known = state["nodes"].get(me["node"], {"luns": [], "policy": ""})
            state["nodes"][me["node"]] = {**known, "holder": me}
        for other in [fd for fd, node in self.nodes.items() if node is not None and fd != reading]:
            self.drop(other)
        self.nodes[reading] = Node(self.directory, me)
        return {"answer": "hello", "peer": NAME, "optional": ["mounted"]}

    def drop(self, reading: int) -> None:
        self.selector.unregister(reading)
        del self.nodes[reading], self.buffers[reading]
        os.close(reading)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=Path, help="what all nodes have in common")
    parser.add_argument("--socket", help="serve there instead of on standard input and output")
    chosen = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    server = Server(Directory(chosen.directory))
    if chosen.socket:
        server.listen(chosen.socket)
    else:
        server.add(0, 1)
    server.serve()
    return 0


if __name__ == "__main__":
    sys.exit(main())
