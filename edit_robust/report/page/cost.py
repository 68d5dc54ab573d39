"""What a run cost, on what it ran, and how to repeat it."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edit_robust.report.numbers import span
from edit_robust.runs.files import read_json

#: What each phase does, in the order in which they come.
PHASES = {
    "load": "loading the model",
    "prepare": "preparing the editor (second moments, null spaces, training)",
    "edit": "editing",
    "evaluate": "measuring",
    "figures": "drawing",
}


@dataclass(frozen=True)
class Phase:
    """words: what was done.   share: of the whole time, in percent.   text, processor: seconds in words."""

    words: str
    seconds: float
    text: str
    processor: str
    share: float


@dataclass(frozen=True)
class Cost:
    """phases; the whole; peak memory in words; and what one edit took."""

    phases: tuple[Phase, ...]
    total: str
    memory: tuple[tuple[str, str], ...]
    an_edit: str

    @property
    def has_processor(self) -> bool:
        return any(phase.processor for phase in self.phases)


def cost_of(status: Mapping[str, Any], n_edits: float | None) -> Cost | None:
    """The cost as the status keeps it; None where it keeps no time."""
    seconds = {str(k): float(v) for k, v in (status.get("seconds") or {}).items()}
    if not seconds:
        return None
    busy, total = status.get("processor_seconds") or {}, sum(seconds.values())
    order = [*(p for p in PHASES if p in seconds), *(p for p in seconds if p not in PHASES)]
    phases = tuple(
        Phase(
            PHASES.get(p, p),
            seconds[p],
            span(seconds[p]),
            span(float(busy[p])) if p in busy else "",
            100 * seconds[p] / total if total else 0.0,
        )
        for p in order
    )
    words = {"process": "main memory", "gpu": "GPU memory"}
    peaks = status.get("peak_memory_mb") or {}
    memory = tuple((words.get(k, k), f"{float(v) / 1024:.2f} GiB") for k, v in peaks.items())
    an_edit = span(seconds["edit"] / n_edits) if n_edits and "edit" in seconds else ""
    return Cost(phases, span(total), memory, an_edit)


def environment(status: Mapping[str, Any], data: str = "") -> list[tuple[str, str]]:
    """(what, which) about data, device and software, as far as the status tells."""
    found = [("data", data or text(status.get("data"))), ("text for second moments", text(status.get("corpus")))]
    found += [
        (name, text(status.get(name))) for name in ("device", "dtype", "threads", "seed", "corruption", "precision")
    ]
    found += [
        ("questions are run", text(status.get("questions"))),
        ("model, by its weights", text(status.get("model"))),
    ]
    versions = status.get("versions")
    if isinstance(versions, Mapping):
        found.append(("software", ", ".join(f"{name} {version}" for name, version in versions.items())))
    git = status.get("git")
    if isinstance(git, Mapping) and git.get("sha"):
        found.append(("commit", f"{git['sha'][:12]}{' (with changes)' if git.get('dirty') else ''}"))
    found.append(("versions changed while it ran", text(status.get("versions_changed"))))
    found += [("started", text(status.get("started"))), ("ended", text(status.get("ended")))]
    if status.get("resumed"):
        found.append(("gone on with", f"{status['resumed']} times"))
    return [(name, value) for name, value in found if value]


def commands(path: Path | None, status: Mapping[str, Any]) -> tuple[str, str]:
    """(the command that makes this run alone, the command of the sweep that it was a job of or "").

    path: of the run, beside whose folder the journals of sweeps lie.
    """
    said = str(status.get("command", ""))
    if path is None:
        return said, ""
    for file in sorted((path.parent.parent / "sweeps").glob("*.json")):
        for job in read_json(file).get("jobs") or ():
            if job.get("run") == path.name:
                own = [shlex.quote(o) for o in job.get("overrides") or () if not o.lstrip("+~").startswith("hydra")]
                return " ".join(["edit-robust run", *re.findall(r"--config-dir[= ]\S+", said), *own]), said
    return said, ""


def text(value: Any) -> str:
    """A value of the status as text."""
    if value is None:
        return ""
    return ", ".join(str(one) for one in value) if isinstance(value, list | tuple) else str(value)
