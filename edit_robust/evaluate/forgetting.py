"""What becomes of each edit: right when it was made, and at every check since?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, cast

import numpy as np

from edit_robust.core.data import Column
from edit_robust.evaluate import columns_language as describe
from edit_robust.evaluate.answers import Answered, Questions
from edit_robust.evaluate.base import Measure, Measured, Needs, Results, Setting
from edit_robust.evaluate.statistics.success import accuracy, forgetting, success

if TYPE_CHECKING:
    from edit_robust.tasks.base import Probes
    from edit_robust.trajectories import Point

#: Of these, the newest check's value stands in the summary.
METRICS = ("forgotten", "forgotten_sticky", "recovered", "forgotten_es", "forgotten_es_sticky", "recovered_es")


class Forgetting(Measure):
    """Shares of the edits that worked when they were made and do not at a later check, by argmax and by ES.

    It asks nothing itself: it compares what `answers` got at the edit and at each retention check.
    """

    needs = Needs(task=("probes",), measures=("answers",))

    def prepare(self, setting: Setting) -> None:
        super().prepare(setting)
        self._questions = Questions(setting.requests, cast("Probes", setting.task).probes(setting.requests))
        self._history = History(len(setting.requests))
        for point in setting.run.points:
            self._take_in(setting.run.arrays(point["step"], "answers"))

    def at(self, point: Point, found: Mapping[str, Measured]) -> Measured:
        outcomes = found["answers"].outcomes
        self._take_in(outcomes)
        record = self.setting.recorder(point)
        if not any(scope.name == "retention" for scope in point.scopes):
            return Measured()
        return Measured([record("retention", "edit", *told) for told in self._history.forgetting()])

    def _take_in(self, outcomes: Mapping[str, np.ndarray]) -> None:
        for scope in ("at-edit", "retention"):
            if f"{scope}|index" in outcomes:
                self._history.add(scope, self._questions.answered(outcomes, scope))

    @classmethod
    def columns(cls, results: Results) -> list[Column]:
        """Shares in percent at the last check."""
        retention = results.records[results.records.scope == "retention"]
        out: dict[str, float] = {}
        for metric in METRICS:
            found = retention[retention.metric == metric]
            if len(found):
                out[f"{metric}_pct"] = 100 * float(found.value.iloc[-1])
        return describe.forgetting(out)


class History:
    """Per request: was its edit prompt right at its edit, and at each retention check, by argmax and by ES?"""

    def __init__(self, n: int) -> None:
        self.n = n
        self.at_edit = {"": np.zeros(n, dtype=bool), "_es": np.zeros(n, dtype=bool)}
        self.checks: dict[str, list[np.ndarray]] = {"": [], "_es": []}

    def add(self, scope: str, answered: Answered) -> None:
        """Take in a scope of a point; a request is right when all of its edit questions are."""
        if "edit" not in answered.by_probe:
            return
        rows = answered.by_probe["edit"]
        some, who = answered.scores.take(rows), answered.requests[rows]
        for suffix, values in (("", accuracy(some)), ("_es", success(some))):
            right = np.ones(self.n, dtype=bool)
            np.logical_and.at(right, who, values)
            if scope == "at-edit":
                self.at_edit[suffix][np.unique(who)] = right[np.unique(who)]
            else:
                self.checks[suffix].append(right[: int(who.max()) + 1])

    def forgetting(self) -> Iterator[tuple[str, float, int]]:
        """(metric, share, n) at the newest check; nothing for facts that were never right."""
        for suffix, checks in self.checks.items():
            if not checks:
                continue
            f = forgetting(self.at_edit[suffix][: len(checks[-1])], checks)
            if f.n:
                yield f"forgotten{suffix}", f.momentary, f.n
                yield f"forgotten{suffix}_sticky", f.sticky, f.n
                yield f"recovered{suffix}", f.recovered, f.n
