# SPDX-License-Identifier: GPL-2.0-or-later
"""What crm_mon and cibadmin say is read as it is meant, or not at all."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enforcer.cluster.pacemaker_state import Managed, Unreadable, read_configuration, read_state
from enforcer.cluster.view import Fencing

NODE = (
    '<node name="ha{n}" id="{n}" online="true" standby="false" standby_onfail="false" maintenance="false" '
    'pending="false" unclean="false" health="green" shutdown="false" expected_up="true" is_dc="true" type="member"/>'
)
RESOURCE = (
    '<resource id="{id}" resource_agent="ocf:heartbeat:Filesystem" role="{role}" active="true" orphaned="false" '
    'blocked="false" managed="true" failed="false" nodes_running_on="1"><node name="ha1" id="1"/></resource>'
)
STATE = f"""<pacemaker-result api-version="2.25" request="crm_mon">
  <pacemakerd sys_from="pacemakerd" state="running" last_updated="2026-11-22 11:40:26Z"/>
  <summary>
    <current_dc present="true" version="2.1.5" name="ha1" id="1" with_quorum="true" mixed_version="false"/>
    <cluster_options stonith-enabled="true" no-quorum-policy="stop" maintenance-mode="false"/>
  </summary>
  <nodes>{NODE.format(n=1)}{NODE.format(n=2)}</nodes>
  <resources>
    {RESOURCE.format(id="fs", role="Started")}
    <group id="g"><clone id="c">{RESOURCE.format(id="gfs:0", role="Starting")}</clone></group>
  </resources>
  <fence_history>
    <fence_event action="reboot" target="ha2" client="c.1" origin="ha1" status="pending"/>
    <fence_event action="reboot" target="ha2" client="c.1" origin="ha1" status="success" completed="2026-11-22"/>
    <fence_event action="on" target="ha3" client="c.1" origin="ha1" status="success" completed="2026-11-22"/>
    <fence_event action="off" target="ha3" client="c.1" origin="ha1" status="failed" completed="2026-11-22"/>
  </fence_history>
  <status code="0" message="OK"/>
</pacemaker-result>"""
WORDS = (
    'code="0"', 'state="running"', 'present="true"', 'with_quorum="true"', 'stonith-enabled="true"',
    'maintenance-mode="false"', 'online="true"', 'standby="false"', 'unclean="false"', 'pending="false"',
    'expected_up="true"', 'role="Started"', 'blocked="false"', 'managed="true"', 'failed="false"',
)  # grouped by meaning  # fmt: skip
PARTS = ("resources>", "nodes>", "summary>", "pacemakerd ", "status ", "current_dc ", "cluster_options ")


def test_the_state_is_read() -> None:
    state = read_state(STATE.encode())
    assert (state.with_quorum, state.stonith, state.maintenance) == (True, True, False)
    assert [(m.name, m.id, m.online, m.unclean, m.expected_up) for m in state.members] == [
        ("ha1", "1", True, False, True),
        ("ha2", "2", True, False, True),
    ]
    assert [(r.id, r.role, r.nodes, r.cloned) for r in state.running] == [
        ("fs", "Started", ("ha1",), False),
        ("gfs", "Starting", ("ha1",), True),
    ]


def test_only_power_off_that_succeeded_is_a_fencing_that_is_done() -> None:
    assert [(f.node, f.done) for f in read_state(STATE.encode()).fencings] == [
        ("ha2", False),
        ("ha2", True),
        ("ha3", False),
    ]
    assert isinstance(read_state(STATE.encode()).fencings[0], Fencing)


@pytest.mark.parametrize("word", WORDS)
def test_a_word_that_is_missing_or_strange_makes_it_unreadable(word: str) -> None:
    """A "no" that nobody said would permit."""
    key = word.partition("=")[0]
    for instead in ("", f'{key}=""', f'{key}="perhaps"'):
        assert word in STATE
        with pytest.raises(Unreadable):
            read_state(STATE.replace(word, instead, 1).encode())


@pytest.mark.parametrize("part", PARTS)
def test_a_part_that_is_missing_makes_it_unreadable(part: str) -> None:
    damaged = STATE.replace(f"<{part}", f"<other-{part}").replace(f"</{part}", f"</other-{part}")
    assert damaged != STATE
    with pytest.raises(Unreadable):
        read_state(damaged.encode())


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "no XML"),
        ("<pacemaker-result>", "no XML"),
        ("<other/>", "something else"),
        ('<!DOCTYPE x [<!ENTITY a "b">]>' + STATE, "document type"),
        (STATE.replace('state="running"', 'state="shutting_down"'), "shutting_down"),
        (STATE.replace('present="true"', 'present="false"'), "no designated controller"),
        (STATE.replace('role="Started"', 'role="Levitating"'), "Levitating"),
        (STATE.replace("<fence_history>", '<fence_history status="1">'), "which fencings there were"),
        (
            '<pacemaker-result><status code="102" message="Not connected"><errors><error>Could not connect</error>'
            "</errors></status></pacemaker-result>",
            "Could not connect",
        ),
    ],
)
def test_what_pacemaker_does_not_know_is_unreadable_and_says_why(text: str, why: str) -> None:
    with pytest.raises(Unreadable, match=why):
        read_state(text.encode())


@given(st.binary(max_size=200), st.integers(0, len(STATE)), st.integers(0, 60))
def test_no_garbage_escapes_as_another_error(garbage: bytes, at: int, cut: int) -> None:
    text = STATE.encode()
    for damaged in (garbage, text[:at] + garbage + text[at + cut :]):
        for read in (read_state, read_configuration):
            try:
                read(damaged)
            except Unreadable:
                continue


CONFIGURATION = """<configuration>
  <crm_config><cluster_property_set id="o"><nvpair id="x" name="startup-fencing" value="{startup}"/>
  </cluster_property_set></crm_config>
  <resources>
    <primitive id="power" class="stonith" type="sbd"><instance_attributes id="a">
      <nvpair id="a1" name="devices" value="/dev/sdz"/></instance_attributes></primitive>
    <template id="t"><instance_attributes id="b"><nvpair id="b1" name="device" value="/dev/sdt"/>
    </instance_attributes></template>
    <group id="g"><primitive id="made" template="t"/></group>
    <primitive id="fs"><instance_attributes id="c"><nvpair id="c1" name="device" value="/dev/sdb1"/>
      <nvpair id="c2" name="fstype" value="ext4"/></instance_attributes>
      <instance_attributes id="d"><rule id="r"/><nvpair id="d1" name="device" value="UUID=12-34"/></instance_attributes>
    </primitive>
    <primitive id="labelled"><instance_attributes id="e"><nvpair id="e1" name="device" value="-L data"/>
      </instance_attributes></primitive>
    <primitive id="lent"><instance_attributes id-ref="c"/></primitive>
    <clone id="cl"><primitive id="gfs"><instance_attributes id="f"><nvpair id="f1" name="fstype" value="gfs2"/>
      <nvpair id="f2" name="device" value="/dev/vg/gfs"/></instance_attributes></primitive></clone>
    <primitive id="vg"><instance_attributes id="h"><nvpair id="h1" name="vgname" value="data"/>
      <nvpair id="h2" name="activation_mode" value="shared"/></instance_attributes></primitive>
    <primitive id="ip"><instance_attributes id="i"><nvpair id="i1" name="ip" value="192.0.2.1"/></instance_attributes>
    </primitive>
    <primitive id="nfs"><instance_attributes id="j"><nvpair id="j1" name="device" value="server:/srv"/>
      <nvpair id="j2" name="options" value="-Udead"/></instance_attributes></primitive>
  </resources>
</configuration>"""


def test_every_device_that_a_parameter_may_come_to_name_is_managed() -> None:
    """Of all sets, whichever rule chooses between them; of templates and of sets that are lent; but not of stonith."""
    read = read_configuration(CONFIGURATION.format(startup="false").encode())
    assert read.managed == (
        Managed("made", ("/dev/sdt",)),
        Managed("fs", ("/dev/disk/by-uuid/12-34", "/dev/sdb1")),
        Managed("labelled", ("/dev/disk/by-label/data",)),
        Managed("lent", ("/dev/sdb1",)),
        Managed("gfs", ("/dev/vg/gfs",), shareable=True),
        Managed("vg", (), ("data",), shareable=True),
        Managed("nfs", ("/dev/disk/by-uuid/dead",)),
    )


@pytest.mark.parametrize(("value", "on"), [("true", True), ("Yes", True), ("false", False), ("0", False), ("", False)])
def test_startup_fencing_is_on_only_if_it_is_not_turned_off(value: str, on: bool) -> None:
    assert read_configuration(CONFIGURATION.format(startup=value).encode()).startup_fencing is on
    assert read_configuration(b"<configuration><resources/></configuration>").startup_fencing
