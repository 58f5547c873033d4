# SPDX-License-Identifier: GPL-2.0-or-later
"""A small initramfs that turns the host's own root into a throw-away guest.

virtme-ng does this too, and was left aside: it starts udev when it finds one (17 of 25 seconds of an emulated
boot are coldplug), it can be kept from that only by a second ``-append`` that overrides its own, and what is
needed instead is the shell script below. Nothing is installed for a guest: what the host has, the guest has,
read-only over 9p, with tmpfs overlays over the directories that programs write to. Without udev, a test loads
its modules by name.

The archive holds busybox, one script and the modules that lead to the root, in dependency order. It is
written in cpio's "newc" form right here: one format, forty lines, no dependency.
"""

from __future__ import annotations

import gzip
import lzma
import os
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from tools.lab.kernels import Kernel

# What leads to the root, to the agent's port, to the network, to the shared disks. Built-in ones are skipped.
MODULES = (
    "virtio_pci",
    "virtio_console",
    "9pnet_virtio",
    "9p",
    "overlay",
    "virtio_scsi",
    "sd_mod",
    "virtio_net",
    "fuse",
)
BUSYBOX = Path("/bin/busybox")
CHECKOUT = Path(__file__).resolve().parents[2]

# Directories of the host's root that a guest may write to, for the time of one boot.
OVERLAYS = "etc var root home srv mnt media opt tmp"

INIT = """\
#!/bin/busybox sh
# Stage 1, in the initramfs: modules, the 9p root, overlays. Then stage 2 in the host's root.
b=/bin/busybox
$b mount -t proc proc /proc; $b mount -t sysfs sys /sys; $b mount -t devtmpfs dev /dev
while read m; do $b insmod /m/$m || $b echo "lab: module $m failed"; done < /order
nine=trans=virtio,version=9p2000.L,msize=512000,cache=loose
$b mount -t 9p -o ro,$nine root /r || { $b echo "lab: no root"; $b poweroff -f; }
V=$($b uname -r)
$b mount -t tmpfs -o mode=755 run /r/run
o="@OVERLAYS@"
[ -d /r/usr/lib/modules ] || o="$o usr/lib"
for d in $o; do
  [ -d /r/$d ] && [ ! -L /r/$d ] || continue
  u=/r/run/.o/$d/u w=/r/run/.o/$d/w
  $b mkdir -p $u $w
  $b chmod $($b stat -c %a /r/$d) $u
  $b mount -t overlay -o lowerdir=/r/$d,upperdir=$u,workdir=$w lab /r/$d || $b echo "lab: overlay $d failed"
done
$b rm -rf /r/etc/enforcer /r/var/lib/enforcer # what the host's own enforcerd is told and knows
[ -d /r/usr/lib/modules ] && $b mount -t tmpfs modules /r/usr/lib/modules
$b mkdir -p /r/usr/lib/modules
$b ln -s @MODULES@ /r/usr/lib/modules/$V
for d in proc sys dev; do $b mount --move /$d /r/$d; done
exec $b switch_root /r /bin/busybox sh -c "$($b cat /stage2)"
"""

STAGE2 = """\
b=/bin/busybox
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root TERM=linux LANG=C.UTF-8
$b mkdir -p /dev/pts /dev/shm /run/lab /run/lock /run/lvm
$b mount -t devpts devpts /dev/pts
$b mount -t tmpfs shm /dev/shm
$b mount -t securityfs securityfs /sys/kernel/security
$b mount -t cgroup2 cgroup2 /sys/fs/cgroup
$b mount -t bpf bpf /sys/fs/bpf
$b mount -t debugfs debugfs /sys/kernel/debug
$b mount -t tracefs tracefs /sys/kernel/tracing
$b mount -t fusectl fusectl /sys/fs/fuse/connections
for a in $($b cat /proc/cmdline); do case $a in lab.*) eval "${a#lab.}";; esac; done
$b rm -f /etc/fstab /etc/mtab
$b ln -s /proc/mounts /etc/mtab
$b hostname $node
echo $node > /etc/hostname
echo "127.0.0.1 localhost $node" > /etc/hosts
$b printf '%s' "$node" | $b md5sum | $b cut -c1-32 > /etc/machine-id
$b ip link set lo up
for a in $(echo $ip | $b tr , " "); do $b ip link set ${a%%:*} up; $b ip addr add ${a#*:} dev ${a%%:*}; done
for a in $(echo $arp | $b tr , " "); do ip neigh add ${a%%-*} lladdr ${a#*-} nud permanent dev eth0; done
/usr/bin/python3 -I -S -B @AGENT@ &
while $b kill -0 $! 2>/dev/null; do wait $!; done
echo "lab: the agent is gone"
$b poweroff -f
"""


def load_order(dep: str, builtin: str, wanted: Sequence[str]) -> list[str]:
    """Paths of the wanted modules and of all they need, needed ones first; built-in ones are left out.

    modules.dep lists for each module everything that it needs, the deepest last.
    """
    needs: dict[str, list[str]] = {}
    path_of: dict[str, str] = {}
    for line in dep.splitlines():
        path, _, rest = line.partition(":")
        needs[path] = rest.split()
        path_of[_name(path)] = path
    built_in = {_name(path) for path in builtin.split()}
    order: list[str] = []
    for name in wanted:
        name = name.replace("-", "_")
        if name not in path_of:
            if name in built_in:
                continue
            raise FileNotFoundError(f"this kernel has no module {name}")
        for path in (*reversed(needs[path_of[name]]), path_of[name]):
            if path not in order:
                order.append(path)
    return order


def _name(path: str) -> str:
    return path.rpartition("/")[2].split(".ko")[0].replace("-", "_")


def plain_module(path: Path) -> bytes:
    """A module's ELF image, however it is packed: a busybox insmod takes nothing else."""
    data = path.read_bytes()
    if path.suffix == ".xz":
        return lzma.decompress(data)
    if path.suffix == ".gz":
        return gzip.decompress(data)
    if path.suffix == ".zst":
        return subprocess.run(["zstd", "-dcq"], input=data, check=True, capture_output=True).stdout
    return data


def cpio(files: Mapping[str, tuple[int, bytes]]) -> bytes:
    """An archive in cpio's newc form: path -> (mode, contents). Directories have no contents."""
    out = bytearray()
    entries = [*files.items(), ("TRAILER!!!", (0, b""))]
    for number, (name, (mode, data)) in enumerate(entries, 1):
        encoded = name.encode() + b"\0"
        fields = (number, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(encoded), 0)
        out += b"070701" + b"".join(b"%08X" % field for field in fields) + encoded
        out += b"\0" * (-len(out) % 4)
        out += data
        out += b"\0" * (-len(out) % 4)
    return bytes(out)


def build(kernel: Kernel, target: Path) -> Path:
    """Write this checkout's initramfs for that kernel; not compressed, for a guest would pay for it."""
    dep = (kernel.modules / "modules.dep").read_text()
    order = load_order(dep, (kernel.modules / "modules.builtin").read_text(), MODULES)
    init = INIT.replace("@OVERLAYS@", OVERLAYS).replace("@MODULES@", str(kernel.modules.resolve()))
    stage2 = STAGE2.replace("@AGENT@", str(CHECKOUT / "tools/lab/agent.py"))
    files: dict[str, tuple[int, bytes]] = {}
    for directory in ("bin", "m", "r", "proc", "sys", "dev"):
        files[directory] = (0o040755, b"")
    files["bin/busybox"] = (0o100755, BUSYBOX.read_bytes())
    files["init"] = (0o100755, init.encode())
    files["stage2"] = (0o100644, stage2.encode())
    names = [_name(path) + ".ko" for path in order]
    files["order"] = (0o100644, "".join(name + "\n" for name in names).encode())
    for name, path in zip(names, order, strict=True):
        files[f"m/{name}"] = (0o100644, plain_module(kernel.modules / path))
    handle, temporary = tempfile.mkstemp(dir=target.parent)
    with os.fdopen(handle, "wb") as file:
        file.write(cpio(files))
    Path(temporary).rename(target)
    return target
