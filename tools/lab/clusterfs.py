# SPDX-License-Identifier: GPL-2.0-or-later
"""The stacks that cluster filesystems stand on, brought up in two guests over the cable between them.

Without udev nobody makes the links in /dev/misc by which dlm_controld finds its devices, and without systemd nobody
mounts configfs; both are done here. A token of 3 s, for an emulated CPU does not keep corosync's usual one.
"""

from __future__ import annotations

from tools.lab.vm import Node

CLUSTER = "mg"
COROSYNC = """
totem {
  version: 2
  cluster_name: mg
  transport: knet
  crypto_cipher: none
  crypto_hash: none
  token: 3000
}
logging {
  to_stderr: no
  to_syslog: no
  to_logfile: yes
  logfile: /var/log/corosync.log
  timestamp: hires
}
quorum {
  provider: corosync_votequorum
  two_node: 1
}
nodelist {
  node {
    name: node1
    nodeid: 1
    ring0_addr: 192.0.2.1
  }
  node {
    name: node2
    nodeid: 2
    ring0_addr: 192.0.2.2
  }
}
"""
DLM = "enable_fencing=1\nenable_startup_fencing=0\nfence_all /bin/false\n"  # nothing is fenced here: nobody may need it
BEGIN_DLM = """
mkdir -p /var/log/cluster /var/lib/corosync /dev/misc
modprobe -a dlm gfs2 || exit 1
mountpoint -q /sys/kernel/config || mount -t configfs none /sys/kernel/config
for x in dlm-control dlm-monitor dlm_plock; do [ -e /dev/misc/$x ] || ln -s ../$x /dev/misc/$x; done
pidof corosync >/dev/null || corosync || exit 1
for i in $(seq 240); do corosync-cfgtool -s >/dev/null 2>&1 && break; sleep 0.25; done # dlm_controld does not wait
pidof dlm_controld >/dev/null || dlm_controld || exit 1
"""
START_DLM = f"""
{BEGIN_DLM}
for i in $(seq 240); do [ "$(dlm_tool status 2>/dev/null | grep -c ' M ')" = 2 ] && exit 0; sleep 0.25; done
dlm_tool status
exit 1
"""
STOP_DLM = """
kill $(cat /run/dlm_controld/dlm_controld.pid); while pidof dlm_controld; do sleep 0.1; done
corosync-cfgtool -H --force >/dev/null 2>&1; while pidof corosync; do sleep 0.1; done
"""
O2CB = """
cluster:
\tnode_count = 2
\theartbeat_mode = local
\tname = mg

node:
\tip_port = 7777
\tip_address = 192.0.2.1
\tnumber = 1
\tname = node1
\tcluster = mg

node:
\tip_port = 7777
\tip_address = 192.0.2.2
\tnumber = 2
\tname = node2
\tcluster = mg
"""
START_O2CB = """
modprobe -a configfs ocfs2_nodemanager ocfs2_dlm ocfs2_stack_o2cb ocfs2 ocfs2_dlmfs || exit 1
mountpoint -q /sys/kernel/config || mount -t configfs none /sys/kernel/config
mountpoint -q /sys/kernel/debug || mount -t debugfs debugfs /sys/kernel/debug
echo o2cb > /sys/fs/ocfs2/cluster_stack && o2cb register-cluster mg
"""
STOP_O2CB = "o2cb unregister-cluster mg"


def configure(node: Node) -> None:
    """Write what both stacks read. Starts nothing."""
    node.put("/etc/corosync/corosync.conf", COROSYNC, 0o644)
    node.put("/etc/dlm/dlm.conf", DLM, 0o644)
    node.put("/etc/ocfs2/cluster.conf", O2CB, 0o644)
