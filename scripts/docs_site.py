"""What `make docs` does to pages before they are built: own-parts.md gets sections of CONTRIBUTING, links out of
docs/ lead to pages of the site where there are such, else they become the name of the file."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
#: Files outside of docs/ and the page that says the same.
PAGES = {"README.md": "index.md", "CONTRIBUTING.md": "own-parts.md"}
MARK = re.compile(r"<!-- CONTRIBUTING: ([^>]*) -->")
LINK = re.compile(r"(?<!!)\[([^\]]*)\]\((\.\./(?:\.\./)*)([^)#\s]+)(#[^)]*)?\)")


def on_page_markdown(markdown: str, page: Any, **kwargs: Any) -> str:
    """The page's text as it is built; the hook of mkdocs."""
    text = MARK.sub(lambda found: sections(found[1].split(", ")), markdown)
    return inside(text, Path(page.file.src_uri))


def sections(names: list[str]) -> str:
    """Sections of CONTRIBUTING.md by their headings. Raises KeyError for one that there is not."""
    parts = re.split(r"^## (.*)$", (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8"), flags=re.MULTILINE)
    known = dict(zip(parts[1::2], parts[2::2], strict=True))
    text = "".join(f"## {name}\n{known[name]}" for name in names)
    return re.sub(r"\]\(docs/", "](", text)


def inside(text: str, page: Path) -> str:
    """Links that leave docs/, replaced. page: its place in docs/."""

    def other(found: re.Match[str]) -> str:
        label, up, target, _ = found.groups()
        depth = len(page.parts) - 1
        if up.count("../") <= depth:  # stays in docs/
            return found[0]
        if target in PAGES:
            return f"[{label}]({'../' * depth}{PAGES[target]})"
        return f"{label} (`{target}`)" if label.strip("`") != target else f"`{target}`"

    return LINK.sub(other, text)
