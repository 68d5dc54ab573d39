"""What a figure sees of a run, and how it picks the records that it draws."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pandas as pd

from edit_robust.core.data import Column
from edit_robust.core.images import Right
from edit_robust.runs.reader import Run

COLUMNS = (
    *("run", "step", "alpha", "n_edits", "scope", "probe", "shift", "severity", "layer", "metric", "value", "n"),
    "request",
)
#: The three probes of a language edit: name in the records, abbreviation of its success rate, what it asks.
PROBES = (
    ("edit", "ES", "The edit took"),
    ("paraphrase", "PS", "It holds for rewordings"),
    ("neighbourhood", "NS", "Neighbouring facts kept"),
)
Derived = TypeVar("Derived")
RATES = {"success": "", "token_accuracy": " (token accuracy)", "accuracy": " (accuracy)"}


@dataclass(frozen=True, eq=False)
class RunData:
    """One run as figures and reports see it: tidy records, the resolved config, the flat summary and its columns.

    columns: None where they are not known, as in runs of older versions.
    """

    run_id: str
    records: pd.DataFrame
    config: dict[str, Any] = field(default_factory=dict)
    summary: dict[str, Any] = field(default_factory=dict)
    path: Path | None = None
    columns: list[Column] | None = None

    @classmethod
    def of(cls, run: Run) -> RunData:
        """A run as read back from its folder."""
        return cls(run.id, run.records, run.config, run.summary, run.path, run.columns or None)

    @cached_property
    def tidy(self) -> pd.DataFrame:
        """The records with every column; `request` is "" in files older than it. Empty where columns are missing."""
        if self.records is None or self.records.empty:
            return pd.DataFrame(columns=list(COLUMNS))
        found = self.records if "request" in self.records else self.records.assign(request="")
        if not set(COLUMNS) <= set(found.columns):
            return pd.DataFrame(columns=list(COLUMNS))
        return found.assign(request=found["request"].fillna("").astype(str)).reset_index(drop=True)

    @cached_property
    def _derived(self) -> dict[Hashable, Any]:
        return {}

    def derive(self, function: Callable[[pd.DataFrame], Derived]) -> Derived:
        """What the function makes of the tidy records, computed once however often it is asked for."""
        if function not in self._derived:
            self._derived[function] = function(self.tidy)
        found: Derived = self._derived[function]
        return found

    def once(self, function: Callable[[RunData], Derived]) -> Derived:
        """What the function makes of this run, computed once however often it is asked for."""
        if function not in self._derived:
            self._derived[function] = function(self)
        found: Derived = self._derived[function]
        return found

    @cached_property
    def right(self) -> Callable[[int], Right]:
        """step -> which images are answered right there, see `Run.right`; {} where the folder does not say."""
        run = None if self.path is None else Run(self.path)

        def at(step: int) -> Right:
            known = run is not None and (run.path / "outcomes" / f"{step:06d}.npz").is_file()
            return run.right(step) if run is not None and known else {}

        return lru_cache(maxsize=64)(at)


def blocks(tidy: pd.DataFrame) -> dict[tuple[str, str, str, bool], pd.DataFrame]:
    """The unshifted records by scope, probe, metric and whether they are about a single request.

    Thus a figure need not search through all of them.
    """
    shift = tidy["shift"]
    kept = tidy[shift.isin(["none", ""]) | shift.isna()].reset_index(drop=True)
    kept = kept.assign(**{name: kept[name].fillna("").astype(str) for name in ("probe", "layer")})
    named = (kept["request"] != "").rename("named")
    return {
        (str(scope), str(probe), str(metric), bool(one)): block
        for (scope, probe, metric, one), block in kept.groupby(["scope", "probe", "metric", named], sort=False)
    }


def setting(config: Mapping[str, Any], key: str, default: Any = None) -> Any:
    """The value under a dotted key of a nested config, or the default."""
    node: Any = config
    for part in key.split("."):
        if not isinstance(node, Mapping) or part not in node:
            return default
        node = node[part]
    return node


def rows(run: RunData, named: bool | None = False, **wanted: Any) -> pd.DataFrame:
    """The unshifted records with the wanted values; scope, probe and metric may be tuples, meaning any of them.

    named: records about single requests (images have such), or those of no single request, or (None) both.
    """
    keys = [wanted.pop(name, None) for name in ("scope", "probe", "metric")]
    found_in = run.derive(blocks).items()
    those = [one for key, one in found_in if named in (None, key[3]) and all(map(matches, key[:3], keys))]
    if not those:
        return pd.DataFrame(columns=list(COLUMNS))
    found = those[0] if len(those) == 1 else pd.concat(those).sort_index()
    for column, value in wanted.items():
        found = found[found[column] == value]
    return found


def matches(value: str, wanted: str | tuple[str, ...] | None) -> bool:
    """Whether a value is the wanted one, one of several, or anything goes."""
    return wanted is None or (value in wanted if isinstance(wanted, tuple) else value == wanted)


def series(run: RunData, x: str = "n_edits", **wanted: Any) -> pd.Series:
    """Values against a column, in its order; of several rows at one place the last one counts. Infinities stay."""
    found = rows(run, **wanted).drop_duplicates(x, keep="last").sort_values(x)
    values = pd.to_numeric(found["value"], errors="coerce").astype(float)
    return pd.Series(values.to_numpy(), index=found[x].to_numpy(), dtype=float).dropna()


def unedited(run: RunData, probe: str, metric: str) -> float:
    """The rate on the untouched model, or NaN when it was not measured."""
    values = series(run, x="step", scope="unedited", probe=probe, metric=metric)
    return float(values.iloc[-1]) if len(values) else float("nan")


def rate_metric(runs: Sequence[RunData]) -> str:
    """The rate that these runs report: success, else token accuracy, else accuracy."""
    for metric in RATES:
        if any(rows(run, metric=metric)["value"].notna().any() for run in runs):
            return metric
    return "success"


def is_sequence(run: RunData) -> bool:
    """Whether the edits of this run pile up in one model."""
    name = setting(run.config, "trajectory.name")
    if name is not None:
        return str(name) == "sequential"
    steps = rows(run, scope="at-edit").drop_duplicates("step").sort_values("step")["n_edits"]
    return len(steps) > 1 and bool(np.all(np.diff(steps.to_numpy(dtype=float)) > 0))


def sequences(runs: Sequence[RunData]) -> list[RunData]:
    """The runs whose edits pile up."""
    return [run for run in runs if is_sequence(run)]


def trailing_mean(values: pd.Series, window: int) -> pd.Series:
    """Mean over the last `window` edits at every point, over fewer at the beginning.

    The index counts edits. A point that stands for a batch of b edits weighs b.
    """
    if values.empty:
        return values
    edits = values.index.to_numpy(dtype=float)
    value = values.to_numpy(dtype=float)
    known = np.isfinite(value)
    weight = np.diff(edits, prepend=0.0) * known
    total = np.concatenate([[0.0], np.cumsum(weight * np.where(known, value, 0.0))])
    count = np.concatenate([[0.0], np.cumsum(weight)])
    first = np.minimum(np.searchsorted(edits, edits - window, side="right"), np.arange(len(edits)))
    last = np.arange(1, len(edits) + 1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return pd.Series((total[last] - total[first]) / (count[last] - count[first]), index=values.index)
