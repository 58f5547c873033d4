# SPDX-License-Identifier: GPL-2.0-or-later
"""SCSI vital product data: who a logical unit says that it is.

Source of the formats: SPC-4 7.8.5 (Device Identification, page 83h) and 7.8.17 (Unit Serial Number, page
80h). The kernel hands out the raw pages as ``device/vpd_pg83`` and ``device/vpd_pg80``
(drivers/scsi/scsi_sysfs.c) and its own choice as ``device/wwid`` (scsi_vpd_lun_id in
drivers/scsi/scsi_lib.c). The raw page is preferred: kernels have changed how they choose, and every node must
choose alike. Ties are broken by value, not by place in the page, because controllers of one array have been
seen to list the same designators in different order.
"""

from __future__ import annotations

import re
from enum import StrEnum
from typing import NamedTuple

from enforcer.model.errors import EnforcerError
from enforcer.storage import names
from enforcer.storage.sysfs import clean


class VpdError(EnforcerError):
    """A page is not what the standard says; no identity may be guessed from it."""


class Kind(StrEnum):
    """Designator types that identify a logical unit world-wide, or nearly."""

    NAA = "naa"
    EUI = "eui"
    NAME = "name"
    T10 = "t10"


class Designator(NamedTuple):
    """One designator of the logical unit. ``value``: lower-case hex for NAA and EUI, else escaped text."""

    kind: Kind
    value: str

    @property
    def rank(self) -> int:
        """Smaller is better: the longer and the less left to the administrator, the earlier."""
        if self.kind is Kind.NAA:
            return {"6": 0, "5": 3, "2": 4}.get(self.value[0], 8)
        if self.kind is Kind.EUI:
            return {32: 1, 24: 2}.get(len(self.value), 5)
        return 6 if self.kind is Kind.NAME else 7

    @property
    def lun_name(self) -> str:
        """The canonical name that this designator gives."""
        if self.kind is Kind.NAA:
            return f"wwn-0x{self.value}"
        if self.kind is Kind.EUI:
            return f"eui-{self.value}"
        return names.lun_name("scsi", self.value)


_HEX = re.compile(r"[0-9a-f]+")


def _hex(kind: Kind, value: str) -> Designator | None:
    """A binary designator, or None if its length is wrong for its type or it is all zeros."""
    value = value.lower()
    if not _HEX.fullmatch(value) or not value.strip("0"):
        return None
    if kind is Kind.NAA:
        fits = len(value) == (32 if value[0] == "6" else 16) and value[0] in "2356"
    else:
        fits = len(value) in (16, 24, 32)
    return Designator(kind, value) if fits else None


def parse_wwid(text: str) -> Designator | None:
    """Read a SCSI device's ``wwid`` or a SCSI name string: ``naa.``, ``eui.``, ``t10.`` or text."""
    kind, dot, value = text.partition(".")
    if dot and kind in ("naa", "eui"):
        return _hex(Kind(kind), value)
    if dot and kind == "t10":
        return Designator(Kind.T10, " ".join(value.split())) if names.usable_serial(value) else None
    return Designator(Kind.NAME, " ".join(text.split())) if names.usable_serial(text) else None


def _payload(page: bytes, code: int) -> bytes:
    if len(page) < 4 or page[1] != code:
        raise VpdError(f"not a VPD page {code:02x}h")
    length = int.from_bytes(page[2:4], "big")
    if len(page) < 4 + length:
        raise VpdError(f"VPD page {code:02x}h is cut short: {len(page) - 4} of {length} bytes")
    return page[4 : 4 + length]


def parse_page83(page: bytes) -> tuple[Designator, ...]:
    """The designators associated with the logical unit, best first, without doubles.

    Vendor-specific, relative-port, group and protocol-specific designators say nothing that is unique and are
    left out. Raises VpdError if the page or a designator in it is cut short.
    """
    payload = _payload(page, 0x83)
    found: set[Designator] = set()
    at = 0
    while at < len(payload):
        if at + 4 > len(payload) or at + 4 + payload[at + 3] > len(payload):
            raise VpdError("a designator in VPD page 83h is cut short")
        association, type_ = payload[at + 1] >> 4 & 3, payload[at + 1] & 0xF
        value = payload[at + 4 : at + 4 + payload[at + 3]]
        at += 4 + len(value)
        if association != 0:  # 0 is the logical unit; 1 is the target port, 2 the target device
            continue
        designator: Designator | None = None
        if type_ == 3:
            designator = _hex(Kind.NAA, value.hex())
        elif type_ == 2:
            designator = _hex(Kind.EUI, value.hex())
        elif type_ == 8:
            designator = parse_wwid(clean(value))
        elif type_ == 1:
            designator = parse_wwid("t10." + clean(value))
        if designator is not None:
            found.add(designator)
    return tuple(sorted(found, key=lambda each: (each.rank, each.value)))


def parse_page80(page: bytes) -> str:
    """The unit serial number without padding, escaped. Raises VpdError if the page is cut short."""
    return clean(_payload(page, 0x80))
