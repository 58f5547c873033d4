# SPDX-License-Identifier: GPL-2.0-or-later
"""Every link in the documents leads somewhere: to a file of the tree, and to a heading in it."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = sorted(
    path
    for pattern in ("*.md", "docs/**/*.md", "policy/**/*.md")
    for path in ROOT.glob(pattern)
    if not path.name.startswith(".")
)


def anchors(text: str) -> set[str]:
    """Names that a heading gets on the usual forges."""
    prose = re.sub(r"^```.*?^```", "", text, flags=re.M | re.S)
    titles = re.findall(r"^#+ +(.+?)\s*$", prose, re.M)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links(document: Path) -> None:
    text = document.read_text()
    prose = re.sub(r"^```.*?^```", "", text, flags=re.M | re.S)
    links = re.findall(r"\]\(([^)\s]+)\)", prose) + re.findall(r'(?:src|href)="([^"]+)"', prose)
    for link in links:
        if re.match(r"[a-z]+:", link):
            continue
        name, _, anchor = link.partition("#")
        target = (document.parent / name).resolve() if name else document
        assert target.exists(), f"{document.name}: {link}"
        if anchor:
            assert anchor in anchors(target.read_text()), f"{document.name}: {link}"


def test_paths_named_in_the_readme_exist() -> None:
    text = (ROOT / "README.md").read_text()
    named = re.findall(r"`((?:bpf|docs|enforcer|policy|tests|tools)/[\w./-]*)`", text)
    assert [path for path in named if not (ROOT / path).exists()] == []


def test_the_picture_is_whole() -> None:
    root = ElementTree.parse(ROOT / "docs/refusal.svg").getroot()
    assert root.tag.endswith("svg") and "EBUSY" in "".join(root.itertext()).replace("\xa0", " ")


def test_manual_pages_are_named_where_they_are_installed() -> None:
    pages = sorted((ROOT / "docs/man").iterdir())
    assert pages and all(re.fullmatch(r"[\w.-]+\.[1-8]", page.name) for page in pages)


def test_changelog_starts_with_this_version() -> None:
    from enforcer import __version__

    versions = re.findall(r"^## \[([\d.]+)\]", (ROOT / "CHANGELOG.md").read_text(), re.M)
    assert versions[0] == __version__
    assert f'version = "{__version__}"' in (ROOT / "pyproject.toml").read_text()
