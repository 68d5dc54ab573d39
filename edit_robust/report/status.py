"""Which data a run was measured on, on which device, with which software, and whether it came to its end."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edit_robust.figures.frame import RunData


def status_of(run: RunData) -> dict[str, str]:
    """What the run's status file says, as far as it is there: state, data, error, device, software."""
    found: Mapping[str, Any] = {}
    if run.path is not None and (file := run.path / "status.json").is_file():
        try:
            loaded = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            loaded = {}
        found = loaded if isinstance(loaded, Mapping) else {}
    state = found.get("state") or found.get("status") or ("complete" if run.summary else "unfinished")
    shown = {"state": str(state)}
    if run.path is not None and (data := sources(run.path / "examples.jsonl")):
        shown["data"] = data
    error = found.get("error") or found.get("traceback")
    if error:
        shown["error"] = str(error).strip().splitlines()[-1]
    for key in ("device", "git_sha"):
        if found.get(key):
            shown[key.replace("_", " ")] = str(found[key])
    versions = found.get("versions")
    if isinstance(versions, Mapping):
        shown["software"] = ", ".join(f"{name} {version}" for name, version in versions.items())
    return shown


def sources(examples: Path) -> str:
    """Which data the numbers were measured on, as far as the examples are stamped with it: source, probe, number."""
    if not examples.is_file():
        return ""
    counts: dict[tuple[str, str, str], int] = {}
    for line in examples.read_text(encoding="utf-8").splitlines():
        if '"source"' not in line:
            continue
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        shift = str(entry.get("shift") or "none")
        key = (str(entry.get("source") or "unnamed"), str(entry.get("probe", "")), "" if shift == "none" else shift)
        counts[key] = counts.get(key, 0) + 1
    shown = [
        f"{probe}{f' ({shift})' if shift else ''}: {source}, {counted:,} images"
        for (source, probe, shift), counted in sorted(counts.items(), key=lambda item: (item[0][1], item[0][2]))
    ]
    return "; ".join(shown)
