# SPDX-License-Identifier: GPL-2.0-or-later
"""The record explains the verdict, survives hostile names, and is read back whatever became of it."""

from __future__ import annotations

import json

from audit_samples import AT, ORIGIN, OTHER_BOOT, REFUSED, hostile, hostile_record, intent, record, view
from hypothesis import given, settings
from hypothesis import strategies as st

from enforcer.audit.record import build, event_id, notice
from enforcer.audit.sentence import sentence
from enforcer.audit.view import Record
from enforcer.model.escape import to_json
from enforcer.model.intent import Effect, Source, Verdict

KEYS = (
    "schema", "seq", "id", "boot_id", "time", "boot_ns", "node", "kind", "effect", "errno", "reason",
    "rule", "default", "generation", "source", "holder", "token", "store", "caller", "device",
    "source_path", "target", "fstype", "read_only", "latency_us", "remedy", "veto", "prev",
)  # grouped by meaning  # fmt: skip


def test_a_record_has_every_key_in_order() -> None:
    assert tuple(record(REFUSED)) == KEYS


def test_a_record_explains_its_verdict() -> None:
    made = record(REFUSED)
    assert made["id"] == "E-1a2b3c-17" == event_id(ORIGIN.boot_id, 17)
    assert made["time"] == "2026-11-22T12:05:01.250Z"
    assert made["errno"] == {"name": "EBUSY", "number": 16}
    assert (made["rule"], made["generation"], made["source"], made["store"]) == ("san", 7, "store", "etcd")
    holder = made["holder"]
    assert isinstance(holder, dict)
    assert (holder["node"], holder["boot_id"], holder["since"]) == (
        "node-1",
        OTHER_BOOT,
        "2026-11-22T12:03:00Z",
    )
    assert made["latency_us"] == {"classify": 800, "policy": 100, "store": 11200, "total": 12300}


def test_the_total_latency_is_measured_from_the_ask_when_no_stage_gives_it() -> None:
    verdict = Verdict(Effect.REFUSE, 16, Source.POLICY, "no", stages_ns={"policy": 5_000_000})
    latency = build(ORIGIN, intent(asked_ns=1), verdict)["latency_us"]
    assert isinstance(latency, dict)
    assert latency["total"] > 5000


def test_a_record_is_read_back_as_it_was_built() -> None:
    made = record(REFUSED)
    seen = Record.parse(to_json(made))
    assert seen is not None and seen == Record.of(made)
    assert seen.holder and seen.holder.node == "node-1"
    assert seen.device and seen.device.resources == ("wwn-0x5000c500aa/p1",)
    assert seen.caller.unit == "ssh.service" and seen.when == AT


def test_unknown_keys_are_kept_and_missing_ones_are_empty() -> None:
    seen = Record.parse(b'{"schema": 9, "colour": "blue", "holder": 5, "errno": "EBUSY", "token": "x"}')
    assert seen is not None
    assert seen.raw["colour"] == "blue"
    assert (seen.schema, seen.holder, seen.errno_number, seen.token, seen.reason) == (9, None, 0, 0, "")


@given(st.binary(max_size=200))
def test_a_damaged_line_is_no_record_and_no_error(line: bytes) -> None:
    Record.parse(line)
    Record.parse(to_json(record(REFUSED)).encode()[: len(line) * 4])


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.sampled_from(["", "x\x1b", "9"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["node", "pid", "\n"]), inner),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from(KEYS), _json))
def test_any_json_object_can_be_viewed_and_told(raw: dict[str, object]) -> None:
    seen = Record.of(raw)
    assert sentence(seen).isprintable()
    assert isinstance(seen.device_name, str)


@settings(max_examples=60)
@given(hostile)
def test_a_hostile_name_is_escaped_in_every_string_of_the_record(name: str) -> None:
    def strings(value: object) -> list[str]:
        if isinstance(value, dict):
            return [text for key, inner in value.items() for text in [*strings(key), *strings(inner)]]
        if isinstance(value, list):
            return [text for inner in value for text in strings(inner)]
        return [value] if isinstance(value, str) else []

    made = hostile_record(name)
    assert all(text.isprintable() for text in strings(made))
    line = to_json(made)
    assert line.isprintable() and len(line) < 256 * 1024
    assert json.loads(line) == made


def test_a_notice_is_a_record_too() -> None:
    seen = Record.of(notice(ORIGIN, "reload", "generation 8 is in force", {"digest": "a\nb"}))
    assert (seen.kind, seen.reason, seen.effect, seen.raw["digest"]) == (
        "reload", "generation 8 is in force", "", "a\\x0ab",
    )  # grouped by meaning  # fmt: skip


def test_the_sentence_names_the_holder_and_the_time() -> None:
    from datetime import UTC

    assert sentence(view(REFUSED), UTC) == "/dev/sdb1 is in use on node-1 since 12:03; not mounted (EBUSY)"
    worded = Verdict(
        Effect.REFUSE,
        16,
        Source.STORE,
        "/dev/sdb1 belongs to the backup on node-1",
        blocking=REFUSED.blocking,
    )
    assert sentence(view(worded)) == "/dev/sdb1 belongs to the backup on node-1; not mounted (EBUSY)"
