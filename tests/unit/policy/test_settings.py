# SPDX-License-Identifier: GPL-2.0-or-later
"""The daemon's configuration."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from enforcer import settings as module
from enforcer.model.errors import Exit
from enforcer.settings import SETTINGS, Settings, SettingsErrors, StoreKind, listing, load, parse


def test_defaults(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "DEFAULT_PATH", str(tmp_path / "none"))
    settings = load()
    assert settings.node.name == os.uname().nodename
    assert settings.store.kind is StoreKind.SQLITE
    assert settings.store.path == "/var/lib/enforcer/leases.sqlite"
    assert (settings.store.ttl_s, settings.store.renew_s) == (30.0, 5.0)
    assert settings.keeper.restart == ("systemctl", "restart", "enforcerd.service")
    assert settings.keeper.progress_timeout_s == 5.0
    assert settings.file == ""
    (tmp_path / "none").write_text('[node]\nname = "n1"')
    assert load().node.name == "n1"


def test_everything(tmp_path: Path) -> None:
    file = tmp_path / "e.toml"
    file.write_text(
        '[node]\nname = "n-1.example"\n[store]\nkind = "etcd"\npath = "/x"\ncluster = "c"\n'
        'endpoints = ["https://192.0.2.1:2379", "https://[2001:db8::1]:2379"]\nttl = "60s"\nrenew = "500ms"\n'
        'ca = "/ca"\ncert = "/cert"\nkey = "/key"\nserver_name = "etcd"\nusername = "u"\npassword_file = "/pw"\n'
        'device = "/dev/disk/by-id/x"\nhost_id = 3\nio_timeout = "5s"\n'
        'command = ["/usr/libexec/peer", "-v"]\nsocket = "/run/peer.sock"\n'
        '[cluster]\nview = "pacemaker"\n'
        '[paths]\nstate_dir = "/s"\nrun_dir = "/r"\nlog_dir = "/l"\nbpffs = "/b"\npolicy_dirs = ["/p"]\n'
        '[daemon]\ngroup = "g"\non_conflict = "alert"\n[keeper]\nrestart = ["x", "y"]\nprogress_timeout = "2s"\n'
        '[lost]\ncut = "1s"\nhypervisor_pauses = "no"\nwatchdog = "/dev/watchdog1"\nwatchdog_timeout = "20s"\n'
        'reservation = ["wwn-*"]\n'
        '[fencing]\non_demand = true\n[fencing.node-2]\nagent = "fence_ipmilan"\n'
    )
    settings = load(file)
    assert settings.file == str(file)
    shown = settings.as_dict()
    assert {(section, key) for section, keys in shown.items() for key in keys} == {(s.section, s.key) for s in SETTINGS}
    only_one_value = ("on_conflict",)  # the other is refused
    assert all(shown[s.section][s.key] != s.default for s in SETTINGS if s.key not in only_one_value)
    # What is shown can be read back.
    text = "".join(
        f"[{name}]\n" + "".join(f"{k} = {json.dumps(v)}\n" for k, v in t.items()) for name, t in shown.items()
    )
    assert parse(text + '[fencing.node-2]\nagent = "/a"').as_dict() == shown


def test_listing_changes_nothing() -> None:
    text = listing()
    assert all(setting.help in text for setting in SETTINGS)
    commented = "\n".join(line.removeprefix("# ") if " = " in line else line for line in text.splitlines())
    without_empty = "\n".join(line for line in commented.splitlines() if not line.endswith(('= ""', "= []")))
    assert parse(without_empty).as_dict() == parse("").as_dict()


@pytest.mark.parametrize(
    ("text", "line", "word", "remedy"),
    [
        ("[nod]", 1, 'unknown key "nod"', '"node"'),
        ("[store]\ntt = '5s'", 2, 'unknown key "tt"', '"ttl"'),
        ("[store]\nkind = 'etcdd'", 2, '"etcdd"', '"etcd"'),
        ("[store]\nkind = 'etcd'", 2, "no endpoints", "endpoints ="),
        ("[store]\nendpoints = [\n'192.0.2.1']", 3, "not an endpoint", "https://"),
        ("[store]\nendpoints = [\n'https://a:1',\n'http://b:1']\nca = '/c'", 4, "mix http and https", "https"),
        ("[store]\nendpoints = ['https://a:1']", 2, "need the authorities", "Set ca"),
        ("[store]\nendpoints = ['http://a:1']\nca = '/c'", 3, "no use with http", "https"),
        ("[store]\nca = '/c'\nkey = '/k'", 3, 'no use without "cert"', "Set cert"),
        ("[store]\nusername = 'u'", 2, 'no use without "password_file"', "Set password_file"),
        ("[store]\nendpoints = ['http://a:1']\npassword_file = '/p'\nusername = 'u'", 4, "clear text", "https"),
        ("[store]\nusername = ' '", 2, "empty or not printable", "leave it out"),
        ("[store]\npassword = 'x'", 2, 'unknown key "password"', '"password_file"'),
        ("[store]\nkind = 'external'", 2, "no peer", "command ="),
        ("[store]\nkind = 'external'\ncommand = ['/p']\nsocket = '/s'", 2, "both", "either"),
        ("[store]\nkind = 'external'\ncommand = ['p']", 3, '"p" is not an absolute path', "from /"),
        ("[store]\nkind = 'sanlock'\nhost_id = 1", 2, "no device", "device ="),
        ("[store]\nkind = 'sanlock'\ndevice = '/d'", 1, "needs a host_id", "1 to 32"),
        ("[store]\nkind = 'sanlock'\ndevice = '/d'\nhost_id = 33", 4, "needs a host_id", "1 to 32"),
        ("[store]\nkind = 'sanlock'\ndevice = '/d'\nhost_id = '1'", 4, "no whole number", "quotes"),
        ("[store]\nkind = 'sanlock'\ndevice = '/d'\nhost_id = 1\nio_timeout = '1500ms'", 5, "whole seconds", "10s"),
        ("[store]\nttl = 30", 2, "duration with its unit", "20s"),
        ("[store]\nttl = '2h'", 2, "not a duration", "min"),
        ("[node]\nname = 'a/b'", 2, "not a name", "letters"),
        ("[node]\nname = 5", 2, "must be a string", "Write"),
        ("[paths]\nrun_dir = 'run'", 2, "not an absolute path", "Write"),
        ("[paths]\nrun_dir = '/run/'", 2, "not a normalized path", "Write"),
        ("[paths]\npolicy_dirs = '/x'", 2, "a list of strings", "Write"),
        ("[keeper]\nrestart = []", 2, "empty", "Name"),
        ("[keeper]\nrestart = ['']", 2, "empty word", "Remove"),
        ("[lost]\ncut = '-1s'", 2, "not a duration", "min"),
        ("[lost]\nhypervisor_pauses = 'maybe'", 2, '"maybe"', "auto, no, yes"),
        ("[daemon]\non_conflict = 'cut'", 2, "nothing in this version ends a use", '"alert"'),
        ("node = 1", 1, "must be a table", "Write"),
        ("[node", 1, "is not TOML", "toml.io"),
    ],
)
def test_bad(text: str, line: int, word: str, remedy: str) -> None:
    with pytest.raises(SettingsErrors) as caught:
        parse(text, "f")
    found = [problem for problem in caught.value.problems if word in problem.message]
    assert found, str(caught.value)
    assert (found[0].file, found[0].line) == ("f", line)
    assert remedy in found[0].remedy
    assert caught.value.exit_code is Exit.NOT_CONFIGURED


def test_renewal_arithmetic() -> None:
    parse("[store]\nttl = '10s'\nrenew = '3.16s'")  # 9.48 + 0.52
    with pytest.raises(SettingsErrors) as caught:
        parse("[store]\nttl = '10s'\nrenew = '3.2s'", "f")
    assert str(caught.value) == (
        "f:3: 3 x renew (3.2s) + margin (0.5s + ttl/500 = 0.52s) = 10.12s, which is more than ttl (10s). "
        "Raise ttl, or set renew to 3.1s or less."
    )
    with pytest.raises(SettingsErrors, match="f:2: 3 x renew"):
        parse("[store]\nttl = '10s'", "f")


def test_what_must_be_done_before_the_end_must_fit() -> None:
    """3R + B + W + m > T is refused by file and line; the defaults fit, with a watchdog too."""
    etcd = "[store]\nkind = 'etcd'\nendpoints = ['http://a:1']\n"
    assert parse(etcd).deadlines().cut_s == 0, "a store that is away ends no use unless somebody wants it"
    default = parse(etcd + "[lost]\ncut = '3s'\nwatchdog = '/dev/watchdog1'").deadlines()
    assert (default.cut_s, default.watchdog_s, default.problem()) == (3.0, 10.0, "")
    for text, line, word in (
        ("[lost]\ncut = '20s'", 5, "cut (20s)"),
        ("ttl = '10s'\nrenew = '2s'\n[lost]\ncut = '4s'", 5, "cut (4s)"),
        ("[lost]\nwatchdog = '/dev/watchdog'\nwatchdog_timeout = '15s'", 5, "watchdog (15s)"),
    ):
        with pytest.raises(SettingsErrors, match=f"f:{line}: 3 x renew") as caught:
            parse(etcd + text, "f")
        assert word in str(caught.value) and "more than ttl" in str(caught.value)


STORES = {
    "sqlite": "",
    "sanlock": "device = '/d'\nhost_id = 1\n",
    "external": "socket = '/s'\n",
}


@pytest.mark.parametrize("kind", STORES)
@pytest.mark.parametrize("asked", ["cut = '3s'", "watchdog = '/dev/watchdog1'", "reservation = ['wwn-*']"])
def test_protection_that_would_not_be_there_is_refused(kind: str, asked: str) -> None:
    """Whoever wrote it relies on it. What asks for nothing passes, so that all defaults can be written out."""
    text = f"[lost]\n{asked}\n[store]\nkind = '{kind}'\n{STORES[kind]}"
    with pytest.raises(SettingsErrors) as caught:
        parse(text, "f")
    key = asked.partition(" ")[0]
    [problem] = caught.value.problems
    assert (problem.line, problem.message) == (2, f'"{key}" has no effect with the {kind} store, only with etcd')
    assert problem.remedy.startswith("Remove it: ")
    parse(text.replace(asked, "cut = '0s'\nhypervisor_pauses = 'no'\nwatchdog_timeout = '20s'"))
    with pytest.raises(SettingsErrors) as mistyped:
        parse(text.replace(f"'{kind}'", "'etdc'"), "f")
    assert "no effect" not in str(mistyped.value), "perhaps it was to be etcd"


def test_missing_and_writable(tmp_path: Path) -> None:
    with pytest.raises(SettingsErrors, match="cannot be opened"):
        load(tmp_path / "none")
    file = tmp_path / "e.toml"
    file.write_text("")
    assert load(file).store == parse("").store
    file.chmod(0o666)
    with pytest.raises(SettingsErrors, match="everybody"):
        load(file, euid=0)


@hypothesis_settings(max_examples=100, deadline=None)
@given(st.binary(max_size=100))
def test_arbitrary_bytes(content: bytes) -> None:
    try:
        assert isinstance(parse(content), Settings)
    except SettingsErrors as error:
        assert error.problems


def test_imports_little() -> None:
    """The keeper is locked into memory: none of these may come along."""
    heavy = {
        "asyncio",
        "json",
        "difflib",
        "ctypes",
        "socket",
        "sqlite3",
        "logging",
        "subprocess",
        "hashlib",
        "rich",
    }
    code = (
        f"import sys; sys.path[:0] = {sys.path!r}; before = set(sys.modules); import enforcer.settings; "
        f"print(*({heavy!r} & (set(sys.modules) - before)))"
    )
    done = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


@pytest.mark.parametrize(
    "line",
    ['endpoints = ["https://node:hunter2@192.0.2.1:2379"]', 'password_file = "hunter2"', 'password = "hunter2"'],
)
def test_a_password_in_the_wrong_place_is_not_told_to_the_log(line: str) -> None:
    with pytest.raises(SettingsErrors) as refused:
        parse(f'[store]\nkind = "etcd"\n{line}\n', "e.toml")
    assert "e.toml:3" in str(refused.value)
    assert "hunter2" not in str(refused.value) + refused.value.hint
