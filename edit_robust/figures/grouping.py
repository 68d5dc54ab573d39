"""Which runs belong together, and what to call them: repeats of one setting make one line."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from edit_robust.figures.frame import RunData

REPEATS = ("task.order", "seed")
APART = ("tracker", "paths", "hydra", "experiment", "figures", "threads", "force", "device")
#: Named in a label whenever they differ; any other key only where these do not tell two groups apart.
MAIN = ("model.name", "task.name", "editor.name", "layer.index", "trajectory.name", "trajectory.batch_size")
WORDS = {"layer.index": "layer", "trajectory.batch_size": "batch", "task.n_requests": "edits"}


@dataclass(frozen=True, eq=False)
class Group:
    """Runs that differ in nothing but the order of the edits or the seed."""

    label: str
    runs: tuple[RunData, ...]
    number: int
    editor: str = ""

    @property
    def legend(self) -> str:
        """The label, with the number of runs where there are several."""
        return f"{self.label} (mean of {len(self.runs)} runs)" if len(self.runs) > 1 else self.label


def flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Dotted keys to plain values; lists become one text."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = json.dumps(value, default=str) if isinstance(value, list | tuple) else value
    return flat


def identity(config: Mapping[str, Any], without: Sequence[str] = ()) -> dict[str, Any]:
    """The settings that make a run what it is: no repeats, no bookkeeping, and none of the keys left out."""
    return {
        key: value
        for key, value in flatten(config).items()
        if key not in REPEATS
        and key.rpartition(".")[2] != "seed"
        and key.partition(".")[0] not in APART
        and not any(key == name or key.startswith(f"{name}.") for name in without)
    }


def natural(value: Any) -> tuple[tuple[int, float, str], ...]:
    """A sort key that puts 2 before 10 and numbers before words."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return ((0, float(value), ""),)
    parts = re.split(r"(\d+)", str(value))
    return tuple((0, float(part), "") if part.isdigit() else (1, 0.0, part) for part in parts if part)


def groups(runs: Sequence[RunData], without: Sequence[str] = ()) -> list[Group]:
    """Runs gathered by their settings, labelled by what differs, in natural order of the labels."""
    gathered: dict[str, list[RunData]] = {}
    settings: dict[str, dict[str, Any]] = {}
    for run in runs:
        own = identity(run.config, without)
        key = json.dumps(own, sort_keys=True, default=str)
        gathered.setdefault(key, []).append(run)
        settings[key] = own
    names = differing(list(settings.values()))
    keys = sorted(gathered, key=lambda key: [natural(settings[key].get(name, "")) for name in names])
    return [
        Group(
            label(settings[key], names) or fallback(gathered[key][0]),
            tuple(gathered[key]),
            number,
            str(settings[key].get("editor.name") or ""),
        )
        for number, key in enumerate(keys)
    ]


def by_editor(all_groups: Sequence[Group]) -> dict[str, list[Group]]:
    """Groups an editor, relabelled without its name; the same label has the same number (colour) everywhere."""
    rest = {id(one): ", ".join(p for p in one.label.split(", ") if p != one.editor) or one.label for one in all_groups}
    numbers = {text: number for number, text in enumerate(sorted(set(rest.values()), key=natural))}
    found: dict[str, list[Group]] = {}
    for one in all_groups:
        text = rest[id(one)]
        found.setdefault(one.editor, []).append(replace(one, label=text, number=numbers[text]))
    return {editor: found[editor] for editor in sorted(found, key=natural)}


def differing(settings: Sequence[Mapping[str, Any]]) -> list[str]:
    """The fewest keys that tell all the settings apart, the main ones first."""
    everything = sorted({key for own in settings for key in own})
    varied = [key for key in everything if len({str(own.get(key)) for own in settings}) > 1]
    chosen = [key for key in MAIN if key in varied]
    parts = len({tuple(str(own.get(key)) for key in chosen) for own in settings})
    for key in sorted(varied, key=lambda key: (key.count("_target_"), key.count("."), key)):
        if parts == len(settings):
            break
        finer = len({tuple(str(own.get(name)) for name in [*chosen, key]) for own in settings})
        if key not in chosen and finer > parts:
            chosen, parts = [*chosen, key], finer
    return chosen


def label(own: Mapping[str, Any], names: Sequence[str]) -> str:
    """Plain words for the chosen keys of one group."""
    return ", ".join(part for name in names if (part := phrase(name, own.get(name))))


def phrase(name: str, value: Any) -> str:
    """One setting in words: `rome`, `layer 3`, `clamp norm factor 0.75`."""
    if value is None:
        return ""
    if name.endswith(".name"):
        return str(value)
    if name == "layer.index" and str(value).startswith("["):
        several = str(value).strip("[]")
        return f"{'layers' if ',' in several else 'layer'} {several}"
    word = WORDS.get(name, name.rpartition(".")[2].replace("_", " ").strip())
    return f"{word} {value:g}" if isinstance(value, float) else f"{word} {value}"


def fallback(run: RunData) -> str:
    """What to call a group that has nothing to be told apart from."""
    editor = run.config.get("editor")
    name = editor.get("name") if isinstance(editor, Mapping) else None
    return str(name or run.run_id[:12])
