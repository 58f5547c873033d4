# SPDX-License-Identifier: GPL-2.0-or-later
"""libbpf.so.1 through ctypes: only functions that libbpf 1.1 (Debian 12) has.

No binding on PyPI loads a precompiled object with sleepable LSM programs, and a compiler at run time (BCC) cannot
use kfuncs. ctypes needs no compiler and no ABI wheel; the price is that every signature is written down here, or
64-bit pointers would be cut.
"""

from __future__ import annotations

import ctypes as C
import os
from collections.abc import Callable
from functools import cache
from typing import Any

from enforcer.model.errors import EnforcerError, PrerequisiteMissing

_SEARCH = (
    "/lib/x86_64-linux-gnu/libbpf.so.1",
    "/usr/lib/x86_64-linux-gnu/libbpf.so.1",
    "/usr/lib/aarch64-linux-gnu/libbpf.so.1",
    "/usr/lib64/libbpf.so.1",
    "libbpf.so.1",
)

RING_CALLBACK = C.CFUNCTYPE(C.c_int, C.c_void_p, C.c_void_p, C.c_size_t)
_PRINT = C.CFUNCTYPE(C.c_int, C.c_int, C.c_char_p, C.c_void_p)

_P, _S, _I, _U32, _U64 = C.c_void_p, C.c_char_p, C.c_int, C.c_uint32, C.c_uint64
_TABLE: dict[str, tuple[Any, list[Any]]] = {
    "bpf_object__open_file": (_P, [_S, _P]),
    "bpf_object__load": (_I, [_P]),
    "bpf_object__close": (None, [_P]),
    "bpf_object__next_program": (_P, [_P, _P]),
    "bpf_object__next_map": (_P, [_P, _P]),
    "bpf_program__name": (_S, [_P]),
    "bpf_program__section_name": (_S, [_P]),
    "bpf_program__attach": (_P, [_P]),
    "bpf_program__attach_cgroup": (_P, [_P, _I]),
    "bpf_program__fd": (_I, [_P]),
    "bpf_program__pin": (_I, [_P, _S]),
    "bpf_link__pin": (_I, [_P, _S]),
    "bpf_link__destroy": (_I, [_P]),
    "bpf_map__name": (_S, [_P]),
    "bpf_map__fd": (_I, [_P]),
    "bpf_map__pin": (_I, [_P, _S]),
    "bpf_obj_get": (_I, [_S]),
    "bpf_obj_get_info_by_fd": (_I, [_I, _P, C.POINTER(_U32)]),
    "bpf_map_lookup_elem": (_I, [_I, _P, _P]),
    "bpf_map_update_elem": (_I, [_I, _P, _P, _U64]),
    "bpf_map_delete_elem": (_I, [_I, _P]),
    "bpf_map_get_next_key": (_I, [_I, _P, _P]),
    "ring_buffer__new": (_P, [_I, RING_CALLBACK, _P, _P]),
    "ring_buffer__consume": (_I, [_P]),
    "ring_buffer__epoll_fd": (_I, [_P]),
    "ring_buffer__free": (None, [_P]),
    "libbpf_set_print": (_P, [_PRINT]),
    "btf__parse": (_P, [_S, _P]),
    "btf__free": (None, [_P]),
    "btf__find_by_name_kind": (C.c_int32, [_P, _S, _U32]),
    "btf__type_by_id": (_P, [_P, _U32]),
    "btf__name_by_offset": (_S, [_P, _U32]),
    "btf__resolve_size": (C.c_int64, [_P, _U32]),
}


class KernelError(EnforcerError):
    """A bpf(2) or libbpf call failed; ``log`` holds libbpf's own words, the verifier's among them."""

    def __init__(self, message: str, *, errno: int = 0, hint: str = "", log: str = "") -> None:
        text = f"{message}: {os.strerror(errno)}" if errno else message
        super().__init__(text, hint=hint)
        self.errno = errno
        self.log = log


class Library:
    """The loaded library. One per process; get it from :func:`library`."""

    def __init__(self, handle: C.CDLL) -> None:
        self._handle = handle
        self._lines: list[str] = []
        for name, (result, arguments) in _TABLE.items():
            function = getattr(handle, name)
            function.restype, function.argtypes = result, arguments
        vsnprintf = C.CDLL(None).vsnprintf
        vsnprintf.restype, vsnprintf.argtypes = C.c_int, [C.c_void_p, C.c_size_t, C.c_char_p, C.c_void_p]

        def keep(level: int, fmt: bytes, arguments: int) -> int:
            buffer = C.create_string_buffer(1 << 16)
            vsnprintf(buffer, len(buffer), fmt, arguments)
            self._lines.append(buffer.value.decode("utf-8", "replace"))
            del self._lines[:-400]
            return 0

        self._keep = _PRINT(keep)  # must outlive the library
        handle.libbpf_set_print(self._keep)

    def take_log(self) -> str:
        """What libbpf said since the last call (the verifier's log on a failed load)."""
        text, self._lines = "".join(self._lines), []
        return text

    def call(self, name: str, *arguments: Any) -> Any:
        """Call a function of the table; returns its plain result with errno in :func:`ctypes.get_errno`."""
        C.set_errno(0)
        return getattr(self._handle, name)(*arguments)

    def pointer(self, name: str, *arguments: Any, what: str, hint: str = "") -> int:
        """Call a function that returns a pointer. Raises KernelError if it is NULL."""
        result = self.call(name, *arguments)
        if not result:
            raise KernelError(what, errno=C.get_errno(), hint=hint, log=self.take_log())
        return int(result)

    def check(self, name: str, *arguments: Any, what: str, hint: str = "") -> int:
        """Call a function that returns a negative errno on failure. Raises KernelError."""
        result = int(self.call(name, *arguments))
        if result < 0:
            raise KernelError(what, errno=C.get_errno() or -result, hint=hint, log=self.take_log())
        return result

    def each(self, name: str, obj: int) -> list[int]:
        """All programs or maps of an object (``bpf_object__next_program`` or ``bpf_object__next_map``)."""
        found: list[int] = []
        item = self.call(name, obj, None)
        while item:
            found.append(int(item))
            item = self.call(name, obj, item)
        return found


@cache
def library() -> Library:
    """Load libbpf.so.1 from fixed places. Raises PrerequisiteMissing.

    ``ctypes.util.find_library`` is not used: it may run a compiler found in $PATH, as root.
    """
    for path in _SEARCH:
        try:
            return Library(C.CDLL(path, use_errno=True))
        except OSError:
            continue
        except AttributeError as missing:
            raise PrerequisiteMissing(f"{path} is too old: {missing}", hint="install libbpf 1.1 or newer") from missing
    raise PrerequisiteMissing("libbpf.so.1 is not installed", hint="apt install libbpf1")


def on_ring_record(handle: Callable[[bytes], None]) -> Any:
    """Wrap ``handle`` as a ring buffer callback: the record is copied, and no exception crosses into C."""

    def receive(_context: int, data: int, size: int) -> int:
        try:
            handle(C.string_at(data, size))
        except Exception as error:  # an exception must not leave a C callback; the caller's handler logs its own
            import logging

            logging.getLogger(__name__).exception("kernel event could not be handled: %s", error)
        return 0

    return RING_CALLBACK(receive)
