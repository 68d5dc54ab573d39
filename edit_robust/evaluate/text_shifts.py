"""The requests' questions under shifts of text: what typing errors, context or a longer prefix take from an edit."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from edit_robust.core.data import Column, Example, Probe, Record, Request, TextRequest
from edit_robust.core.errors import UserError, nearest
from edit_robust.evaluate import text_shift_numbers
from edit_robust.evaluate.answers import Answered, Questions, kept, once
from edit_robust.evaluate.base import Measure, Measured, Needs, Recorder, Results, Setting
from edit_robust.evaluate.statistics.success import accuracy, probe_metrics
from edit_robust.shifts.severities import read_shifts
from edit_robust.shifts.text import names
from edit_robust.shifts.text.shifted import Material, Prompt, TextShifter, sentences

if TYPE_CHECKING:
    from edit_robust.models import base as models
    from edit_robust.tasks.base import Probes
    from edit_robust.trajectories import Point

PROBES = ("edit", "paraphrase", "neighbourhood")
MEASURE = "text-shifts"


class TextShifts(Measure):
    """Accuracy (argmax under teacher forcing) and success (preference) of the edit, paraphrase and neighbourhood
    questions under every shift and severity; the same questions unshifted are those of `answers`.

    corruption:      name -> severities, see `shifts.text`; nothing is asked without any.
    probes:          kinds of questions.   protect_subject: see `TextShifter`.
    retention:       whether past edits are asked wherever they are asked everything.

    Asked of the unedited model, of each edit right after it was made, and of all at the end. Kept for each question as
    in `answers`; `gained` and `lost` count questions whose accuracy differs from the unedited model's.
    """

    needs = Needs(model=("scorer",), task=("probes",), measures=("answers",))

    @staticmethod
    def read_shifts(node: Mapping[str, Any] | None) -> dict[str, tuple[int, ...]]:
        """Names with severities from the `corruption` part of a config. UserError for corruptions of images."""
        foreign: Sequence[str] = ()
        if any(name not in names.ALL for name, severities in (node or {}).items() if severities is not None):
            from edit_robust.shifts.images.benchmark import ALL as OF_IMAGES  # takes long to import, for a message

            foreign = OF_IMAGES
        return read_shifts(node, names.ALL, foreign, "shifts images, and this model reads text")

    def __init__(
        self,
        corruption: dict[str, Any] | None = None,
        probes: list[str] | None = None,
        protect_subject: bool = True,
        retention: bool = False,
    ) -> None:
        self.shifts = self.read_shifts(corruption)
        self.probes = tuple(PROBES if probes is None else probes)
        for name in self.probes:
            if name not in PROBES:
                raise UserError(f"measure.{MEASURE}.probes: there is no {name!r}; {nearest(name, PROBES, 'probes')}")
        if self.shifts and not any(_applies(p, s) for p in self.probes for s in self.shifts):
            raise UserError(
                f"corruption={','.join(self.shifts)} is about neighbours: measure.{MEASURE}.probes must name "
                "neighbourhood"
            )
        self.protect_subject, self.retention = protect_subject, retention

    def prepare(self, setting: Setting) -> None:
        super().prepare(setting)
        task, model = cast("Probes", setting.task), cast("models.Scores", setting.model)
        found = [p for p in task.probes(setting.requests) if p.name in self.probes] if self.shifts else []
        shifter = TextShifter(self._material(), self.protect_subject, setting.work.seed)
        known = {r.id: r for r in setting.requests}
        shifted = [
            Probe(f"{probe.name}|{shift}|{severity}", tuple(_shifted(probe.examples, shift, severity, shifter, known)))
            for probe in found
            for shift, severities in self.shifts.items()
            for severity in severities
            if _applies(probe.name, shift)
        ]
        self.questions = Questions(setting.requests, shifted)
        _check_length(self.questions.examples, model)
        # Nothing is kept of the questions: there are dozens of variants, and each is asked two or three times a run.
        self._scorer = model.scorer(self.questions.examples)
        self._before: dict[int, bool] = {}
        if any(p["step"] == 0 for p in setting.run.points):
            self._take_in(setting.run.arrays(0, MEASURE))

    def _material(self) -> Material:
        """What may stand before a prompt: the task's held-out text, and facts of the run's other requests."""
        requests, task = self.setting.requests, self.setting.task
        subjects = sorted({str(r.subject) for r in requests if r.subject})
        ordinary = tuple(sentences(task.held_out(), subjects)) if hasattr(task, "held_out") and self.shifts else ()
        stated = {
            (str(r.subject), f"{r.prompt} {r.target if r.old is None else r.old}.") for r in requests if r.subject
        }
        # where the unedited answer is not known, what the edit says of others will do
        return Material(ordinary, tuple(sorted(stated))) if ordinary else Material(statements=tuple(sorted(stated)))

    def examples(self) -> list[dict[str, Any]]:
        found = []
        for line in self.questions.lines():
            probe, shift, severity = line["probe"].split("|")
            found.append({**line, "probe": probe, "shift": shift, "severity": int(severity)})
        return found

    def notes(self) -> Mapping[str, Any]:
        """Which shifts, where there are some."""
        told = "; ".join(f"{name} {','.join(map(str, severities))}" for name, severities in self.shifts.items())
        return (
            {"text_shifts": f"{told}; names {'protected' if self.protect_subject else 'not protected'}"} if told else {}
        )

    def at(self, point: Point, found: Mapping[str, Measured]) -> Measured:
        records: list[Record] = []
        arrays: dict[str, np.ndarray] = {}
        score = once(self._scorer)
        for scope in point.scopes:
            if scope.name == "retention" and (not self.retention or scope.probes is not None):
                continue
            index = self.questions.rows(scope.requests)
            if not len(index):
                continue
            arrays |= kept(scope.name, index, score(index))
            self._know_before(index, arrays if scope.name == "unedited" else {})
            answered = self.questions.answered(arrays, scope.name)
            records += self._records(self.setting.recorder(point), scope.name, index, answered)
        return Measured(records, arrays)

    def _know_before(self, index: np.ndarray, arrays: Mapping[str, np.ndarray]) -> None:
        """See to it that the unedited model's answers to some questions are known: as it is asked now, as it was in
        this run, or as it is asked again, where a finished run is asked something new."""
        self._take_in(arrays)
        missing = [i for i in index.tolist() if i not in self._before]
        if missing:
            with self.setting.model.at(self.setting.before):
                right = accuracy(self._scorer.score(missing))
            self._before |= dict(zip(missing, right.tolist(), strict=True))

    def _take_in(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Remember what the unedited model got right."""
        if "unedited|index" in arrays:
            right = accuracy(self.questions.answered(arrays, "unedited").scores)
            self._before |= dict(zip(arrays["unedited|index"].tolist(), right.tolist(), strict=True))

    def _records(self, record: Recorder, scope: str, index: np.ndarray, answered: Answered) -> Iterator[Record]:
        for name, rows in answered.by_probe.items():
            probe, shift, severity = name.split("|")
            at = {"shift": shift, "severity": int(severity)}
            some = answered.scores.take(rows)
            for metric, (value, n) in probe_metrics(some, [answered.groups[i] for i in rows]).items():
                if metric in text_shift_numbers.PROTOCOLS:
                    yield record(scope, probe, metric, value, n, **at)  # type: ignore[arg-type]
            if scope != "unedited":
                now = accuracy(some)
                was = np.array([self._before[i] for i in index[rows].tolist()], dtype=bool)
                for metric, flipped in (("gained", now & ~was), ("lost", was & ~now)):
                    yield record(scope, probe, metric, int(flipped.sum()), len(rows), **at)  # type: ignore[arg-type]

    @classmethod
    def columns(cls, results: Results) -> list[Column]:
        """Penalties as differences of shares; see `text_shift_numbers`."""
        return text_shift_numbers.columns(results.records)


def statements_of(request: Request) -> tuple[str, ...]:
    """What an edit states, in its own prompt first, then in its rewordings."""
    prompts = (request.prompt, *(request.paraphrases if isinstance(request, TextRequest) else ()))
    return tuple(f"{prompt} {request.target}." for prompt in prompts)


def _shifted(
    examples: Sequence[Example], shift: str, severity: int, shifter: TextShifter, known: Mapping[str, Request]
) -> Iterator[Example]:
    """Questions under a shift; their answers stay."""
    for e in examples:
        request, text = known[e.group], str(e.x)
        subject = request.subject if request.subject and request.subject in text else None
        edit = statements_of(request) if shift == names.NEIGHBOUR_EDIT else ()
        shown = shifter(Prompt(text, subject, edit), shift, severity)
        yield Example(f"{e.id}/{shift}/{severity}", shown, e.choices, e.target, e.group)


def _check_length(examples: Sequence[Example], model: Any) -> None:
    """UserError where a shifted question leaves no room for its answer in what the model reads at once."""
    for e in sorted(examples, key=lambda e: len(e.x), reverse=True)[:32]:  # the longest by letters
        need = max(len(model.text.encode(f"{e.x}{choice}")) for choice in e.choices)
        if need > model.max_tokens:
            name, severity = e.id.split("/")[-2:]
            raise UserError(
                f"corruption.{name}: at severity {severity} a question takes {need} tokens, and {model.name} reads "
                f"{model.max_tokens}; leave out the upper severities: corruption.{name}=[1]"
            )


def _applies(probe: str, shift: str) -> bool:
    """An edit's statement before its own question would give the answer away."""
    return shift in names.OF_ANY_PROMPT or probe == "neighbourhood"
