"""What an edited language model can still do: questions that no edit is about, answered after examples.

An answer is read in two ways, and every number says in which. Generated: the model goes on for a few tokens, and the
text is searched for an option; where there is none the answer is invalid. Likelihood: the option with the highest mean
log-probability per token counts, so that there is always an answer.

Numbers stand under the probe `NAME:PROTOCOL` (sst2:gcf-4), for what is asked otherwise cannot be compared.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol, cast

import numpy as np

from edit_robust.core.data import Column, Record
from edit_robust.core.errors import UserError
from edit_robust.core.question_sets import QuestionSet
from edit_robust.evaluate.base import Measure, Measured, Needs, Results, Setting
from edit_robust.evaluate.columns import END, UNEDITED
from edit_robust.evaluate.every import due
from edit_robust.evaluate.statistics.classification import INVALID, classified, floor_coin, floor_constant
from edit_robust.evaluate.statistics.walks import at_the_end

if TYPE_CHECKING:
    from edit_robust.models.base import AnswersFewShot, Said
    from edit_robust.tasks.base import HasDownstream
    from edit_robust.trajectories import Point

log = logging.getLogger(__name__)

READINGS = ("generated", "likelihood")
#: Of sets with so many labels at most, how often each was the answer is recorded, too.
_FEW = 4
_WORDS = {"f1": "weighted F1", "accuracy": "accuracy", "mcc": "Matthews' correlation", "invalid": "invalid answers"}


class Reads(Protocol):
    """A model that reads text."""

    @property
    def text(self) -> Any:
        """The tokenizer: `encode(text)` gives token ids, `spans([text])` the characters that each covers, too."""
        ...


class AsksSets(Measure, ABC):
    """Asks question sets; to inherit from, with `sets`.

    every:  of how many edits; also before the first and after the last.
    tokens: how many the model may generate.
    """

    needs = Needs(model=("few_shot",))

    def __init__(self, every: int = 10, tokens: int = 3) -> None:
        for option, value in {"every": every, "tokens": tokens}.items():
            if value < 1:
                raise UserError(f"{option}={value} of a downstream measure must be at least 1")
        self.every, self.tokens = every, tokens

    @abstractmethod
    def sets(self, setting: Setting) -> list[QuestionSet]:
        """What is asked."""

    def prepare(self, setting: Setting) -> None:
        super().prepare(setting)
        model = cast("AnswersFewShot", setting.model)
        self._sets = [fitted(one, model, self.tokens) for one in self.sets(setting)]
        self._asked = [
            model.few_shot(
                [q.prompt for q in one.questions],
                [[f" {o}" for o in q.options] for q in one.questions],
                self.tokens,
                prefix=one.prefix,
                changes=setting.changes,
                cache_gb=model.cache_gb / len(self._sets),
            )
            for one in self._sets
        ]

    def notes(self) -> Mapping[str, Any]:
        """How each task is asked: protocol, number of shots, of questions, and of prompts that had to be shortened."""
        return {
            f"downstream_{s.name}": {"protocol": s.protocol, "shots": len(s.shots), "n": len(s.questions), "cut": s.cut}
            for s in self._sets
        }

    def examples(self) -> list[dict[str, Any]]:
        return [
            {
                "id": f"{one.name}/{i}",
                "probe": probe_of(one),
                "group": "",
                "x": q.prompt,
                "choices": list(q.options),
                "target": q.options.index(q.right),
            }
            for one in self._sets
            for i, q in enumerate(one.questions)
        ]

    def at(self, point: Point, found: Mapping[str, Measured]) -> Measured:
        if not due(point, self.every, len(self.setting.requests)):
            return Measured()
        records: list[Record] = []
        arrays: dict[str, np.ndarray] = {}
        for one, asked in zip(self._sets, self._asked, strict=True):
            said = asked.ask()
            answers = {"generated": generated(one, said), "likelihood": likeliest(one, said)}
            records += self._records(point, one, answers)
            arrays |= {f"{one.name}|{how}": which.astype(np.int16) for how, which in answers.items()}
            arrays |= {f"{one.name}|logp": said.logp.astype(np.float32), f"{one.name}|text": np.array(said.texts)}
        return Measured(records, arrays)

    def _records(self, point: Point, one: QuestionSet, answers: Mapping[str, np.ndarray]) -> Iterator[Record]:
        record, probe, labels = self.setting.recorder(point), probe_of(one), one.labels
        right = np.array([labels.index(q.right) for q in one.questions])
        for how, said in answers.items():
            numbers = classified(right, said)
            for metric in ("f1", "accuracy", "mcc", "invalid"):
                if not (metric == "invalid" and how == "likelihood"):  # there is always a likeliest option
                    yield record("model", probe, f"{metric}_{how}", getattr(numbers, metric), numbers.n)
            for i, label in enumerate(labels if len(labels) <= _FEW else ()):
                yield record("model", probe, f"said_{label}_{how}", float((said == i).mean()), numbers.n)
        if point.step == 0:
            choices = np.mean([len(q.options) for q in one.questions])
            yield record("model", probe, "f1_constant", floor_constant(right), len(right))
            if choices == len(labels):  # else options differ from question to question
                yield record("model", probe, "f1_coin", floor_coin(right, len(labels)), len(right))

    @classmethod
    def columns(cls, results: Results) -> list[Column]:
        """Weighted F1 (and what it is made of) of every task and reading, unedited and at the end."""
        table = results.records
        own = [f"{kind}_{how}" for kind in _WORDS for how in READINGS]
        table = table[(table.scope == "model") & table.metric.isin(own)]
        found: list[Column] = []
        for (probe, metric), rows in table.groupby(["probe", "metric"], sort=False):
            before, later = rows[rows.step == 0].value, rows[rows.step > 0].value
            if len(before):
                found.append(_column(str(probe), str(metric), float(before.iloc[0]), UNEDITED))
            if len(later):
                found.append(_column(str(probe), str(metric), at_the_end(later, results.records), END))
        return found


class Downstream(AsksSets):
    """The task's own downstream tasks (those of the built-in fact world); see `AsksSets`."""

    needs = Needs(model=("few_shot",), task=("downstream",))

    def sets(self, setting: Setting) -> list[QuestionSet]:
        return cast("HasDownstream", setting.task).downstream()


def probe_of(one: QuestionSet) -> str:
    """What a set's numbers stand under: its name and its protocol."""
    return f"{one.name}:{one.protocol}"


def generated(one: QuestionSet, said: Said) -> np.ndarray:
    """Index of the label that each generated text names, or `INVALID`, [n]."""
    place = {label: i for i, label in enumerate(one.labels)}
    named = (one.answer(i, text) for i, text in enumerate(said.texts))
    return np.array([INVALID if label is None else place[label] for label in named], dtype=np.int64)


def likeliest(one: QuestionSet, said: Said) -> np.ndarray:
    """Index of each question's likeliest label, [n]; `INVALID` where a log-probability is not a number."""
    place = {label: i for i, label in enumerate(one.labels)}
    found = []
    for q, logp in zip(one.questions, said.logp, strict=True):
        own = logp[: len(q.options)]
        found.append(INVALID if np.isnan(own).any() else place[q.options[int(own.argmax())]])
    return np.array(found, dtype=np.int64)


def fitted(one: QuestionSet, model: AnswersFewShot, tokens: int) -> QuestionSet:
    """The set as it fits into the model's window: with fewer shots (the first ones go), and where a prompt does not
    fit without any, with its end alone, as lm-evaluation-harness has it. What had to go is said in one line."""
    encode = model.text.encode
    answers = max((len(encode(f" {o}")) for q in one.questions for o in q.options), default=1)
    room = model.max_tokens - max(tokens, answers)
    longest = sorted({q.prompt for q in one.questions}, key=lambda p: -len(encode(p)))[:3]
    short = one
    while short.shots and any(len(encode(short.prefix + p)) > room for p in longest):
        short = short.without_first_shot()
    prompts = [end_of(q.prompt, model, room) for q in short.questions] if longest else []
    cut = sum(p != q.prompt for p, q in zip(prompts, short.questions, strict=True))
    if cut:
        questions = tuple(q._replace(prompt=p) for p, q in zip(prompts, short.questions, strict=True))
        short = replace(short, questions=questions, cut=cut)
    if short is not one:
        gone = f"{len(one.shots) - len(short.shots)} of {len(one.shots)} shots left out"
        log.warning(
            "%s: %s%s: %s reads %d tokens", one.name, gone, f", {cut} prompts cut" * bool(cut), model.name,
            model.max_tokens,
        )  # fmt: skip
    return short


def end_of(prompt: str, model: Reads, room: int) -> str:
    """As much of a prompt's end as has at most `room` tokens."""
    while len(ids := model.text.encode(prompt)) > room:
        spans: Sequence[tuple[int, int]] = model.text.spans([prompt])[0][1]
        prompt = prompt[max(spans[len(ids) - room][0], 1) :]
    return prompt


def _column(probe: str, metric: str, value: float, moment: str) -> Column:
    kind, _, how = metric.partition("_")
    key = f"{probe.replace(':', '_').replace('-', '_')}_{metric}"
    share = kind != "mcc"
    main = kind == "f1" and how == "generated"
    return Column(
        key if moment == END else f"unedited_{key}",
        100 * value if share else value,
        f"{probe.replace(':', ' (')}): {_WORDS[kind]}, {how}",
        moment,
        unit="percent" if share else "number",
        short=f"{probe} F1" if main and moment == END else "",
        brief=main,
    )
