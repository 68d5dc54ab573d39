"""What every kind of inquiry is given, and the numbers that do not depend on what is asked."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from edit_robust.core import Record, Request
from edit_robust.core.editable import Snapshot
from edit_robust.evaluate.statistics.weights import drift
from edit_robust.runs.folder import RunStore
from edit_robust.trajectories import Point

Write = Callable[[Point, Sequence[Record], Mapping[str, np.ndarray]], None]
Recorder = Callable[..., Record]


@dataclass(frozen=True)
class Setting:
    """A run as an inquiry sees it.

    before: the parameters that edits may change, as they were.   write: hands a measured point to store and tracker.
    shifts: the resolved `shifts` and `corruption` parts of the config.
    """

    run_id: str
    model: Any
    task: Any
    requests: Sequence[Request]
    layers: Sequence[str]
    store: RunStore
    before: Snapshot
    write: Write
    progress: Any
    text_tokens: int
    shifts: Any
    cache: Any

    def recorder(self, point: Point) -> Recorder:
        """A function that writes a number of this point."""
        here = (self.run_id, point.step, point.alpha, point.n_edits)

        def record(
            scope: str,
            probe: str,
            metric: str,
            value: float,
            n: int,
            layer: str = "",
            shift: str = "none",
            severity: int = 0,
            request: str = "",
        ) -> Record:
            return Record(*here, scope, probe, shift, severity, layer, metric, float(value), int(n), request)

        return record


class Inquiry(Protocol):
    """Asks a model at the points of a walk. A point may be kept until several can be measured together."""

    def meet(self, point: Point) -> None:
        """The model stands at a point that has not been measured."""
        ...

    def close(self) -> None:
        """The walk is over: measure what has been kept."""
        ...


def weight_records(setting: Setting, point: Point, change: Mapping[str, np.ndarray] | None = None) -> Iterator[Record]:
    """Numbers of the edits just made and of the weights, with the model standing at the point."""
    record, model = setting.recorder(point), setting.model
    for i, info in point.edits:
        request = setting.requests[i].id if model.asks == "images" else ""
        for metric, value in info.items():
            yield record("at-edit", "", metric, value, 1, request=request)
    for name, value in point.terms.items():
        yield record("at-edit", "", "layer_delta_norm", value, 1, layer=name)
    if point.whole:
        for name in setting.before.values:
            if name.endswith(".bias") and model.asks != "images":
                continue
            now = model.matrix(name)
            was = setting.before.values[name]
            owner = model._owner.get(name)
            was = owner.matrix(was) if owner else was.reshape(now.shape)
            for metric, value in drift(now, was).items():
                yield record("model", "", metric, value, now.numel(), layer=name)
