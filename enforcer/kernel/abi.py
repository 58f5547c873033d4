# SPDX-License-Identifier: GPL-2.0-or-later
"""Mirror of ``bpf/enforcer.h``. :func:`mismatches` holds every size and offset against the BTF of the object, so a
change on one side alone is found by a test that needs no privilege, and again before the object is loaded.
"""

from __future__ import annotations

import ctypes as C
from enum import IntEnum, IntFlag
from typing import Any

from enforcer.kernel.libbpf import library

ABI = 8
PATH_BYTES, FSTYPE_BYTES, COMM_BYTES, FRAMES, OPENS, SELVES, PARAMS, EARLY = 1024, 32, 16, 4, 4, 4, 8, 16

_u32, _s32, _u64, _s64 = C.c_uint32, C.c_int32, C.c_uint64, C.c_int64


class Op(IntEnum):
    SB_MOUNT = 1
    SB_ALLOC = 2
    FILE_OPEN = 3
    FILE_IOCTL = 4


class State(IntEnum):
    UNKNOWN = 0
    FREE = 1
    LIVE = 2
    CLOSING = 3
    ELSEWHERE = 4
    UNGUARDED = 5


class GuardFlag(IntFlag):
    AUDIT = 1
    DEADLINE = 2
    CLUSTER = 4


class ReplyFlag(IntFlag):
    CARRIER = 1
    CLUSTER = 2


class FsHandling(IntEnum):
    PASS = 1
    ASK = 2
    ASK_DENY_DEAD = 3


class AskFlag(IntFlag):
    SOURCE_CUT = 1
    READ_ONLY = 2
    REQUIRES_DEV = 4
    EXCLUSIVE = 8
    OPENED = 16
    OPTIONS_CUT = 32


class EventKind(IntEnum):
    GUARD_REFUSED = 1
    GUARD_WOULD = 2
    USE_BEGIN = 3
    USE_END = 4
    DEVICE_ADDED = 5
    DEVICE_CHANGED = 6
    MOUNT_DONE = 7
    SB_GONE = 8
    UMOUNT = 9
    NO_ANSWER = 10
    ALARM = 11


class Alarm(IntEnum):
    TASKS_FULL = 1
    NO_FRAME = 2
    UNLEASED_SUPERBLOCK = 3
    USES_FULL = 4
    REFUSED_BUT_MOUNTED = 5
    NESTED_TOO_DEEP = 6


class EventFlag(IntFlag):
    FAIL_MODE = 1
    IN_MOUNT = 2
    WRITE = 4
    HOLDER = 8
    JOINED = 16


class Reply(C.Structure):
    _fields_ = (
        ("nonce", _u64),
        ("intent", _u64),
        ("verdict", _s32),
        ("dev", _u32),
        ("flags", _u32),
        ("pad", _u32),
    )


class Ask(C.Structure):
    _fields_ = (
        *((n, _u64) for n in ("nonce", "intent", "asked_ns", "start_ns", "cgroup_id", "arg", "mount_flags")),
        *((n, _u32) for n in ("op", "tid", "tgid", "uid", "dev", "cmd")),
        ("syscall_nr", _s32),
        *((n, _u32) for n in ("mount_ns", "flags", "pad")),
        ("comm", C.c_ubyte * COMM_BYTES),
        ("fstype", C.c_ubyte * FSTYPE_BYTES),
        ("source", C.c_ubyte * PATH_BYTES),
        ("target", C.c_ubyte * PATH_BYTES),
        ("options", C.c_ubyte * PATH_BYTES),
        ("reply", Reply),
    )


class Param(C.Structure):
    _fields_ = (("key", C.c_ubyte * 16), ("value", C.c_ubyte * 240))


class Params(C.Structure):
    _fields_ = (("used", _u32), ("pad", _u32), ("slots", Param * PARAMS))


class Event(C.Structure):
    _fields_ = (
        *((n, _u64) for n in ("at_ns", "intent", "start_ns", "cgroup_id", "object")),
        *((n, _u32) for n in ("kind", "tid", "tgid", "uid", "dev", "mode")),
        ("error", _s32),
        *((n, _u32) for n in ("state", "flags")),
        ("syscall_nr", _s32),
        *((n, _u32) for n in ("mount_ns", "pad")),
        ("comm", C.c_ubyte * COMM_BYTES),
        ("fstype", C.c_ubyte * FSTYPE_BYTES),
    )


class Guard(C.Structure):
    _fields_ = (
        ("state", _u32),
        ("flags", _u32),
        ("error", _s32),
        ("generation", _u32),
        ("token", _u64),
        ("resource", _u64),
    )


class Ledger(C.Structure):
    _fields_ = (("uses", _s64), ("inflight", _s64), ("opened", _u64), ("openers", _u32), ("looks", _u32))


class Use(C.Structure):
    _fields_ = (("dev", _u32), ("mode", _u32), ("since_ns", _u64), ("tgid", _u32), ("has_holder", _u32))


class Super(C.Structure):
    _fields_ = (("dev", _u32), ("flags", _u32), ("since_ns", _u64), ("fstype", C.c_ubyte * FSTYPE_BYTES))


class Frame(C.Structure):
    _fields_ = (
        ("fc", _u64),
        ("intent", _u64),
        ("dev", _u32),
        ("fs_flags", _u32),
        ("flags", _u32),
        ("refused", _s32),
        ("fstype", C.c_ubyte * FSTYPE_BYTES),
        ("early", _u32 * EARLY),
        ("early_used", _u32),
        ("pad", _u32),
    )


class Open(C.Structure):
    _fields_ = (("claim", _u32), ("dev", _u32))


class Task(C.Structure):
    _fields_ = (
        ("start_ns", _u64),
        ("depth", _u32),
        ("open_depth", _u32),
        ("frames", Frame * FRAMES),
        ("opens", Open * OPENS),
        ("permit_intent", _u64),
        ("permit_ns", _u64),
        ("permit_dev", _u32),
        ("permit_flags", _u32),
        ("permit_fstype", C.c_ubyte * FSTYPE_BYTES),
        ("carrier_arg", _u64),
        ("gate_intent", _u64),
        ("late_refusal", _s32),
        ("gate_no_answer", _u32),
        ("heartbeat_dev", _u32),
        ("pad", _u32),
    )


class Self(C.Structure):
    _fields_ = (("start_ticks", _u64), ("tgid", _u32), ("pad", _u32))


class Config(C.Structure):
    _fields_ = (
        ("abi", _u32),
        ("anchor_pid", _u32),
        ("anchor_ino", _u64),
        ("anchor_dev", _u32),
        ("strict", _u32),
        ("unknown_allow", _u32),
        ("enforce", _u32),
        ("types_asked", _u32),
        ("pad", _u32),
    )


class Deadline(C.Structure):
    _fields_ = (("deadline_ns", _u64), ("renewed_ns", _u64))


class Stats(C.Structure):
    _fields_ = tuple(
        (n, _u64)
        for n in (
            "next_intent",
            "asks",
            "no_answer",
            "events_lost",
            "guard_refused",
            "alarms",
            "notes_skipped",
            "passed_types",
        )
    )


class Question(C.Structure):
    """Input of ``enf_decide()`` in ``bpf/decide.h``."""

    _fields_ = (
        ("state", _u32),
        ("guard_flags", _u32),
        ("now_ns", _u64),
        ("deadline_ns", _u64),
        ("claim", _u32),
        ("in_mount", _u32),
        ("asked", _u32),
        ("refused", _u32),
        ("unknown_allow", _u32),
        ("early", _u32),
        ("cluster", _u32),
        ("pad", _u32),
    )


MIRRORS: dict[str, type[C.Structure]] = {
    "enf_reply": Reply,
    "enf_ask": Ask,
    "enf_param": Param,
    "enf_params": Params,
    "enf_event": Event,
    "enf_guard": Guard,
    "enf_ledger": Ledger,
    "enf_use": Use,
    "enf_super": Super,
    "enf_self": Self,
    "enf_frame": Frame,
    "enf_open": Open,
    "enf_task": Task,
    "enf_config": Config,
    "enf_deadline": Deadline,
    "enf_stats": Stats,
}
ENUMS: dict[str, tuple[type[IntEnum] | type[IntFlag], str]] = {
    "enf_op": (Op, "ENF_OP_"),
    "enf_state": (State, "ENF_"),
    "enf_reply_flag": (ReplyFlag, "ENF_REPLY_"),
    "enf_guard_flag": (GuardFlag, "ENF_GUARD_"),
    "enf_fs_handling": (FsHandling, "ENF_FS_"),
    "enf_ask_flag": (AskFlag, "ENF_ASK_"),
    "enf_event_kind": (EventKind, "ENF_EV_"),
    "enf_alarm": (Alarm, "ENF_ALARM_"),
    "enf_event_flag": (EventFlag, "ENF_EVENT_"),
}


class _BtfType(C.Structure):
    """struct btf_type, include/uapi/linux/btf.h."""

    _fields_ = (("name_off", _u32), ("info", _u32), ("size", _u32))


class _BtfMember(C.Structure):
    """struct btf_member, include/uapi/linux/btf.h: ``offset`` is in bits."""

    _fields_ = (("name_off", _u32), ("type", _u32), ("offset", _u32))


class _BtfEnum(C.Structure):
    """struct btf_enum, include/uapi/linux/btf.h."""

    _fields_ = (("name_off", _u32), ("value", _s32))


_BTF_KIND_STRUCT, _BTF_KIND_ENUM = 4, 6


def c_text(raw: Any) -> bytes:
    """The bytes of a C string field up to its NUL."""
    return bytes(raw).split(b"\0", 1)[0]


class _Btf:
    """The BTF of one object file, as far as the mirrors need it."""

    def __init__(self, object_path: str) -> None:
        self._lib = library()
        what = f"{object_path} holds no BTF"
        self._btf = self._lib.pointer("btf__parse", object_path.encode(), None, what=what)

    def close(self) -> None:
        self._lib.call("btf__free", self._btf)

    def find(self, name: str, kind: int, item: type[C.Structure]) -> tuple[int, dict[str, Any]] | None:
        """(size in bytes, members by name) of a struct or enum, or None if the object does not use it."""
        number = self._lib.call("btf__find_by_name_kind", self._btf, name.encode(), kind)
        if number < 0:
            return None
        address = self._lib.pointer("btf__type_by_id", self._btf, number, what=name)
        head = _BtfType.from_address(address)
        members = {}
        for index in range(head.info & 0xFFFF):
            member: Any = item.from_address(address + C.sizeof(_BtfType) + index * C.sizeof(item))
            members[self._lib.call("btf__name_by_offset", self._btf, member.name_off).decode()] = member
        return int(head.size), members


def _differences(what: str, there: dict[str, int], here: dict[str, int]) -> list[str]:
    return [
        f"{what}{name}: {there.get(name)} in the object, {here.get(name)} here"
        for name in sorted(there.keys() | here.keys())
        if there.get(name) != here.get(name)
    ]


def mismatches(object_path: str) -> list[str]:
    """Every difference in size, field name or offset between the mirrors and the object's BTF, and in the values of
    those enums that it uses as types; empty if there is none.

    Raises KernelError if the file holds no BTF.
    """
    btf = _Btf(object_path)
    wrong: list[str] = []
    try:
        for name, mirror in MIRRORS.items():
            struct = btf.find(name, _BTF_KIND_STRUCT, _BtfMember)
            if struct is None:
                wrong.append(f"struct {name} is not in the object")
                continue
            size, members = struct
            if size != C.sizeof(mirror):
                wrong.append(f"struct {name}: {size} bytes in the object, {C.sizeof(mirror)} here")
            offsets = {field: (member.offset & 0xFFFFFF) // 8 for field, member in members.items()}
            mine = {field[0]: getattr(mirror, field[0]).offset for field in mirror._fields_}
            wrong += _differences(f"struct {name}.", offsets, mine)
        for name, (numbers, prefix) in ENUMS.items():
            enum = btf.find(name, _BTF_KIND_ENUM, _BtfEnum)
            if enum is not None:  # clang describes an enum only where a type or a variable has it
                values = {constant: int(member.value) for constant, member in enum[1].items()}
                known = {prefix + key: int(number) for key, number in numbers.__members__.items()}
                wrong += _differences(f"enum {name}: ", values, known)
    finally:
        btf.close()
    return wrong
