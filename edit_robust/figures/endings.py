"""Walks that end early say so where their lines end, instead of stopping in the air."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from edit_robust.figures.frame import RunData, is_sequence, rows
from edit_robust.runs.reader import Run

#: So many refused edits up to the last one count as an end.
REFUSED = 3
#: A walk of less than this share of the longest one's edits says that it was planned so.
SHORT = 0.9


@dataclass(frozen=True)
class End:
    """at: edits in the model where it happened.   why: in a few words."""

    at: float
    why: str


def ending(run: RunData) -> End | None:
    """Why a sequence has no good numbers up to its planned end; None where it has.

    Looked for in this order: the run was stopped; all its last edits were refused; the model no longer gives numbers
    (perplexity is infinite or none at every later point).
    """
    if not is_sequence(run):
        return None
    return _stopped(run) or _refused(run) or _no_numbers(run)


def _stopped(run: RunData) -> End | None:
    if run.path is None or not (run.path / "status.json").is_file():
        return None
    status = str(Run(run.path).status.get("status", ""))
    last = run.tidy["n_edits"].max()
    words = {"interrupted": "stopped here", "failed": "failed here", "running": "so far"}
    return End(float(last), words[status]) if status in words and np.isfinite(last) else None


def _refused(run: RunData) -> End | None:
    found = rows(run, None, scope="at-edit", metric="refused").drop_duplicates(["step", "request"], keep="last")
    if found.empty:
        return None
    each = found.sort_values("step").groupby("n_edits")["value"].min()  # of a batch: all of them
    made = np.flatnonzero(each.to_numpy(dtype=float) == 0)
    first = int(made[-1]) + 1 if len(made) else 0
    return End(float(each.index[first]), "all refused from here") if len(each) - first >= REFUSED else None


def _no_numbers(run: RunData) -> End | None:
    """Perplexity that is infinite, or no number (which files keep as nothing), from some point to the last."""
    found = rows(run, scope="model", probe="text", metric="perplexity").sort_values("step")
    values = pd.to_numeric(found["value"], errors="coerce").to_numpy(dtype=float)
    good = np.flatnonzero(np.isfinite(values))
    first = int(good[-1]) + 1 if len(good) else 0
    if first >= len(values) or not len(good):
        return None
    return End(float(found["n_edits"].iloc[first]), "no numbers from here")


def longest(runs: Sequence[RunData]) -> float:
    """Edits in the model at the end of the longest of some walks."""
    return max((float(run.tidy["n_edits"].max()) for run in runs if len(run.tidy)), default=0.0)


def mark(ax: Axes, runs: Sequence[RunData], curve: Any, color: str, percent: bool = False, beside: float = 0.0) -> None:
    """A cross on a group's curve where a run of it ended early, with the reason, and with how many runs did.

    curve: of `style.combine`.   beside: length of the longest walk in the panel; one that was planned shorter says so.
    """
    ends = [end for run in runs if (end := ending(run)) is not None]
    if not ends and (made := longest(runs)) < SHORT * beside:
        ends = [End(made, f"all {made:.0f} edits made")] * len(runs)
    known = np.flatnonzero(np.isfinite(curve.mean))
    if not ends or not len(known):
        return
    x, y = curve.x[known], curve.mean[known] * (100.0 if percent else 1.0)
    first = min(ends, key=lambda end: end.at)
    place = max(int(np.searchsorted(x, first.at, side="right")) - 1, 0)
    why = ", ".join(why for why, _ in Counter(end.why for end in ends).most_common(2))
    text = f" {why}" + (f" ({len(ends)} of {len(runs)})" if len(ends) < len(runs) else "")
    ax.plot([x[place]], [y[place]], color=color, marker="X", markersize=7, markeredgecolor="white", linestyle="none")
    right = bool(x[place] > 0.45 * max(ax.get_xlim()[1], x.max()))
    look: dict[str, Any] = {"fontsize": 8, "color": color, "ha": "right" if right else "left", "va": "bottom"}
    look |= {"zorder": 6, "bbox": {"facecolor": "white", "alpha": 0.75, "linewidth": 0, "pad": 0.8}}
    offset = (-4 if right else 4, 4)
    ax.annotate(text, (x[place], y[place]), xytext=offset, textcoords="offset points", annotation_clip=False, **look)
