"""What editors tell about their edits: loss, steps, size, warning signs, and whether an edit was refused."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from edit_robust.core.data import Column, Record
from edit_robust.evaluate import columns_language as describe
from edit_robust.evaluate.base import Measure, Measured, Results
from edit_robust.evaluate.whereabouts import whereabouts

if TYPE_CHECKING:
    from edit_robust.trajectories import Point

#: Of these, the mean over edits stands in the summary.
MEANS = ("division_factor", "edit_loss", "edit_steps", "delta_norm", "target_probability")


class Edits(Measure):
    """Numbers of the edits just made, and the Frobenius norm of the newest change of each parameter."""

    def at(self, point: Point, found: Mapping[str, Measured]) -> Measured:
        return Measured(list(self._records(point)))

    def _records(self, point: Point) -> Iterator[Record]:
        record = self.setting.recorder(point)
        for i, info in point.edits:
            for metric, value in info.items():
                name, _, layer = metric.partition("@")  # numbers of one of several layers are told as `metric@layer`
                yield record("at-edit", "", name, value, 1, layer=layer, request=self.setting.requests[i].id)
        for name, value in point.terms.items():
            yield record("at-edit", "", "layer_delta_norm", value, 1, layer=name)

    @classmethod
    def columns(cls, results: Results) -> list[Column]:
        """n_edits, n_refused, means over edits of what the editor told, and what a guard did."""
        records = results.records
        told = records[(records.scope == "at-edit") & (records.probe == "") & _whole(records)]
        made = _once(told[told.metric == "refused"])
        out: dict[str, float] = {"n_edits": len(made), "n_refused": int(pd.to_numeric(made.value).sum())}
        for metric in MEANS:
            values = pd.to_numeric(told[told.metric == metric].value)
            if len(values):
                out[f"mean_{metric}"] = float(values.mean())
        return [*describe.edits(out), *_guarded(told, records), *whereabouts(records)]


def _whole(records: pd.DataFrame) -> pd.Series:
    """Which numbers are about whole edits, not about one of their layers."""
    return (records.layer == "") | (records.metric == "layer_delta_norm")


def _guarded(told: pd.DataFrame, records: pd.DataFrame) -> list[Column]:
    """What a guard stopped, and at what cost: how many edits; how many of these it made smaller; how many are right
    nevertheless; and the largest change that it did not let pass, as a multiple of the median of those it did."""
    judged = _once(told[told.metric == "guarded"])
    if judged.empty:
        return []
    stopped = judged[pd.to_numeric(judged.value) > 0]
    n = len(stopped)
    scales = _once(told[told.metric == "guard_scale"])
    right = records[(records.scope == "at-edit") & (records.probe == "edit") & (records.metric == "success")]
    kept = pd.to_numeric(right[right.step.isin(stopped.step)].value)
    found = [
        Column("n_guarded", n, "edits stopped by the guard" if n else "", unit="count"),
        Column("n_guard_rescaled", int((pd.to_numeric(scales.value) > 0).sum())),
    ]
    if len(kept):
        found.append(
            Column("guarded_ES", 100 * float(kept.mean()), "... whose fact is right nevertheless (ES)", unit="percent")
        )
    told_sizes = _once(told[told.metric == "relative_norm"])
    sizes = told_sizes.value.to_numpy(dtype=float)
    is_stopped = told_sizes.request.isin(stopped.request).to_numpy()
    if is_stopped.any() and (~is_stopped).any():
        times = float(np.max(sizes[is_stopped]) / np.median(sizes[~is_stopped]))
        found.append(Column("guard_largest", times, "... the largest, in median changes"))
    return found


def _once(made: pd.DataFrame) -> pd.DataFrame:
    """Each request's edit once; runs of older versions name no request, and there every row is an edit."""
    named = made[made.request != ""].drop_duplicates("request", keep="last")
    return pd.concat([made[made.request == ""], named])
