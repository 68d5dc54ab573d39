"""How far the weights have moved from where they began."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from edit_robust.core.data import Column
from edit_robust.evaluate import columns_language as describe
from edit_robust.evaluate.base import Measure, Measured, Results
from edit_robust.evaluate.statistics.walks import at_the_end

if TYPE_CHECKING:
    from edit_robust.trajectories import Point

METRICS = ("drift_fro", "drift_per_element", "drift_per_neuron")


class Drift(Measure):
    """||W - W0||_F of every parameter that edits may change; by element and by neuron, too.

    biases: whether biases count.
    """

    def __init__(self, biases: bool = False) -> None:
        self.biases = biases

    def at(self, point: Point, found: Mapping[str, Measured]) -> Measured:
        from edit_robust.evaluate.statistics.weights import drift

        if not point.whole:
            return Measured()
        record, model, records = self.setting.recorder(point), self.setting.model, []
        for name, before in self.setting.before.values.items():
            if name.endswith(".bias") and not self.biases:
                continue
            now = model.matrix(name)
            for metric, value in drift(now, model.as_matrix(name, before)).items():
                records.append(record("model", "", metric, value, now.numel(), layer=name))
        return Measured(records)

    @classmethod
    def columns(cls, results: Results) -> list[Column]:
        """Distances over all parameters together: after the whole walk, or the mean over independent edits."""
        records = results.records
        model = records[(records.scope == "model") & (records.step > 0)]
        out: dict[str, float] = {}
        for metric in METRICS:
            found = model[model.metric == metric]
            if len(found):
                per_step = found.groupby("step").value.apply(lambda v: float(np.sqrt((v**2).sum())))
                out["drift" if metric == "drift_fro" else metric] = at_the_end(per_step, records)
        return describe.drift(out)
