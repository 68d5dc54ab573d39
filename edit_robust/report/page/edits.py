"""Every edit of a run on language: what it was about, what the model answered before and after, its warning signs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from edit_robust.core.signs import ENOUGH, Sign, known
from edit_robust.evaluate.collapse import STICKS_OUT
from edit_robust.figures.frame import RunData, rows
from edit_robust.report.numbers import amount, finite
from edit_robust.runs.reader import Run

MEASURE = "answers"
#: How the questions of each probe are called.
WORDS = {"edit": "the edit itself", "paraphrase": "put differently", "neighbourhood": "about a neighbour"}
BEFORE, AFTER, END = "before", "right after its edit", "at the end"
#: Moments with the scopes in which they are looked for; of one scope the latest point counts.
MOMENTS = ((BEFORE, ("unedited",)), (AFTER, ("at-edit",)), (END, ("final", "retention")))


@dataclass(frozen=True)
class Answer:
    """What the model thought of a question at one moment.

    right, other: probability of the right answer and of the other one, per token; NaN where there is none.
    prefers: whether the right one is the likelier.   says: whether it is what the model says by itself (argmax).
    """

    right: float
    other: float
    prefers: bool
    says: bool

    @property
    def text(self) -> str:
        against = "" if np.isnan(self.other) else f" / {chance(self.other)}"
        return f"{chance(self.right)}{against}"


@dataclass(frozen=True)
class Question:
    """kind: which probe, in words.   answers: one a moment of the table, None where it was not asked then."""

    kind: str
    text: str
    right: str
    other: str
    answers: tuple[Answer | None, ...]


@dataclass(frozen=True)
class Reading:
    """A warning sign of an edit. warns: it is beyond its line, or sticks out among the run's edits."""

    sign: Sign
    value: float
    median: float
    warns: bool

    @property
    def text(self) -> str:
        return amount(self.value, 2)

    @property
    def median_text(self) -> str:
        return amount(self.median, 2)


@dataclass(frozen=True)
class Edit:
    """number: in the order of the walk, from 1.   own: the edit's own question.   end: what became of it."""

    number: int
    request: str
    own: Question
    questions: tuple[Question, ...]
    readings: tuple[Reading, ...]
    end: str
    culprit: bool

    @property
    def warnings(self) -> int:
        return sum(reading.warns for reading in self.readings)

    def reading(self, sign: Sign) -> Reading | None:
        """The edit's reading of a sign."""
        return next((reading for reading in self.readings if reading.sign.key == sign.key), None)

    def kept(self, kind: str, moment: int) -> tuple[int, int]:
        """(questions of a kind that prefer the right answer at a moment, how many were asked)."""
        asked = [a for q in self.questions if q.kind == kind and (a := q.answers[moment]) is not None]
        return sum(a.prefers for a in asked), len(asked)


@dataclass(frozen=True)
class Edits:
    """moments: those that some question was asked at.   shown: of `total` edits those that the page has room for."""

    moments: tuple[str, ...]
    shown: tuple[Edit, ...]
    total: int

    @property
    def latest(self) -> int:
        """Number of the moment right after an edit, or the last one where there is no such moment."""
        return self.moments.index(AFTER) if AFTER in self.moments else len(self.moments) - 1

    @property
    def width(self) -> int:
        """Columns of the table of edits."""
        return 4 + len(self.moments) + len(self.kinds) + len(self.signs) + self.warned

    @property
    def warned(self) -> bool:
        """Whether any sign of any edit warns."""
        return any(edit.warnings for edit in self.shown)

    @property
    def signs(self) -> list[Sign]:
        """Those that have a column of their own: a guard watches them."""
        return [s for s in known({r.sign.key for edit in self.shown for r in edit.readings}) if s.guard]

    @property
    def kinds(self) -> list[str]:
        """Kinds of questions beside the edits' own."""
        found = {q.kind for edit in self.shown for q in edit.questions}
        return [word for word in WORDS.values() if word in found and word != WORDS["edit"]]


def examples_of(run: RunData) -> pd.DataFrame | None:
    """The run's questions, read once; None where it kept none."""
    if run.path is None or not (run.path / "examples.jsonl").is_file():
        return None
    found = Run(run.path).examples
    return found if len(found) else None


def edits_of(run: RunData, examples: pd.DataFrame | None, most: int) -> Edits | None:
    """The edits of a run whose questions and answers were kept, `most` of them at most; None where there are none.

    Where not all are shown: the one that broke the model, those that were refused, did not take or were forgotten,
    those whose signs warn, then the first ones.
    """
    if run.path is None or examples is None or not {"probe", "x", "choices", "target"} <= set(examples.columns):
        return None
    asked = examples[examples.measure == MEASURE] if "measure" in examples else examples
    asked = asked.reset_index(drop=True)
    if not (asked.probe == "edit").any():
        return None
    found = answered(Run(run.path), asked)
    asked = asked[asked.probe.isin(WORDS)]
    moments = tuple(name for name, _ in MOMENTS if any(a is not None for a in found[name]))
    signs, refused = readings(run), told_refused(run)
    edits = []
    for number, (request, rows_of) in enumerate(asked.groupby("group", sort=False).groups.items(), 1):
        questions = [question(asked.loc[i], [found[name][int(i)] for name in moments]) for i in rows_of]
        own = next((q for q in questions if q.kind == WORDS["edit"]), questions[0])
        own_signs = tuple(signs.get(str(request), ()))
        end = "refused" if str(request) in refused else became(own, moments)
        culprit = str(run.summary.get("culprit_id")) == str(request) and finite(run.summary, "culprit_edit") is not None
        edits.append(Edit(number, str(request), own, tuple(questions), own_signs, end, culprit))
    ranked = sorted(edits, key=lambda e: (not e.culprit, e.end in ("holds", "took", ""), -e.warnings, e.number))
    shown = sorted(ranked[:most], key=lambda edit: edit.number)
    return Edits(moments, tuple(shown), len(edits))


def answered(run: Run, asked: pd.DataFrame) -> dict[str, list[Answer | None]]:
    """Moment -> the answer to each question then; None where it was not asked."""
    out: dict[str, list[Answer | None]] = {name: [None] * len(asked) for name, _ in MOMENTS}
    targets = asked.target.to_numpy(dtype=int)
    place = dict.fromkeys(("final", "retention"), END) | {"unedited": BEFORE, "at-edit": AFTER}
    final: set[int] = set()
    for point in run.points:
        if float(point.get("alpha", 1.0)) > 1 + 1e-9:  # beyond the whole edit
            continue
        for scope, (index, logp, hits) in run.outcomes(int(point["step"])).items():
            for row, lp, hit in zip(index.tolist(), logp, hits, strict=True):
                if scope in place and row < len(asked) and not (scope == "retention" and row in final):
                    out[place[scope]][row] = one_answer(lp, hit, targets[row])
            final |= set(index.tolist()) if scope == "final" else set()
    return out


def one_answer(logp: np.ndarray, hits: np.ndarray, target: int) -> Answer:
    """From log-probabilities per token [k] and shares of argmax tokens [k] of the choices; the target is right."""
    right = float(np.exp(logp[target]))
    others = np.delete(logp, target)
    others = others[~np.isnan(others)]
    other = float(np.exp(others.max())) if len(others) else float("nan")
    says = bool(hits[target] >= 1)
    return Answer(right, other, right > other if len(others) else says, says)


def question(row: pd.Series, answers: Sequence[Answer | None]) -> Question:
    """A question as it is kept with the run, with what was answered."""
    choices, target = [str(c).strip() for c in row.choices], int(row.target)
    other = next((c for i, c in enumerate(choices) if i != target), "")
    return Question(WORDS[row.probe], str(row.x), choices[target], other, tuple(answers))


def became(own: Question, moments: Sequence[str]) -> str:
    """What became of an edit: it did not take, was forgotten (argmax), or holds; "" where nothing tells."""
    at = dict(zip(moments, own.answers, strict=True))
    after, end = at.get(AFTER), at.get(END)
    first = after or end
    if first is None:
        return ""
    if not first.prefers:
        return "did not take"
    if after is None or end is None:
        return "took"
    return "forgotten" if (after.says and not end.says) or not end.prefers else "holds"


def readings(run: RunData) -> dict[str, list[Reading]]:
    """Request -> its warning signs, the worst over layers, each beside the median over the run's edits."""
    found = rows(run, True, scope="at-edit")
    signs = known(set(found["metric"]))
    out: dict[str, list[Reading]] = {}
    for sign in signs:
        own = found[found["metric"] == sign.key]
        risk = own["value"].map(lambda value, sign=sign: sign.risk(float(value)))
        worst = own.assign(risk=risk).sort_values("risk", kind="stable").drop_duplicates("request", keep="last")
        median = float(worst["value"].abs().median())
        for request, value in zip(worst["request"], worst["value"], strict=True):
            warns = warned(sign, float(value), median, len(worst))
            out.setdefault(str(request), []).append(Reading(sign, float(value), median, warns))
    return out


def warned(sign: Sign, value: float, median: float, n: int) -> bool:
    """Whether a value is beyond the sign's own line, or several times as bad as the median of n edits."""
    beyond = sign.threshold is not None and sign.times is None and sign.passes(value, sign.threshold)
    return beyond or (n >= ENOUGH and sign.passes(value, sign.line(median, sign.times or STICKS_OUT)))


def told_refused(run: RunData) -> set[str]:
    """Requests whose edit was refused."""
    found = rows(run, True, scope="at-edit", metric="refused")
    return set(found[found["value"] > 0]["request"].astype(str))


def chance(p: float) -> str:
    """A probability in percent, never 0 % or 100 % unless it is."""
    if np.isnan(p):
        return "no number"
    if 0 < p < 0.0005:
        return "< 0.1 %"
    if 0.9995 < p < 1:
        return "> 99.9 %"
    return f"{100 * p:.1f} %"
