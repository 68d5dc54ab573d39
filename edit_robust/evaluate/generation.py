"""What an edited model writes: does it repeat itself, does it write as if the edit were true, is it still language?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol, cast

import numpy as np

from edit_robust.core.data import Column, Example, Record, Request, TextRequest
from edit_robust.core.errors import UserError, nearest
from edit_robust.evaluate.base import Measure, Measured, Needs, Recorder, Results, Setting
from edit_robust.evaluate.columns_language import MOMENTS
from edit_robust.evaluate.moments import asked, at_moments, check_number, watched
from edit_robust.evaluate.statistics.success import over_groups, perplexity
from edit_robust.evaluate.statistics.text import TfIdf, generation_entropy

if TYPE_CHECKING:
    from edit_robust.models.base import Generates, Scores
    from edit_robust.trajectories import Point

PROBE = "generation"
#: Metric without its mode, the summary's key, what it is in words, heading, whether it is a share.
NUMBERS = (
    ("entropy", "GE", "entropy of {} text (GE, bits)", "GE", False),
    ("reference_score", "RS", "{} text: like the new answer's (RS)", "RS", True),
    ("perplexity_unedited", "generated_perplexity", "{} text as the unedited model reads it", "", False),
    ("tokens", "generated_tokens", "", "", False),
    ("empty", "generated_empty", "{} texts that are empty", "", True),
)
MODES = ("sampled", "greedy")


class HeldOut(Protocol):
    """A task with ordinary text, whose words weigh in the reference score."""

    def held_out(self) -> list[str]: ...


@dataclass(frozen=True)
class Written:
    """Texts of one mode: each one's request, its prompt, what the model wrote after it, and how many tokens that is."""

    requests: tuple[int, ...]
    prompts: tuple[str, ...]
    texts: tuple[str, ...]
    tokens: tuple[int, ...]


class Generation(Measure):
    """n-gram entropy (GE) and reference score (RS) of text about each edit's subject, as CounterFact's paper has them.

    Text begins with the request's generation prompts, or its own prompt where it brings none. Every number is the mean
    over a request's texts, then over requests, and is told apart by how the text was made: `sampled` or `greedy`.

    modes:       ways of writing; `sampled` draws from the `top_k` likeliest tokens, seeded by the run's seed and the
                 prompt alone: the same draws at every point.
    tokens:      how long texts become.   counted: `total`: prompt and text together have so many tokens, and numbers
                 are about both, as ROME's code does it; `new`: the text alone.
    n_checked:   requests at most that are written about again later, evenly spaced; null: all.
    perplexity:  whether the unedited model reads what was written, too.

    RS is the TF-IDF cosine between a request's texts, joined, and its references, joined; words weigh by the held-out
    documents and all references of the run. An empty text counts: it has no token, and an entropy of 0.
    """

    needs = Needs(model=("write", "score"))

    def __init__(
        self,
        modes: list[str] | None = None,
        tokens: int = 100,
        counted: Literal["total", "new"] = "total",
        top_k: int = 5,
        n_checked: int | None = 100,
        perplexity: bool = False,
    ) -> None:
        self.modes = tuple(MODES if modes is None else modes)
        for mode in self.modes:
            if mode not in MODES:
                raise UserError(f"measure.generation.modes: there is no mode {mode!r}; {nearest(mode, MODES, 'modes')}")
        if not self.modes or len(set(self.modes)) != len(self.modes):
            raise UserError(f"measure.generation.modes={list(self.modes)} must name each mode once, at least one")
        for name, value in {"tokens": tokens, "top_k": top_k, "n_checked": n_checked}.items():
            check_number(f"generation.{name}", value)
        self.tokens, self.counted, self.top_k = tokens, counted, top_k
        self.n_checked, self.perplexity = n_checked, perplexity

    def prepare(self, setting: Setting) -> None:
        super().prepare(setting)
        self._prompts = [_prompts(r) for r in setting.requests]
        references = [r.references if isinstance(r, TextRequest) else () for r in setting.requests]
        self._references = [" ".join(some) for some in references]
        ordinary = cast("HeldOut", setting.task).held_out() if hasattr(setting.task, "held_out") else []
        documents = dict.fromkeys([*ordinary, *(text for some in references for text in some)])
        self._weights = TfIdf.of(documents) if any(self._references) else None
        self._again = watched(len(setting.requests), self.n_checked)

    def notes(self) -> Mapping[str, Any]:
        ends = "with its prompt" if self.counted == "total" else "behind its prompt"
        return {"generation": f"{', '.join(self.modes)}; {self.tokens} tokens {ends}, top-k {self.top_k} where sampled"}

    def at(self, point: Point, found: Mapping[str, Measured]) -> Measured:
        records: list[Record] = []
        arrays: dict[str, np.ndarray] = {}
        record = self.setting.recorder(point)
        for scope, requests in asked(point, self._again):
            for mode in self.modes:
                written = self._write(requests, mode)
                records += self._records(record, scope.name, mode, written)
                arrays[f"{scope.name}|{mode}|request"] = np.array(written.requests, dtype=np.int32)
                arrays[f"{scope.name}|{mode}|text"] = np.array(written.texts, dtype=np.str_)
        return Measured(records, arrays)

    def _write(self, requests: Sequence[int], mode: str) -> Written:
        """What the model as it stands writes about some requests."""
        model = cast("Generates", self.setting.model)
        who, prompts = zip(*((r, p) for r in requests for p in self._prompts[r]), strict=True)
        options: dict[str, Any] = {"max_length": self.tokens if self.counted == "total" else None}
        if mode == "sampled":
            options |= {"sample": True, "top_k": self.top_k, "generator": self.setting.work.generator()}
        found = model.write(prompts, self.tokens, **options)
        return Written(who, prompts, tuple(f.text for f in found), tuple(f.tokens for f in found))

    def _records(self, record: Recorder, scope: str, mode: str, written: Written) -> Iterator[Record]:
        """Means within a request, then over requests."""
        model = cast("Scores", self.setting.model)
        groups = [str(r) for r in written.requests]
        whole = [f"{p}{t}" for p, t in zip(written.prompts, written.texts, strict=True)]
        judged = whole if self.counted == "total" else list(written.texts)
        values = {
            "entropy": np.array([generation_entropy(t) for t in judged]),
            "tokens": np.array(written.tokens, dtype=float),
            "empty": np.array([not t.strip() for t in written.texts], dtype=float),
        }
        for name, each in values.items():
            yield record(scope, PROBE, f"{name}_{mode}", *over_groups(each, groups))
        scores = [s for r in dict.fromkeys(written.requests) if (s := self._score(r, judged, written)) is not None]
        if scores:
            yield record(scope, PROBE, f"reference_score_{mode}", float(np.mean(scores)), len(scores))
        examples = [
            Example(str(i), prompt, (text,))
            for i, (prompt, text) in enumerate(zip(written.prompts, written.texts, strict=True))
            if text.strip()
        ]
        if self.perplexity and examples:
            with self.setting.model.at(self.setting.before):
                value, n = perplexity(model.score(examples))
            yield record(scope, PROBE, f"perplexity_unedited_{mode}", value, n)

    def _score(self, request: int, judged: Sequence[str], written: Written) -> float | None:
        """RS of a request's texts; None where it brings nothing to compare them with."""
        if self._weights is None or not self._references[request]:
            return None
        mine = " ".join(t for r, t in zip(written.requests, judged, strict=True) if r == request)
        return self._weights.cosine(mine, self._references[request])

    @classmethod
    def columns(cls, results: Results) -> list[Column]:
        """GE in bits, RS and shares of empty texts in percent, by mode and moment; see NUMBERS for the keys."""
        out = []
        words = dict(MOMENTS)
        for mode in MODES:
            for metric, key, label, short, share in NUMBERS:
                found = at_moments(results.records, PROBE, f"{metric}_{mode}")
                if metric == "empty" and not any(found.values()):
                    continue
                for prefix, value in found.items():
                    heading = f"{short}, {mode}" if short and not prefix else ""
                    value, unit = (100 * value, "percent") if share else (value, "number")
                    name, text = f"{prefix}{key}_{mode}", label.format(mode)
                    out.append(Column(name, value, text, words[prefix], unit, short=heading, brief=not prefix))  # type: ignore[arg-type]
        return out


def _prompts(request: Request) -> tuple[str, ...]:
    """What text about a request begins with."""
    own = request.generation if isinstance(request, TextRequest) else ()
    return own or (request.prompt,)
