"""What a language model answers: the edit, paraphrase and neighbourhood questions of the requests."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pandas as pd

from edit_robust.core.data import Column, Example, Probe, Record, Request, Scores
from edit_robust.core.errors import UserError
from edit_robust.evaluate import columns_language as describe
from edit_robust.evaluate.base import Measure, Measured, Needs, Results, Setting
from edit_robust.evaluate.statistics.success import harmonic_mean, overall, probe_metrics

if TYPE_CHECKING:
    from edit_robust.models import base as models
    from edit_robust.tasks.base import Probes
    from edit_robust.trajectories import Point

_PROBES = {"edit": "ES", "paraphrase": "PS", "neighbourhood": "NS"}
_METRICS = {"success": "", "accuracy": "_acc", "token_accuracy": "_token_acc", "magnitude": "_magnitude"}
_SCOPES = (("unedited", "unedited_"), ("at-edit", ""), ("retention", "retention_"), ("final", "final_"))


class Answers(Measure):
    """Success, accuracy and magnitude of every probe in every scope of a point, and S; see `statistics.success`.

    Kept for each question: log-probabilities of its choices [n, k] (mean per token, nats) and the share of each one's
    tokens that are the argmax, as `scope|index`, `scope|logp` and `scope|hits`.
    """

    needs = Needs(model=("scorer",), task=("probes",))

    def prepare(self, setting: Setting) -> None:
        super().prepare(setting)
        task, model = cast("Probes", setting.task), cast("models.Scores", setting.model)
        self.questions = Questions(setting.requests, task.probes(setting.requests))
        self._scorer = model.scorer(self.questions.examples, setting.changes)

    def notes(self) -> Mapping[str, Any]:
        """How the questions are run, where the model tells: from where on, and why not from later on."""
        how = getattr(self._scorer, "how", "")
        return {"questions": how} if how else {}

    def examples(self) -> list[dict[str, Any]]:
        return self.questions.lines()

    def at(self, point: Point, found: Mapping[str, Measured]) -> Measured:
        records: list[Record] = []
        arrays: dict[str, np.ndarray] = {}
        score = once(self._scorer)
        for scope in point.scopes:
            index = self.questions.rows(scope.requests, scope.probes)
            arrays |= kept(scope.name, index, score(index))
            records += self._records(point, scope.name, self.questions.answered(arrays, scope.name))
        return Measured(records, arrays)

    def _records(self, point: Point, scope: str, answered: Answered) -> Iterator[Record]:
        """Means within a request, then over requests; S from the three probes."""
        record, table = self.setting.recorder(point), {}
        for probe, rows in answered.by_probe.items():
            table[probe] = probe_metrics(answered.scores.take(rows), [answered.groups[i] for i in rows])
            for metric, (value, n) in table[probe].items():
                yield record(scope, probe, metric, value, n)
        if (score := overall(table)) is not None:
            yield record(scope, "", "S", *score)

    @classmethod
    def columns(cls, results: Results) -> list[Column]:
        """Rates in percent.

        ES, PS, NS, S: each edit right after it was made (the last alpha of an interpolation). `unedited_`,
        `retention_` (the last check that asked every probe) and `final_` are the same at other moments. `_acc`: argmax,
        `_token_acc`: share of right tokens.
        """
        # Numbers about all requests of a scope; those of images stand under a request each.
        records = results.records[results.records.request == ""]
        records = records[records.probe.isin(_PROBES) & (records["shift"].isin(["none", ""]))]
        out: dict[str, float] = {}
        for scope, prefix in _SCOPES:
            out |= _rates(records[records.scope == scope], prefix, latest=scope != "at-edit")
        if "ES_acc" not in out and "final_ES_acc" in out:  # an interpolation asks everybody at every alpha
            out |= {k.removeprefix("final_"): v for k, v in out.items() if k.startswith("final_")}
        if not out:
            return []
        unedited = records[records.scope == "unedited"]
        out["n_requests"] = int(unedited.n.max()) if len(unedited) else 0
        return describe.answers(out)


def _rates(some: pd.DataFrame, prefix: str, latest: bool) -> dict[str, float]:
    """Means over the scope's points, weighted by n; or the last point with all of its probes alone."""
    out: dict[str, float] = {}
    if latest and len(some):
        asked = some.groupby("step").probe.nunique()
        some = some[some.step == asked[asked == asked.max()].index.max()]
    for metric, suffix in _METRICS.items():
        for probe, short in _PROBES.items():
            rows = some[(some.probe == probe) & (some.metric == metric)]
            if len(rows):
                out[f"{prefix}{short}{suffix}"] = 100 * float(np.average(rows.value, weights=rows.n))
    for suffix in ("", "_token_acc"):
        three = [out.get(f"{prefix}{short}{suffix}") for short in _PROBES.values()]
        if all(v is not None for v in three):
            out[f"{prefix}S"] = harmonic_mean([float(v) for v in three if v is not None])
            break
    return out


@dataclass(frozen=True)
class Answered:
    """Answers to some questions.

    scores: of the questions, in order.         by_probe: probe -> positions in `scores`.
    groups: id of each question's request.      requests: index of it.
    """

    scores: Scores
    by_probe: Mapping[str, np.ndarray]
    groups: Sequence[str]
    requests: np.ndarray


def once(scorer: models.Scorer) -> Callable[[np.ndarray], Scores]:
    """The scores of questions by their numbers, each set of them asked once: the last check and the end of a walk ask
    the same. For one point: weights may have changed at the next."""
    known: dict[bytes, Scores] = {}

    def score(index: np.ndarray) -> Scores:
        if (key := index.tobytes()) not in known:
            known[key] = scorer.score(index.tolist())
        return known[key]

    return score


def kept(scope: str, index: np.ndarray, scores: Scores) -> dict[str, np.ndarray]:
    """A scope's answers as they are kept of a point; `Questions.answered` reads them."""
    return {
        f"{scope}|index": index.astype(np.int32),
        f"{scope}|logp": scores.logp.astype(np.float32),
        f"{scope}|hits": scores.hits.astype(np.float32),
    }


class Questions:
    """All questions about a run's requests, numbered through."""

    def __init__(self, requests: Sequence[Request], probes: Sequence[Probe]) -> None:
        self.probes = list(probes)
        self.examples: list[Example] = [e for p in probes for e in p.examples]
        self._probe_of = np.array([p.name for p in probes for _ in p.examples])
        place = {r.id: i for i, r in enumerate(requests)}
        if len(place) != len(requests):
            raise UserError("two requests have the same id")
        self._request_of = np.array([place[e.group] for e in self.examples], dtype=int)
        self._target = np.array([e.target for e in self.examples], dtype=np.int64)
        self._rows_of: list[list[int]] = [[] for _ in requests]
        for row, r in enumerate(self._request_of):
            self._rows_of[r].append(row)

    def lines(self) -> list[dict[str, Any]]:
        """Every question as it is kept with the run."""
        return [
            {
                "id": e.id,
                "probe": p.name,
                "group": e.group,
                "x": str(e.x),
                "choices": [str(c) for c in e.choices],
                "target": e.target,
            }
            for p in self.probes
            for e in p.examples
        ]

    def rows(self, requests: Sequence[int], probes: Sequence[str] | None = None) -> np.ndarray:
        """Numbers of the questions about some requests, given by their indices; of some probes, or of all."""
        found = np.array([row for r in requests for row in self._rows_of[r]], dtype=int)
        return found if probes is None else found[np.isin(self._probe_of[found], probes)]

    def requests_of(self, rows: np.ndarray) -> np.ndarray:
        """Index of the request of each question."""
        return self._request_of[rows]

    def answered(self, outcomes: Mapping[str, np.ndarray], scope: str) -> Answered:
        """A scope's answers from what `Answers` keeps of a point: the same numbers now and when read back later."""
        index = outcomes[f"{scope}|index"].astype(int)
        logp, hits = (outcomes[f"{scope}|{name}"].astype(np.float64) for name in ("logp", "hits"))
        scores = Scores(logp, hits, (~np.isnan(logp)).astype(np.int64), self._target[index])
        probes = self._probe_of[index]
        by_probe = {p.name: np.flatnonzero(probes == p.name) for p in self.probes if (probes == p.name).any()}
        return Answered(scores, by_probe, [self.examples[i].group for i in index], self._request_of[index])
