"""What a newcomer meets first is true: links, citation, hooks and the hosted checks."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

import edit_robust

ROOT = Path(__file__).parents[2]
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md")), ROOT / "tests" / "golden" / "README.md"]


def links(page: Path) -> list[str]:
    """Targets of a page's links and pictures, without those of the web and anchors."""
    found = re.findall(r"\]\(([^)#\s]+)", page.read_text(encoding="utf-8"))
    return [link for link in found if "://" not in link]


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    assert [link for link in links(page) if not (page.parent / link).exists()] == []


def test_every_page_can_be_reached() -> None:
    pages = {p.name for p in (ROOT / "docs").glob("*.md")}
    assert {Path(link).name for link in links(ROOT / "README.md") if link.startswith("docs/")} >= pages
    for page in (ROOT / "docs").glob("*.md"):
        last = page.read_text(encoding="utf-8").rstrip().split("\n\n")[-1]
        assert last.startswith("See also: ") and ".md)" in last.replace("(../README.md)", ""), page.name


def test_citation() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert (citation["version"], citation["license"]) == (edit_robust.__version__, "Apache-2.0")
    papers = {r["url"].rpartition("/")[2] for r in citation["references"]}
    assert papers == {"2303.00046", "2401.07453"}
    assert papers <= set(re.findall(r"arxiv\.org/abs/([\d.]+)", (ROOT / "README.md").read_text()))


def test_checks_are_those_of_the_makefile() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())
    steps = [step for job in workflow["jobs"].values() for step in job["steps"]]
    called = [step["run"] for step in steps if "run" in step]
    assert called == ["make check", "make test"] and {c.split()[1] for c in called} <= targets
    assert all(re.search(r"@v\d+$", step["uses"]) for step in steps if "uses" in step)
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    assert [repo["repo"] for repo in hooks] == ["local"]
    check = (ROOT / "Makefile").read_text().partition("\ncheck:")[2].partition("\n\n")[0]
    for hook in hooks[0]["hooks"]:
        assert hook["entry"].startswith(".venv/bin/")
        assert hook["name"] in check
