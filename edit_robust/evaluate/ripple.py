"""What follows from an edit, and what must not: aliases, reasoning, reversal, negation, long prefixes, other facts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from edit_robust.core.data import Column, Example, Probe, Record, Request, TextRequest
from edit_robust.evaluate.answers import Answered, Questions, kept, once
from edit_robust.evaluate.base import Measure, Measured, Needs, Results, Setting
from edit_robust.evaluate.columns_language import MOMENTS
from edit_robust.evaluate.moments import at_moments
from edit_robust.evaluate.statistics.success import probe_metrics

if TYPE_CHECKING:
    from edit_robust.models import base as models
    from edit_robust.trajectories import Point

PREFIX = "ripple-"
#: Metric -> end of its key, and the protocol in words.
PROTOCOLS = {"success": ("", "preference"), "accuracy": ("_acc", "argmax, teacher forced")}


class Ripple(Measure):
    """Success by preference and accuracy by argmax of each kind of the questions that requests bring (`Ripple`).

    Preference: the right answer is strictly more likely than the other one (where the question has another one).
    Argmax: every token of the right answer is the likeliest under teacher forcing. Means within a request, then over
    the requests that bring a question of the kind. Asked wherever everything is asked.
    """

    needs = Needs(model=("scorer",))

    def prepare(self, setting: Setting) -> None:
        super().prepare(setting)
        model = cast("models.Scores", setting.model)
        self.questions = Questions(setting.requests, probes(setting.requests))
        self._scorer = model.scorer(self.questions.examples, setting.changes) if self.questions.examples else None

    def notes(self) -> Mapping[str, Any]:
        """How many questions there are of each kind."""
        kinds = {p.name.removeprefix(PREFIX): len(p.examples) for p in self.questions.probes}
        return {"ripple": ", ".join(f"{kind} {n}" for kind, n in kinds.items()) or "the requests bring no questions"}

    def examples(self) -> list[dict[str, Any]]:
        return self.questions.lines()

    def at(self, point: Point, found: Mapping[str, Measured]) -> Measured:
        records: list[Record] = []
        arrays: dict[str, np.ndarray] = {}
        if self._scorer is None:
            return Measured()
        score = once(self._scorer)
        for scope in point.scopes:
            index = self.questions.rows(scope.requests, scope.probes)
            if not len(index):
                continue
            arrays |= kept(scope.name, index, score(index))
            records += self._records(point, scope.name, self.questions.answered(arrays, scope.name))
        return Measured(records, arrays)

    def _records(self, point: Point, scope: str, answered: Answered) -> Iterator[Record]:
        record = self.setting.recorder(point)
        for probe, rows in answered.by_probe.items():
            table = probe_metrics(answered.scores.take(rows), [answered.groups[i] for i in rows])
            for metric, (value, n) in table.items():
                yield record(scope, probe, metric, value, n)

    @classmethod
    def columns(cls, results: Results) -> list[Column]:
        """`ripple_KIND` (preference) and `ripple_KIND_acc` (argmax) in percent, at every moment."""
        records, words, out = results.records, dict(MOMENTS), []
        known = [p for p in dict.fromkeys(records.probe.dropna()) if str(p).startswith(PREFIX)]
        for probe in sorted(known):
            kind = str(probe).removeprefix(PREFIX)
            for metric, (end, protocol) in PROTOCOLS.items():
                label = f"ripple, {kind.replace('-', ' ')} ({protocol})"
                for prefix, value in at_moments(records, probe, metric).items():
                    key = f"{prefix}ripple_{kind.replace('-', '_')}{end}"
                    out.append(Column(key, 100 * value, label, words[prefix], "percent", brief=not end))
        return out


def probes(requests: Sequence[Request]) -> list[Probe]:
    """The questions that requests bring, a probe a kind; choices are the right answer and, if there is one, another."""
    found: dict[str, list[Example]] = {}
    for request in requests:
        for i, q in enumerate(request.ripple if isinstance(request, TextRequest) else ()):
            choices = (f" {q.right}",) if q.other is None else (f" {q.right}", f" {q.other}")
            example = Example(f"{request.id}/{PREFIX}{q.kind}/{i}", q.prompt, choices, 0, request.id)
            found.setdefault(f"{PREFIX}{q.kind}", []).append(example)
    return [Probe(name, tuple(examples)) for name, examples in sorted(found.items())]
