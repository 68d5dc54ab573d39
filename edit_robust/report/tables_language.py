"""Tables about sequences of edits: all editors side by side, and what autopsies found (tables 2 and 3 of arXiv
2401.07453)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from edit_robust.figures.frame import RunData
from edit_robust.figures.grouping import groups
from edit_robust.figures.language import editors
from edit_robust.figures.language.samples import sample_of
from edit_robust.report.numbers import amount, percent
from edit_robust.runs.reader import Run

#: What an autopsy calls an edit that breaks the unedited model by itself.
DISABLING = "disabling edit"


@dataclass(frozen=True)
class Table:
    """title, a sentence on how to read it, headings, and lines of cells; the first cell names the line."""

    name: str
    title: str
    caption: str
    columns: tuple[str, ...]
    lines: tuple[tuple[str, ...], ...]

    def to_markdown(self) -> str:
        rows = [self.columns, ("---",) * len(self.columns), *self.lines]
        return "\n".join(f"| {' | '.join(row)} |" for row in rows) + "\n"


def tables(runs: Sequence[RunData]) -> list[Table]:
    """Those that these runs have numbers for."""
    found = [of_editors(runs), distances(runs), alone_and_in_sequence(runs)]
    return [table for table in found if table is not None]


def of_editors(runs: Sequence[RunData]) -> Table | None:
    """One line an editor, best at the end first; None for fewer than two."""
    wanted = [run for run in runs if editors.wants(run)]
    if not wanted or not editors.enough(wanted):
        return None
    found = editors.table(wanted)
    shown = [n for n in editors.NUMBERS if found[n.key].notna().any()]
    headings = tuple(n.title.replace("\n", " ") for n in shown)
    lines = tuple(
        (str(line["setting"]), str(line["runs"]), *(_cell(n, float(line[n.key])) for n in shown), str(line["end"]))
        for _, line in found.iterrows()
    )
    caption = "Means over orders, the best at the end first; each number by the protocol that its heading names."
    return Table("editors", "The editors side by side", caption, ("editor", "runs", *headings, "its end"), lines)


def _cell(number: editors.Number, value: float) -> str:
    if np.isnan(value):
        return ""
    return percent(value) if number.kind == "percent" else amount(value, 2)


def autopsies(runs: Sequence[RunData]) -> list[tuple[str, RunData, dict[str, Any]]]:
    """(setting, run, what its autopsy found) of the runs that had one."""
    labelled = [(group.label, run) for group in groups(runs) for run in group.runs if run.path is not None]
    found = [(label, run, Run(run.path).autopsy) for label, run in labelled if run.path is not None]
    return [(label, run, one) for label, run, one in found if one]


def distances(runs: Sequence[RunData]) -> Table | None:
    """Table 2: how far a normal edit moves a layer, and how far a disabling one does."""
    by_setting: dict[str, list[dict[str, Any]]] = {}
    for label, _, found in autopsies(runs):
        if found.get("normalised_distance_median") is not None:
            by_setting.setdefault(label, []).append(found)
    lines = []
    for label, several in by_setting.items():
        usual = [float(f["normalised_distance_median"]) for f in several]
        broke = [float(f["normalised_distance"]) for f in several if _disabling(f)]
        ratio = f"{np.mean(broke) / np.mean(usual):,.0f}" if broke and np.mean(usual) > 0 else ""
        cells = (f"{np.mean(usual):.2e}", f"{np.mean(broke):.2e}" if broke else "none found", ratio)
        lines.append((label, str(len(several)), *cells, str(len(broke))))
    if not lines:
        return None
    caption = (
        "||dW||_F over the number of weights of the edited layers: median edit of each walk, mean over walks; and the "
        "edits that break the unedited model by themselves. The paper has 8.156e-7 and 3.339e-4 (GPT2-XL, ROME)."
    )
    columns = ("editor", "walks", "normal edit", "disabling edit", "times as far", "disabling edits")
    return Table("distances", "How far normal and disabling edits move a layer", caption, columns, tuple(lines))


def _disabling(found: dict[str, Any]) -> bool:
    return found.get("culprit_kind") == DISABLING and found.get("normalised_distance") is not None


def alone_and_in_sequence(runs: Sequence[RunData]) -> Table | None:
    """Table 3: the edit at which a walk broke, alone in the unedited model and where it stood in the walk."""
    lines = []
    for label, run, found in autopsies(runs):
        if found.get("culprit_edit") is None:
            continue
        texts = [_of(found, side, "perplexity") for side in ("unedited", "alone", "before", "after")]
        kept = [_of(found, side, "neighbours", 100.0) for side in ("unedited", "alone", "before", "after")]
        who = f"{found['culprit_edit']}" + (f" ({found['subject']})" if found.get("subject") else "")
        lines.append((f"{label}, {sample_of(run)}", who, str(found.get("culprit_kind") or ""), *texts, *kept))
    if not lines:
        return None
    caption = (
        "The edit at which each walk broke. Alone: it is the only edit in the model. Before and after: where it stood "
        "in the walk. One that breaks the model alone is a disabling edit; one that is harmless alone was the last of "
        "many (accumulation). A perplexity that is not there was infinite or no number, or was not measured."
    )
    sides = ("unedited", "alone", "before", "after")
    columns = ("walk", "edit", "kind", *(f"perplexity {s}" for s in sides), *(f"neighbours {s}" for s in sides))
    return Table("collapse", "Edits that broke a model, alone and in sequence", caption, columns, tuple(lines))


def _of(found: dict[str, Any], side: str, name: str, scale: float = 0.0) -> str:
    value = (found.get(side) or {}).get(name)
    if value is None:
        return ""
    return percent(scale * float(value)) if scale else amount(float(value))
