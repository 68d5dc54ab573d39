"""The files of a run's folder, line by line: read what is whole, append and force to disk, cut off what is not."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

TOTAL, WEIGHTS = "total.safetensors", "weights.safetensors"


def whole_lines(path: Path) -> list[str]:
    """The lines of a text file that end in a line break; none where there is no file."""
    if not path.exists():
        return []
    text = path.read_bytes().decode("utf-8", errors="replace")
    return [line for line in text[: text.rfind("\n") + 1].splitlines() if line]


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The objects of a .jsonl file up to the first line that is no JSON."""
    found = []
    for line in whole_lines(path):
        try:
            found.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return found


def read_json(path: Path) -> dict[str, Any]:
    """The object of a .json file; {} where it is missing or unreadable."""
    try:
        return dict(json.loads(path.read_text()))
    except (OSError, json.JSONDecodeError):
        return {}


def as_line(entry: Mapping[str, Any]) -> str:
    """An object as a line of a .jsonl file."""
    return json.dumps(dict(entry)) + "\n"


def append(path: Path, text: str) -> int:
    """Append and force to disk. -> the file's length afterwards, in bytes"""
    with path.open("ab") as f:
        f.write(text.encode())
        f.flush()
        os.fsync(f.fileno())
        return f.tell()


def cut(path: Path, end: int) -> None:
    """Shorten a file to `end` bytes where it is longer."""
    if path.exists() and path.stat().st_size > end:
        with path.open("rb+") as f:
            f.truncate(end)
