# SPDX-License-Identifier: GPL-2.0-or-later
"""Records of the ring buffer: an event, or None, whatever the bytes are."""

from __future__ import annotations

import ctypes as C

from hypothesis import given
from hypothesis import strategies as st

from enforcer.kernel import abi
from enforcer.kernel.events import KernelEvent, decode
from enforcer.model.resource import DevNum

SIZE = C.sizeof(abi.Event)


@given(st.binary(max_size=SIZE * 2))
def test_any_bytes(data: bytes) -> None:
    event = decode(data)
    assert event is None or (len(data) >= SIZE and isinstance(event, KernelEvent))


@given(st.binary(min_size=SIZE, max_size=SIZE), st.sampled_from(abi.EventKind))
def test_any_content_of_a_known_kind(data: bytes, kind: abi.EventKind) -> None:
    raw = abi.Event.from_buffer_copy(data)
    raw.kind = kind
    event = decode(bytes(raw))
    assert event is not None and event.kind is kind
    assert event.dev.to_kernel() == raw.dev and event.at_ns == raw.at_ns and event.error == raw.error
    assert b"\0" not in event.comm + event.fstype


@given(st.integers(0, 2**32 - 1).filter(lambda kind: kind not in set(abi.EventKind)))
def test_an_unknown_kind_is_left_out(kind: int) -> None:
    assert decode(bytes(abi.Event(kind=kind))) is None


def test_one_by_hand() -> None:
    raw = abi.Event(kind=abi.EventKind.GUARD_REFUSED, dev=8 << 20 | 17, error=-16, flags=4 | 1 << 20, tid=5, tgid=4)
    raw.comm[:3] = b"dd\0"
    event = decode(bytes(raw))
    assert event is not None
    assert (event.dev, event.error, event.comm) == (DevNum(8, 17), -16, b"dd")
    assert event.flags is abi.EventFlag.WRITE  # a flag of a later version is not taken for one of ours
