"""The command lines that pages show, as words."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Shown:
    """A command line of a page: the verb and what follows it."""

    page: str
    words: tuple[str, ...]

    @property
    def verb(self) -> str:
        return self.words[0] if self.words else ""

    def __str__(self) -> str:
        return f"{self.page}: edit-robust {' '.join(self.words)}"


def commands(page: Path) -> list[Shown]:
    """Every `edit-robust ...` of a page's code blocks and of its inline code, without comments and pipes."""
    text = page.read_text(encoding="utf-8").replace("\\\n", " ")
    blocks = re.findall(r"^```[a-z]*\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE)
    lines = [line for block in blocks for line in block.splitlines()]
    outside = re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
    lines += re.findall(r"`(edit-robust [^`]*)`", outside.replace("\n", " "))
    found = []
    for line in lines:
        command = re.search(r"(?:^|[;&|(]\s*|\$\s+|[A-Z_]+=\S+ )edit-robust (.*)", line.strip())
        if command is None:
            continue
        plain = re.split(r"\s#\s|\s\|\s|\s&&\s|\s>\s|;\s", command[1] + " ")[0]
        try:
            found.append(Shown(page.name, tuple(shlex.split(plain))))
        except ValueError:
            found.append(Shown(page.name, tuple(plain.split())))
    return found
