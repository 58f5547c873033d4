# SPDX-License-Identifier: GPL-2.0-or-later
"""SCSI-3 reservations as a mark: who may write under them, and any answer of a target."""

from __future__ import annotations

import contextlib
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st
from veto_disks import Image
from veto_marks import anything, bounded, owners, seen

from enforcer.storage.vetoes import medium, reservation
from enforcer.storage.vetoes.look import HEAD_BYTES
from enforcer.storage.vetoes.marks import Damaged
from enforcer.storage.vetoes.reservation import Action


def iscsi(name: str) -> bytes:
    text = name.encode() + b"\0"
    text += bytes(-len(text) % 4)
    return struct.pack(">BBH", 0x45, 0, len(text)) + text


def target(type_: int, *registered: tuple[int, bool, bytes]) -> Image:
    disk = Image(bytes(HEAD_BYTES))
    key = next((k for k, holds, _ in registered if holds), 0)
    disk.answers[Action.READ_RESERVATION] = struct.pack(">IIQIBBH", 2, 16, key, 0, 0, type_, 0)
    body = b"".join(
        struct.pack(">Q4xBB4xHI", k, holds, type_ if holds else 0, 1, len(name)) + name for k, holds, name in registered
    )
    disk.answers[Action.READ_FULL_STATUS] = struct.pack(">II", 2, len(body)) + body
    return disk


OURS, THEIRS = iscsi("iqn.2026-11.mg:Node1,i,0x00023d000001"), iscsi("iqn.2026-11.mg:node2,i,0x00023d000002")
FC = b"\0" * 8 + bytes.fromhex("5001438012345678") + b"\0" * 8


def test_a_device_that_knows_no_reservations_has_none() -> None:
    assert seen(Image(bytes(HEAD_BYTES))) == ()
    disk = Image(bytes(HEAD_BYTES))
    disk.answers[Action.READ_RESERVATION] = struct.pack(">II", 7, 0)
    assert seen(disk) == ()


@pytest.mark.parametrize(
    ("disk", "may"),
    [
        (target(5, (0xA1, True, THEIRS)), False),
        (target(5, (0xA1, True, THEIRS), (0xB2, False, OURS)), True),  # registrants only, and we are one
        (target(7, (0xA1, True, THEIRS), (0xB2, True, FC)), True),
        (target(1, (0xA1, True, THEIRS), (0xB2, False, OURS)), False),  # the holder alone may write
        (target(3, (0xB2, True, OURS)), True),
        (target(1, (0xB2, True, FC)), True),
        (target(9, (0xA1, True, THEIRS), (0xB2, False, OURS)), False),
    ],
)
def test_a_reservation_objects_if_it_keeps_us_out(disk: Image, may: bool) -> None:
    assert owners(disk) == ([] if may else [("scsi-pr", "iqn.2026-11.mg:node2")])
    assert all(not mark.excusable for mark in seen(disk))


def test_all_keys_that_are_registered_are_read() -> None:
    """READ KEYS, SPC-4 6.15.2."""
    answer = struct.pack(">IIQQ", 7, 16, 0x4D45_0000_0400_0001, 0xA1)
    assert reservation.keys(answer) == (0x4D45_0000_0400_0001, 0xA1)
    assert reservation.keys(struct.pack(">II", 7, 0)) == ()
    with pytest.raises(Damaged):
        reservation.keys(answer[:-1])


def test_a_target_that_does_not_say_who_is_registered_is_told_by_its_key() -> None:
    disk = target(5, (0xA1, True, OURS))
    disk.answers[Action.READ_FULL_STATUS] = None
    assert [mark.says for mark in seen(disk)] == [
        "its SCSI reservation (Write Exclusive, registrants only): held by key 0xa1"
    ]


@pytest.mark.parametrize(
    ("sense", "key"), [(b"\x70\0\x05", 5), (b"\xf0\0\x26", 6), (b"\x72\x06\x29", 6), (b"\x73\x05\0", 5), (b"", 0)]
)
def test_sense_keys_in_both_formats(sense: bytes, key: int) -> None:
    assert medium.sense_key(sense) == key


@anything
@given(st.binary(max_size=300), st.binary(max_size=300))
def test_any_answer_of_a_target(one: bytes, two: bytes) -> None:
    disk = Image(bytes(HEAD_BYTES))
    disk.answers = {Action.READ_RESERVATION: one, Action.READ_FULL_STATUS: two}
    bounded(disk)
    with contextlib.suppress(Damaged):
        reservation.registrants(two)
