# SPDX-License-Identifier: GPL-2.0-or-later
"""The parts of the lab that need no virtual machine."""

from __future__ import annotations

import gzip
import json
import lzma
import os
import socket
import threading
from pathlib import Path

import pytest

from tools.lab import agent, initramfs, prerequisites, relay
from tools.lab.channel import AgentChannel, ChannelLost
from tools.lab.disk import LogReader
from tools.lab.kernels import Kernel, KernelError, choose, extract_elf, mirror_of
from tools.lab.network import etcd_network, hardware_address, peer_network
from tools.lab.vm import LostVM, Node

DEB822 = """\
Types: deb
# http://snapshot.example/archive
URIs: http://mirror.example/debian/
Suites: bookworm bookworm-updates
Components: main

Types: deb
URIs: http://mirror.example/debian-security
Suites: bookworm-security
"""


def test_mirror_of_deb822() -> None:
    assert mirror_of([DEB822]) == "http://mirror.example/debian"


def test_mirror_of_one_line_format_with_options() -> None:
    text = "# deb http://no.example/x x main\ndeb [arch=amd64 signed-by=/k] https://m.example/debian x y\n"
    assert mirror_of(["", text]) == "https://m.example/debian"


def test_mirror_of_nothing() -> None:
    with pytest.raises(KernelError):
        mirror_of(["deb http://security.debian.org/debian-security bookworm-security main"])


def test_choose_takes_numbers_for_numbers_and_leaves_flavours_out() -> None:
    names = [
        "linux-image-6.12.9+deb13-amd64",
        "linux-image-6.12.107+deb12-amd64",
        "linux-image-6.12.107+deb13-amd64",
        "linux-image-6.12.200+deb13-amd64-unsigned",
        "linux-image-6.12.200+deb13-amd64-dbg",
        "linux-image-6.12.200+deb13-cloud-amd64",
        "linux-image-6.12.200+deb13-rt-amd64",
        "linux-image-amd64",
        "linux-image-6.18.15+deb13-amd64",
        "linux-binary-7.3.4+deb13-amd64",
        "linux-image-7.3.4+deb13-amd64",
        "linux-binary-unsigned-7.4.0+deb13-amd64",
    ]
    assert choose(names, "6.12") == [
        "6.12.107+deb13-amd64",
        "6.12.107+deb12-amd64",
        "6.12.9+deb13-amd64",
    ]
    assert choose(names, "newest")[:2] == ["7.3.4+deb13-amd64", "6.18.15+deb13-amd64"]
    assert choose(names, "6.1") == []


def test_extract_elf_refuses_what_is_no_kernel() -> None:
    with pytest.raises(KernelError):
        extract_elf(b"\0" * 4096)


def test_load_order_puts_needed_modules_first() -> None:
    dep = (
        "kernel/fs/9p/9p.ko: kernel/net/9p/9pnet.ko kernel/fs/netfs/netfs.ko\n"
        "kernel/net/9p/9pnet.ko: kernel/fs/netfs/netfs.ko\n"
        "kernel/net/9p/9pnet_virtio.ko.xz: kernel/net/9p/9pnet.ko kernel/fs/netfs/netfs.ko\n"
        "kernel/fs/netfs/netfs.ko:\n"
    )
    order = initramfs.load_order(dep, "kernel/drivers/virtio/virtio-pci.ko\n", ("virtio_pci", "9pnet_virtio", "9p"))
    names = [path.rpartition("/")[2] for path in order]
    assert names == ["netfs.ko", "9pnet.ko", "9pnet_virtio.ko.xz", "9p.ko"]


def test_load_order_names_what_is_missing() -> None:
    with pytest.raises(FileNotFoundError, match="overlay"):
        initramfs.load_order("", "", ("overlay",))


@pytest.mark.parametrize(("suffix", "pack"), [("", bytes), (".xz", lzma.compress), (".gz", gzip.compress)])
def test_plain_module(tmp_path: Path, suffix: str, pack: object) -> None:
    path = tmp_path / f"m.ko{suffix}"
    path.write_bytes(pack(b"\x7fELF module"))
    assert initramfs.plain_module(path) == b"\x7fELF module"


def test_cpio_is_aligned_and_ends() -> None:
    archive = initramfs.cpio({"bin": (0o040755, b""), "bin/a": (0o100755, b"abc")})
    assert archive.startswith(b"070701")
    assert len(archive) % 4 == 0
    assert archive.count(b"070701") == 3
    assert b"TRAILER!!!\0" in archive
    start = archive.index(b"bin/a\0") - 110
    assert int(archive[start + 54 : start + 62], 16) == 3


LOG = """\
2026-01-02 03:04:05.000001 Ready thread_model=3
2026-01-02 03:04:05.000002 Preconnect id=1 readonly=0 ...
2026-01-02 03:04:05.000003 connection=2 Connect export="node1" tls=0 size=0x1000000 write=1 flush=1 ...
2026-01-02 03:04:05.000004 connection=3 Connect export="node2" tls=0 size=0x1000000 write=1 flush=1 ...
2026-01-02 03:04:05.000005 connection=2 Write id=1 offset=0x1000 count=0x1000 fua=0 ...
2026-01-02 03:04:05.000006 connection=3 Read id=1 offset=0x0 count=0x200 ...
2026-01-02 03:04:05.000007 connection=2 ...Write id=1 return=0
2026-01-02 03:04:05.000008 connection=3 Trim id=2 offset=0x8000 count=0x8000 fua=0 ...
2026-01-02 03:04:05.000009 connection=3 Flush id=3 ...
"""


def test_log_tells_nodes_apart_however_it_is_cut() -> None:
    whole = LogReader()
    whole.feed(LOG)
    seen = [(request.node, request.kind, request.offset, request.count) for request in whole.requests]
    assert seen == [
        ("node1", "write", 0x1000, 0x1000),
        ("node2", "read", 0, 0x200),
        ("node2", "trim", 0x8000, 0x8000),
        ("node2", "flush", 0, 0),
    ]
    assert [request.changes for request in whole.requests] == [True, False, True, False]
    for cut in range(len(LOG)):
        parts = LogReader()
        parts.feed(LOG[:cut])
        parts.feed(LOG[cut:])
        assert parts.requests == whole.requests


def test_missing_packages() -> None:
    status = {"a": "install ok installed", "b": "deinstall ok config-files"}
    assert prerequisites.missing(status, ("a", "b", "c")) == ["b", "c"]


def test_a_package_has_the_name_of_its_release() -> None:
    packages = ("etcd-server", "fence-agents-ipmilan")
    assert prerequisites.named(packages, "12") == ("etcd-server", "fence-agents")
    assert prerequisites.named(packages, "13") == prerequisites.named(packages, "") == packages


def test_etcd_network_is_shut_but_for_its_members() -> None:
    card = etcd_network(1, [1234, 1235])
    netdev = card.arguments()[1]
    assert "restrict=on" in netdev
    assert netdev.count("guestfwd=") == 2
    assert "guestfwd=tcp:10.0.77.100:2379-cmd:" in netdev
    assert netdev.endswith(" 1235")


def test_hardware_address_is_what_qemu_answers() -> None:
    assert hardware_address("10.0.77.100:2379") == "52:55:0a:00:4d:64"


def test_both_ends_of_the_cable_meet(tmp_path: Path) -> None:
    one, two = peer_network(1, tmp_path), peer_network(2, tmp_path)
    assert one.ends is not None
    assert two.ends == one.ends[::-1]


def _echo(server: socket.socket) -> None:
    connection, _ = server.accept()
    data = b""
    while part := connection.recv(65536):
        data += part
    connection.sendall(data[::-1])
    connection.close()


def test_relay_passes_half_closes_on() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=_echo, args=(server,), daemon=True).start()
        guest, inner = socket.socketpair()
        host = socket.create_connection(server.getsockname())
        for side in (inner, host):
            side.setblocking(False)
        pumping = threading.Thread(target=relay.pump, args=(inner, host), daemon=True)
        pumping.start()
        data = bytes(range(256)) * 4096
        guest.sendall(data)
        guest.shutdown(socket.SHUT_WR)
        received = b""
        while part := guest.recv(65536):
            received += part
        pumping.join(10)
        for side in (guest, inner, host):
            side.close()
    assert received == data[::-1]
    assert not pumping.is_alive()


def test_whoever_waits_hears_that_the_channel_is_gone(tmp_path: Path) -> None:
    path = tmp_path / "agent"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen()
        channel = AgentChannel(path, "test")
        connection, _ = server.accept()

        def answer_once() -> None:
            first = json.loads(connection.makefile("rb").readline())
            connection.sendall(b'half a line}\n{"id": %d, "rc": 0}\n' % first["id"])

        threading.Thread(target=answer_once, daemon=True).start()
        assert channel.ask({"run": "true"}, 5)["rc"] == 0
        threading.Timer(0.1, connection.shutdown, (socket.SHUT_RDWR,)).start()
        with pytest.raises(ChannelLost):
            channel.ask({"run": "true"}, 30)
        with pytest.raises(ChannelLost):
            channel.ask({"run": "true"}, 30)
        channel.close()
        connection.close()


def test_a_node_without_power_is_lost(tmp_path: Path) -> None:
    node = Node("node1", Kernel("6.12", tmp_path), tmp_path / "i", tmp_path)
    with pytest.raises(LostVM, match="switched off"):
        node.run("true")
    with pytest.raises(LostVM):
        node.qmp("query-status")


@pytest.fixture
def agent_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(agent, "RUN", str(tmp_path))
    return tmp_path / "1"


def test_agent_runs_and_reports(agent_files: Path) -> None:
    request = {"run": 'read x; echo "$x$Y"; echo e >&2; exit 3', "stdin": "aGkK", "env": {"Y": "!"}}
    answer = agent.run(request, str(agent_files))
    assert (answer["rc"], answer["out"], answer["err"]) == (3, "aGkhCg==", "ZQo=")


def test_agent_does_not_wait_for_what_keeps_the_output_open(agent_files: Path) -> None:
    answer = agent.run({"run": "sleep 5 & echo ok", "timeout_s": 4}, str(agent_files))
    assert (answer["rc"], answer["timed_out"]) == (0, False)


def test_what_a_program_wrote_can_be_read_as_soon_as_it_is_spawned(agent_files: Path) -> None:
    output = agent_files.with_suffix(".out")
    pid = agent.child(str(agent_files), {"merge": True}, agent.shell("echo ok"))
    assert output.read_bytes() in (b"", b"ok\n")
    os.waitpid(pid, 0)
    assert output.read_bytes() == b"ok\n"


def test_agent_ends_what_is_too_late(agent_files: Path) -> None:
    answer = agent.run({"run": "sleep 30 | cat", "timeout_s": 0.2}, str(agent_files))
    assert (answer["rc"], answer["timed_out"], answer["left_behind"]) == (124, True, False)
