# SPDX-License-Identifier: GPL-2.0-or-later
"""Policy files into a Policy: all of them or none, and every mistake in all of them at once.

Drop-ins work as those of systemd do: of files with one name the one in the later directory counts, an empty
one or a link to /dev/null hides the earlier; what is left is read in the order of names. Only
``NN-name.toml`` is policy. Any other name that ends in .toml is an error, for a rule in a file that nobody
reads looks like protection; names with other endings (.rpmsave, .example, README.md) are no policy and are
passed over.

[defaults] may stand in several files. As with rules the first that says a key decides, so the shipped
90-default.toml is what holds when the administrator says nothing.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from enforcer.model.resource import UseKind
from enforcer.policy import masks
from enforcer.policy.document import Document, LocatedErrors, Problem, parse_bytes, read_bytes
from enforcer.policy.fields import Fields, show_duration, suggest
from enforcer.policy.message import problem_of
from enforcer.policy.rules import (
    ANYBODY,
    MAX_DEADLINE_S,
    RULE_USES,
    Defaults,
    FailMode,
    Implicit,
    Mask,
    Match,
    MultiAttached,
    Policy,
    Rule,
    RuleMode,
    RuleVerdict,
    Subject,
    UidMask,
)

DIRECTORIES = ("/usr/lib/enforcer/policy.d", "/etc/enforcer/policy.d")
FILE_NAME = re.compile(r"[0-9]{2}-[A-Za-z0-9][A-Za-z0-9_.-]*\.toml")
RULE_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
MIN_DEADLINE_S = 0.1
MAX_UID = 0xFFFFFFFE  # 0xffffffff is "no user", credentials(7)

# Every key there is, by table; policy/schema.json is tested against it.
KEYS: dict[str, tuple[str, ...]] = {
    "": ("defaults", "rule"),
    "defaults": ("implicit", "multi_attached", "unknown", "on_deadline", "on_daemon_dead", "deadline"),
    "rule": ("id", "mode", "on", "match", "verdict", "errno", "wait", "message", "multi_attached"),
    "rule.match": ("device", "fstype", "target", "source", "subject"),
    "rule.match.subject": ("unit", "uid", "exe", "comm"),
}

# Keys of the design that this version does not act on: never silently ignored.
LATER_KEYS = {
    "prepare": "Remove it; until it is supported, order the steps before the mount in its unit",
    "on_lost": "Remove it; until it is supported, lost leases are dealt with by fencing alone",
    "on_umount": "Remove it; an umount is never held up by this version",
}

_MODE_REMEDIES = {
    "monitor": 'Did you mean "audit"',
    "permissive": 'Did you mean "audit"',
    "disabled": 'Did you mean "off"',
    "deny": 'Write mode = "enforce" and verdict = "deny"',
    "allow": 'Write mode = "off": the uses pass and no later rule is asked',
}
_FAIL_REMEDIES = {
    "allow": 'Silence never permits. To refuse nothing, use mode = "audit", or boot with enforcer=audit',
}


class PolicyErrors(LocatedErrors):
    """The policy cannot be used; the one in force stays in force."""


def policy_files(places: Iterable[str | Path], problems: list[Problem], *, named: bool = False) -> list[str]:
    """The files that make the policy, in order, masked ones included only by their mask.

    A place is a directory of drop-ins, or one file, which is taken whatever its name. A directory that does
    not exist is passed over, unless none exists, and one may be empty. ``named`` is for places that somebody
    has just typed: then each must hold a file, because "no mistakes" would be said of nothing.
    """
    chosen: dict[str, str] = {}
    asked: list[str] = []
    found = False
    for place in map(Path, places):
        asked.append(str(place))
        try:
            if not place.exists():
                if named:
                    found = True
                    problems.append(
                        Problem(str(place), 0, "does not exist", "Name a directory of policy files, or one")
                    )
                continue
            found = True
            if not place.is_dir():
                chosen[place.name] = str(place)
                continue
            names = sorted(entry.name for entry in place.iterdir())
        except (OSError, ValueError) as error:
            found = True
            why = error.strerror if isinstance(error, OSError) else str(error)
            problems.append(Problem(str(place), 0, f"cannot be listed: {why}", "Check its permissions"))
            continue
        for name in names:
            if FILE_NAME.fullmatch(name):
                chosen[name] = str(place / name)
            elif name.endswith(".toml") and not name.startswith("."):
                remedy = "Name it NN-name.toml, as 50-site.toml, or give it another ending to switch it off"
                problems.append(Problem(str(place / name), 0, "is not read: its name has no number", remedy))
        if named and not any(name.endswith(".toml") and not name.startswith(".") for name in names):
            remedy = "Only NN-name.toml is read, as 50-site.toml"
            problems.append(Problem(str(place), 0, "holds no policy file", remedy))
    if not found:
        where = ", ".join(asked) or "nowhere"
        problems.append(Problem(where, 0, "no policy is there", "Install the shipped policy, or set policy_dirs"))
    return [chosen[name] for name in sorted(chosen)]


def load(
    places: Sequence[str | Path] = DIRECTORIES, *, generation: int = 0, named: bool = False, euid: int | None = None
) -> Policy:
    """Read the policy from directories of drop-ins (later ones mask) and single files. Raises PolicyErrors.

    ``named``: see ``policy_files``. ``euid`` is the user whose trust in the files is meant, in tests; ours by default.
    """
    problems: list[Problem] = []
    documents: list[Document] = []
    for file in policy_files(places, problems, named=named):
        content = read_bytes(file, problems, euid=euid)
        if content:
            documents.append(parse_bytes(content, file))
    return _build(documents, problems, generation)


def parse(content: bytes | str, file: str = "<policy>", *, generation: int = 0) -> Policy:
    """One text as a whole policy. Raises PolicyErrors."""
    data = content.encode("utf-8", "surrogatepass") if isinstance(content, str) else content
    return _build([parse_bytes(data, file)], [], generation)


def _build(documents: Sequence[Document], problems: list[Problem], generation: int) -> Policy:
    rules: list[tuple[Rule, Fields]] = []
    tables: list[Fields] = []
    for document in documents:
        top = Fields(document, (), document.data, KEYS[""])
        tables.append(top.table("defaults", KEYS["defaults"]))
        rules += _rules(top)
    defaults = Defaults()
    for table in reversed(tables):  # the first file has the last word
        defaults = _defaults(table, defaults)
    _check_ids(rules)
    for rule, fields in rules:
        if rule.wait_s > defaults.deadline_s:
            what = f'"wait" is longer than the deadline of {show_duration(defaults.deadline_s)}'
            fields.problem("wait", what, "Shorten it, or raise deadline in [defaults] (at most 30s)")
    for document in documents:
        problems += sorted(document.problems, key=lambda problem: problem.line)
    if problems:
        raise PolicyErrors(dict.fromkeys(problems))
    return Policy(
        rules=tuple(rule for rule, _ in rules),
        defaults=defaults,
        generation=generation,
        files=tuple(document.file for document in documents),
    )


def _defaults(table: Fields, base: Defaults) -> Defaults:
    return Defaults(
        implicit=table.choice("implicit", Implicit, base.implicit),
        multi_attached=table.choice("multi_attached", MultiAttached, base.multi_attached),
        unknown=table.choice("unknown", Implicit, base.unknown),
        on_deadline=table.choice("on_deadline", FailMode, base.on_deadline, _FAIL_REMEDIES),
        on_daemon_dead=table.choice("on_daemon_dead", FailMode, base.on_daemon_dead, _FAIL_REMEDIES),
        deadline_s=table.duration("deadline", base.deadline_s, least=MIN_DEADLINE_S, most=MAX_DEADLINE_S),
    )


def _rules(top: Fields) -> list[tuple[Rule, Fields]]:
    if not top.has("rule"):
        return []
    value = top.data["rule"]
    if not isinstance(value, list):
        top.problem("rule", '"rule" is not a list of tables', "Write [[rule]] with two brackets on each side")
        return []
    result: list[tuple[Rule, Fields]] = []
    for index, data in enumerate(value):
        if isinstance(data, dict):
            fields = Fields(top.document, ("rule", index), data, KEYS["rule"], LATER_KEYS)
            result.append((_rule(fields), fields))
        else:
            top.problem(("rule", index), "a rule must be a table", "Write [[rule]] and its keys below it")
    return result


def _rule(fields: Fields) -> Rule:
    identity = fields.string("id")
    if not fields.has("id"):
        fields.problem("id", "the rule has no id", 'Write id = "..."; verdicts name it')
    elif isinstance(fields.data["id"], str) and not RULE_ID.fullmatch(identity):
        remedy = "Use up to 64 letters, digits, dots, dashes and underscores, a letter or digit first"
        fields.problem("id", f"{identity!r} is not an id", remedy)
    message = fields.string("message")
    finding = problem_of(message)
    if finding:
        fields.problem("message", *finding)
    rule = Rule(
        id=identity,
        on=_on(fields),
        mode=fields.choice("mode", RuleMode, RuleMode.ENFORCE, _MODE_REMEDIES),
        match=_match(fields.table("match", KEYS["rule.match"])),
        verdict=fields.choice("verdict", RuleVerdict, RuleVerdict.LEASE, {"allow": _MODE_REMEDIES["allow"]}),
        errno=fields.errno("errno", errno.EBUSY),
        wait_s=fields.duration("wait", 0.0, most=MAX_DEADLINE_S),
        message=message,
        multi_attached=fields.boolean("multi_attached"),
        file=fields.document.file,
        line=fields.line,
    )
    _check_sense(rule, fields)
    return rule


def _on(fields: Fields) -> frozenset[UseKind]:
    words = [str(kind) for kind in RULE_USES]
    if not fields.has("on"):
        fields.problem("on", 'the rule has no "on"', "Say which uses it is about: " + ", ".join(words))
        return frozenset(RULE_USES)
    kinds: set[UseKind] = set()
    for index, word in enumerate(fields.strings("on")):
        if word == UseKind.UMOUNT:
            what = '"umount" in "on" is not supported by this version'
            fields.problem(("on", index), what, "Remove it; an umount is never refused")
        elif word in words:
            kinds.add(UseKind(word))
        else:
            fields.problem(("on", index), f'"on" cannot hold "{word}"', suggest(word, words))
    return frozenset(kinds)


def _match(fields: Fields) -> Match:
    return Match(
        device=_masks(fields, "device", masks.check_device),
        fstype=_masks(fields, "fstype", masks.check_fstype),
        target=_masks(fields, "target", masks.check_target),
        source=_masks(fields, "source", None),
        subject=_subject(fields.table("subject", KEYS["rule.match.subject"])) if fields.has("subject") else ANYBODY,
    )


def _masks(fields: Fields, key: str, check: masks.Check | None) -> tuple[str, ...]:
    globs = fields.strings(key)
    for index, glob in enumerate(globs):
        finding = masks.check_any(glob) or (check(glob) if check else None)
        if not finding and glob.startswith("!"):
            finding = (
                f'"{glob}" can never match: "!" is for subjects only',
                'Put an "off" rule before this one',
            )
        if finding:
            fields.problem((key, index), *finding)
    # "Any" is no condition and is to be seen as none; but any source at all still means a network's.
    return () if "*" in globs and key != "source" else globs


def _subject(fields: Fields) -> Subject:
    return Subject(
        unit=_subject_mask(fields, "unit", masks.check_unit),
        uid=_uid(fields),
        exe=_subject_mask(fields, "exe", masks.check_exe),
        comm=_subject_mask(fields, "comm", masks.check_comm),
    )


def _subject_mask(fields: Fields, key: str, check: masks.Check) -> Mask | None:
    if not fields.has(key):
        return None
    text = fields.string(key, "*")
    mask = Mask(text.removeprefix("!"), text.startswith("!"))
    finding = masks.check_any(mask.glob) or check(mask.glob)
    if not finding and mask == Mask("*", True):
        finding = '"!*" matches nobody', "Remove it"
    if finding:
        fields.problem(key, *finding)
    return None if mask == Mask("*") else mask


def _uid(fields: Fields) -> UidMask | None:
    if not fields.has("uid"):
        return None
    value = fields.data["uid"]
    negate = isinstance(value, str) and value.startswith("!")
    digits = value.removeprefix("!") if isinstance(value, str) else ""
    if re.fullmatch(r"[0-9]{1,10}", digits):
        value = int(digits)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= MAX_UID:
        fields.problem("uid", '"uid" is not a user id', 'Write the number, as 0, or "!0" for all others')
        return None
    return UidMask(value, negate)


def _check_sense(rule: Rule, fields: Fields) -> None:
    """Conditions that exclude each other, so that the rule could never match."""
    match = rule.match
    if match.source and match.device:
        what = 'the rule can never match: "source" is for types without a device, "device" for the others'
        fields.problem(("match", "source"), what, "Make two rules of it")
    for key, value in (("fstype", match.fstype), ("target", match.target), ("source", match.source)):
        if value and rule.on and UseKind.MOUNT not in rule.on:
            what = f'"{key}" is a condition on mounts, but "on" has no mount'
            fields.problem(("match", key), what, f'Add "mount" to on, or remove {key}')
    if match.source and rule.on - {UseKind.MOUNT}:
        what = '"source" is a condition on mounts, but "on" has other uses too'
        fields.problem("on", what, 'Write on = ["mount"]; make another rule for the rest')


def _check_ids(rules: Iterable[tuple[Rule, Fields]]) -> None:
    first: dict[str, Rule] = {}
    for rule, fields in rules:
        other = first.setdefault(rule.id, rule)
        if other is not rule and rule.id:
            fields.problem("id", f'the id "{rule.id}" is taken by {other.file}:{other.line}', "Choose another")


def with_generation(policy: Policy, generation: int) -> Policy:
    """The same policy under another generation number."""
    return replace(policy, generation=generation)
