# SPDX-License-Identifier: GPL-2.0-or-later
"""By which names the marks on disks may call this node."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enforcer.storage.vetoes import local


def tree(root: Path, **files: str) -> Path:
    for name, text in files.items():
        path = root / name.replace("__", "/").replace("_dot_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


MY_ID = 'local {\n system_id = "my id!"\n extra_system_ids = [ "a", "b" ]\n}'


@pytest.mark.parametrize(
    ("lvm_conf", "lvmlocal", "ids"),
    [
        ("", "", set()),
        ('# system_id_source = "uname"\n', "", set()),
        ('global {\n\tsystem_id_source = "uname"\n}', "", {"ha1"}),
        ('global/system_id_source="lvmlocal"', MY_ID, {"myid", "a", "b"}),
        ('global { \n system_id_source = "machineid"\n}', "", {"0123abcd"}),
        ('system_id_source = "file"\nsystem_id_file = "/etc/lvm/id"', "", {"from-file"}),
    ],
)  # grouped by meaning  # fmt: skip
def test_which_system_ids_are_ours(tmp_path: Path, lvm_conf: str, lvmlocal: str, ids: set[str]) -> None:
    files = {"etc__lvm__lvm_dot_conf": lvm_conf, "etc__lvm__lvmlocal_dot_conf": lvmlocal}
    tree(tmp_path, **files, **{"etc__machine-id": "0123abcd\n", "etc__lvm__id": "# ours\nfrom-file\n"})
    assert local.system_ids(tmp_path, "ha1") == ids


def test_a_host_without_a_name_has_no_system_id(tmp_path: Path) -> None:
    tree(tmp_path, etc__lvm__lvm_dot_conf='system_id_source = "uname"')
    assert local.system_ids(tmp_path, "localhost.localdomain") == set()


def test_the_nodes_of_o2cb() -> None:
    text = "cluster:\n\tname = mg\n\n" + "".join(
        f"node:\n\tip_port = 7777\n\tnumber = {number}\n\tname = {name}\n\tcluster = {cluster}\n\n"
        for number, name, cluster in ((1, "ha1", "mg"), (2, "ha2", "mg"), (2, "db2", "other"), (3, "ha3", "mg"))
    )
    assert local.ocfs2_nodes(text) == {1: "ha1", 3: "ha3"}


def test_the_initiators_of_this_node(tmp_path: Path) -> None:
    tree(
        tmp_path,
        sys__class__iscsi_session__session1__initiatorname="iqn.2026-11.mg:Node1\n",
        sys__class__fc_host__host3__port_name="0x5001438012345678\n",
        **{
            "sys__class__sas_phy__phy-0:1__sas_address": "0x500605b000000001\n",
            "sys__class__sas_phy__phy-0:0:7__sas_address": "0x500605b000000002\n",  # of an expander
        },
    )
    assert set(local.initiators(tmp_path)) == {"iqn.2026-11.mg:node1", "fc.5001438012345678", "sas.500605b000000001"}
    learnt = local.learn("node-1", root=tmp_path)
    assert "node-1" in learnt.names and len(learnt.initiators) == 3


@given(st.text(max_size=300))
def test_any_configuration(text: str) -> None:
    local.ocfs2_nodes(text)
    local._words(text)
    local._system_id(text)


def test_nothing_is_known_of_a_machine_without_these_files(tmp_path: Path) -> None:
    assert local.learn("", root=tmp_path).ocfs2 == {} and "" not in local.learn("", root=tmp_path).names
