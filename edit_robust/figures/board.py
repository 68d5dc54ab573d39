"""Editors side by side on one task: a number for each and every measure, what is more than noise, and what it cost.

What is compared must have been asked the same: runs of one model, task, trajectory and corruption. Differences are
paired by cluster, as the papers' claims are: orders of a sequence, pairs of a concept and a style, single requests.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from edit_robust.core.data import Column
from edit_robust.core.errors import UserError, nearest
from edit_robust.evaluate.statistics.ranking import Interval, mean_of, paired, ranks
from edit_robust.figures.board_units import Units, image_units, plain, request_units, walk_units
from edit_robust.figures.frame import RunData, is_sequence, setting
from edit_robust.figures.grouping import Group, groups, identity
from edit_robust.figures.vision.common import image_runs
from edit_robust.runs.reader import Run

#: Numbers of which less is better; of those that judge an edit (`Column.score`) more is.
LESS = ("forgotten_pct", "perplexity")
NONE: Interval = (math.nan, math.nan, math.nan)
#: What may differ between runs that are compared: the method, and what is tuned for it.
METHOD = ("editor", "layer", "measure", "text_tokens")


@dataclass(frozen=True)
class Metric:
    """key, label, unit: as of the column.   short: heading.   better: 1 more is, -1 less is, 0 neither.

    ratio: differences are of logarithms, shown as ratios.
    """

    key: str
    short: str
    label: str
    unit: str
    better: int
    ratio: bool = False

    def within(self, interval: Interval) -> Interval:
        """The interval cut to what a rate can be, where the number judges an edit: a t interval knows no bounds."""
        mean, low, high = interval
        top = {"percent": 100.0, "share": 1.0}.get(self.unit)
        return interval if top is None or not self.better else (mean, max(low, 0.0), min(high, top))


@dataclass(frozen=True)
class Mark:
    """value: mean with its interval.   against: difference to the reference, with its interval.   rank: best, worst."""

    value: Interval
    against: Interval = NONE
    rank: tuple[int, int] | None = None

    @property
    def differs(self) -> bool:
        """Whether the whole interval of the difference to the reference lies on one side of zero."""
        _, low, high = self.against
        return low > 1e-9 or high < -1e-9


@dataclass(frozen=True)
class Cost:
    """seconds, processor: of an edit, by the clock and of the processor.   prepare: seconds before the first edit.

    memory: peak in MiB of the process, of the GPU where there is one. None: not kept by these runs.
    """

    seconds: float | None = None
    processor: float | None = None
    prepare: float | None = None
    memory: float | None = None


@dataclass(frozen=True)
class Entry:
    """One editor: its label, its marks by metric, its cost, and the runs behind it."""

    label: str
    marks: Mapping[str, Mark]
    cost: Cost
    runs: tuple[RunData, ...]


@dataclass(frozen=True)
class Board:
    """entries: best first.   reference: label of the one that others are compared with.   units: what a cluster is.

    n: clusters that all entries share.   title: model and task.   by: the metric that orders the entries.
    """

    title: str
    metrics: tuple[Metric, ...]
    entries: tuple[Entry, ...]
    reference: str
    units: str
    n: int
    by: str
    notes: tuple[str, ...] = field(default=())


def settings(run: RunData) -> str:
    """What must be the same for two runs to be compared."""
    return json.dumps(identity(run.config, METHOD), sort_keys=True, default=str)


def together(runs: Sequence[RunData]) -> list[list[RunData]]:
    """The runs by what they were asked; those of one list can be compared."""
    found: dict[str, list[RunData]] = {}
    for run in runs:
        found.setdefault(settings(run), []).append(run)
    return list(found.values())


def board(runs: Sequence[RunData], against: str | None = None, by: str | None = None) -> Board:
    """The comparison of runs that were asked the same.

    against: label or run id of the reference; None: the best.   by: key or heading of the number that orders; None: the
    first one.   Raises UserError for runs that were asked different things, and for fewer than two editors.
    """
    if len(parts := together(runs)) > 1:
        raise UserError(_what_differs([some[0] for some in parts]))
    found = named(groups(runs))
    if len(found) < 2:
        raise UserError(f"{len(runs)} run(s) of one editor: a comparison needs two")
    metrics = shared_metrics(found)
    if not metrics:
        raise UserError("these runs share no number to compare")
    units = _units(found, metrics)
    metrics = (*(m for m in metrics if m.key in units.values), *(m for m in metrics if m.key not in units.values))
    chosen = _chosen(by, [m for m in metrics if m.key in units.values])
    order = sorted(found, key=lambda g: _place(mean_of(units.of(chosen.key, g.label))[0], chosen))
    reference = _reference(against, order)
    ranked = [m for m in metrics if m.better and m.key in units.values]
    placed = {m.key: ranks({g.label: units.of(m.key, g.label) for g in found}, m.better) for m in ranked}
    entries = []
    for one in order:
        marks = {}
        for m in metrics:
            if m.key not in units.values:  # of whole runs alone: no interval
                marks[m.key] = Mark(_shown((mean_of(plain(one, m))[0], math.nan, math.nan), m))
                continue
            own, theirs = units.of(m.key, one.label), units.of(m.key, reference.label)
            difference = NONE if one is reference else paired(own, theirs)
            rank = placed.get(m.key, {}).get(one.label)
            marks[m.key] = Mark(_shown(mean_of(own), m), difference, rank if units.n > 1 else None)
        entries.append(Entry(one.label, marks, cost_of(one.runs), one.runs))
    config = runs[0].config
    title = " · ".join(str(setting(config, f"{part}.name")) for part in ("model", "task", "trajectory"))
    return Board(title, metrics, tuple(entries), reference.label, units.what, units.n, chosen.key, units.notes)


def named(found: Sequence[Group]) -> list[Group]:
    """The groups under their editors' names where these tell them apart: what is tuned for each is not named."""
    names = [one.editor for one in found]
    return [replace(one, label=one.editor) for one in found] if len(set(names)) == len(found) else list(found)


def shared_metrics(found: Sequence[Group]) -> tuple[Metric, ...]:
    """The numbers with a short heading that every group has, in the order in which the first one has them."""
    tables = [{c.key: c for c in run.columns or () if c.short and _number(c)} for g in found for run in g.runs]
    return tuple(metric(c) for c in (tables[0].values() if tables else ()) if all(c.key in other for other in tables))


def metric(column: Column) -> Metric:
    """A column as a number to compare."""
    better = -1 if column.key in LESS else int(column.score)
    return Metric(column.key, column.short, column.label, column.unit, better, column.key.endswith("perplexity"))


def cost_of(runs: Sequence[RunData]) -> Cost:
    """Means over runs of what an edit took; the largest peak of memory."""
    rows = []
    for run in runs:
        status = Run(run.path).status if run.path is not None else {}
        n = float(run.summary.get("n_edits") or 0)
        wall, busy, peak = (status.get(k) or {} for k in ("seconds", "processor_seconds", "peak_memory_mb"))
        each = [some.get("edit", math.nan) / n if n else math.nan for some in (wall, busy)]
        rows.append([*each, wall.get("prepare", math.nan), peak.get("gpu") or peak.get("process", math.nan)])
    table = np.array(rows, dtype=float)

    def mean(i: int) -> float | None:
        known = table[np.isfinite(table[:, i]), i]
        return float(known.mean()) if len(known) else None

    known = table[np.isfinite(table[:, 3]), 3]
    return Cost(mean(0), mean(1), mean(2), float(known.max()) if len(known) else None)


def _units(found: Sequence[Group], metrics: Sequence[Metric]) -> Units:
    """A number for every cluster, group and metric, over the clusters that all groups share."""
    if image_runs(found[0].runs):
        return image_units(found, metrics)
    if all(is_sequence(run) for g in found for run in g.runs):
        walks = walk_units(found, metrics)
        if walks.n > 1:
            return walks
    return request_units(found, metrics)


def _number(column: Column) -> bool:
    return isinstance(column.value, int | float) or column.value is None


def _shown(value: Interval, one: Metric) -> Interval:
    """A mean of logarithms as the number itself."""
    return tuple(math.exp(x) if math.isfinite(x) else x for x in value) if one.ratio else value  # type: ignore[return-value]


def _place(value: float, one: Metric) -> float:
    """A sort key: best first, no number last."""
    return -value * (one.better or 1) if math.isfinite(value) else math.inf


def _chosen(by: str | None, metrics: Sequence[Metric]) -> Metric:
    if by is None:
        return metrics[0]
    for one in metrics:
        if by in (one.key, one.short):
            return one
    raise UserError(f"--by={by}: {nearest(by, [m.short for m in metrics], 'numbers')}")


def _reference(against: str | None, order: Sequence[Group]) -> Group:
    if against is None:
        return order[0]
    for one in order:
        if against == one.label or any(run.run_id == against for run in one.runs):
            return one
    fitting = [g for g in order if any(against in run.run_id for run in g.runs)]
    if len(fitting) == 1:
        return fitting[0]
    raise UserError(f"--against={against}: {nearest(against, [g.label for g in order], 'editors')}")


def _what_differs(runs: Sequence[RunData]) -> str:
    """Why runs cannot be compared, in one line."""
    tables = [identity(run.config, METHOD) for run in runs]
    keys = sorted({k for t in tables for k in t}, key=lambda k: (not k.endswith(".name"), k.count("."), k))
    for key in keys:
        values = list(dict.fromkeys(str(t.get(key)) for t in tables))
        if len(values) > 1:
            return (
                f"these runs were not asked the same: {key} is {', '.join(values[:4])}; "
                "name runs of one, or give --grouped for a table each"
            )
    return "these runs were not asked the same; give --grouped for a table each"


__all__ = ["Board", "Cost", "Entry", "Mark", "Metric", "board", "settings", "together"]
