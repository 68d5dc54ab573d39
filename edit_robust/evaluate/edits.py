"""What editors tell about their edits: loss, steps, size, warning signs, and whether an edit was refused."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import pandas as pd

from edit_robust.core.data import Column, Record
from edit_robust.evaluate import columns_language as describe
from edit_robust.evaluate.base import Measure, Measured, Results

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
                yield record("at-edit", "", metric, value, 1, request=self.setting.requests[i].id)
        for name, value in point.terms.items():
            yield record("at-edit", "", "layer_delta_norm", value, 1, layer=name)

    @classmethod
    def columns(cls, results: Results) -> list[Column]:
        """n_edits, n_refused, and means over edits of what the editor told."""
        records = results.records
        told = records[(records.scope == "at-edit") & (records.probe == "")]
        made = _once(told[told.metric == "refused"])
        out: dict[str, float] = {"n_edits": len(made), "n_refused": int(pd.to_numeric(made.value).sum())}
        for metric in MEANS:
            values = pd.to_numeric(told[told.metric == metric].value)
            if len(values):
                out[f"mean_{metric}"] = float(values.mean())
        return describe.edits(out)


def _once(made: pd.DataFrame) -> pd.DataFrame:
    """Each request's edit once; runs of older versions name no request, and there every row is an edit."""
    named = made[made.request != ""].drop_duplicates("request", keep="last")
    return pd.concat([made[made.request == ""], named])
