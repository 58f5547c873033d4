# SPDX-License-Identifier: GPL-2.0-or-later
"""Imports go one way (docs/architecture.md), and what runs as root all day stands on the standard library alone."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "enforcer"
WITNESS = ROOT / "tools/witness"  # goes into the wheel too, as package data

# What each part may import besides itself. audit, cluster, kernel and storage know nothing of one another: what they
# have to say to each other is said in the words of the model, by the workflow.
MAY = {
    "": set(),
    "model": set(),
    "policy": {"model"},
    "lost": {"model"},
    "settings": {"model", "policy", "lost"},
    "audit": {"model", "policy", "settings"},
    "cluster": {"model", "policy", "settings", "lost"},
    "kernel": {"model", "policy", "settings"},
    "storage": {"model", "policy", "settings"},
    "workflow": {"model", "policy", "settings", "lost", "audit", "cluster", "kernel", "storage"},
    "daemon": {"", "model", "policy", "settings", "lost", "audit", "cluster", "kernel", "storage", "workflow"},
    "keeper": {"", "model", "policy", "settings", "lost", "cluster", "kernel"},
    "revoker": {"", "model", "settings", "lost"},
    "cli": {"", "model", "policy", "settings", "audit", "kernel", "cluster"},
}
SMALL = {
    "settings": {
        "enforcer.policy.document",
        "enforcer.policy.fields",
        "enforcer.model.deadlines",
        "enforcer.lost.options",
    }
}  # the keeper loads it
LAZY = {
    ("cli", "kernel"),
    ("cli", "cluster"),
    ("audit", "elftools"),
}  # where it is needed: a broken part must not break the rest
THIRD_PARTY = {"cli": {"rich"}, "audit": {"elftools"}}
MOST_LINES = 400
KEEPER_MIB, REVOKER_MIB = 30, 22
KEEPER = "enforcer.keeper.main, enforcer.keeper.duties"
REVOKER = "enforcer.revoker.main"

Import = tuple[str, bool]  # module, at import time


def part_of(file: Path) -> str:
    first = file.relative_to(PACKAGE).with_suffix("").parts[0]
    return "" if first == "__init__" else first


def imports(file: Path) -> Iterator[Import]:
    """Every import of a file; one below ``if TYPE_CHECKING`` happens never and is left out."""

    def walk(node: ast.AST, top: bool) -> Iterator[Import]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Import):
                yield from ((alias.name, top) for alias in child.names)
            elif isinstance(child, ast.ImportFrom):
                assert child.level == 0, f"{file}: imports are absolute"
                yield from ((f"{child.module}.{alias.name}", top) for alias in child.names)
            elif not (isinstance(child, ast.If) and getattr(child.test, "id", "") == "TYPE_CHECKING"):
                inner = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
                yield from walk(child, top and not inner)

    yield from walk(ast.parse(file.read_text()), True)


def part_imported(module: str) -> str | None:
    """The part of ours that a module belongs to, None for somebody else's."""
    first, *rest = module.split(".")
    if first != "enforcer":
        return None
    return rest[0] if rest and ((PACKAGE / rest[0]).is_dir() or (PACKAGE / f"{rest[0]}.py").exists()) else ""


FILES = sorted(PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(PACKAGE)))
def test_imports_go_one_way(file: Path) -> None:
    part = part_of(file)
    for module, top in imports(file):
        target = part_imported(module)
        if target is None:
            outside = module.split(".")[0]
            if outside not in sys.stdlib_module_names:
                assert outside in THIRD_PARTY.get(part, ()), f"{outside} is not of the standard library"
                assert not top or (part, outside) not in LAZY, f"{module} is imported where it is needed, not before"
        elif target != part:
            assert target in MAY[part], f"{part} may not import {module}"
            assert not top or (part, target) not in LAZY, f"{module} is imported where it is needed, not before"
            if part in SMALL:
                assert module.startswith(tuple(SMALL[part])), f"{part} imports little, and not {module}"


@pytest.mark.parametrize("file", sorted(WITNESS.glob("*.py")), ids=lambda file: file.name)
def test_the_witness_shares_no_code_with_what_it_checks(file: Path) -> None:
    """Its programs import the standard library and BCC, the latter when it is needed; not us, nor each other."""
    for module, top in imports(file):
        first = module.split(".")[0]
        assert first in sys.stdlib_module_names or (first == "bcc" and not top), module


def test_nothing_of_us_imports_the_witness() -> None:
    """It is started as a program, by an interpreter of its own."""
    found = [(file, module) for file in FILES for module, _ in imports(file) if "witness" in module.split(".")]
    assert [(str(file.relative_to(PACKAGE)), module) for file, module in found] == []


def test_every_part_is_known() -> None:
    assert {part_of(file) for file in FILES} == set(MAY)


def test_modules_are_short() -> None:
    assert [str(f.relative_to(PACKAGE)) for f in FILES if len(f.read_text().splitlines()) > MOST_LINES] == []


def test_first_line() -> None:
    files = [f for top in ("enforcer", "tools", "tests") for f in (ROOT / top).rglob("*.py") if f.stat().st_size]
    without = [
        str(f.relative_to(ROOT))
        for f in files
        if "SPDX-License-Identifier: GPL-2.0-or-later" not in f.read_text().split("\n", 1)[0]
    ]
    assert without == []


REPORT = """
third = {n.split(".")[0] for n, m in sys.modules.items() if "site-packages" in (getattr(m, "__file__", None) or "")}
rss = next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmRSS"))
print("third", *sorted(third - {"enforcer", "_distutils_hack"}))  # the latter is setuptools', in every environment
print("kib", rss)
"""


def after_importing(modules: str) -> dict[str, str]:
    code = f"import sys, {modules}{REPORT}"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    return {line.split(" ", 1)[0]: line.partition(" ")[2] for line in done.stdout.splitlines()}


@pytest.mark.parametrize(
    "modules", ["enforcer.daemon.main, enforcer.daemon.service", KEEPER, REVOKER, "enforcer.cli.main"]
)
def test_nothing_of_a_third_party_is_loaded(modules: str) -> None:
    assert after_importing(modules)["third"] == ""


@pytest.mark.parametrize(("modules", "mib"), [(KEEPER, KEEPER_MIB), (REVOKER, REVOKER_MIB)])
def test_what_is_locked_into_memory_is_small(modules: str, mib: int) -> None:
    assert int(after_importing(modules)["kib"]) < mib * 1024


@pytest.mark.parametrize(("url", "loaded"), [("http://10.0.0.1:2379", False), ("HTTPS://10.0.0.1:2379", True)])
def test_the_keeper_holds_openssl_in_memory_only_where_it_speaks_tls(url: str, loaded: bool) -> None:
    code = f"""
import sys
from enforcer.keeper import main
main._stay_small([{url!r}])
from enforcer.keeper import duties
print("_ssl" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str(loaded)
