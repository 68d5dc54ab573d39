"""What a measure is, and what it is given.

A measure looks at the model at every point of a walk and writes numbers down. It is one file here (or anywhere) and one
yaml in conf/measure/. To write one, inherit from `Measure`, say what it needs, and give `at` and `columns`; see
CONTRIBUTING.md.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import numpy as np
import pandas as pd

from edit_robust.core.data import Column, Record, Request
from edit_robust.core.images import Right
from edit_robust.core.work import Workspace

if TYPE_CHECKING:
    from edit_robust.core.editable import Editable, Snapshot
    from edit_robust.runs.reader import Run
    from edit_robust.tasks.base import Task
    from edit_robust.trajectories import Point


@dataclass(frozen=True, kw_only=True)
class Setting:
    """A run as measures see it.

    requests: the changes to make, in their order.   layers: names of the edited projections.
    changes:  names of all parameters that an edit may change; what does not depend on them is computed once.
    before:   these parameters as they were.          run: the run's folder, to read what earlier processes measured.
    work:     the shared cache, the run's folder, the seed, and progress bars.
    """

    run_id: str
    model: Editable
    task: Task
    requests: Sequence[Request]
    layers: Sequence[str]
    changes: Sequence[str]
    before: Snapshot
    run: Run
    work: Workspace

    def recorder(self, point: Point) -> Recorder:
        """Makes records of a point."""
        return Recorder(self.run_id, point.step, point.alpha, point.n_edits)


@dataclass(frozen=True)
class Recorder:
    """Makes records that share a run and a point; see `core.data.Record`."""

    run: str
    step: int
    alpha: float
    n_edits: int

    def __call__(
        self,
        scope: str,
        probe: str,
        metric: str,
        value: float,
        n: int,
        *,
        layer: str = "",
        shift: str = "none",
        severity: int = 0,
        request: str = "",
    ) -> Record:
        here = (self.run, self.step, self.alpha, self.n_edits)
        return Record(*here, scope, probe, shift, severity, layer, metric, float(value), int(n), request)


@dataclass(frozen=True)
class Measured:
    """What a measure found at a point: records, and for every single example arrays by name (kept in outcomes/)."""

    records: Sequence[Record] = ()
    outcomes: Mapping[str, np.ndarray] = field(default_factory=dict)


@dataclass(frozen=True)
class Needs:
    """What a measure cannot do without: methods of the model and of the task, and measures that come before it."""

    model: tuple[str, ...] = ()
    task: tuple[str, ...] = ()
    measures: tuple[str, ...] = ()

    def __str__(self) -> str:
        parts = [f"a model with {_listed(self.model)}"] * bool(self.model)
        parts += [f"a task with {_listed(self.task)}"] * bool(self.task)
        parts += [f"measure {_listed(self.measures)} before it"] * bool(self.measures)
        return "; ".join(parts) or "nothing"


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names)


class Results(Protocol):
    """A run's results, as a summary is made from: `records` is tidy, see `core.data.Record`."""

    @property
    def records(self) -> pd.DataFrame: ...

    def right(self, step: int) -> Right:
        """Which images are answered right at a step; {} for runs without images."""
        ...

    def pictures(self, probe: str, request: str) -> Sequence[str]:
        """The picture that each clean image of a set shows: one picture may be shown in several styles. [] for runs
        without images."""
        ...


class Measure:
    """A measure that asks nothing; to inherit from.

    Called in the order prepare, examples and notes, then `at` for every point that has not been measured, and `close`.
    `columns` is a pure function of a run's records and may be called alone.
    """

    needs: ClassVar[Needs] = Needs()

    def prepare(self, setting: Setting) -> None:
        """The run begins, or goes on: `setting.run` tells what was measured before. The model is unedited."""
        self.setting = setting

    def examples(self) -> list[dict[str, Any]]:
        """Every question as it is kept with the run, once: id, probe, group (request), target and the like."""
        return []

    def notes(self) -> Mapping[str, Any]:
        """Facts for the run's status, such as which data it saw."""
        return {}

    def at(self, point: Point, found: Mapping[str, Measured]) -> Measured | None:
        """Measure a point; the model's weights are those of the point. None: the point is kept until `flush`.

        found: what the measures before this one found at the point.
        """
        return Measured()

    @property
    def full(self) -> bool:
        """Whether so many points have been kept that they should be measured now."""
        return False

    def flush(self) -> list[Measured]:
        """What was found at the points kept so far, in their order; called when full, and at the end of the walk."""
        return []

    def done(self) -> None:
        """The points flushed last are on disk: what was kept to go on with them can be thrown away."""

    @classmethod
    def columns(cls, results: Results) -> list[Column]:
        """The run's summary as far as this measure is concerned; [] where the records hold nothing of its kind."""
        return []
