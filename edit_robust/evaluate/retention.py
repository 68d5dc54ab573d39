"""Retention matrix: at every checkpoint, is each past edit's own question still answered as it was edited?

Asked along a walk, or of a finished one (`edit-robust evaluate RUN measure=[retention]`), where the kept changes are
added again and no edit is made.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, cast

import numpy as np

from edit_robust.core.data import Column, Record, Scores
from edit_robust.core.errors import UserError
from edit_robust.evaluate.answers import Questions
from edit_robust.evaluate.base import Measure, Measured, Needs, Results, Setting
from edit_robust.evaluate.every import crosses
from edit_robust.evaluate.forgetting import Forgetting as Forgotten
from edit_robust.evaluate.retention_matrix import HOWS, all_of
from edit_robust.evaluate.statistics.success import Forgetting, accuracy, forgetting, success
from edit_robust.evaluate.statistics.survival import survival

if TYPE_CHECKING:
    from edit_robust.models import base as models
    from edit_robust.tasks.base import Probes
    from edit_robust.trajectories import Point

SUFFIX = {"accuracy": "", "success": "_es"}


class Retention(Measure):
    """Of every past edit at every checkpoint: right by argmax, and preferred to the old answer.

    every: edits between two checkpoints; null: where the walk looks back (`trajectory.every`).

    Records at a checkpoint: shares of the edits that were right when they were made, as `forgotten` (wrong now),
    `forgotten_sticky` (wrong now or at a checkpoint before, as the scaling paper's code counts) and `recovered` (right
    now, wrong before); with `_es` by preference. At the last one also `half_life`: the number of later edits after
    which half of the edits are forgotten (Kaplan and Meier). Kept for every edit: 1 or 0, see `retention_matrix`.
    """

    needs = Needs(model=("scorer",), task=("probes",))

    def __init__(self, every: int | None = None) -> None:
        if every is not None and every < 1:
            raise UserError(f"measure.retention.every={every} must be at least 1")
        self.every = every

    def prepare(self, setting: Setting) -> None:
        super().prepare(setting)
        task, model = cast("Probes", setting.task), cast("models.Scores", setting.model)
        probes = task.probes(setting.requests)
        self._all = Questions(setting.requests, probes)  # as `answers` numbers them
        self.questions = Questions(setting.requests, [p for p in probes if p.name == "edit"])
        if not self.questions.examples:
            raise UserError("measure=retention needs a task with a question about each edit, and this one asks none")
        self._scorer = model.scorer(self.questions.examples, setting.changes)
        n = len(setting.requests)
        self._taught = {how: np.zeros(n, dtype=bool) for how in HOWS}
        self._made = np.full(n, np.nan)
        self._checks: list[tuple[int, dict[str, np.ndarray]]] = []
        for point in setting.run.points:
            self._take_in(int(point["n_edits"]), setting.run.arrays(point["step"], "retention"))

    def at(self, point: Point, found: Mapping[str, Measured]) -> Measured:
        newest = next((s.requests for s in point.scopes if s.name == "at-edit"), ())
        if not self._stacked(point, newest):
            return Measured()
        known = found["answers"].outcomes if "answers" in found else {}
        arrays = self._asked("at-edit", newest, known)
        due = self._due(point, len(newest))
        if due:
            arrays |= self._asked("retention", range(point.n_edits), known)
        self._take_in(point.n_edits, arrays)
        told = "forgetting" in found and any(s.name == "retention" for s in point.scopes)
        return Measured(list(self._records(point, told)) if due else [], arrays)

    def _stacked(self, point: Point, newest: Sequence[int]) -> bool:
        """Whether all edits up to the newest ones are in the model."""
        return len(newest) > 0 and list(newest) == list(range(point.n_edits - len(newest), point.n_edits))

    def _due(self, point: Point, newest: int) -> bool:
        if self.every is None:
            return any(s.name == "retention" for s in point.scopes)
        last = point.n_edits == len(self.setting.requests)
        return last or crosses(point.n_edits - newest, point.n_edits, self.every)

    def _asked(self, scope: str, requests: Sequence[int], known: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Of some requests, whether they are right; what `answers` has just asked is not asked again."""
        if f"{scope}|index" in known:
            answered = self._all.answered(known, scope)
            rows = answered.by_probe.get("edit", np.zeros(0, dtype=int))
            if set(answered.requests[rows]) >= set(requests):
                return self._judged(scope, answered.requests[rows], answered.scores.take(rows))
        index = self.questions.rows(requests)
        scores = self._scorer.score(index.tolist())
        return self._judged(scope, self.questions.requests_of(index), scores)

    def _judged(self, scope: str, requests: np.ndarray, scores: Scores) -> dict[str, np.ndarray]:
        found: dict[str, np.ndarray] = {}
        for how, judge in zip(HOWS, (accuracy, success), strict=True):
            who, found[f"{scope}|{how}"] = all_of(requests, judge(scores))
            found[f"{scope}|requests"] = who.astype(np.int32)
        return found

    def _take_in(self, n_edits: int, arrays: Mapping[str, np.ndarray]) -> None:
        if "at-edit|requests" in arrays:
            newest = arrays["at-edit|requests"].astype(int)
            self._made[newest] = n_edits
            for how in HOWS:
                self._taught[how][newest] = arrays[f"at-edit|{how}"]
        if "retention|requests" in arrays:
            self._checks.append((n_edits, {how: arrays[f"retention|{how}"].astype(bool) for how in HOWS}))

    def _records(self, point: Point, told: bool) -> Iterator[Record]:
        """told: the measure `forgetting` tells the shares."""
        record = self.setting.recorder(point)
        last = point.n_edits == len(self.setting.requests)
        for how, suffix in SUFFIX.items():
            checks = [right[how] for _, right in self._checks]
            shares = forgetting(self._taught[how][: point.n_edits], checks)
            if shares.n and not told:
                for metric, value in _named(shares, suffix):
                    yield record("retention", "edit", metric, value, shares.n)
            if shares.n and last:
                yield record("retention", "edit", f"half_life{suffix}", self._half_life(how), shares.n)

    def _half_life(self, how: str) -> float:
        """In later edits; NaN where less than half were forgotten within what was looked at."""
        seen = np.array([n for n, _ in self._checks], dtype=float)
        n = len(self._checks[-1][1][how])
        wrong_at, looked_at = np.full(n, np.inf), np.full(n, np.nan)
        for place, (_, right) in zip(seen, self._checks, strict=True):
            now = np.flatnonzero(~right[how])
            wrong_at[now] = np.minimum(wrong_at[now], place)
            looked_at[: len(right[how])] = place
        some = self._taught[how][:n]
        died = np.isfinite(wrong_at[some])
        life = survival(np.where(died, wrong_at[some], looked_at[some]) - self._made[:n][some], died).half_life
        return life if np.isfinite(life) else float("nan")

    @classmethod
    def columns(cls, results: Results) -> list[Column]:
        """As `forgetting`; half_life and half_life_es: later edits until half are forgotten, None where fewer were."""
        found = results.records[results.records.metric.isin(["half_life", "half_life_es"])]
        out = Forgotten.columns(results)
        for metric, words in (("half_life", "gives the new answer"), ("half_life_es", "prefers it to the old")):
            values = found[found.metric == metric].value.dropna()
            if (found.metric == metric).any():
                value = float(values.iloc[-1]) if len(values) else None
                out.append(Column(metric, value, f"later edits until half are forgotten ({words})", brief=False))
        return out


def _named(shares: Forgetting, suffix: str) -> Iterator[tuple[str, float]]:
    yield f"forgotten{suffix}", shares.momentary
    yield f"forgotten{suffix}_sticky", shares.sticky
    yield f"recovered{suffix}", shares.recovered
