"""Curves from the unedited to the edited model: methods at the same edit accuracy, concavity, monotony."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from edit_robust.evaluate.image_intervals import answers_at
from edit_robust.evaluate.statistics.curves import bulge, surely_wrong
from edit_robust.evaluate.statistics.paired import monotone
from edit_robust.evaluate.statistics.penalties import at_edit_accuracy, with_start
from edit_robust.figures.frame import RunData
from edit_robust.report.claim_rows import UNIT, ZERO, Place, pairs_of, per_unit, row

#: Alphas from 0 (unedited) to 1 (whole edit) that a curve needs for its shape to be judged.
MIN_ALPHAS = 5
#: A step the wrong way that is smaller than this share of the images counts as none: one image in a hundred.
MARGIN = 0.01
Curves = dict[tuple[str, str, str], pd.DataFrame]


def curves(table: pd.DataFrame) -> Curves:
    """(model, unit, layer) -> the curve from the unedited model on, where parts of the edit were measured."""
    found: Curves = {}
    for (model, unit, layer), one in table.dropna(subset="edit_accuracy").groupby([*UNIT, "layer"]):
        if one.alpha.nunique() > 1:
            first = one[one.run == one.run.iloc[0]]
            found[str(model), str(unit), str(layer)] = with_start(first.sort_values("alpha"))
    return found


def compare_matched(first: pd.DataFrame, second: pd.DataFrame, column: str, only: str | None = None) -> pd.Series:
    """First less second where both reach the same edit accuracy: the best that the weaker of the two reaches.

    `only`: of the first method this layer alone.
    """
    a, b = curves(first), curves(second)
    same = [(key, key) for key in a if key in b]
    pairs = same or [(i, j) for i in a for j in b if i[:2] == j[:2]]
    found: dict[Place, list[float]] = {}
    for i, j in pairs:
        if only is not None and i[2] != only:
            continue
        level = min(a[i].edit_accuracy.max(), b[j].edit_accuracy.max())
        if level <= float(a[i].unedited_edit_accuracy.iloc[0]):
            continue  # one of them edits nothing: there is nothing to compare
        ends = [at_edit_accuracy(one, float(level)) for one in (a[i], b[j])]
        if ends[0] is not None and ends[1] is not None:
            found.setdefault(i[:2], []).append(ends[0][column] - ends[1][column])
    return per_unit(found)


def concave(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Curves in the plane of edit and original accuracy lie above the line from the unedited model to the whole edit.

    Each unit counts with the mean over its methods and layers of `bulge`.
    """
    bulges: dict[Place, list[float]] = {}
    longest = 0
    for key, one in curves(table.assign(layer=table.method + table.layer)).items():
        points = one.dropna(subset=["edit_accuracy", "original_accuracy"]).drop_duplicates("alpha").sort_values("alpha")
        longest = max(longest, len(points))
        if len(points) < MIN_ALPHAS:
            continue
        height = bulge(points.edit_accuracy.to_numpy(), points.original_accuracy.to_numpy())
        if np.isfinite(height):
            bulges.setdefault(key[:2], []).append(height)
    claim = "interpolation curves are concave (above the line between their ends, by edit and original accuracy)"
    missing = f"needs {MIN_ALPHAS} alphas from 0 to 1, ends included" + (f"; there are {longest}" if longest else "")
    if longest >= MIN_ALPHAS:
        missing = "no whole edit raises the edit accuracy"
    return [row(claim, "alpha between 0 and 1", per_unit(bulges), table, 1, missing=missing)]


def answers(one: pd.DataFrame, run: RunData, probe: str) -> np.ndarray | None:
    """Which images a curve's models answer right, [alphas, images]; None where the run's folder does not say."""
    steps = [0 if alpha <= ZERO else int(step) for alpha, step in zip(one.alpha, one.step, strict=True)]
    return answers_at(run.right, steps, probe, str(one.request.iloc[0]))


def monotone_paths(table: pd.DataFrame, runs: Sequence[RunData]) -> list[dict[str, Any]]:
    """Along alpha the edit never gets worse, and the original task never better, by more than `MARGIN`."""
    found = {k: v for k, v in curves(table.assign(layer=table.method + table.layer)).items() if len(v) > 2}
    return [
        monotone_path("edit accuracy never falls", "edit", found, table, runs),
        monotone_path("original accuracy never rises", "original", found, table, runs),
    ]


def monotone_path(
    words: str, probe: str, found: Curves, table: pd.DataFrame, runs: Sequence[RunData]
) -> dict[str, Any]:
    """One line: the mean over pairs of each curve's largest step the wrong way, against `MARGIN`.

    Agrees where the interval's upper end is below the margin: noise makes the largest step larger, never smaller, so
    that few images do not make a curve monotone. Disagrees where the mean curve of the pairs surely steps the wrong way
    by more than the margin (`surely_wrong`), which noise alone does not bring about.
    """
    sizes: dict[Place, list[float]] = {}
    real = 0
    for key, one in found.items():
        known, many = answers(one, runs[int(one.run.iloc[0])], probe), int(np.nan_to_num(one[f"n_{probe}"].iloc[-1]))
        step = monotone(one.alpha.to_numpy(), one[f"{probe}_accuracy"].to_numpy(), probe == "edit", many, known)
        sizes.setdefault(key[:2], []).append(step.size)
        real += step.significant
    claim = f"interpolation is monotone: {words} (largest step the wrong way)"
    line = row(claim, "all alphas", per_unit(sizes), table, 1, missing="needs several alphas")
    if not sizes:
        return line
    means = mean_curves(found, f"{probe}_accuracy")
    least = surely_wrong(means.to_numpy(dtype=float), pairs_of(means.index, table), probe == "edit")
    line["verdict"] = "agrees" if line["high"] < MARGIN else "disagrees" if least > MARGIN else "not seen"
    note = [f"{real} of {len(found)} curves step the wrong way by more than sampling noise"]
    if line["pairs"] < 2:
        note.append(line["note"])
    elif line["verdict"] == "not seen":
        note.append(f"the interval does not exclude steps of {MARGIN:g}")
    return line | {"note": "; ".join(note)}


def mean_curves(found: Curves, column: str) -> pd.DataFrame:
    """Each unit's curve, mean over its methods and layers: [units, alphas], at the alphas that all curves have."""
    every = {key: one.drop_duplicates("alpha").set_index("alpha")[column] for key, one in found.items()}
    shared = pd.DataFrame(every).dropna().sort_index()  # [alphas, curves]
    return shared.T.groupby(level=[0, 1]).mean().rename_axis(UNIT)
