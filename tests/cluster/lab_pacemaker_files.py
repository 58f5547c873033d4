# SPDX-License-Identifier: GPL-2.0-or-later
"""What a cluster of the lab is configured with: corosync, the first CIB, and agents that do as the test says."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

TOKEN_MS = 1000

COROSYNC = """totem {{
  version: 2
  cluster_name: lab
  transport: knet
  crypto_cipher: aes256
  crypto_hash: sha256
  token: {token}
}}
logging {{
  to_stderr: no
  to_logfile: yes
  logfile: /var/log/corosync/corosync.log
  to_syslog: no
}}
quorum {{
  provider: corosync_votequorum
{two_node}}}
nodelist {{
{nodes}}}
"""

CIB = """<cib crm_feature_set="3.16.1" validate-with="pacemaker-3.9" epoch="5" num_updates="0" admin_epoch="0">
  <configuration>
    <crm_config><cluster_property_set id="options">
      <nvpair id="o1" name="dc-deadtime" value="2s"/>
      <nvpair id="o2" name="stonith-enabled" value="{stonith}"/>
      <nvpair id="o3" name="transition-delay" value="0s"/>
    </cluster_property_set></crm_config>
    <nodes/>
    <resources>
      <primitive id="power" class="stonith" type="fence_lab"><instance_attributes id="power-i">
        <nvpair id="power-1" name="pcmk_host_list" value="{names}"/>
        <nvpair id="power-2" name="pcmk_host_check" value="static-list"/>
        <nvpair id="power-3" name="socket" value="{socket}"/>
      </instance_attributes></primitive>
      <primitive id="fs_lun7" class="ocf" provider="lab" type="Filesystem"><instance_attributes id="fs-i">
        <nvpair id="fs-1" name="device" value="{device}"/>
        <nvpair id="fs-2" name="directory" value="/run/lun7"/>
        <nvpair id="fs-3" name="fstype" value="ext4"/>
      </instance_attributes>
      <operations><op id="fs-o" name="monitor" interval="10s" timeout="40s"/></operations></primitive>
    </resources>
    <constraints/>
  </configuration>
  <status/>
</cib>
"""

# "Power off" is asked of the socket; the rest is what pacemaker-fenced wants of an agent.
AGENT = """#!{python} -I
import socket, sys
META = '''<?xml version="1.0"?><resource-agent name="fence_lab" shortdesc="lab"><longdesc>lab</longdesc><parameters>
<parameter name="action" required="1"><content type="string" default="off"/><shortdesc>-</shortdesc></parameter>
<parameter name="plug" required="0"><content type="string"/><shortdesc lang="en">-</shortdesc></parameter>
<parameter name="socket" required="0"><content type="string"/><shortdesc lang="en">-</shortdesc></parameter>
</parameters><actions><action name="on"/><action name="off"/><action name="reboot"/><action name="status"/>
<action name="list"/><action name="monitor"/><action name="metadata"/><action name="validate-all"/></actions>
</resource-agent>'''
given = dict(zip(sys.argv[1::2], sys.argv[2::2]))
said = {{"action": given["-o"]}} if "-o" in given else dict(l.strip().split("=", 1) for l in sys.stdin if "=" in l)
action = said.get("action", "off")
if action == "metadata":
    print(META)
elif action in ("off", "reboot"):
    peer = socket.socket(socket.AF_UNIX)
    peer.connect(said.get("socket", {socket!r}))
    peer.sendall((said.get("plug") or said.get("port") or said["nodename"]).encode() + b"\\n")
    sys.exit(0 if peer.makefile().readline().strip() == "ok" else 1)
"""

# The cluster's own agent asks the view before it mounts, as it would through the gate.
WRAPPER = """#!/bin/sh
if [ "$1" = start ]; then
  {ask} || {{ hostname >>{place}/refused; exit 1; }}
  sleep {pause}
fi
exec /usr/lib/ocf/resource.d/heartbeat/Filesystem "$@"
"""


@dataclass(frozen=True)
class Files:
    """Of nodes with these names, which are 10.77.0.1 and so on, and one filesystem on ``device``."""

    place: Path
    names: Sequence[str]
    device: str
    stonith: bool

    def write(self, power: Path, ask: Sequence[str]) -> None:
        """``power``: the switch's socket; ``ask``: the command that asks the view for the cluster's own agent."""
        nodes = "".join(
            f"  node {{\n    name: {name}\n    nodeid: {i}\n    ring0_addr: 10.77.0.{i}\n  }}\n"
            for i, name in enumerate(self.names, 1)
        )
        two = "  two_node: 1\n" if len(self.names) == 2 else ""
        (self.place / "corosync.conf").write_text(COROSYNC.format(token=TOKEN_MS, two_node=two, nodes=nodes))
        (self.place / "authkey").write_bytes(os.urandom(256))
        stonith = "true" if self.stonith else "false"
        cib = CIB.format(stonith=stonith, names=" ".join(self.names), socket=power, device=self.device)
        (self.place / "cib.xml").write_text(cib)
        _script(self.place / "sbin/fence_lab", AGENT.format(python="/usr/bin/python3", socket=str(power)))
        _script(self.place / "ocf/lab/Filesystem", WRAPPER.format(ask=" ".join(ask), pause="0.5", place=self.place))


def _script(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)
