"""Does the model say the new answer when nobody says the answer's beginning, or its length, for it?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from edit_robust.core.data import Column, Example, Record, TextRequest
from edit_robust.core.errors import UserError, nearest
from edit_robust.evaluate.answers import Questions
from edit_robust.evaluate.base import Measure, Measured, Needs, Recorder, Results, Setting
from edit_robust.evaluate.columns_language import MOMENTS
from edit_robust.evaluate.moments import asked, at_moments, check_number, watched
from edit_robust.evaluate.statistics.success import accuracy, over_groups
from edit_robust.evaluate.statistics.text import contains_answer, exact_match

if TYPE_CHECKING:
    from edit_robust.models.base import Generated, Generates, Scores
    from edit_robust.tasks.base import Probes
    from edit_robust.trajectories import Point

PROBES = {"edit": "the edit", "paraphrase": "rewordings", "neighbourhood": "neighbours"}
#: Metric, the summary's key, the protocol in words, heading.
NUMBERS = (
    ("exact_generated", "generated_exact", "{} generated freely, exact", "generated"),
    ("contains_generated", "generated_contains", "{} generated freely, answer in it", ""),
    ("accuracy_teacher_forced", "teacher_forced", "{} teacher forced, argmax", "forced"),
)
#: Metrics of the generated text that only the summary holds.
ASIDE = ("tokens_generated", "empty_generated", "unended_generated")
#: Texts at which an answer ends, beside the end-of-text token.
ENDS = (". ", "! ", "? ", "\n")


class FreeGeneration(Measure):
    """Questions answered in the model's own words until it ends by itself, beside the same questions under teacher
    forcing, which tells the model the answer's first tokens and where it stops (arXiv 2502.11177: 38.5 against 96.8 %).

    probes:    kinds of questions: edit, paraphrase, neighbourhood. An edit is asked as the request's `question`, where
               it brings one, else by its prompt; right is the new answer (of neighbours: theirs).
    template:  how a question is put, with `{}` for it; `\\n` is a new line, for a shell has no other way to write one.
    ends:      texts at which an answer ends, beside the end-of-text token; an answer that begins with one is empty.
    max_tokens: where an answer that does not end is cut off.
    n_checked: requests at most that are asked again later, evenly spaced; null: all.

    Answers are greedy. Exact: the answer and nothing else, without case, punctuation and articles. Contains: the answer
    stands among other words. An empty answer counts as wrong.
    """

    needs = Needs(model=("write", "scorer"), task=("probes",))

    def __init__(
        self,
        probes: list[str] | None = None,
        template: str = "{}",
        ends: list[str] | None = None,
        max_tokens: int = 40,
        n_checked: int | None = 100,
    ) -> None:
        self.probes = tuple(["edit"] if probes is None else probes)
        for name in self.probes:
            if name not in PROBES:
                raise UserError(
                    f"measure.free-generation.probes: there is no {name!r}; {nearest(name, PROBES, 'probes')}"
                )
        if template.count("{}") != 1 or template != template.rstrip():
            raise UserError(
                f"measure.free-generation.template={template!r} must hold {{}} once, for the question, and end without "
                "a space"
            )
        check_number("free-generation.max_tokens", max_tokens)
        check_number("free-generation.n_checked", n_checked)
        self.template, self.max_tokens, self.n_checked = template.replace("\\n", "\n"), max_tokens, n_checked
        self.ends = [end.replace("\\n", "\n") for end in (ENDS if ends is None else ends)]

    def prepare(self, setting: Setting) -> None:
        super().prepare(setting)
        task, model = cast("Probes", setting.task), cast("Scores", setting.model)
        known = {r.id: r for r in setting.requests}
        probes = [p for p in task.probes(setting.requests) if p.name in self.probes]

        def put(example: Example, probe: str) -> Example:
            request = known[example.group]
            own = request.question if probe == "edit" and isinstance(request, TextRequest) else None
            asked_as = self.template.replace("{}", own or str(example.x))
            return Example(example.id, asked_as, (example.choices[example.target],), 0, example.group)

        probes = [replace(p, examples=tuple(put(e, p.name) for e in p.examples)) for p in probes]
        self.questions = Questions(setting.requests, probes)
        self._scorer = model.scorer(self.questions.examples, setting.changes)
        self._again = watched(len(setting.requests), self.n_checked)

    def examples(self) -> list[dict[str, Any]]:
        return self.questions.lines()

    def at(self, point: Point, found: Mapping[str, Measured]) -> Measured:
        records: list[Record] = []
        arrays: dict[str, np.ndarray] = {}
        record, model = self.setting.recorder(point), cast("Generates", self.setting.model)
        for scope, requests in asked(point, self._again, "edit"):
            by_probe = {
                p: self.questions.rows(requests, [p]) for p in self.probes if p in (scope.probes or self.probes)
            }
            rows = np.concatenate([*by_probe.values(), np.zeros(0, dtype=int)])
            some = [self.questions.examples[i] for i in rows]
            if not some:
                continue
            written = model.write([str(e.x) for e in some], self.max_tokens, stop=self.ends)
            forced = accuracy(self._scorer.score(rows.tolist()))
            values = _values(some, written) | {"accuracy_teacher_forced": forced.astype(float)}
            for probe, own in by_probe.items():
                those = np.flatnonzero(np.isin(rows, own))
                if len(those):
                    records += _means(record, scope.name, probe, values, some, those)
            arrays[f"{scope.name}|index"] = rows.astype(np.int32)
            arrays[f"{scope.name}|text"] = np.array([w.text for w in written], dtype=np.str_)
            arrays[f"{scope.name}|forced"] = forced
        return Measured(records, arrays)

    @classmethod
    def columns(cls, results: Results) -> list[Column]:
        """Rates in percent at every moment, `_paraphrase` and `_neighbourhood` behind the keys of those questions."""
        out, words = [], dict(MOMENTS)
        for probe, name in PROBES.items():
            end = "" if probe == "edit" else f"_{probe}"
            for metric, key, label, short in NUMBERS:
                for prefix, value in at_moments(results.records, probe, metric).items():
                    heading = short if short and not prefix and not end else ""
                    text = label.format(name)
                    out.append(
                        Column(f"{prefix}{key}{end}", 100 * value, text, words[prefix], "percent", short=heading)
                    )
            for metric in ASIDE:
                for prefix, value in at_moments(results.records, probe, metric).items():
                    out.append(Column(f"{prefix}{metric}{end}", value if metric == ASIDE[0] else 100 * value))
        return out


def _values(examples: Sequence[Example], written: Sequence[Generated]) -> dict[str, np.ndarray]:
    """Metric -> value of each generated answer."""
    pairs = [(w.text, str(e.choices[0])) for w, e in zip(written, examples, strict=True)]
    return {
        "exact_generated": np.array([exact_match(*pair) for pair in pairs], dtype=float),
        "contains_generated": np.array([contains_answer(*pair) for pair in pairs], dtype=float),
        "tokens_generated": np.array([w.tokens for w in written], dtype=float),
        "empty_generated": np.array([not w.text.strip() for w in written], dtype=float),
        "unended_generated": np.array([not w.ended for w in written], dtype=float),
    }


def _means(
    record: Recorder,
    scope: str,
    probe: str,
    values: Mapping[str, np.ndarray],
    examples: Sequence[Example],
    those: np.ndarray,
) -> Iterator[Record]:
    """Means within a request, then over requests, of some of the answers."""
    groups = [examples[i].group for i in those]
    for metric, value in values.items():
        yield record(scope, probe, metric, *over_groups(value[those], groups))
