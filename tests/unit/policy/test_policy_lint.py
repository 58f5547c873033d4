# SPDX-License-Identifier: GPL-2.0-or-later
"""Warnings: what is allowed in a policy but hardly meant, and nothing else."""

from __future__ import annotations

from pathlib import Path

from policy_samples import LUN_A, device

from enforcer.model.resource import Device
from enforcer.policy.lint import lint
from enforcer.policy.parse import load, parse


class TestLint:
    def messages(self, text: str, *devices: Device) -> list[str]:
        return [str(problem) for problem in lint(parse(text, "f"), devices)]

    ALL = 'on = ["mount", "swap", "write-open", "dm-load"]\n'

    def test_unreached(self) -> None:
        text = f'[[rule]]\nid = "a"\n{self.ALL}match = {{ device = "w*" }}\n[[rule]]\nid = "b"\n{self.ALL}'
        assert self.messages(text) == []
        found = self.messages(text + 'match = { device = ["w1", "w2*"], subject = { uid = 0 } }')
        assert len(found) == 1
        assert "f:5: rule b: is never reached: decided before by a (f:1)" in found[0]

    def test_unreached_only_if_every_use_is(self) -> None:
        text = '[[rule]]\nid = "a"\non = ["mount"]\nmode = "off"\n[[rule]]\nid = "b"\n' + self.ALL
        assert self.messages(text) == []
        both = text.replace(
            'id = "b"', 'id = "c"\nmode = "off"\non = ["swap", "write-open", "dm-load"]\n[[rule]]\nid = "b"'
        )
        assert "decided before by" in self.messages(both)[0]

    def test_a_type_rule_after_a_catch_all(self) -> None:
        text = f'[[rule]]\nid = "a"\n{self.ALL}[[rule]]\nid = "b"\non = ["mount"]\n'
        assert "never reached" in self.messages(text + 'match = { fstype = "ext4" }')[0]
        assert self.messages(text + 'match = { fstype = "nfs" }\nverdict = "deny"') == []

    def test_missing_uses(self) -> None:
        found = self.messages('[[rule]]\nid = "a"\non = ["mount", "write-open"]\nmatch = { device = "w" }')
        assert "leaves swap, dm-load" in found[0]

    def test_nothing_to_lease(self) -> None:
        assert "nothing to lease" in self.messages('[[rule]]\nid = "a"\non = ["mount"]\nmatch = { fstype = "nfs" }')[0]

    def test_comm(self) -> None:
        text = '[[rule]]\nid = "a"\n' + self.ALL + 'match = { subject = { comm = "!fsck" } }'
        assert "by comm" in self.messages(text)[0]

    def test_kernel_names(self) -> None:
        for name, warned in (
            ("/dev/sd*", 1),
            ("sdb1", 1),
            ("dm-3", 1),
            ("dm:data", 0),
            ("vg:sd", 0),
            ("wwn-1", 0),
        ):
            text = '[[rule]]\nid = "a"\n' + self.ALL + f'match = {{ device = "{name}" }}'
            assert len(self.messages(text)) == warned, name

    def test_system_device(self) -> None:
        text = '[[rule]]\nid = "a"\n' + self.ALL + 'match = { device = "a" }'
        found = self.messages(text, device(LUN_A, name="sda", system="holds /"), device(LUN_A, name="sdb"))
        assert len(found) == 1
        assert "matches sda, which holds /" in found[0]

    def test_who_may_change_the_files(self, tmp_path: Path) -> None:
        file = tmp_path / "10-a.toml"
        file.write_text("[defaults]")
        tmp_path.chmod(0o755)
        file.chmod(0o664)
        found = [str(problem) for problem in lint(load([tmp_path], euid=1000)) if "written" in problem.message]
        assert found == [f"{file}: can be written by its group. Run: chmod go-w {file}."]
        file.chmod(0o644)
        tmp_path.chmod(0o777)
        found = [str(problem) for problem in lint(load([tmp_path])) if "written" in problem.message]
        assert found == [f"{tmp_path}: can be written by everybody. Run: chmod go-w {tmp_path}."]
        tmp_path.chmod(0o700)

    def test_a_name_that_only_other_programs_use(self) -> None:
        names = ("3600140a*", "scsi-3600140*", "naa.6*", "UUID=ab", "wwn-0x600140*", "eui-00*", "vg:db", "*")
        found = self.messages(
            "".join(
                f'[[rule]]\nid = "r{at}"\n{self.ALL}match = {{ device = "{name}" }}\n' for at, name in enumerate(names)
            )
        )
        told = [text for text in found if "matches nothing" in text]
        assert [text.partition("names ")[2].partition(",")[0] for text in told] == list(names[:4])
