"""Effective robustness: whether an edited model does better under a shift than its clean accuracy lets expect."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullFormatter

from edit_robust.evaluate.statistics.effective import Fit, effective_robustness, fit_band, fit_reference, logit
from edit_robust.evaluate.statistics.paired import clopper_pearson
from edit_robust.figures import style
from edit_robust.figures.frame import RunData
from edit_robust.figures.vision.common import gather, image_runs, numbered, scores, signed, whole, words

NAME = "effective-robustness"
TITLE = "Accuracy under a shift against clean accuracy"
CAPTION = (
    "Right: accuracy on the original task's clean images. Up: on shifted ones. Both axes are in logits, where "
    "standard models lie close to a line. Grey: unedited reference models with their fit and its 95 % bootstrap band "
    "over models. Coloured: models after the whole edit, one a pair and layer; the star is the unedited model. rho is "
    "the mean height above the line in percentage points: below zero the edit cost more robustness than the loss of "
    "clean accuracy explains. Bars: 95 % intervals over images (Clopper-Pearson; under corruptions over images, not "
    "images times corruptions)."
)
ALL = "corruptions"
TICKS = (*(0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95), *(0.98, 0.99, 0.995, 0.999))


def reference(runs: Sequence[RunData]) -> pd.DataFrame:
    """Unedited reference models beside the runs: model, kind, clean, shifted, n. Of equal names the first counts.

    `kind` is a natural shift's name, or `corruptions`: the mean over those that the runs measured as well.
    """
    found = []
    wanted = {f"{shift}/{severity}" for shift, severity in measured(runs)}
    for run in runs:
        file = run.path / "reference.json" if run.path is not None else None
        if file is None or not file.is_file():
            continue
        for entry in json.loads(file.read_text(encoding="utf-8")):
            rates = dict(entry.get("accuracy", {}))
            base = {"model": entry["model"], "n": int(entry.get("n", 0)), "clean": rates.pop("original", np.nan)}
            several = [rates[name] for name in wanted if name in rates]
            if wanted and len(several) == len(wanted):
                found.append(base | {"kind": ALL, "shifted": float(np.mean(several))})
            found += [base | {"kind": name, "shifted": value} for name, value in rates.items() if "/" not in name]
    table = pd.DataFrame(found, columns=["model", "kind", "clean", "shifted", "n"]).dropna()
    return table.drop_duplicates(["model", "kind"]).reset_index(drop=True)


def measured(runs: Sequence[RunData]) -> set[tuple[str, int]]:
    """The corruptions and severities of the original task in these runs."""
    tables = [scores(run) for run in image_runs(runs)]
    rows = [one[(one.probe == "original") & (one.severity > 0)] for one in tables]
    return {
        (str(shift), int(severity))
        for one in rows
        for shift, severity in one[["shift", "severity"]].drop_duplicates().itertuples(index=False, name=None)
    }


def edited(runs: Sequence[RunData]) -> pd.DataFrame:
    """Whole edits: method, model, kind, clean, shifted, n, and the unedited model's clean and shifted beside."""
    table = whole(gather(runs, shifts=True))
    table = table[table.probe == "original"]
    keys = ["run", "request", "method", "model"]
    clean = table[table["shift"] == "none"][[*keys, "accuracy", "unedited", "n"]]
    clean = clean.rename(columns={"accuracy": "clean", "unedited": "unedited_clean"})
    rows = table[table["shift"] != "none"]
    rows = rows.assign(kind=rows["shift"].where(rows.severity == 0, ALL))
    rows = rows.groupby([*keys, "kind"], as_index=False)[["accuracy", "unedited"]].mean()
    return rows.rename(columns={"accuracy": "shifted", "unedited": "unedited_shifted"}).merge(clean, on=keys)


def wants(run: RunData) -> bool:
    """Whether the run measured an edited image classifier."""
    return len(scores(run)) > 0


def enough(runs: Sequence[RunData]) -> bool:
    """Whether reference models lie beside the runs, enough for a line."""
    table = reference(runs)
    return bool((table.groupby("kind").clean.nunique() >= 3).any()) and len(edited(runs)) > 0


@style.styled
def draw(runs: Sequence[RunData]) -> Figure:
    """A panel a shift."""
    points, models = edited(runs), reference(image_runs(runs))
    colors = numbered(points.method)
    kinds = [one for one in [ALL, *sorted(set(points.kind) - {ALL})] if one in set(points.kind)]
    kinds = [one for one in kinds if one in set(models.kind)] or kinds
    ncols = min(max(len(kinds), 1), 3)
    nrows = max(-(-len(kinds) // ncols), 1)
    figure, axes = style.panels(TITLE, nrows, ncols, width=6.4 if ncols == 1 else 4.4, height=3.6)
    for ax in axes.flat[max(len(kinds), 1) :]:
        ax.set_visible(False)
    for ax, kind in zip(axes.flat, kinds or [""], strict=False):
        panel(ax, points[points.kind == kind], models[models.kind == kind], colors, kind)
    dot: dict[str, Any] = {"linestyle": "none", "marker": "o", "markersize": 5}
    entries: list[Any] = [style.handle(name, style.color_of(number), **dot) for name, number in colors.items()]
    star = {"linestyle": "none", "marker": "*", "markersize": 10}
    others = [style.handle("unedited", style.INK, **star), style.handle("reference models and fit", marker="o")]
    style.legend(figure, [*entries, *(others if colors else [])])
    return figure


def panel(ax: Axes, points: pd.DataFrame, models: pd.DataFrame, colors: dict[str, int], kind: str) -> None:
    """Reference models with their line and band, the unedited model, the edited ones with rho in the corner."""
    fit: Fit | None = None
    if models.clean.nunique() >= 3:
        fit = fit_reference(models.clean.to_numpy(), models.shifted.to_numpy())
        everything = np.concatenate([models.clean, points.clean, points.unedited_clean])
        ends = logit(np.array([everything.min(), everything.max()]))
        at = 1 / (1 + np.exp(-np.linspace(ends[0] - 0.15, ends[1] + 0.15, 60)))
        low, high = fit_band(models.clean.to_numpy(), models.shifted.to_numpy(), at)
        ax.fill_between(logit(at), logit(low), logit(high), color=style.GREY, alpha=0.16, linewidth=0)
        ax.plot(logit(at), logit(fit(at)), color=style.GREY, linewidth=1.2)
    crosses(ax, models.clean, models.shifted, models.n, style.GREY, 3.5)
    texts = []
    for method, number in colors.items():
        rows = points[points.method == method]
        crosses(ax, rows.clean, rows.shifted, rows.n, style.color_of(number), 4.5)
        if fit is not None and len(rows):
            rho = effective_robustness(rows.clean.to_numpy(), rows.shifted.to_numpy(), fit)
            texts.append((f"{method}: rho {signed(100 * float(rho.mean()))}", style.color_of(number)))
    for _, one in points.drop_duplicates("model").iterrows():
        ax.plot(*logit(np.array([one.unedited_clean, one.unedited_shifted])), "*", color=style.INK, markersize=10)
    if style.empty(ax):
        return
    ax.set_title(
        f"{'all corruptions, mean' if kind == ALL else words(kind)} (n = {int(points.n.max()):,})", fontsize=10
    )
    for place, (text, color) in enumerate(texts):
        ax.text(0.02, 0.97 - 0.065 * place, text, transform=ax.transAxes, va="top", fontsize=8, color=color)
    ax.set_xlabel("clean accuracy")
    ax.set_ylabel("accuracy under the shift")
    for axis in (ax.xaxis, ax.yaxis):
        logit_axis(axis)


def crosses(ax: Axes, clean: pd.Series, shifted: pd.Series, n: pd.Series, color: str, size: float) -> None:
    """Dots with their exact intervals both ways, in logits."""
    for x, y, total in zip(clean, shifted, n, strict=True):
        look: dict[str, Any] = {"fmt": "o", "color": color, "markersize": size, "alpha": 0.75, "elinewidth": 0.6}
        at = logit(np.array([x, y]))
        if total > 0:
            both = [logit(np.array(clopper_pearson(float(v * total), int(total)))) for v in (x, y)]
            error = [np.abs(ends - middle)[:, None] for ends, middle in zip(both, at, strict=True)]
            ax.errorbar([at[0]], [at[1]], xerr=error[0], yerr=error[1], **look)
        else:
            ax.errorbar([at[0]], [at[1]], **look)


def logit_axis(axis: Any) -> None:
    """Ticks at plain percentages on an axis of logits, not so many that they touch."""
    low, high = axis.get_view_interval()
    kept: list[float] = []
    for tick in TICKS:
        place = float(logit(tick))
        if low <= place <= high and (not kept or place - float(logit(kept[-1])) > 0.13 * (high - low)):
            kept.append(tick)
    axis.set_major_locator(FixedLocator([float(logit(tick)) for tick in kept]))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 / (1 + np.exp(-value)):.3g} %"))
    axis.set_minor_formatter(NullFormatter())
