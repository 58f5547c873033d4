# SPDX-License-Identifier: GPL-2.0-or-later
"""Loading, attaching and pinning the object: all of it or none of it.

Links and tables are pinned, so a daemon that ends (or is killed) leaves the gate closed for guarded devices, and
the next one adopts what it finds instead of loading again: no live mount notices, no count is lost. What is pinned
carries the digest of the object that made it; another object does not adopt it silently.
"""

from __future__ import annotations

import ctypes as C
import hashlib
import os
import shutil
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path

from enforcer.kernel import abi
from enforcer.kernel.libbpf import KernelError, library
from enforcer.kernel.tables import Table
from enforcer.model.errors import EnforcerError

CGROUP_ROOT = Path("/sys/fs/cgroup")
_GUARD_PROGRAM = "guard_device"
MARKS = (
    "note_get_tree",
    "note_got_tree",
    "note_lookup",
    "mark_open_by_dev",
    "unmark_open_by_dev",
    "forget_at_birth",
)


def object_path() -> Path:
    """The compiled object inside the package."""
    return Path(str(resources.files("enforcer.kernel").joinpath("enforcer.bpf.o")))


def object_digest(path: Path) -> str:
    """SHA-256 of the object file, hex."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


class StalePins(EnforcerError):
    """Something is pinned that this object did not make, or only a part of it."""


@dataclass(slots=True)
class Attached:
    """What is in force: descriptors of every table and program, by name."""

    maps: dict[str, int]
    programs: dict[str, int]
    pinned: Path | None
    adopted: bool
    _links: list[int] = field(default_factory=list)
    _object: int = 0

    def detach(self) -> None:
        """Take everything out of force. Existing mounts stay as they are; nothing is refused any more."""
        if self.pinned is not None:
            shutil.rmtree(self.pinned, ignore_errors=True)
        lib = library()
        for link in self._links:
            lib.call("bpf_link__destroy", link)
        self._links.clear()
        if self._object:
            lib.call("bpf_object__close", self._object)
            self._object = 0
        elif self.adopted:
            for descriptor in (*self.maps.values(), *self.programs.values()):
                os.close(descriptor)
        self.maps, self.programs = {}, {}

    def misses(self) -> dict[str, int]:
        """How often each tracing program was skipped because a preempted one was active on the same CPU.

        It happens on preemptible kernels; nothing safe hangs on a single one (see bpf/enforcer.bpf.c).
        """
        found = {}
        for name in MARKS:
            count = _recursion_misses(self.programs[name])
            if count:
                found[name] = count
        return found


class _ProgInfo(C.Structure):
    """struct bpf_prog_info up to recursion_misses (include/uapi/linux/bpf.h)."""

    _fields_ = (
        ("head", C.c_ubyte * 192),
        ("run_time_ns", C.c_uint64),
        ("run_cnt", C.c_uint64),
        ("recursion_misses", C.c_uint64),
    )


def _recursion_misses(descriptor: int) -> int:
    info, size = _ProgInfo(), C.c_uint32(C.sizeof(_ProgInfo))
    library().check("bpf_obj_get_info_by_fd", descriptor, C.byref(info), C.byref(size), what="program info")
    return int(info.recursion_misses)


def load(path: Path, pins: Path | None) -> Attached:
    """Adopt what ``pins`` holds, or load ``path``, attach every program and pin all of it.

    ``pins=None`` keeps everything in this process only: it ends with it. Raises KernelError with the verifier's log,
    or StalePins.
    """
    digest = object_digest(path)
    if pins is not None and pins.exists():
        return _adopt(pins, digest)
    wrong = abi.mismatches(str(path))
    if wrong:
        raise KernelError("the compiled object and this package do not fit: " + "; ".join(wrong), hint="make build")
    attached = _load_and_attach(path)
    if pins is not None:
        try:
            _pin(attached, pins, digest)
        except BaseException:
            attached.detach()
            raise
    return attached


def _load_and_attach(path: Path) -> Attached:
    lib = library()
    lib.take_log()
    obj = lib.pointer("bpf_object__open_file", str(path).encode(), None, what=f"cannot open {path}")
    links: list[int] = []
    attached = Attached({}, {}, None, False, links, obj)
    try:
        lib.check("bpf_object__load", obj, what="the kernel refused the programs", hint="enforcer doctor")
        for item in lib.each("bpf_object__next_map", obj):
            attached.maps[lib.call("bpf_map__name", item).decode()] = lib.call("bpf_map__fd", item)
        for item in lib.each("bpf_object__next_program", obj):
            name = lib.call("bpf_program__name", item).decode()
            attached.programs[name] = lib.call("bpf_program__fd", item)
            what = f"cannot attach {name} ({lib.call('bpf_program__section_name', item).decode()})"
            if name == _GUARD_PROGRAM:
                root = os.open(CGROUP_ROOT, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
                try:
                    links.append(lib.pointer("bpf_program__attach_cgroup", item, root, what=what))
                finally:
                    os.close(root)
            else:
                links.append(lib.pointer("bpf_program__attach", item, what=what, hint="enforcer doctor"))
    except BaseException:
        attached.detach()
        raise
    return attached


def _pin(attached: Attached, pins: Path, digest: str) -> None:
    lib = library()
    draft = pins.with_name(pins.name + "_new")  # bpffs allows no dot in a name (kernel/bpf/inode.c, bpf_lookup)
    shutil.rmtree(draft, ignore_errors=True)
    for kind in ("maps", "links", "programs", f"object-{digest[:32]}"):
        (draft / kind).mkdir(parents=True, mode=0o700)
    for item in lib.each("bpf_object__next_map", attached._object):
        name = lib.call("bpf_map__name", item)
        if b"." in name:
            continue  # a data section: the programs hold it, and nobody else wants it
        lib.check("bpf_map__pin", item, str(draft / "maps").encode() + b"/" + name, what=f"pin {name!r}")
    names = list(attached.programs)
    for item, link, name in zip(
        lib.each("bpf_object__next_program", attached._object), attached._links, names, strict=True
    ):
        lib.check("bpf_program__pin", item, str(draft / "programs" / name).encode(), what=f"pin {name}")
        lib.check("bpf_link__pin", link, str(draft / "links" / name).encode(), what=f"pin the link of {name}")
    draft.rename(pins)
    attached.pinned = pins


def _adopt(pins: Path, digest: str) -> Attached:
    hint = "end enforcement first: enforcerd --detach"
    if not (pins / f"object-{digest[:32]}").is_dir():
        raise StalePins(f"{pins} holds the programs of another version", hint=hint)
    found: dict[str, dict[str, int]] = {"maps": {}, "programs": {}}
    for kind, descriptors in found.items():
        for pin in sorted((pins / kind).iterdir()):
            descriptors[pin.name] = library().check("bpf_obj_get", str(pin).encode(), what=f"open {pin}", hint=hint)
    links = {pin.name for pin in (pins / "links").iterdir()}
    if links != set(found["programs"]) or not set(MARKS) <= links:
        raise StalePins(
            f"{pins} holds only a part of the programs: refusing to run with partial enforcement", hint=hint
        )
    return Attached(found["maps"], found["programs"], pins, True)


def _switch_off(pins: Path) -> None:
    """Say so in the configuration first: a link that was unpinned is freed some time later."""
    try:
        descriptor = library().check(
            "bpf_obj_get", os.fsencode(pins / "maps" / "config"), what="open the configuration"
        )
    except KernelError:
        return
    try:
        table = Table(descriptor, abi.Config, "config")
        config = table.get(0)
        if config is not None:
            config.enforce = 0
            table.put(0, config)
    finally:
        os.close(descriptor)


def remove_pins(pins: Path) -> bool:
    """Take what is pinned out of force. True if there was anything."""
    there = pins.exists()
    if there:
        _switch_off(pins)
    shutil.rmtree(pins, ignore_errors=True)
    return there
