# SPDX-License-Identifier: GPL-2.0-or-later
"""Which files make the policy, which are refused, and what the digest of all of them stands for."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from enforcer.policy.document import MAX_BYTES
from enforcer.policy.parse import PolicyErrors, load, parse
from enforcer.policy.rules import Implicit

RULE = '[[rule]]\nid = "a"\non = ["mount"]\n'


class TestFiles:
    """Directories of drop-ins."""

    def write(self, directory: Path, name: str, text: str) -> Path:
        directory.mkdir(exist_ok=True)
        file = directory / name
        file.write_text(text)
        return file

    def test_order_masking_and_the_first_default(self, tmp_path: Path) -> None:
        usr, etc = tmp_path / "usr", tmp_path / "etc"
        self.write(usr, "10-a.toml", RULE.replace('"a"', '"masked"'))
        self.write(usr, "20-b.toml", RULE.replace('"a"', '"b"'))
        self.write(usr, "30-c.toml", RULE.replace('"a"', '"nulled"'))
        self.write(usr, "40-d.toml", RULE.replace('"a"', '"emptied"'))
        self.write(usr, "90-default.toml", '[defaults]\nimplicit = "allow"\ndeadline = "7s"')
        self.write(etc, "10-a.toml", RULE)
        (etc / "30-c.toml").symlink_to("/dev/null")
        self.write(etc, "40-d.toml", "")
        self.write(etc, "15-x.toml", '[defaults]\nimplicit = "deny"\n' + RULE.replace('"a"', '"x"'))
        self.write(etc, "README.md", "no")
        self.write(etc, "50-e.toml.rpmsave", "no")
        self.write(etc, ".50-e.toml", "no")
        policy = load([usr, etc])
        assert [rule.id for rule in policy.rules] == ["a", "x", "b"]
        assert [rule.file for rule in policy.rules] == [
            str(etc / "10-a.toml"),
            str(etc / "15-x.toml"),
            str(usr / "20-b.toml"),
        ]
        assert policy.defaults.implicit is Implicit.DENY
        assert policy.defaults.deadline_s == 7.0

    def test_all_errors_of_all_files(self, tmp_path: Path) -> None:
        self.write(tmp_path, "10-a.toml", "[[rule]]\nmode = 'x'\n" + RULE)
        self.write(tmp_path, "20-b.toml", "x = 1\n\n" + RULE)
        self.write(tmp_path, "30-c.toml", "x =")
        self.write(tmp_path, "site.toml", "")
        (tmp_path / "40-d.toml").mkdir()
        (tmp_path / "50-e.toml").symlink_to(tmp_path / "nowhere")
        os.mkfifo(tmp_path / "60-f.toml")
        with pytest.raises(PolicyErrors) as caught:
            load([tmp_path])
        found = [(Path(problem.file).name, problem.line) for problem in caught.value.problems]
        assert sorted(found) == [
            ("10-a.toml", 1),  # no id
            ("10-a.toml", 1),  # no on
            ("10-a.toml", 2),
            ("20-b.toml", 1),
            ("20-b.toml", 4),  # duplicate id
            ("30-c.toml", 1),
            ("40-d.toml", 0),
            ("50-e.toml", 0),
            ("60-f.toml", 0),
            ("site.toml", 0),
        ]
        assert all(problem.remedy for problem in caught.value.problems)

    def test_huge(self, tmp_path: Path) -> None:
        self.write(tmp_path, "10-a.toml", "#" * (MAX_BYTES + 1))
        with pytest.raises(PolicyErrors, match=r"10-a\.toml: is larger than 1 MiB"):
            load([tmp_path])
        self.write(tmp_path, "10-a.toml", "#" * MAX_BYTES)
        load([tmp_path])

    def test_writable_by_everybody(self, tmp_path: Path) -> None:
        file = self.write(tmp_path, "10-a.toml", RULE)
        file.chmod(0o666)
        with pytest.raises(PolicyErrors, match=r"everybody.*chmod o-w"):
            load([tmp_path], euid=0)
        assert load([tmp_path], euid=1000).rules

    def test_nothing_there(self, tmp_path: Path) -> None:
        with pytest.raises(PolicyErrors, match="no policy is there"):
            load([tmp_path / "x", tmp_path / "y"])
        assert load([tmp_path / "x", tmp_path]).rules == ()

    def test_unreadable(self, tmp_path: Path) -> None:
        (tmp_path / "10-a.toml").symlink_to("10-a.toml")  # root may read everything, but not this
        with pytest.raises(PolicyErrors, match="cannot be opened: Too many levels of symbolic links"):
            load([tmp_path])


class TestDigest:
    text = (
        '[[rule]]\nid = "a"\non = ["mount", "swap"]\nmatch = { device = ["x", "y"] }\n'
        '[[rule]]\nid = "b"\non = ["mount"]\n'
    )

    def test_stable_over_form(self) -> None:
        other = (
            "# why\n\n[[rule]] # one\n  on = [ 'swap', 'mount' ]\n  id = 'a'\n  [rule.match]\n"
            "  device = [\n 'y', 'x' ]\r\n[[rule]]\non = 'mount'\nid = '''b'''\nmode = 'enforce'\n"
        )
        assert parse(self.text).digest == parse(other, "else").digest
        assert len(parse(self.text).digest) == 64

    def test_stable_over_files(self, tmp_path: Path) -> None:
        first, second = self.text.split('[[rule]]\nid = "b"')
        (tmp_path / "10-a.toml").write_text(first)
        (tmp_path / "20-b.toml").write_text('[[rule]]\nid = "b"' + second)
        assert load([tmp_path], generation=9).digest == parse(self.text).digest

    @pytest.mark.parametrize(
        ("old", "new"),
        [
            ('"a"', '"c"'),
            ('"swap"', '"loop"'),
            ('"x"', '"z"'),
            ("match =", "errno = 'EPERM'\nmatch ="),
            ("match =", "mode = 'audit'\nmatch ="),
            ("match =", "verdict = 'deny'\nmatch ="),
            ("match =", "wait = '1s'\nmatch ="),
            ("match =", "message = 'm'\nmatch ="),
            ("match =", "multi_attached = false\nmatch ="),
            (' device = ["x", "y"] ', ' device = ["x", "y"], subject = { uid = 0 } '),
            ('[[rule]]\nid = "b"', '[defaults]\nimplicit = "deny"\n[[rule]]\nid = "b"'),
        ],
    )
    def test_changes_with_content(self, old: str, new: str) -> None:
        assert parse(self.text).digest != parse(self.text.replace(old, new, 1)).digest

    def test_changes_with_the_order_of_rules(self) -> None:
        a, b = self.text.split('[[rule]]\nid = "b"')
        assert parse(self.text).digest != parse('[[rule]]\nid = "b"' + b + a).digest
