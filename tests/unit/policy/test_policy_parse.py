# SPDX-License-Identifier: GPL-2.0-or-later
"""Good files give the policy that they say; bad ones every mistake, at its line, with a remedy."""

from __future__ import annotations

import errno
import tomllib
from dataclasses import replace

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from enforcer.model.errors import BadConfiguration, Exit
from enforcer.model.resource import UseKind
from enforcer.policy.fields import parse_duration, show_duration
from enforcer.policy.message import FIELDS, problem_of, render
from enforcer.policy.parse import PolicyErrors, parse, with_generation
from enforcer.policy.rules import FailMode, Implicit, Mask, MultiAttached, RuleMode, RuleVerdict, UidMask

RULE = '[[rule]]\nid = "a"\non = ["mount"]\n'


def test_everything_at_once() -> None:
    policy = parse(
        """
        [defaults]
        implicit = "deny"
        multi_attached = "lease"
        unknown = "allow"
        on_deadline = "deny-guarded"
        on_daemon_dead = "deny"
        deadline = "30s"

        [[rule]]
        id = "san.1"
        mode = "audit"
        on = ["mount", "write-open"]
        match = { device = ["wwn-*", "vg:data"], fstype = "ext4", target = ["/srv/*"],
        """.rstrip().rstrip(",")
        + """, subject = { unit = "!backup.service", uid = "!0", exe = "/usr/*", comm = "mount" } }
        verdict = "deny"
        errno = "EPERM"
        wait = "1.5s"
        message = "{device} {{ {holder} }}"
        multi_attached = true
        """
    )
    assert policy.defaults.implicit is Implicit.DENY
    assert policy.defaults.multi_attached is MultiAttached.LEASE
    assert policy.defaults.unknown is Implicit.ALLOW
    assert policy.defaults.on_deadline is FailMode.DENY_GUARDED
    assert policy.defaults.on_daemon_dead is FailMode.DENY
    assert policy.defaults.deadline_s == 30.0
    rule = policy.rule("san.1")
    assert rule is not None
    assert (rule.mode, rule.verdict, rule.errno, rule.wait_s) == (
        RuleMode.AUDIT,
        RuleVerdict.DENY,
        errno.EPERM,
        1.5,
    )
    assert rule.on == {UseKind.MOUNT, UseKind.WRITE_OPEN}
    assert rule.match.device == ("wwn-*", "vg:data")
    assert rule.match.fstype == ("ext4",)
    assert rule.match.subject.unit == Mask("backup.service", True)
    assert rule.match.subject.uid == UidMask(0, True)
    assert rule.multi_attached is True
    assert (rule.file, rule.line) == ("<policy>", 10)


def test_what_is_left_out() -> None:
    policy = parse(RULE, generation=7)
    assert policy.generation == 7
    assert with_generation(policy, 8) == replace(policy, generation=8)
    rule = policy.rules[0]
    assert (rule.mode, rule.verdict, rule.errno, rule.wait_s) == (
        RuleMode.ENFORCE,
        RuleVerdict.LEASE,
        errno.EBUSY,
        0,
    )
    assert rule.match.subject.empty
    assert rule.multi_attached is None


def test_any_is_no_condition_but_any_source_is_one() -> None:
    match = parse(RULE + 'match = { device = ["x", "*"], subject = { exe = "*" } }').rules[0].match
    assert match.device == ()
    assert match.subject.empty
    assert parse(RULE + 'match = { source = "*" }').rules[0].match.source == ("*",)


BAD: list[tuple[str, int, str, str]] = [
    # text, line, a word of the sentence, a word of the remedy
    ('[[rule]]\nid = "a"\non = ["mount"]\nfstypes = "x"', 4, 'unknown key "fstypes"', "Known here"),
    (RULE + 'match = { fstypes = "x" }', 4, 'unknown key "fstypes"', '"fstype"'),
    ("[default]\n", 1, "unknown key", '"defaults"'),
    ("rules = 1\n", 1, "unknown key", '"rule"'),
    ("\n[rule]\nid = 'a'", 2, "not a list of tables", "[[rule]]"),
    ("rule = 5", 1, "not a list of tables", "[[rule]]"),
    ("rule = [5]", 1, "must be a table", "[[rule]]"),
    ("[[rule]]\non = ['mount']", 1, "no id", "id ="),
    ("[[rule]]\nid = 'a b'\non = ['mount']", 2, "not an id", "letters"),
    ("[[rule]]\nid = 3\non = ['mount']", 2, "must be a string, not a number", "Write"),
    (RULE + RULE, 5, "taken by <policy>:1", "another"),
    ("[[rule]]\nid = 'a'", 1, 'no "on"', "write-open"),
    ("[[rule]]\nid = 'a'\non = []", 3, "empty", "at least one"),
    ("[[rule]]\nid = 'a'\non = [\n  'mount',\n  'swapp',\n]", 5, '"swapp"', '"swap"'),
    ("[[rule]]\nid = 'a'\non = ['mount', 4]", 3, "list of strings", "Write"),
    ("[[rule]]\nid = 'a'\non = ['umount']", 3, "not supported", "never refused"),
    (RULE + "mode = 'monitor'", 4, '"monitor"', '"audit"'),
    (RULE + "mode = true", 4, "not a boolean", "Write"),
    (RULE + "errno = 16", 4, "not a number", "name of an errno"),
    (RULE + "errno = 'EBUZY'", 4, "not the name of an errno", '"EBUSY"'),
    (RULE + "errno = 'EINTR'", 4, "cannot be a refusal", "EPERM"),
    (RULE + "errno = 'ENOSYS'", 4, "mount(8)", "EPERM"),
    (RULE + "wait = 5", 4, "duration with its unit", '"20s"'),
    (RULE + "wait = '5 sec'", 4, "not a duration", "500ms"),
    (RULE + "wait = '25s'", 4, "longer than the deadline of 20s", "raise deadline"),
    (RULE + "message = 'held by {who}'", 4, '"{who}"', "{holder}"),
    (RULE + "message = '{device.name}'", 4, "unknown field", "{device}"),
    (RULE + "message = '{device!r}'", 4, "no format", "{device}"),
    (RULE + "message = '{device'", 4, "not closed", "{{"),
    (RULE + 'message = "a\\nb"', 4, "newline", "one line"),
    (RULE + "multi_attached = 'yes'", 4, "true or false", "Write"),
    (RULE + "verdict = 'allow'", 4, '"allow"', 'mode = "off"'),
    (RULE + "prepare = []", 4, "not supported by this version", "Remove it"),
    (RULE + "on_lost = ['cut']", 4, "not supported by this version", "Remove it"),
    (RULE + "on_umount = {}", 4, "not supported by this version", "Remove it"),
    (RULE + "match = 'x'", 4, "must be a table", "Write"),
    (RULE + "match = { device = [] }", 4, "empty", "leave the key out"),
    (RULE + "match = { device = '' }", 4, "matches nothing", "Leave"),
    (RULE + "match = { device = 'a ' }", 4, "white space", "Remove"),
    (RULE + "match = { device = '/dev/disk/by-id/x' }", 4, "can never match", "wwn-"),
    (RULE + "match = { device = 'wwn-[0' }", 4, "without its ]", "Close"),
    (RULE + "match = { device = 'wwn-[9-0]' }", 4, "never match", "low to high"),
    (RULE + "match = { device = '{a,b}' }", 4, "braces", "list"),
    (RULE + "match = { device = '!a' }", 4, "subjects only", "off"),
    (RULE + "match = { fstype = 'ext4,xfs' }", 4, "one word", "list"),
    (RULE + "match = { target = 'srv' }", 4, "absolute", '"/srv"'),
    (RULE + "match = { target = '/srv/' }", 4, "slash", '"/srv"'),
    (RULE + "match = { target = '/a//b' }", 4, "normalized", "without"),
    (RULE + "match = { subject = { unit = 'backup' } }", 4, "suffix", "backup.service"),
    (RULE + "match = { subject = { exe = 'mount' } }", 4, "absolute", "/usr/bin"),
    (RULE + "match = { subject = { comm = '0123456789abcdef' } }", 4, "15 characters", "exe"),
    (RULE + "match = { subject = { comm = '!*' } }", 4, "nobody", "Remove"),
    (RULE + "match = { subject = { uid = 'root' } }", 4, "user id", "number"),
    (RULE + "match = { subject = { uid = true } }", 4, "user id", "number"),
    (RULE + "match = { subject = { uid = -1 } }", 4, "user id", "number"),
    (RULE + "match = { source = 'a:/b', device = 'x' }", 4, "never match", "two rules"),
    ("[[rule]]\nid = 'a'\non = ['swap']\n[rule.match]\n\ntarget = '/srv'", 6, "no mount", "remove target"),
    ("[[rule]]\nid='a'\non = ['mount', 'swap']\nmatch = {source = 'a:*'}", 3, "other uses", "another rule"),
    ("[defaults]\nimplicit = 'deni'", 2, '"deni"', '"deny"'),
    ("[defaults]\n\ndeadline = '31s'", 3, "outside of 100ms to 30s", "Choose"),
    ("[defaults]\ndeadline = '0s'", 2, "outside", "100ms"),
    ("[defaults]\non_daemon_dead = 'allow'", 2, '"allow"', "audit"),
    ("defaults = 1", 1, "must be a table", "Write"),
    ("[[rule]]\nid = \n", 2, "is not TOML: Invalid value, column", "toml.io"),
    ("a = 1\na = 2", 2, "is not TOML", "toml.io"),
    ("a = '''", 1, "end of the file", "toml.io"),
    ("a = " + "[" * 5000, 1, "nested too deeply", "Four"),
]


@pytest.mark.parametrize(("text", "line", "word", "remedy"), BAD, ids=[f"{i}-{b[2][:20]}" for i, b in enumerate(BAD)])
def test_bad(text: str, line: int, word: str, remedy: str) -> None:
    with pytest.raises(PolicyErrors) as caught:
        parse(text)
    found = [problem for problem in caught.value.problems if word in problem.message]
    assert found, str(caught.value)
    assert (found[0].file, found[0].line) == ("<policy>", line)
    assert remedy in found[0].remedy
    assert f"<policy>:{line}: {found[0].message}. {found[0].remedy}." in str(caught.value)
    assert caught.value.exit_code is Exit.NOT_CONFIGURED
    assert isinstance(caught.value, BadConfiguration)


def test_not_utf8() -> None:
    with pytest.raises(PolicyErrors, match="<policy>:3: is not UTF-8"):
        parse(b"# a\n# b\n# \xff\n")


_WORDS = 8 * ["\n"] + sorted({word for bad in BAD for word in bad[0].replace("=", " = ").split()} | {"[defaults]"})


@settings(max_examples=150, deadline=None)
@example(b"a = " + b"9" * 5000)
@example(b"a = " + b"{a=" * 3000)
@example(b"\xef\xbb\xbf")
@example(b"\0")
@example(b"'\v\0")
@example(b"rule = [[]]")
@example(b"rule = 1979-05-27")
@given(st.binary(max_size=200) | st.lists(st.sampled_from(_WORDS), max_size=25).map(lambda w: " ".join(w).encode()))
def test_arbitrary_bytes_raise_only_policy_errors(content: bytes) -> None:
    try:
        parse(content)
    except PolicyErrors as error:
        assert error.problems
        assert all(0 <= problem.line <= content.count(b"\n") + 1 for problem in error.problems)


_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.sampled_from(["", "a", "*", "[", "!x", "mount", "EBUSY", "5s"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["device", "subject", "unit", "uid", "id", "x"]), inner, max_size=3)
    ),
    max_leaves=5,
)
_RULE_KEYS = ["id", "mode", "on", "match", "verdict", "errno", "wait", "message", "multi_attached", "x"]


def _toml(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} = {_toml(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_toml, value)) + "]"
    return "1.5" if value is None else repr(value)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.dictionaries(st.sampled_from(_RULE_KEYS), _VALUES, max_size=6), max_size=3))
def test_wrong_types_raise_only_policy_errors(rules: list[dict[str, object]]) -> None:
    text = "".join("[[rule]]\n" + "".join(f"{k} = {_toml(v)}\n" for k, v in rule.items()) for rule in rules)
    tomllib.loads(text)
    try:
        parse(text)
    except PolicyErrors as error:
        assert str(error)


def test_messages() -> None:
    assert problem_of("".join(f"{{{name}}}" for name in FIELDS)) is None
    assert (
        render("{device}: {{{holder}}} {since}", {"device": "{node}", "holder": "n1", "since": ""}) == "{node}: {n1} ?"
    )


@pytest.mark.parametrize(("text", "seconds"), [("0s", 0), ("500ms", 0.5), ("20s", 20), ("1.5s", 1.5), ("2min", 120)])
def test_durations(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds
    assert parse_duration(show_duration(seconds)) == seconds


@pytest.mark.parametrize("text", ["", "s", "5", "5 s", "-5s", "1e3s", "5h", "\u0665s", "9" * 10 + "s"])
def test_no_durations(text: str) -> None:
    with pytest.raises(ValueError, match="duration"):
        parse_duration(text)
