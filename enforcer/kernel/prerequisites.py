# SPDX-License-Identifier: GPL-2.0-or-later
"""What enforcement stands on, one sentence and one remedy each: printed by ``enforcer doctor`` on any machine, and
checked before anything is loaded. Features are probed, kernel versions are not compared.
"""

from __future__ import annotations

import ctypes as C
import os
from dataclasses import dataclass
from pathlib import Path

from enforcer.kernel import program
from enforcer.kernel.libbpf import library
from enforcer.model.errors import EnforcerError, PermissionRefused, PrerequisiteMissing

_BTF = Path("/sys/kernel/btf/vmlinux")
_KFUNCS = (
    "bpf_get_file_xattr",
    "bpf_task_from_pid",
    "bpf_get_task_exe_file",
    "bpf_put_file",
    "bpf_task_release",
)
_TRACED = (
    "vfs_get_tree",
    "lookup_bdev",
    "bdev_file_open_by_dev",
    "bdev_add",
    "put_fs_context",
)
_CAPABILITIES = {"CAP_SYS_ADMIN": 21, "CAP_SYS_PTRACE": 19, "CAP_BPF": 39, "CAP_PERFMON": 38}
_BTF_KIND_FUNC = 12


@dataclass(frozen=True, slots=True)
class Prerequisite:
    """One thing that must hold. ``privilege`` marks those that are about the caller, not the machine."""

    name: str
    ok: bool
    sentence: str
    remedy: str = ""
    privilege: bool = False


def _text(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""


def _privileges() -> Prerequisite:
    held = 0
    for line in _text("/proc/self/status").splitlines():
        if line.startswith("CapEff:"):
            held = int(line.split()[1], 16)
    missing = [name for name, bit in _CAPABILITIES.items() if not held >> bit & 1]
    return Prerequisite(
        "privileges",
        not missing,
        "all capabilities are held" if not missing else f"this process lacks {', '.join(missing)}",
        "run it as root",
        privilege=True,
    )


def _lsm() -> Prerequisite:
    active = _text("/sys/kernel/security/lsm")
    if not active and not os.path.ismount("/sys/kernel/security"):
        return Prerequisite(
            "bpf in the LSM list",
            False,
            "securityfs is not mounted, so the list of security modules cannot be read",
            "mount -t securityfs securityfs /sys/kernel/security",
        )
    ok = "bpf" in active.split(",")
    return Prerequisite(
        "bpf in the LSM list",
        ok,
        f"the active security modules are {active or 'none'}",
        f"add lsm={active + ',' if active else ''}bpf to the kernel command line and reboot",
    )


def _btf_functions() -> tuple[list[str], list[str]]:
    lib = library()
    btf = lib.call("btf__parse", os.fsencode(_BTF), None)
    if not btf:
        return list(_KFUNCS), list(_TRACED)
    try:

        def missing(names: tuple[str, ...]) -> list[str]:
            return [n for n in names if lib.call("btf__find_by_name_kind", btf, n.encode(), _BTF_KIND_FUNC) < 0]

        return missing(_KFUNCS), missing(_TRACED)
    finally:
        lib.call("btf__free", btf)


def _functions() -> list[Prerequisite]:
    if not os.access(_BTF, os.R_OK):
        return [Prerequisite("BTF", False, f"{_BTF} is not there", "boot a kernel built with CONFIG_DEBUG_INFO_BTF")]
    kfuncs, traced = _btf_functions()
    remedy = "boot Linux 6.12 or newer (Debian 13, or Debian 12 with backports)"
    return [
        Prerequisite("BTF", True, "the kernel describes its types"),
        Prerequisite(
            "kfuncs",
            not kfuncs,
            "every kfunc is there" if not kfuncs else f"the kernel lacks {', '.join(kfuncs)}",
            remedy,
        ),
        Prerequisite(
            "traced functions",
            not traced,
            "every traced function is there" if not traced else f"the kernel lacks {', '.join(traced)}",
            remedy,
        ),
    ]


class _LoadAttr(C.Structure):
    """union bpf_attr for BPF_PROG_LOAD (include/uapi/linux/bpf.h)."""

    _fields_ = (
        ("prog_type", C.c_uint32),
        ("insn_cnt", C.c_uint32),
        ("insns", C.c_uint64),
        ("license", C.c_uint64),
        ("log_level", C.c_uint32),
        ("log_size", C.c_uint32),
        ("log_buf", C.c_uint64),
        ("kern_version", C.c_uint32),
        ("prog_flags", C.c_uint32),
        ("prog_name", C.c_char * 16),
        ("prog_ifindex", C.c_uint32),
        ("expected_attach_type", C.c_uint32),
        ("prog_btf_fd", C.c_uint32),
        ("func_info_rec_size", C.c_uint32),
        ("func_info", C.c_uint64),
        ("func_info_cnt", C.c_uint32),
        ("line_info_rec_size", C.c_uint32),
        ("line_info", C.c_uint64),
        ("line_info_cnt", C.c_uint32),
        ("attach_btf_id", C.c_uint32),
    )


_BPF_PROG_LOAD, _TYPE_LSM, _ATTACH_LSM_MAC, _SYS_BPF = 5, 29, 27, {"x86_64": 321, "aarch64": 280}


def _can_load() -> Prerequisite:
    """Load (not attach) a program of two instructions on a hook: the kernel's own word on whether it may be done."""
    name = "LSM programs can be loaded"
    lib = library()
    btf = lib.call("btf__parse", os.fsencode(_BTF), None)
    hook = lib.call("btf__find_by_name_kind", btf, b"bpf_lsm_file_open", _BTF_KIND_FUNC) if btf else -1
    if btf:
        lib.call("btf__free", btf)
    if hook < 0:
        return Prerequisite(name, False, "the kernel has no BPF LSM hooks", "boot a kernel built with CONFIG_BPF_LSM")
    code = C.create_string_buffer(bytes.fromhex("b7000000000000009500000000000000"), 16)  # r0 = 0; exit
    attributes = _LoadAttr(prog_type=_TYPE_LSM, insn_cnt=2, expected_attach_type=_ATTACH_LSM_MAC, attach_btf_id=hook)
    attributes.insns = C.addressof(code)
    license_text = C.create_string_buffer(b"GPL")
    attributes.license = C.addressof(license_text)
    C.set_errno(0)
    descriptor = C.CDLL(None, use_errno=True).syscall(
        _SYS_BPF[os.uname().machine], _BPF_PROG_LOAD, C.byref(attributes), C.sizeof(attributes)
    )
    if descriptor >= 0:
        os.close(descriptor)
        return Prerequisite(name, True, "the kernel accepts one")
    reason = os.strerror(C.get_errno())
    return Prerequisite(
        name,
        False,
        f"this kernel refuses LSM programs ({reason})",
        "use a kernel that allows them, e.g. Debian's own; try the lab: make run",
    )


def check() -> list[Prerequisite]:
    """Everything, in the order in which it should be mended. Raises PrerequisiteMissing without libbpf.so.1."""
    lockdown = _text("/sys/kernel/security/lockdown")
    found = [_privileges(), *_functions()]
    if all(p.ok for p in found):  # without these its answer would be about them
        found.append(_can_load())
    found.append(_lsm())
    found.append(
        Prerequisite(
            "lockdown",
            "[confidentiality]" not in lockdown,
            f"lockdown is {lockdown or 'not active'}",
            "boot without lockdown=confidentiality: it hides kernel memory from BPF programs",
        )
    )
    found.append(
        Prerequisite(
            "cgroup2",
            (program.CGROUP_ROOT / "cgroup.controllers").exists(),
            f"{program.CGROUP_ROOT} is the unified hierarchy"
            if (program.CGROUP_ROOT / "cgroup.controllers").exists()
            else f"{program.CGROUP_ROOT} is not a cgroup2 mount",
            "boot with systemd.unified_cgroup_hierarchy=1: version 1 is mounted there"
            if (program.CGROUP_ROOT / "unified").exists() or (program.CGROUP_ROOT / "memory").exists()
            else f"mount -t cgroup2 none {program.CGROUP_ROOT}",
        )
    )
    found.append(
        Prerequisite(
            "fuse",
            Path("/dev/fuse").exists(),
            "/dev/fuse is there" if Path("/dev/fuse").exists() else "/dev/fuse is not there",
            "modprobe fuse",
        )
    )
    bpffs = _text("/proc/self/mounts")
    there = any(line.split()[1:3] == ["/sys/fs/bpf", "bpf"] for line in bpffs.splitlines())
    found.append(
        Prerequisite(
            "bpffs",
            there,
            "/sys/fs/bpf is mounted" if there else "/sys/fs/bpf is not a bpf file system",
            "mount -t bpf bpf /sys/fs/bpf",
        )
    )
    compiled = program.object_path()
    found.append(
        Prerequisite(
            "compiled programs",
            compiled.exists(),
            f"{compiled.name} is installed" if compiled.exists() else f"{compiled} is missing",
            "make build",
        )
    )
    return found


def require() -> None:
    """Raise for the first thing that is missing: PermissionRefused for privileges, PrerequisiteMissing for the rest."""
    for item in check():
        if not item.ok:
            error: type[EnforcerError] = PermissionRefused if item.privilege else PrerequisiteMissing
            raise error(f"cannot enforce: {item.sentence}", hint=item.remedy)
