"""What a figure sees of a run, and the few questions that every figure asks of the records."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from edit_robust.evaluate.statistics import penalties as images
from edit_robust.evaluate.statistics.paired import Right

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
RATES = {"success": "", "token_accuracy": " (token accuracy)", "accuracy": " (accuracy)"}


@dataclass(frozen=True, eq=False)
class RunData:
    """One run as figures and reports see it: tidy records, the resolved config, the flat summary."""

    run_id: str
    records: pd.DataFrame
    config: dict[str, Any] = field(default_factory=dict)
    summary: dict[str, Any] = field(default_factory=dict)
    path: Path | None = None

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
    def is_image(self) -> bool:
        """Whether an image classifier was edited: only there do measured numbers stand under a request."""
        return bool(((self.tidy["request"] != "") & (self.tidy["probe"] == "edit")).any())

    @cached_property
    def scores(self) -> pd.DataFrame:
        """Accuracies of an image run beside the unedited model's, see `metrics.images.scores`."""
        return images.scores(self.tidy)

    @cached_property
    def right(self) -> Callable[[int], Right]:
        """step -> which images are answered right there, see `Run.right`; none where the folder does not say."""
        from edit_robust.runs.reader import Run  # reads weights too: not needed for most figures

        run = None if self.path is None else Run(self.path)

        def at(step: int) -> Right:
            known = run is not None and (run.path / "outcomes" / f"{step:06d}.npz").is_file()
            return run.right(step) if run is not None and known else {}

        return lru_cache(maxsize=64)(at)

    @cached_property
    def curve(self) -> pd.DataFrame:
        """A row an edited model of an image run, see `metrics.images.curve`."""
        return images.curve(self.scores)

    @cached_property
    def blocks(self) -> dict[tuple[str, str, str], pd.DataFrame]:
        """The unshifted records by scope, probe and metric, so that a figure need not search through all of them.

        Empty for image runs: the figures that ask here are about language.
        """
        if self.tidy.empty or self.is_image:
            return {}
        shift = self.tidy["shift"]
        kept = self.tidy[shift.isin(["none", ""]) | shift.isna()].reset_index(drop=True)
        kept = kept.assign(**{name: kept[name].fillna("").astype(str) for name in ("probe", "layer")})
        return {
            (str(scope), str(probe), str(metric)): block
            for (scope, probe, metric), block in kept.groupby(["scope", "probe", "metric"], sort=False)
        }


def setting(config: Mapping[str, Any], key: str, default: Any = None) -> Any:
    """The value under a dotted key of a nested config, or the default."""
    node: Any = config
    for part in key.split("."):
        if not isinstance(node, Mapping) or part not in node:
            return default
        node = node[part]
    return node


def rows(run: RunData, **wanted: Any) -> pd.DataFrame:
    """The unshifted records with the wanted values; scope, probe and metric may be tuples, meaning any of them."""
    keys = [wanted.pop(name, None) for name in ("scope", "probe", "metric")]
    blocks = [block for key, block in run.blocks.items() if all(map(matches, key, keys))]
    if not blocks:
        return pd.DataFrame(columns=list(COLUMNS))
    found = blocks[0] if len(blocks) == 1 else pd.concat(blocks).sort_index()
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
