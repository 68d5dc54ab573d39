"""What the vision paper (arXiv 2303.00046, sections 6 and 7) says, and what the runs at hand show of it.

A unit is one pair (request) under one seed on one model; every number is a mean over units with its 95 % bootstrap
interval over them. Methods are compared on the same unit, and at the same layer where both edited it. A verdict is
`agrees` or `disagrees` where the whole interval lies on one side of zero, else `not seen`: no clear difference, or no
runs that could show one; `note` says which.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from edit_robust.evaluate.image_intervals import answers_at
from edit_robust.evaluate.statistics.paired import bootstrap_mean, monotone
from edit_robust.evaluate.statistics.penalties import at_edit_accuracy, with_start
from edit_robust.figures.frame import RunData
from edit_robust.figures.grouping import natural
from edit_robust.figures.vision.common import gather, image_runs, whole
from edit_robust.report.numbers import chance

COLUMNS = ("claim", "at", "difference", "low", "high", "units", "seeds", "pairs", "verdict", "note")
WHOLE, MATCHED = "whole edit", "matched edit accuracy"
UNIT = ["model", "unit"]
#: What rounding leaves of a difference of nothing.
ZERO = 1e-9
EQ1, EQ2, OWN = "original_ood_penalty", "editing_ood_penalty", "unedited_editing_ood_penalty"


def role(method: str) -> str:
    """The paper's name for a method, by the words in ours; "" for one that the compared claims are not about."""
    name = re.sub(r"[_\s]+", "-", method.lower())
    tuned = re.search(r"(^|-)(ft|fine-tuning|supervised|paint|1-?li)(-|,|$)", name)
    if "rewrit" in name:
        return "rewriting"
    if "collision" in name:
        return "global collision" if "global" in name else "local collision"
    if tuned and re.search(r"local|1-?li|one-layer|single-layer", name):
        return "1-layer fine-tuning"
    return "global fine-tuning" if tuned and re.search(r"global|paint", name) else ""


def claims(runs: Sequence[RunData]) -> pd.DataFrame:
    """One row a claim, method and place of comparison, see COLUMNS. Differences and penalties are fractions.

    `difference` is what the claim is about, as its words say; `low` and `high` bound it.
    """
    table = gather(runs)
    if table.empty:
        return pd.DataFrame(columns=list(COLUMNS))
    table = table.assign(role=table.method.map(role), layer=table.layer.astype(str))
    rows = [*negative(table), *rewriting_against_collision(table), *ranking(table)]
    rows += [*concave(table), *monotone_paths(table, image_runs(runs))]
    rows += [*layers_matter(table), *one_layer_against_all(table)]
    return pd.DataFrame(rows, columns=list(COLUMNS))


def row(
    claim: str, at: str, values: pd.Series, table: pd.DataFrame, sign: int, note: str = "", missing: str = ""
) -> dict[str, Any]:
    """One line: mean of the units' values, its interval, and whether it has the sign that the claim gives it."""
    values = values.dropna()
    mean, low, high = bootstrap_mean(values.to_numpy(dtype=float))
    known = table.set_index(UNIT).loc[lambda one: one.index.isin(values.index)] if len(values) else table[:0]
    verdict = "not seen"
    if min(sign * low, sign * high) > ZERO:
        verdict = "agrees"
    elif max(sign * low, sign * high) < -ZERO:
        verdict = "disagrees"
    why = missing if not len(values) else "one unit: no interval" if len(values) == 1 else ""
    why = why or ("" if verdict != "not seen" else "the interval holds zero")
    counts = {"units": len(values), "seeds": known.seed.nunique(), "pairs": known.pair.nunique()}
    notes = "; ".join(part for part in (note, why) if part)
    return {"claim": claim, "at": at, "difference": mean, "low": low, "high": high, **counts} | {
        "verdict": verdict,
        "note": notes,
    }


def by_unit(table: pd.DataFrame, column: str) -> pd.Series:
    """Mean over layers for each unit."""
    return table.dropna(subset=column).groupby(UNIT)[column].mean()


def negative(table: pd.DataFrame) -> list[dict[str, Any]]:
    """All penalties are negative; and eq. 2 beside what the unedited model loses itself, which the paper leaves out."""
    rows = []
    ends = whole(table)
    for method, some in ends.groupby("method"):
        rows.append(row(f"original-task penalty (eq. 1) of {method} is negative", WHOLE, by_unit(some, EQ1), some, -1))
    for method, some in ends.groupby("method"):
        rows.append(row(f"editing-task penalty (eq. 2) of {method} is negative", WHOLE, by_unit(some, EQ2), some, -1))
        beyond = by_unit(some.assign(beyond=some[EQ2] - some[OWN]), "beyond")
        claim = f"... and larger than the unedited model's own drop ({method})"
        rows.append(row(claim, WHOLE, beyond, some, -1, "not the paper's claim"))
    return [one for one in rows if one["units"]]


Place = tuple[str, str]
Curves = dict[tuple[str, str, str], pd.DataFrame]


def curves(table: pd.DataFrame) -> Curves:
    """(model, unit, layer) -> the curve from the unedited model on, where parts of the edit were measured."""
    found: Curves = {}
    for (model, unit, layer), one in table.dropna(subset="edit_accuracy").groupby([*UNIT, "layer"]):
        if one.alpha.nunique() > 1:
            first = one[one.run == one.run.iloc[0]]
            found[str(model), str(unit), str(layer)] = with_start(first.sort_values("alpha"))
    return found


def compare(first: pd.DataFrame, second: pd.DataFrame, column: str) -> pd.Series:
    """First less second for the whole edit, on the same unit and, where there are such, the same layers."""
    a, b = (whole(one).dropna(subset=column).groupby([*UNIT, "layer"])[column].mean() for one in (first, second))
    same = (a - b).dropna()
    if len(same):
        return same.groupby(level=UNIT).mean()
    return (a.groupby(level=UNIT).mean() - b.groupby(level=UNIT).mean()).dropna()


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
    return _series(found)


def rewriting_against_collision(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Rewriting costs the original task less than local collision; it edits less, too: hence at matched accuracy."""
    ours, theirs = table[table.role == "rewriting"], table[table.role == "local collision"]
    claim = "rewriting's original-task penalty is smaller than local collision's (eq. 1, difference positive)"
    missing = "needs runs of both on the same pairs"
    return [
        row(claim, WHOLE, compare(ours, theirs, EQ1), table, 1, missing=missing),
        row(claim, MATCHED, compare_matched(ours, theirs, EQ1), table, 1, missing=f"{missing}, with several alphas"),
    ]


def ranking(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Methods rank differently by editing-task penalty."""
    claim = "methods differ in editing-task penalty (eq. 2, best less worst)"
    missing = "needs two methods on at least two units"
    ends = whole(table)
    every = ends.dropna(subset=EQ2).groupby([*UNIT, "method"])[EQ2].mean().unstack("method").dropna()
    rows = [differ(claim, WHOLE, every, table, missing)]
    levels: dict[Place, dict[str, float]] = {}
    for (model, unit), some in table.groupby(UNIT):
        own = {str(method): curves(one) for method, one in some.groupby("method")}
        if len(own) < 2 or not all(own.values()):
            continue
        level = min(max(one.edit_accuracy.max() for one in found.values()) for found in own.values())
        points = {m: [at_edit_accuracy(one, float(level)) for one in found.values()] for m, found in own.items()}
        levels[str(model), str(unit)] = {
            m: float(np.mean([p[EQ2] for p in ps if p is not None])) for m, ps in points.items()
        }
    matched = pd.DataFrame.from_dict(levels, orient="index")
    if len(matched):
        matched.index = pd.MultiIndex.from_tuples(list(levels), names=UNIT)
        matched = matched.dropna()
    return [*rows, differ(claim, MATCHED, matched, table, missing)]


def order_of(every: pd.DataFrame) -> str:
    """The columns from the smallest penalty to the largest: `rewriting -0.102, local-collision -0.131`."""
    if every.empty or every.shape[1] < 2:
        return ""
    means = every.mean().sort_values(ascending=False)
    return ", ".join(f"{name} {value:+.3f}" for name, value in means.items())


def differ(claim: str, at: str, every: pd.DataFrame, table: pd.DataFrame, missing: str) -> dict[str, Any]:
    """One line on whether columns (methods, layers) differ over rows (units): best less worst mean.

    Best and worst are chosen by these very means, so their difference is never negative; the verdict rests on
    `permuted` instead.
    """
    if len(every) < 2 or every.shape[1] < 2:
        return row(claim, at, pd.Series(dtype=float), table, 1, missing=missing)
    means = every.mean()
    p = permuted(every.to_numpy(dtype=float))
    line = row(claim, at, every[means.idxmax()] - every[means.idxmin()], table, 1)
    line["verdict"] = "agrees" if p < 0.05 else "not seen"
    line["note"] = f"{order_of(every)}; {chance(p)}"
    return line


def permuted(values: np.ndarray, n: int = 4000, seed: int = 0) -> float:
    """How often columns of [units, columns] differ as much when each unit's values change places at random.

    What differs is the sum of squares of the columns' means about their mean.
    """
    values = values - values.mean(axis=1, keepdims=True)
    seen = float((values.mean(axis=0) ** 2).sum())
    mixed = np.random.default_rng(seed).permuted(np.broadcast_to(values, (n, *values.shape)), axis=2)
    others = (mixed.mean(axis=1) ** 2).sum(axis=1)
    return float((1 + (others >= seen - 1e-12).sum()) / (1 + n))


def concave(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Curves of edit against original accuracy bulge outwards: the mean height of both above the straight line."""
    bulges: dict[Place, list[float]] = {}
    for key, one in curves(table.assign(layer=table.method + table.layer)).items():
        points = one.dropna(subset=["edit_accuracy", "original_accuracy"]).drop_duplicates("alpha").sort_values("alpha")
        if len(points) < 3:
            continue
        alpha = points.alpha.to_numpy()
        share = (alpha - alpha[0]) / (alpha[-1] - alpha[0])
        both = points.edit_accuracy.to_numpy() + points.original_accuracy.to_numpy()
        line = both[0] + share * (both[-1] - both[0])
        bulges.setdefault(key[:2], []).append(float((both - line)[1:-1].mean()))
    claim = "interpolation curves are concave (edit plus original accuracy above the straight line between the ends)"
    return [row(claim, "alpha between 0 and 1", _series(bulges), table, 1, missing="needs several alphas")]


def answers(one: pd.DataFrame, run: RunData, probe: str) -> np.ndarray | None:
    """Which images a curve's models answer right, [alphas, images]; None where the run's folder does not say."""
    steps = [0 if alpha <= ZERO else int(step) for alpha, step in zip(one.alpha, one.step, strict=True)]
    return answers_at(run.right, steps, probe, str(one.request.iloc[0]))


def monotone_paths(table: pd.DataFrame, runs: Sequence[RunData]) -> list[dict[str, Any]]:
    """Along alpha the edit never gets worse and the original task never better, beyond what sampling explains."""
    sizes: dict[Place, list[float]] = {}
    real = total = 0
    for key, one in curves(table.assign(layer=table.method + table.layer)).items():
        if len(one) < 3:
            continue
        for name, n, rising in (("edit_accuracy", "n_edit", True), ("original_accuracy", "n_original", False)):
            known = answers(one, runs[int(one.run.iloc[0])], name.partition("_")[0])
            many = int(np.nan_to_num(one[n].iloc[-1]))
            found = monotone(one.alpha.to_numpy(), one[name].to_numpy(), rising, many, known)
            sizes.setdefault(key[:2], []).append(found.size)
            real, total = real + found.significant, total + 1
    claim = "interpolation is monotone (largest step the wrong way)"
    line = row(claim, "all alphas", _series(sizes), table, 1, missing="needs several alphas")
    if total:
        line["verdict"] = "agrees" if real <= 0.05 * total else "disagrees"
        line["note"] = f"{real} of {total} curves step the wrong way by more than sampling noise"
    return [line]


def _series(found: dict[Place, list[float]]) -> pd.Series:
    index = pd.MultiIndex.from_tuples(list(found), names=UNIT) if found else pd.MultiIndex.from_arrays([[], []])
    return pd.Series([float(np.mean(values)) for values in found.values()], index=index, dtype=float)


def layers_matter(table: pd.DataFrame) -> list[dict[str, Any]]:
    """What an edit costs depends on the layer."""
    claim = "the original-task penalty depends on the layer (eq. 1, best less worst)"
    rows = []
    for method, some in whole(table).groupby("method"):
        every = some.dropna(subset=EQ1).groupby([*UNIT, "layer"])[EQ1].mean().unstack("layer").dropna()
        line = differ(f"{claim}: {method}", WHOLE, every, some, "needs two layers and units")
        rows += [line] if every.shape[1] > 1 else []
    return rows or [row(claim, WHOLE, pd.Series(dtype=float), table, 1, missing="needs runs at several layers")]


def one_layer_against_all(table: pd.DataFrame) -> list[dict[str, Any]]:
    """1-LI keeps more of the original task under corruptions than global fine-tuning that edits as well."""
    ours, theirs = table[table.role == "1-layer fine-tuning"], table[table.role == "global fine-tuning"]
    claim = "1-LI is above global fine-tuning (eq. 1, difference positive)"
    missing = "needs runs of both on the same pairs, with several alphas"
    rows = [
        row(claim, f"{MATCHED}, mean over layers", compare_matched(ours, theirs, EQ1), table, 1, missing=missing),
        row(claim, f"{WHOLE}, mean over layers", compare(ours, theirs, EQ1), table, 1, missing=missing),
    ]
    layers = sorted(set(ours.layer), key=natural)
    for layer in layers if len(layers) > 1 else ():
        values = compare_matched(ours, theirs, EQ1, only=layer)
        rows.append(row(claim, f"{MATCHED}, {layer}", values, table, 1, missing=missing))
    return rows


def cells(table: pd.DataFrame) -> list[list[str]]:
    """The table as text: differences with their intervals, counts in words."""
    out = []
    for one in table.to_dict("records"):
        number = "" if not np.isfinite(one["difference"]) else f"{one['difference']:+.3f}"
        interval = f" [{one['low']:+.3f}, {one['high']:+.3f}]" if np.isfinite(one["low"]) else ""
        counts = f"{one['seeds']} / {one['pairs']} / {one['units']}" if one["units"] else ""
        out.append([one["claim"], one["at"], number + interval, counts, one["verdict"], one["note"]])
    return out


TITLES = ("claim", "compared at", "difference [95 % interval]", "seeds / pairs / units", "verdict", "note")
NOTE = (
    "Differences are fractions: 0.01 is one point in a hundred. Intervals are bootstrapped over units, one a pair "
    "(request) and seed; with few of them an interval is rough. Matched edit accuracy: both methods where they have "
    "made the edit equally well, on the way from the unedited to the edited model."
)


def to_markdown(table: pd.DataFrame) -> str:
    """The claims as a Markdown table with a line on how to read it."""
    lines = [f"| {' | '.join(TITLES)} |", f"|{'---|' * len(TITLES)}"]
    lines += [f"| {' | '.join(text.replace('|', '/') for text in line)} |" for line in cells(table)]
    return "\n".join([*lines, "", NOTE, ""])


def shown(runs: Sequence[RunData]) -> dict[str, Any] | None:
    """The claims for the page, where several runs on images can tell something about them."""
    if len(image_runs(runs)) < 2:
        return None
    table = claims(runs)
    return {"columns": TITLES, "lines": cells(table), "note": NOTE} if (table.units > 0).any() else None
