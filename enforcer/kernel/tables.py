# SPDX-License-Identifier: GPL-2.0-or-later
"""The pinned tables by name, typed. Each is read and written whole: one element, one bpf(2) call."""

from __future__ import annotations

import ctypes as C
import errno
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Generic, TypeVar

from enforcer.kernel import abi
from enforcer.kernel.libbpf import KernelError, library
from enforcer.model.resource import DevNum

T = TypeVar("T", bound=C.Structure)


class Table(Generic[T]):
    """A table with a fixed-size integer or byte key and a structure as value."""

    def __init__(self, descriptor: int, value: type[T], name: str, key_bytes: int = 4) -> None:
        self._fd, self._value, self._name, self._key_bytes = descriptor, value, name, key_bytes

    def _key(self, key: int | bytes) -> bytes:
        return key if isinstance(key, bytes) else key.to_bytes(self._key_bytes, "little")

    def get(self, key: int | bytes) -> T | None:
        """The element, or None. Raises KernelError."""
        value = self._value()
        result = library().call("bpf_map_lookup_elem", self._fd, self._key(key), C.byref(value))
        if result == 0:
            return value
        if C.get_errno() == errno.ENOENT:
            return None
        raise KernelError(f"cannot read table {self._name}", errno=C.get_errno())

    def put(self, key: int | bytes, value: T) -> None:
        """Write the element. Raises KernelError (E2BIG: the table is full)."""
        library().check(
            "bpf_map_update_elem",
            self._fd,
            self._key(key),
            C.byref(value),
            0,
            what=f"cannot write table {self._name}",
        )

    def delete(self, key: int | bytes) -> bool:
        """Remove the element; False if it was not there."""
        return bool(library().call("bpf_map_delete_elem", self._fd, self._key(key)) == 0)

    def each_key(self) -> Iterator[bytes]:
        """All keys at about this moment; a table that changes meanwhile may yield a key twice or miss a new one."""
        key, following = None, C.create_string_buffer(self._key_bytes)
        while library().call("bpf_map_get_next_key", self._fd, key, following) == 0:
            key = following.raw
            yield key


class _U32(C.Structure):
    _fields_ = (("value", C.c_uint32),)


class Tables:
    """Every table of the object, from descriptors by name."""

    def __init__(self, maps: dict[str, int]) -> None:
        self.config = Table(maps["config"], abi.Config, "config")
        self.selves = Table(maps["selves"], abi.Self, "selves")
        self.stats = Table(maps["stats"], abi.Stats, "stats")
        self.deadline = Table(maps["deadline"], abi.Deadline, "deadline")
        self.guard = Table(maps["guard"], abi.Guard, "guard")
        self.ledger = Table(maps["ledger"], abi.Ledger, "ledger")
        self.uses = Table(maps["uses"], abi.Use, "uses", 8)
        self.supers = Table(maps["supers"], abi.Super, "supers", 8)
        self.fstypes = Table(maps["fstypes"], _U32, "fstypes", abi.FSTYPE_BYTES)
        self.tasks = Table(maps["tasks"], abi.Task, "tasks")
        self.params = Table(maps["params"], abi.Params, "params", 8)
        self.asks = Table(maps["asks"], abi.Ask, "asks")

    def configure(self, **changes: int) -> None:
        """Change fields of the configuration element and leave the others."""
        config = self.config.get(0) or abi.Config()
        config.abi = abi.ABI
        for name, value in changes.items():
            setattr(config, name, value)
        self.config.put(0, config)

    def introduce(self, slot: int, tgid: int) -> None:
        """Tell the programs that process ``tgid`` is one of us (0 enforcerd, 1 keeper)."""
        self.selves.put(slot, abi.Self(tgid=tgid, start_ticks=start_ticks(tgid)))

    def fstype(self, name: str, handling: abi.FsHandling | None) -> None:
        """Set or remove how a filesystem type is handled before any ask."""
        key = name.encode()[: abi.FSTYPE_BYTES - 1].ljust(abi.FSTYPE_BYTES, b"\0")
        if handling is None:
            self.fstypes.delete(key)
        else:
            self.fstypes.put(key, _U32(handling))

    def fstype_names(self) -> set[str]:
        return {key.split(b"\0", 1)[0].decode() for key in self.fstypes.each_key()}

    def opening(self, dev: DevNum) -> bool:
        """True if some task is inside an open of the device by the kernel right now."""
        number = dev.to_kernel()
        for key in self.tasks.each_key():
            task = self.tasks.get(key)
            if task is not None and any(o.dev == number for o in task.opens[: min(task.open_depth, abi.OPENS)]):
                return True
        return False

    def devices(self) -> set[DevNum]:
        """Every dev_t that has an entry in the guard table."""
        return {DevNum.from_kernel(int.from_bytes(key, "little")) for key in self.guard.each_key()}


def start_ticks(pid: int) -> int:
    """Start of a process or thread on the boot clock in USER_HZ: field 22 of /proc/PID/stat (proc(5)).

    Raises ProcessLookupError if there is none.
    """
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except FileNotFoundError as gone:
        raise ProcessLookupError(pid) from gone
    return int(stat[stat.rindex(b")") + 2 :].split()[19])


def open_pinned(pins: Path) -> Tables:
    """The tables of a gate that another process attached (the keeper's way). Raises KernelError."""
    maps = {}
    for pin in sorted((pins / "maps").iterdir()):
        maps[pin.name] = library().check("bpf_obj_get", os.fsencode(pin), what=f"cannot open {pin}")
    return Tables(maps)
