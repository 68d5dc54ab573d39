"""Questions in words: what a language model answers at a point, and the numbers that come of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from edit_robust.core import Example, Probe, Record, Request, Scores, UserError
from edit_robust.evaluate.base import Setting, weight_records
from edit_robust.evaluate.forgetting import History
from edit_robust.evaluate.statistics.success import overall, perplexity, probe_metrics
from edit_robust.models.language.causal_lm import CausalLM
from edit_robust.runs.reader import Run
from edit_robust.trajectories import Point


class LanguageInquiry:
    """Asks at every point as it is reached, and writes down what came back."""

    def __init__(self, setting: Setting) -> None:
        self.setting = setting
        self.model: CausalLM = setting.model
        s = setting
        with s.store.phase("evaluate"):
            probes = s.task.probes(s.requests)
            self.questions = Questions(self.model, s.requests, probes, s.task.held_out(), s.layers, s.text_tokens)
        s.store.write_examples(self.questions.lines())
        self.history = History(len(s.requests))
        for step in sorted(s.store.done):
            self.history.add(self.questions.from_stored(Run(s.store.path).outcomes(step)))

    def meet(self, point: Point) -> None:
        """Measure a point, with the model standing there."""
        s = self.setting
        with s.store.phase("evaluate"):
            seen = {look.scope: self.questions.ask(look.requests) for look in point.looks}
            self.history.add(seen)
            records = list(self._records(point, seen))
        arrays = {}
        for scope, answer in seen.items():
            arrays[f"{scope}|index"] = answer.index.astype(np.int32)
            arrays[f"{scope}|logp"] = answer.scores.logp.astype(np.float32)
            arrays[f"{scope}|hits"] = answer.scores.hits.astype(np.float32)
        s.write(point, records, arrays)

    def close(self) -> None:
        """Nothing is left open."""

    def _records(self, point: Point, seen: Mapping[str, Seen]) -> Iterator[Record]:
        """Every number of a point."""
        record = self.setting.recorder(point)
        for scope, s in seen.items():
            table = {}
            for probe, rows in s.by_probe.items():
                table[probe] = probe_metrics(s.scores.take(rows), [s.groups[i] for i in rows])
                for metric, (value, n) in table[probe].items():
                    yield record(scope, probe, metric, value, n)
            if (score := overall(table)) is not None:
                yield record(scope, "", "S", *score)
            if scope == "retention":
                for metric, value, n in self.history.forgetting():
                    yield record(scope, "edit", metric, value, n)
        yield from weight_records(self.setting, point)
        if point.whole and self.questions.text is not None:
            yield record("model", "text", "perplexity", *perplexity(self.questions.text.score()))


@dataclass(frozen=True)
class Seen:
    """What came back from some requests' questions: rows of the run's examples, and their scores."""

    index: np.ndarray
    scores: Scores
    by_probe: Mapping[str, np.ndarray]  # probe -> positions in `index`
    groups: Sequence[str]
    requests: np.ndarray  # request index of each row


class Questions:
    """All questions of a run, ready to be asked for any of its requests."""

    def __init__(
        self,
        model: CausalLM,
        requests: Sequence[Request],
        probes: Sequence[Probe],
        texts: Sequence[str],
        layers: Sequence[str],
        text_tokens: int,
    ) -> None:
        self.probes = list(probes)
        self.examples: list[Example] = [e for p in probes for e in p.examples]
        self.probe_of = np.array([p.name for p in probes for _ in p.examples])
        place = {r.id: i for i, r in enumerate(requests)}
        if len(place) != len(requests):
            raise UserError("two requests have the same id")
        self.request_of = np.array([place[e.group] for e in self.examples], dtype=int)
        self.rows_of: list[list[int]] = [[] for _ in requests]
        for row, r in enumerate(self.request_of):
            self.rows_of[r].append(row)
        self.scorer = model.scorer(self.examples, layers)
        chosen: list[Example] = []
        used = 0
        for i, text in enumerate(texts):
            used += len(model.text.encode(text))
            if used > text_tokens and chosen:
                break
            chosen.append(Example(f"text/{i}", "", (text,)))
        self.text = model.scorer(chosen, layers) if chosen else None

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

    def ask(self, requests: Sequence[int]) -> Seen:
        index = np.array([row for r in requests for row in self.rows_of[r]], dtype=int)
        scores = self.scorer.score(index.tolist())
        return self._seen(index, scores.logp, scores.hits, scores.tokens)

    def from_stored(self, outcomes: Mapping[str, tuple[np.ndarray, np.ndarray, np.ndarray]]) -> dict[str, Seen]:
        """The same from a run's files."""
        return {
            scope: self._seen(index.astype(int), logp, hits, (~np.isnan(logp)).astype(np.int64))
            for scope, (index, logp, hits) in outcomes.items()
        }

    def _seen(self, index: np.ndarray, logp: np.ndarray, hits: np.ndarray, tokens: np.ndarray) -> Seen:
        # float32 is what the files hold: numbers are the same whether they were just measured or read back
        target = np.array([self.examples[i].target for i in index], dtype=np.int64)
        scores = Scores(_as_stored(logp), _as_stored(hits), tokens, target)
        probes = self.probe_of[index]
        return Seen(
            index,
            scores,
            {p.name: np.flatnonzero(probes == p.name) for p in self.probes if (probes == p.name).any()},
            [self.examples[i].group for i in index],
            self.request_of[index],
        )


def _as_stored(x: np.ndarray) -> np.ndarray:
    return x.astype(np.float32).astype(np.float64)
