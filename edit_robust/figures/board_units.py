"""A number for each cluster of a comparison: from whole walks, from single requests, from edited images."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import pandas as pd

from edit_robust.core.data import Scores
from edit_robust.core.errors import UserError
from edit_robust.core.images import Key
from edit_robust.evaluate.statistics.paired import by_picture
from edit_robust.evaluate.statistics.ranking import pseudo_values
from edit_robust.evaluate.statistics.success import accuracy, harmonic_mean, success
from edit_robust.figures.frame import RunData, setting
from edit_robust.figures.grouping import REPEATS, Group, flatten
from edit_robust.figures.vision.common import curve
from edit_robust.runs.reader import Run

#: Summary key -> the records' name, of success rates and of accuracies.
PROBES = {"ES": "edit", "PS": "paraphrase", "NS": "neighbourhood"}
IMAGES = ("edit_accuracy", "original_accuracy", "original_ood_penalty", "editing_ood_penalty")
Table = Mapping[Hashable, float]


class Named(Protocol):
    """A number to compare."""

    @property
    def key(self) -> str: ...

    @property
    def ratio(self) -> bool: ...


@dataclass(frozen=True)
class Units:
    """values: key of the number -> label of the group -> cluster -> value.   what: what a cluster is, in words.

    n: clusters that all groups share.   notes: what a reader must know of the intervals.
    """

    values: Mapping[str, Mapping[str, Table]]
    what: str
    n: int
    notes: tuple[str, ...] = ()

    def of(self, key: str, label: str) -> Table:
        """One group's values of one number, by cluster."""
        return self.values[key].get(label, {})


def repeat(run: RunData) -> str:
    """Which order and seed a run is."""
    flat = flatten(run.config)
    return ", ".join(f"{key.rpartition('.')[2]} {flat[key]}" for key in REPEATS if flat.get(key) is not None)


def _shared(values: dict[str, dict[str, dict[Hashable, float]]], labels: Sequence[str]) -> tuple[list[Hashable], int]:
    """The clusters that every group has, and how many others there are."""
    own = [dict.fromkeys(c for table in values.values() for c in table.get(label, {})) for label in labels]
    kept = [c for c in own[0] if all(c in other for other in own)]
    return kept, len({c for some in own for c in some}) - len(kept)


def _units(values: dict[str, dict[str, dict[Hashable, float]]], labels: Sequence[str], what: str, note: str) -> Units:
    kept, more = _shared(values, labels)
    if not kept:
        raise UserError(f"these runs share no {what}: nothing can be paired")
    cut = {k: {g: {c: t[c] for c in kept if c in t} for g, t in table.items()} for k, table in values.items()}
    notes = [note] if note else []
    if more:
        notes.append(f"{more} {what} that only some of the editors have are left out.")
    if len(kept) == 1:
        notes.append("One alone: there are no intervals, and no ranks.")
    return Units(cut, what, len(kept), tuple(notes))


def walk_units(found: Sequence[Group], metrics: Sequence[Named]) -> Units:
    """A cluster is one order and seed: every number of a run's summary is one value."""
    values: dict[str, dict[str, dict[Hashable, float]]] = {}
    for metric in metrics:
        for group in found:
            values.setdefault(metric.key, {})[group.label] = plain(group, metric)
    return _units(values, [g.label for g in found], "orders of the edits", "")


def plain(group: Group, metric: Named) -> dict[Hashable, float]:
    """The number of a group's summaries by order and seed."""
    sums: dict[Hashable, list[float]] = {}
    for run in group.runs:
        known = {c.key: c.value for c in run.columns or ()}
        sums.setdefault(repeat(run), []).append(_logged(known.get(metric.key), metric.ratio))
    return {c: float(np.mean(some)) for c, some in sums.items()}


def _logged(value: object, ratio: bool) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return math.nan
    return math.log(value) if ratio and value > 0 else float(value)


# -- single requests -------------------------------------------------------------------------------------------------


def request_units(found: Sequence[Group], metrics: Sequence[Named]) -> Units:
    """A cluster is one request; numbers that are not about single requests stand without an interval.

    S is no mean over requests: its pseudo-values stand in their place.
    """
    names = [m.key for m in metrics]
    values: dict[str, dict[str, dict[Hashable, float]]] = {}
    for group in found:
        tables = [table for run in group.runs if len(table := run.once(answered))]
        if not tables:
            raise UserError(f"{group.runs[0].run_id} kept no answer of single questions: nothing can be paired")
        rates = pd.concat(tables).groupby("request").mean(numeric_only=True)
        for key in names:
            if key in rates:
                values.setdefault(key, {})[group.label] = _table(rates[key])
            elif key in ("S",) and set(PROBES) <= set(rates):
                parts = {r: list(row) for r, row in zip(rates.index, rates[list(PROBES)].to_numpy(), strict=True)}
                values.setdefault(key, {})[group.label] = pseudo_values(parts, harmonic_mean)
    piled = setting(found[0].runs[0].config, "trajectory.name") == "sequential"
    note = "One order of edits that pile up: intervals over its requests do not say how other orders would come out."
    if not values:
        raise UserError("these runs share no number about single requests; give several orders: task.order=0,1,2,3")
    values = {k: t for k, t in values.items() if len(t) == len(found)}
    return _units(values, [g.label for g in found], "requests", note if piled else "")


def _table(values: pd.Series) -> dict[Hashable, float]:
    return {str(c): float(v) for c, v in values.dropna().items()}


def answered(run: RunData) -> pd.DataFrame:
    """request -> ES, PS, NS and their `_acc`, in percent: each request's own questions right after its edit."""
    if run.path is None:
        return pd.DataFrame()
    kept, rows = Run(run.path), []
    examples = kept.examples_of("answers")
    if "probe" not in examples:
        return pd.DataFrame()
    probe, group, target = (examples[name].to_numpy() for name in ("probe", "group", "target"))
    scope = "at-edit" if (run.tidy.scope == "at-edit").any() and _asks_at_edit(run) else "final"
    for step in sorted(run.tidy.step.unique()):
        index, logp, hits = kept.outcomes(int(step)).get(scope, (np.empty(0, int), np.empty((0, 2)), np.empty((0, 2))))
        if len(index):
            scores = Scores(logp, hits, (~np.isnan(logp)).astype(np.int64), target[index].astype(np.int64))
            own = {"request": group[index], "probe": probe[index], "": success(scores), "_acc": accuracy(scores)}
            rows.append(pd.DataFrame(own).assign(step=step))
    if not rows:
        return pd.DataFrame()
    table = pd.concat(rows)
    table = table[table.step == table.groupby("request").step.transform("max")]
    wide = {}
    for short, name in PROBES.items():
        some = table[table.probe == name].groupby("request")
        for suffix in ("", "_acc"):
            wide[short + suffix] = 100 * some[suffix].mean()
    return pd.DataFrame(wide).rename_axis("request").reset_index()


def _asks_at_edit(run: RunData) -> bool:
    """Whether questions were asked right after each edit; an interpolation asks everybody at every alpha."""
    at = run.tidy[(run.tidy.scope == "at-edit") & run.tidy.probe.isin(PROBES.values())]
    return len(at) > 0


# -- images ----------------------------------------------------------------------------------------------------------


def image_units(found: Sequence[Group], metrics: Sequence[Named]) -> Units:
    """A cluster is one pair (request), averaged over seeds; of one pair alone, a picture."""
    names = [m.key for m in metrics if m.key in IMAGES]
    values: dict[str, dict[str, dict[Hashable, float]]] = {}
    for group in found:
        rows = [ends(run) for run in group.runs]
        table = pd.concat(rows) if rows else pd.DataFrame()
        for key in names:
            values.setdefault(key, {})[group.label] = _table(table.groupby("request")[key].mean())
    units = _units(values, [g.label for g in found], "pairs", "")
    if units.n > 1:
        return units
    single: dict[str, dict[str, dict[Hashable, float]]] = {}
    for group in found:
        for key, own in pictures(group.runs).items():
            if key in names:
                single.setdefault(key, {})[group.label] = own
    single = {k: t for k, t in single.items() if len(t) == len(found)}
    if not single:
        return units
    note = "One pair: intervals are over its pictures, and say nothing of other pairs."
    return _units(single, [g.label for g in found], "pictures", note)


def ends(run: RunData) -> pd.DataFrame:
    """Each request's whole edit: accuracies and penalties, see `penalties.curve`."""
    table = run.once(curve)
    return table[table.alpha == table.groupby("request").alpha.transform("max")]


def pictures(runs: Sequence[RunData]) -> dict[str, dict[Hashable, float]]:
    """key -> picture -> its share of right answers, or its part of a penalty, for runs of one request.

    The images of the edit and those of the original task are other pictures: each number has its own clusters.
    """
    sums: dict[str, dict[Hashable, list[float]]] = {}
    for run in runs:
        last = ends(run)
        if run.path is None or last.empty:
            continue
        right, before = run.right(int(last.step.iloc[-1])), run.right(0)
        for key, picture, value in _by_picture(Run(run.path), right, before):
            sums.setdefault(key, {}).setdefault(picture, []).append(value)
    return {key: {p: float(np.mean(some)) for p, some in own.items()} for key, own in sums.items()}


def _by_picture(
    run: Run, right: Mapping[Key, np.ndarray], before: Mapping[Key, np.ndarray]
) -> list[tuple[str, Hashable, float]]:
    """(key, picture, value) of a point: accuracies, eq. 1 against the unedited model, eq. 2 against clean images."""
    found: list[tuple[str, Hashable, float]] = []
    for probe, clean, shifted in (
        ("original", "original_accuracy", "original_ood_penalty"),
        ("edit", "edit_accuracy", "editing_ood_penalty"),
    ):
        own = {key: values for key, values in right.items() if key[0] == probe}
        plain = next((key for key in own if key[2] == "none"), None)
        corrupted = [key for key in own if key[3] > 0]
        if plain is None:
            continue
        names = run.pictures(probe, plain[1]) or [str(i) for i in range(len(own[plain]))]
        seen = list(dict.fromkeys(names))
        counts = by_picture(np.ones(len(names)), names)
        found += list(zip([clean] * len(seen), seen, by_picture(own[plain], names) / counts, strict=True))
        base = [before.get(key) if probe == "original" else own[plain] for key in corrupted]
        if corrupted and all(b is not None for b in base):
            parts = [
                own[key].astype(float) - np.asarray(b, dtype=float) for key, b in zip(corrupted, base, strict=True)
            ]
            penalty = by_picture(np.mean(parts, axis=0), names) / counts
            found += list(zip([shifted] * len(seen), seen, penalty, strict=True))
    return [(key, picture, float(value)) for key, picture, value in found]
