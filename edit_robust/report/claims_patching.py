"""What section 8 of the vision paper (arXiv 2303.00046) says of patched CLIPs, and what the runs at hand show of it.

A unit is one task under one seed on one model. Each claim stands there for all tasks together, with its 95 % t interval
over tasks (the seeds of one task are averaged first), and for each task by itself, with its interval over seeds. A
verdict is `agrees` or `disagrees` where the whole interval lies on one side of zero, else `not seen`; `note` says why.

Wherever the best of several layers or alphas is spoken of, it is chosen on the other seeds of the task and judged on
the one left out: the largest of several noisy numbers is too large where it was picked.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from edit_robust.evaluate.statistics.curves import bulge, surely_wrong
from edit_robust.evaluate.statistics.effective import effective_robustness, fit_reference
from edit_robust.evaluate.statistics.paired import monotone
from edit_robust.figures.frame import RunData
from edit_robust.figures.grouping import natural
from edit_robust.figures.vision import effective
from edit_robust.figures.vision.patching_layers import bargains
from edit_robust.figures.vision.patching_points import CLEAN, CORRUPTED, in_words, points, shifts_of, wants
from edit_robust.report.claim_curves import MARGIN, MIN_ALPHAS
from edit_robust.report.claim_rows import UNIT, Place, pairs_of, per_unit, row
from edit_robust.report.claim_text import ClaimText
from edit_robust.report.claims import COLUMNS, COUNTED, TITLES, role

__all__ = ["COLUMNS", "NOTE", "claims", "to_markdown"]

ONE, ALL = "one layer", "the whole tower"
#: The paper's two ways of patching, by what `role` calls them.
ROLES = {"1-layer fine-tuning": ONE, "global fine-tuning": ALL}
#: Places between the unedited model's task accuracy and the best that both reach, at which both are compared.
SHARES = (0.25, 0.5, 0.75, 1.0)
Lines = list[dict[str, Any]]
#: (unit, what was trained) -> task, original and shifted accuracy by alpha.
Paths = dict[tuple[str, str, str], pd.DataFrame]


def claims(runs: Sequence[RunData]) -> pd.DataFrame:
    """One row a claim and place of comparison, see COLUMNS; empty where no run patches a model.

    Differences are fractions; `difference` is what the claim is about, as its words say.
    """
    runs = [run for run in runs if wants(run)]
    table = points(runs)
    table = table[table.alpha <= 1 + 1e-9]
    table = table.assign(way=table.method.map(lambda name: ROLES.get(role(name), "")))
    if table.empty:
        return pd.DataFrame(columns=list(COLUMNS))
    kinds = shifts_of(table)
    parts: tuple[Callable[[pd.DataFrame, Sequence[str]], Lines], ...] = (above, concave, monotone_paths)
    rows = [one for part in parts for one in part(table, kinds)]
    rows += [*less_robust(table, kinds, effective.reference(runs)), *by_task(table, kinds)]
    return pd.DataFrame(rows, columns=list(COLUMNS))


# -- curves of units ---------------------------------------------------------------------------------------------------


def paths(table: pd.DataFrame, way: str, kind: str) -> Paths:
    """The curve of each unit and place that was trained this way: alpha, task, original, accuracy, in order of alpha.

    Runs that are the same but for what has no say, as the layer of the whole tower, count once together.
    """
    rows = table[(table.way == way) & (table.kind == kind)]
    found: Paths = {}
    for (model, unit, place), one in rows.groupby(["model", "unit", "place"]):
        along = one.groupby("alpha")[["task", "original", "accuracy"]].mean().astype(float).sort_index().reset_index()
        if len(along) > 1:
            found[str(model), str(unit), str(place)] = along
    return found


def each(table: pd.DataFrame, way: str, kind: str, number: Callable[[pd.DataFrame], float]) -> pd.Series:
    """A number of each unit's curves, mean over the places that were trained."""
    found: dict[Place, list[float]] = {}
    for (model, unit, _), one in paths(table, way, kind).items():
        value = number(one)
        if np.isfinite(value):
            found.setdefault((model, unit), []).append(value)
    return per_unit(found)


def at_task_accuracy(along: pd.DataFrame, level: float) -> float:
    """Shifted accuracy where a curve's task accuracy first reaches `level`, linear between alphas; NaN: never."""
    task, accuracy = along.task.to_numpy(), along.accuracy.to_numpy()
    reached = np.flatnonzero(task >= level - 1e-12)
    if not len(reached):
        return float("nan")
    i = int(reached[0])
    if i == 0:
        return float(accuracy[0])
    share = (level - task[i - 1]) / (task[i] - task[i - 1])
    return float(accuracy[i - 1] + share * (accuracy[i] - accuracy[i - 1]))


def line(
    claim: str, at: str, values: pd.Series, table: pd.DataFrame, sign: int, note: str = "", missing: str = ""
) -> dict[str, Any]:
    """One line over tasks: `row`, with tasks for pairs in its words."""
    found = row(claim, at, values, table, sign, note, missing)
    return found | {"note": found["note"].replace("one pair: no interval", "one task: no interval over tasks")}


def lines(
    claim: str, at: str, values: pd.Series, table: pd.DataFrame, sign: int, note: str = "", missing: str = ""
) -> Lines:
    """The line over tasks, and for each task one over its seeds (and models), which speaks for that task alone."""
    found = [line(claim, at, values, table, sign, note, missing)]
    values = values.dropna()
    pairs = np.array(pairs_of(values.index, table)) if len(values) else np.array([])
    repeats = table.assign(pair=table.model.astype(str) + table.seed.astype(str))
    for task in sorted(set(pairs), key=natural):
        one = row(claim, f"{at}; {task}", values[pairs == task], repeats, sign)
        alone = one["note"].replace("one unit: no interval", "one seed: no interval")
        found.append(one | {"pairs": 1, "note": alone})
    return found


# -- the claims --------------------------------------------------------------------------------------------------------


def above(table: pd.DataFrame, kinds: Sequence[str]) -> Lines:
    """1-LI is above the whole tower on out-of-distribution accuracy for some layers and alphas."""
    rows: Lines = []
    missing = "needs runs of one layer and of the whole tower on the same tasks"
    for kind in kinds or [CORRUPTED]:
        claim = f"1-LI is above the whole tower ({in_words(kind)}, at equal task accuracy, positive)"
        found = gaps(table, kind)
        chosen, told = on_other_seeds(found, table)
        why = missing if not found else "needs two seeds of a task: one to choose on, one to judge"
        rows += lines(claim, "the layer and place that are best on the other seeds", chosen, table, 1, told, why)
        every = per_unit(mean_of(found))
        rows.append(line(claim, "mean over layers and places", every, table, 1, missing=missing))
        for place in sorted({place for one in found.values() for place in one}, key=natural):
            only = per_unit(mean_of({unit: {place: one[place]} for unit, one in found.items() if place in one}))
            rows.append(line(claim, f"{place}, mean over places", only, table, 1, missing=missing))
    return rows


def gaps(table: pd.DataFrame, kind: str) -> dict[Place, dict[str, np.ndarray]]:
    """For each unit and layer, one layer's less the whole tower's shifted accuracy [SHARES] at equal task accuracy.

    Compared are SHARES of the way from the unedited model to the best task accuracy that both reach.
    """
    ours, theirs = paths(table, ONE, kind), paths(table, ALL, kind)
    whole = {key[:2]: one for key, one in theirs.items()}
    found: dict[Place, dict[str, np.ndarray]] = {}
    for (model, unit, place), one in ours.items():
        other = whole.get((model, unit))
        if other is None:
            continue
        start = float(one.task.iloc[0])
        reach = min(float(one.task.max()), float(other.task.max())) - start
        if reach <= 0:
            continue  # one of the two learns nothing
        levels = [start + share * reach for share in SHARES]
        values = [at_task_accuracy(one, level) - at_task_accuracy(other, level) for level in levels]
        found.setdefault((model, unit), {})[place] = np.array(values)
    return found


def mean_of(found: Mapping[Place, Mapping[str, np.ndarray]]) -> dict[Place, list[float]]:
    """The mean over places of comparison of each unit's layers."""
    return {unit: [float(np.nanmean(values)) for values in one.values()] for unit, one in found.items() if one}


def siblings(found: Mapping[Place, Any], table: pd.DataFrame) -> dict[Place, tuple[str, list[Place]]]:
    """Each unit's task, and the units of the same task and model under other seeds."""
    units = list(found)
    tasks = pairs_of(pd.MultiIndex.from_tuples(units, names=UNIT), table) if units else []
    known = dict(zip(units, tasks, strict=True))
    return {u: (known[u], [v for v in units if v != u and v[0] == u[0] and known[v] == known[u]]) for u in units}


def on_other_seeds(found: dict[Place, dict[str, np.ndarray]], table: pd.DataFrame) -> tuple[pd.Series, str]:
    """Each unit's gap at the layer and place that are best on the other seeds; and which layers those are."""
    values: dict[Place, list[float]] = {}
    picked: dict[str, list[str]] = {}
    for unit, (task, others) in siblings(found, table).items():
        means = {
            (place, i): float(np.mean([found[other][place][i] for other in others]))
            for place in found[unit]
            if others and all(place in found[other] for other in others)
            for i in range(len(SHARES))
        }
        if means:
            place, i = max(means, key=lambda key: means[key])
            values[unit] = [float(found[unit][place][i])]
            picked.setdefault(task, []).append(f"{place} at {SHARES[i]:.0%}")
    return per_unit(values), "; ".join(f"{task}: {', '.join(sorted(set(p)))}" for task, p in picked.items())


def concave(table: pd.DataFrame, kinds: Sequence[str]) -> Lines:
    """Curves in the plane are concave: they lie above the line between their ends, see `bulge`."""
    rows: Lines = []
    planes = [(CLEAN, "task"), *((kind, x) for kind in kinds for x in ("task", "original"))]
    for kind, x in planes:
        for way in (ONE, ALL):
            values = each(table, way, kind, lambda one, x=x: height(one, x))  # type: ignore[misc]
            against = "the taught task" if x == "task" else "the original task"
            claim = f"curves are concave ({in_words(kind)} against {against}, above the chord, positive)"
            missing = f"needs {way}, {MIN_ALPHAS} alphas, and ends that differ"
            rows.append(line(claim, way, values, table, 1, missing=missing))
    return rows


def height(one: pd.DataFrame, x: str) -> float:
    """`bulge` of accuracy over task accuracy, or over what is lost of clean accuracy; NaN of too few alphas."""
    if len(one) < MIN_ALPHAS or one.alpha.iloc[0] > 1e-9 or one.alpha.iloc[-1] < 1 - 1e-9:
        return float("nan")
    across = one.task if x == "task" else -one.original
    return bulge(across.to_numpy(), one.accuracy.to_numpy())


def monotone_paths(table: pd.DataFrame, kinds: Sequence[str]) -> Lines:
    """Monotone linear interpolation: along alpha the task never falls, and the original task never rises.

    As in `claim_curves.monotone_path`: agrees where the interval of the largest step the wrong way ends below MARGIN,
    disagrees where the mean curve of the tasks surely takes a larger one.
    """
    rows: Lines = []
    for words, column, rising in (
        ("task accuracy never falls", "task", True),
        ("original never rises", "original", False),
    ):
        for way in (ONE, ALL):
            own = paths(table, way, CLEAN)
            values = each(table, way, CLEAN, lambda one: wrong_step(one, column, rising))  # noqa: B023
            claim = f"interpolation is monotone: {words} (largest step the wrong way)"
            found = line(claim, way, values, table, 1, missing=f"needs {way} at several alphas")
            if len(values):
                least = surest_step(own, table, column, rising)
                found["verdict"] = "agrees" if found["high"] < MARGIN else "disagrees" if least > MARGIN else "not seen"
                kept = found["note"] if found["pairs"] < 2 else ""
                open_ = f"the interval does not exclude steps of {MARGIN:g}" if found["verdict"] == "not seen" else ""
                found["note"] = kept or open_
            rows.append(found)
    return rows


def wrong_step(one: pd.DataFrame, column: str, rising: bool) -> float:
    """The largest step the wrong way of a curve; NaN of two alphas."""
    if len(one) < 3:
        return float("nan")
    return monotone(one.alpha.to_numpy(), one[column].to_numpy(), rising).size


def surest_step(own: Paths, table: pd.DataFrame, column: str, rising: bool) -> float:
    """`surely_wrong` of the units' mean curves, at the alphas that all have."""
    every = {key: one.set_index("alpha")[column] for key, one in own.items()}
    shared = pd.DataFrame(every).dropna().sort_index()
    means = shared.T.groupby(level=[0, 1]).mean().rename_axis(UNIT)
    return surely_wrong(means.to_numpy(dtype=float), pairs_of(means.index, table), rising)


def less_robust(table: pd.DataFrame, kinds: Sequence[str], models: pd.DataFrame) -> Lines:
    """Effective robustness falls along alpha: the slope of rho, by least squares over alpha, is negative."""
    rows: Lines = []
    for kind in kinds or [CORRUPTED]:
        some = models[models.kind == kind]
        for way in (ONE, ALL):
            claim = f"effective robustness falls along alpha ({in_words(kind)}; slope of rho, negative)"
            if some.clean.nunique() < 3:
                rows.append(line(claim, way, per_unit({}), table, -1, missing="no reference models beside the runs"))
                continue
            fit = fit_reference(some.clean.to_numpy(), some.shifted.to_numpy())

            def rho(one: pd.DataFrame, fit: Any = fit) -> np.ndarray:
                return effective_robustness(one.original.to_numpy(), one.accuracy.to_numpy(), fit)

            falls = each(table, way, kind, lambda one: float(np.polyfit(one.alpha, rho(one), 1)[0]))
            clean = table[(table.way == way) & (table.kind == kind)].original
            within = len(clean) and some.clean.min() <= clean.min() and clean.max() <= some.clean.max()
            note = ""
            if not within and len(clean):
                note = f"clean accuracies reach beyond the reference models' ({some.clean.min():.2f} to "
                note += f"{some.clean.max():.2f}), where the line is a guess"
            rows += lines(claim, way, falls, table, -1, note, f"needs runs of {way}")
    return rows


def by_task(table: pd.DataFrame, kinds: Sequence[str]) -> Lines:
    """The best layer differs by task: the layer chosen on a task's other seeds beats the one chosen on other tasks.

    Judged by the largest mean of task and shifted accuracy along alpha, see `bargains`. Disagrees where the interval
    ends below MARGIN: then one layer does for all tasks.
    """
    rows: Lines = []
    for kind in kinds or [CORRUPTED]:
        some = bargains(table[(table.way == ONE) & (table.kind == kind)])
        scores = some.groupby([*UNIT, "place"]).score.mean().unstack("place").dropna() if len(some) else pd.DataFrame()
        claim = f"the best layer differs by task ({in_words(kind)}; own layer less the other tasks', positive)"
        values, told = pd.Series(dtype=float), ""
        if scores.shape[1:] > (1,):
            values, told = own_layer(scores, table)
        missing = "needs several layers, two tasks, and two seeds of each"
        for found in lines(claim, "mean of task and shifted accuracy", values, table, 1, told, missing):
            if found["verdict"] == "not seen" and found["high"] < MARGIN:
                serves = f"one layer serves all tasks to within {MARGIN:g}"
                kept = found["note"].replace("the interval holds zero", "").rstrip("; ")
                found |= {"verdict": "disagrees", "note": "; ".join(part for part in (kept, serves) if part)}
            rows.append(found)
    return rows


def own_layer(scores: pd.DataFrame, table: pd.DataFrame) -> tuple[pd.Series, str]:
    """For each unit its score [units, places] at its own task's best layer less at that of the other tasks.

    Its own task's best layer is chosen on the task's other seeds, the others' on the mean over the other tasks.
    """
    values: dict[Place, list[float]] = {}
    tasks = pd.Series(pairs_of(scores.index, table), index=scores.index)
    score: dict[Any, Any] = scores.to_dict()
    for unit, (task, others) in siblings({(str(m), str(u)): 0 for m, u in scores.index}, table).items():
        elsewhere = scores[(tasks != task) & (scores.index.get_level_values(0) == unit[0])]
        if not others or elsewhere.empty:
            continue
        mine = str(scores.loc[others].mean().idxmax())
        theirs = str(elsewhere.groupby(tasks[elsewhere.index]).mean().mean().idxmax())
        values[unit] = [float(score[mine][unit] - score[theirs][unit])]
    best = scores.groupby(tasks).mean().idxmax(axis=1)
    return per_unit(values), "best on average: " + ", ".join(f"{task} {place}" for task, place in best.items())


# -- as text -----------------------------------------------------------------------------------------------------------

HEADINGS = (*TITLES[:3], "seeds / tasks / units", *TITLES[4:])
NOTE = (
    "Differences are fractions: 0.01 is one point in a hundred. Lines without a task's name are means over tasks with "
    "t intervals over tasks, which speak for other tasks like these; lines with one are means over its seeds with t "
    "intervals over seeds, which speak for that task. Layers and places are chosen on the other seeds and judged on "
    f"the one left out. Equal task accuracy: at {', '.join(f'{share:.0%}' for share in SHARES)} of the way to the best "
    "that both reach. The line of the reference models counts as known. "
    f"Monotone, and one layer for all tasks: within {MARGIN:g}."
)


TEXT = ClaimText(
    "claims-patching",
    "What the vision paper says of patched models, and what these runs show",
    NOTE,
    HEADINGS,
    COUNTED,
)


def to_markdown(table: pd.DataFrame) -> str:
    """The claims as a Markdown table with a paragraph on how to read it."""
    return TEXT.to_markdown(table)
