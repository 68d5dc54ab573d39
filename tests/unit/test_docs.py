"""What the pages point to is there: links, paths of this repository, modules, pictures, and pages from the README."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8"))
    missing = [link for link in links if "://" not in link and not (page.parent / link).exists()]
    assert missing == []


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_paths_and_modules_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    paths = re.findall(r"(?<!mine/)\b((?:edit_robust|scripts|tests|conf|docs)/[\w./-]*\w)", text)
    assert [p for p in dict.fromkeys(paths) if not (ROOT / p).exists() and "/EDITOR/" not in p] == []
    modules = re.findall(r"\b(edit_robust(?:\.[a-z_]+)+)\b", text)
    gone = [m for m in dict.fromkeys(modules) if not _importable(m)]
    assert gone == []


def _importable(name: str) -> bool:
    """Whether a dotted name is a module, or a name in one."""
    try:
        if importlib.util.find_spec(name) is not None:
            return True
    except ModuleNotFoundError:
        pass
    module, _, last = name.rpartition(".")
    return hasattr(importlib.import_module(module), last)


def test_every_page_is_linked_from_the_readme() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    for page in PAGES[1:]:
        assert f"({page.relative_to(ROOT).as_posix()})" in text, page.name
        assert "See also" in page.read_text(encoding="utf-8").splitlines()[-1] or "See also" in page.read_text()[-600:]


def test_every_picture_is_shown_and_every_shown_picture_has_a_command() -> None:
    pictures = {p.name for p in (ROOT / "docs" / "images").iterdir()}
    shown = {Path(m).name for page in PAGES for m in re.findall(r"!\[[^]]*\]\(([^)]+)\)", page.read_text())}
    assert shown == pictures
