# SPDX-License-Identifier: GPL-2.0-or-later
"""A LUN that knows reservations, which QEMU's own disks do not: one guest exports a file of its memory by iSCSI (LIO,
through configfs), and the guests log in to it by open-iscsi, over the cable between them."""

from __future__ import annotations

from tools.lab.vm import Node

TARGET = "iqn.2026-11.lab:t"
IMAGE = "/run/pr.img"
PORTAL = "192.0.2.2:3260"  # of node-2
SIZE_BYTES = 64 << 20
STORE = "/sys/kernel/config/target/core/fileio_0/lun7"

_EXPORT = f"""
set -e
modprobe -a configfs target_core_mod target_core_file iscsi_target_mod
mountpoint -q /sys/kernel/config || mount -t configfs none /sys/kernel/config
mkdir -p /var/target/pr /etc/target/pr
truncate -s {SIZE_BYTES} {IMAGE}
mkdir -p {STORE}
echo fd_dev_name={IMAGE},fd_dev_size={SIZE_BYTES} > {STORE}/control
echo 1 > {STORE}/enable
echo 4d45000100020003 > {STORE}/wwn/vpd_unit_serial
C=/sys/kernel/config/target
mkdir $C/iscsi
T=$C/iscsi/{TARGET}/tpgt_1
mkdir -p $T
mkdir $T/np/{PORTAL} $T/lun/lun_0
ln -s {STORE} $T/lun/lun_0/x
echo 0 > $T/attrib/authentication
echo 0 > $T/attrib/generate_node_acls
for i in 1 2; do
  A=$T/acls/iqn.2026-11.lab:node$i
  mkdir $A
  mkdir $A/lun_0
  ln -s $T/lun/lun_0 $A/lun_0/x
done
echo 1 > $T/enable
"""

_LOGIN = f"""
set -e
modprobe -a iscsi_tcp sd_mod
mkdir -p /etc/iscsi /run/lock/iscsi
echo InitiatorName=iqn.2026-11.lab:$NODE > /etc/iscsi/initiatorname.iscsi
pgrep -x iscsid >/dev/null || iscsid
sleep 1
iscsiadm -m discovery -t sendtargets -p {PORTAL}
iscsiadm -m node -T {TARGET} -p {PORTAL} -l
"""

_FIND = """
import glob, time
result = ""
end = time.monotonic() + 10
while not result and time.monotonic() < end:
    for path in glob.glob("/sys/block/sd*/device/vendor"):
        if open(path).read().startswith("LIO-ORG"):
            result = "/dev/" + path.split("/")[3]
    time.sleep(0.1)
"""


def export(node: Node) -> None:
    """Make the target. Raises CommandFailed."""
    node.run(_EXPORT, 60, check=True)


def login(node: Node) -> str:
    """The LUN as this node names it. Raises CommandFailed."""
    node.run(_LOGIN, 60, check=True, env={"NODE": node.name})
    found: str = node.py(_FIND)
    return found


def logout(node: Node) -> None:
    """It is not there any more."""
    node.run(f"iscsiadm -m node -T {TARGET} -u; pkill -x iscsid", 60)


def holder(exporter: Node) -> str:
    """What the target says of its reservation."""
    return exporter.run(f"cat {STORE}/pr/res_holder {STORE}/pr/res_pr_type {STORE}/pr/res_pr_registered_i_pts").out
