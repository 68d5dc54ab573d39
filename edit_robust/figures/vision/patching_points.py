"""What the figures of patched models share: accuracies at every alpha, by what was trained, and how curves are drawn.

A patched model was taught a task that is told in words, and is judged by three things at every alpha between the
unedited and the fine-tuned weights: the task, the original task, and the original task under shifts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from edit_robust.evaluate.statistics.penalties import with_start
from edit_robust.figures import style
from edit_robust.figures.frame import RunData, setting
from edit_robust.figures.grouping import natural
from edit_robust.figures.vision.common import counted, curve, depth_colors, layer_label, methods, scores, words

#: Kinds of images of the original task. Others are the names of natural shifts, and `fog/3` for single corruptions.
CLEAN, CORRUPTED = "none", "corruptions"
WHOLE = "the whole tower"
COLUMNS = (
    *("run", "model", "panel", "place", "whole", "method", "seed", "pair", "unit", "alpha", "kind", "accuracy"),
    *("task", "original", "n", "n_task", "n_original"),
)


def wants(run: RunData) -> bool:
    """Whether a task in words was taught, and measured with the original task at several alphas."""
    task = setting(run.config, "task", {})
    in_words = isinstance(task, Mapping) and ("prompts" in task or "tasks" in task)
    return in_words and run.once(_points).alpha.nunique() > 1


def points(runs: Sequence[RunData]) -> pd.DataFrame:
    """Every kind of images at every alpha of every run, see COLUMNS; accuracies are fractions.

    panel: the task (and the model, where there are several).   place: what was trained: a layer, or the whole tower
    (`whole`).   accuracy: of the original task's images of this kind.   task, original: of the taught task and of the
    original task's clean images at the same alpha.   A pair is a task, a unit one task under one seed.
    """
    kept = [run for run in runs if wants(run)]
    found = []
    several = len({str(setting(run.config, "model.name")) for run in kept}) > 1
    for number, (run, (place, whole), method) in enumerate(zip(kept, places(kept), methods(kept), strict=True)):
        rows, seed = run.once(_points), setting(run.config, "seed", 0)
        model, task = str(setting(run.config, "model.name") or "model"), str(setting(run.config, "task.name") or "")
        told = rows.request.where(rows.request != "", task or "all requests")
        pair = told if not task else (task + ": " + told).where(told != task, task)
        rows = rows.assign(run=number, model=model, place=place, whole=whole, method=method, seed=seed, pair=pair)
        found.append(rows.assign(panel=model + ": " + pair if several else pair, unit=pair + f" | {seed}"))
    return pd.concat(found, ignore_index=True)[list(COLUMNS)] if found else pd.DataFrame(columns=list(COLUMNS))


def _points(run: RunData) -> pd.DataFrame:
    """The part of `points` that a run's records tell: request, alpha, kind, accuracy, task, original, and counts."""
    table = scores(run)
    own = table[table.probe == "original"]
    found = [pd.DataFrame(columns=["request", *COLUMNS[9:]])]
    for request, one in curve(run).groupby("request"):
        one = with_start(one.drop_duplicates("alpha", keep="last").sort_values("alpha"))
        one = one.dropna(subset=["edit_accuracy", "original_accuracy"])
        names = {"edit_accuracy": "task", "original_accuracy": "original", "n_edit": "n_task"}
        base = one.rename(columns=names)[["alpha", "task", "original", "n_task", "n_original"]].assign(request=request)
        found.append(base.assign(kind=CLEAN, accuracy=base.original, n=base.n_original))
        found += [base.merge(values, on="alpha") for values in _shifted(own[own.request.isin(["", request])])]
    return pd.concat([one for one in found if len(one)] or found, ignore_index=True)


def _shifted(own: pd.DataFrame) -> list[pd.DataFrame]:
    """alpha, accuracy, n and kind of the original task's shifted images, a table a kind; alpha 0 is always there."""
    rows = own[own["shift"] != CLEAN]
    single: pd.Series = rows["shift"].where(
        rows.severity == 0, rows["shift"] + "/" + rows.severity.astype(int).astype(str)
    )
    out = [(str(kind), some) for kind, some in rows.groupby(single)]
    if (rows.severity > 0).any():
        out.append((CORRUPTED, rows[rows.severity > 0]))
    tables = []
    for kind, some in out:
        values = some.groupby("alpha").agg(accuracy=("accuracy", "mean"), n=("n", "max"))
        if values.index.min() > 1e-9:
            values.loc[0.0] = [some.unedited.mean(), some.n.max()]
        tables.append(values.reset_index().assign(kind=kind))
    return tables


# -- what was trained --------------------------------------------------------------------------------------------------


def places(runs: Sequence[RunData]) -> list[tuple[str, bool]]:
    """What each run trained, in words, and whether that was (about) the whole tower; with the method where several
    methods trained the same."""
    found = [(WHOLE, True) if is_whole(run) else (part_label(run), False) for run in runs]
    names = methods(runs)
    own: dict[str, set[str]] = {}
    for (place, _), name in zip(found, names, strict=True):
        own.setdefault(place, set()).add(name)
    return [
        (f"{place} ({name})" if len(own[place]) > 1 else place, whole)
        for (place, whole), name in zip(found, names, strict=True)
    ]


def is_whole(run: RunData) -> bool:
    """Whether the run changed the network in several places that no part of it holds together, told by what moved.

    Names in one block, or in one module, begin alike: `visual.transformer.resblocks.5`. Those of a tower share its own
    name at most.
    """
    rows = run.tidy
    moved = rows[(rows.scope == "model") & (rows.metric == "drift_fro") & (rows.value > 0)].layer.astype(str).unique()
    return len({tuple(name.split(".")[:2]) for name in moved}) > 1


def part_label(run: RunData) -> str:
    """`layer 5`; `layer 5, mlp.c_fc` where another part of the block than its layer was trained."""
    part = setting(run.config, "editor.part")
    return layer_label(run.config) + (f", {part}" if part not in (None, "layer") else "")


# -- drawing -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Look:
    """How a place's curves are drawn everywhere in a figure."""

    color: str
    width: float
    dash: Any = "-"


def looks(table: pd.DataFrame) -> dict[str, Look]:
    """A look a place: layers in colours along their depth, the whole tower in black."""
    layers = sorted(table[~table.whole.astype(bool)].place.unique(), key=natural)
    colors = depth_colors(layers)
    towers = sorted(table[table.whole.astype(bool)].place.unique(), key=natural)
    found = {name: Look(colors[name], 1.5) for name in layers}
    return found | {name: Look(style.INK, 2.4, style.DASHES[i % 4]) for i, name in enumerate(towers)}


def mean_over_seeds(rows: pd.DataFrame) -> pd.DataFrame:
    """alpha, task, original, accuracy (in percent): means over runs at each alpha that all of them were measured at."""
    by = rows.groupby("alpha")[["task", "original", "accuracy"]]
    full = by.size() == by.size().max()
    return 100 * by.mean()[full].sort_index().astype(float)


def trace(ax: Axes, one: pd.DataFrame, x: str, y: str, look: Look) -> None:
    """A curve from the unedited model (star) over alpha to the fine-tuned one (large dot).

    one: percentages by alpha, see `mean_over_seeds`.   x, y: its columns, or `alpha`.
    """
    if one.empty:
        return
    across, up = _along(one, x), _along(one, y)
    ax.plot(across, up, color=look.color, linewidth=look.width, linestyle=look.dash, marker="o", markersize=2.8)
    mark_ends(ax, one, x, y, look)


def mark_ends(ax: Axes, one: pd.DataFrame, x: str, y: str, look: Look) -> None:
    """The unedited model as a star and the fine-tuned one as a large dot, where they were measured; see `trace`."""
    alphas, across, up = one.index.to_numpy(dtype=float), _along(one, x), _along(one, y)
    whole = np.isclose(alphas, 1)
    end: dict[str, Any] = {"marker": "o", "markersize": 6.5, "markeredgecolor": "white", "linestyle": "none"}
    ax.plot(across[whole], up[whole], color=look.color, **end)
    start = np.isclose(alphas, 0)
    ax.plot(across[start], up[start], color=style.INK, linestyle="none", marker="*", markersize=10, zorder=5)


def _along(one: pd.DataFrame, name: str) -> np.ndarray:
    """A column by alpha, or the alphas."""
    return np.asarray(one.index if name == "alpha" else one[name], dtype=float)


def grid(title: str, table: pd.DataFrame, rows: int, height: float) -> tuple[Figure, Any, list[str]]:
    """A figure of `rows` rows, its axes, and its columns: a task each; with 0 rows it says that there is nothing.

    height: of a row, in inches.
    """
    panels = sorted(table.panel.unique(), key=natural)
    ncols = max(len(panels), 1)
    figure, axes = style.panels(title, max(rows, 1), ncols, width=6.0 if ncols == 1 else 3.7, height=height)
    if not rows:
        style.empty(axes[0][0])
    return figure, axes, panels


def draw_panel(ax: Axes, rows: pd.DataFrame, x: str, y: str, drawn: Mapping[str, Look]) -> None:
    """All places of one kind of images of one task, one curve each; says so where there are none."""
    for place, look in drawn.items():
        trace(ax, mean_over_seeds(rows[rows.place == place]), x, y, look)
    if style.empty(ax):
        return
    for axis, name in ((ax.xaxis, x), (ax.yaxis, y)):
        axis.set_major_locator(MaxNLocator(5))
        if name != "alpha":
            axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g} %"))


def legend(figure: Figure, drawn: Mapping[str, Look]) -> None:
    """The places, and what star and large dot stand for."""
    if not drawn:
        return
    lines = [style.handle(n, one.color, linewidth=one.width, linestyle=one.dash) for n, one in drawn.items()]
    dot: dict[str, Any] = {"linestyle": "none", "markersize": 7}
    marks = [style.handle("unedited (alpha 0)", style.INK, marker="*", **dot)]
    style.legend(figure, [*lines, *marks, style.handle("fine-tuned (alpha 1)", style.GREY, marker="o", **dot)])


def shifts_of(table: pd.DataFrame) -> list[str]:
    """Corruptions together, and each natural shift: what was measured of them, natural shifts first."""
    kinds = [kind for kind in table.kind.unique() if kind not in (CLEAN, CORRUPTED) and "/" not in kind]
    return [*sorted(kinds), *([CORRUPTED] if (table.kind == CORRUPTED).any() else [])]


def in_words(kind: str) -> str:
    """A kind of images for an axis."""
    names = {CLEAN: "original task", CORRUPTED: "original task, corrupted"}
    return names.get(kind) or f"original task, {words(kind.partition('/')[0])}"


def axis_label(kind: str, n: float) -> str:
    """With how many images that is: `original task, corrupted (n = 256)`."""
    return f"{in_words(kind)} (n = {int(n):,})" if np.isfinite(n) else in_words(kind)


def task_label(rows: pd.DataFrame) -> str:
    """The horizontal axis of the taught task."""
    return f"the taught task (n = {int(rows.n_task.max()):,})"


def panel_title(name: str, rows: pd.DataFrame) -> str:
    """The task, and over how many seeds."""
    seeds = rows.seed.nunique()
    return f"{name}: {counted(seeds, 'seed')}" if seeds > 1 else name
