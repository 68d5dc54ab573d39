"""How a language model stands at this moment, in few numbers: what an autopsy looks at after single edits."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from edit_robust.core.data import Example, Probe, Request
from edit_robust.evaluate.answers import Questions
from edit_robust.evaluate.collapse import PERPLEXITY, SHARE
from edit_robust.evaluate.perplexity import documents
from edit_robust.evaluate.statistics.success import accuracy, over_groups, perplexity, success

if TYPE_CHECKING:
    from edit_robust.models.base import Model, Scores
    from edit_robust.tasks.base import HeldOut, Probes, Task

#: Of so many requests the neighbours are asked, spread evenly over the walk.
ASKED = 20


@dataclass(frozen=True)
class Standing:
    """perplexity: on the task's held-out text.   neighbours: share of the neighbouring facts that the model says by
    itself (NS_acc); NS: share of them that it prefers to the edit's new answer.   kept: share of the past edits asked
    about that it says by itself.   All None where the task has no such questions."""

    perplexity: float | None = None
    neighbours: float | None = None
    NS: float | None = None
    kept: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it: what is not finite is null."""
        return {k: v if v is not None and math.isfinite(v) else None for k, v in asdict(self).items()}


def harm(before: Standing, after: Standing) -> float:
    """What was lost between two standings, in units of what matters: the largest of the doublings of perplexity and of
    the quarters of neighbouring facts and of past edits. 1 and more is a break; below 0 nothing was lost."""
    found = [-math.inf]
    if before.perplexity is not None and after.perplexity is not None:
        worse = math.log(after.perplexity) if 0 < after.perplexity < math.inf else math.log(1e300)
        usual = math.log(before.perplexity) if 0 < before.perplexity < math.inf else math.log(1e300)
        found.append((worse - usual) / PERPLEXITY)
    for was, now in ((before.neighbours, after.neighbours), (before.kept, after.kept)):
        if was is not None and now is not None:
            found.append((was - now) / SHARE)
    return max(found)


class Observer:
    """Asks a model how it stands, at whichever weights it has; its questions are made ready once.

    changes: parameters that may change between two looks.   tokens: how much of the held-out text is read.
    """

    def __init__(
        self, model: Model, task: Task, requests: Sequence[Request], changes: Sequence[str], tokens: int
    ) -> None:
        self._scores = cast("Scores", model)
        some = {requests[round(i)].id for i in np.linspace(0, len(requests) - 1, min(ASKED, len(requests)))}
        texts = cast("HeldOut", task).held_out() if hasattr(task, "held_out") else ()
        self._text = self._made_ready(documents(self._scores, texts, tokens), changes)
        self.questions: Questions | None = None
        if hasattr(task, "probes"):
            probes = [p for p in cast("Probes", task).probes(requests) if p.name in ("edit", "neighbourhood")]
            self.questions = Questions(requests, [_only(p, some) for p in probes])
            self._asked = self._made_ready(self.questions.examples, changes)
        here, everyone = self.questions, range(len(requests))
        self._around = np.empty(0, dtype=int) if here is None else here.rows(everyone, ["neighbourhood"])

    def _made_ready(self, examples: Sequence[Example], changes: Sequence[str]) -> Any:
        return self._scores.scorer(examples, changes) if examples else None

    def look(self, past: Sequence[int] = ()) -> Standing:
        """How the model stands now."""
        value = perplexity(self._text.score())[0] if self._text is not None else None
        neighbours = NS = kept = None  # noqa: N806 - the metric's name
        if self.questions is not None:
            if len(self._around):
                scores = self._asked.score(self._around.tolist())
                groups = [self.questions.examples[i].group for i in self._around]
                neighbours, NS = over_groups(accuracy(scores), groups)[0], over_groups(success(scores), groups)[0]  # noqa: N806
            kept = self._kept(past)
        return Standing(value, neighbours, NS, kept)

    def _kept(self, past: Sequence[int]) -> float | None:
        right = self.right(past)
        return float(np.mean(right)) if len(right) else None

    def right(self, requests: Sequence[int]) -> list[bool]:
        """Whether the model says each request's new answer by itself, in their order; [] where nothing asks so."""
        if self.questions is None or not len(requests):
            return []
        rows = [self.questions.rows([r], ["edit"]) for r in requests]
        asked = np.concatenate(rows)
        if not len(asked):
            return []
        told = accuracy(self._asked.score(asked.tolist()))
        ends = np.cumsum([len(r) for r in rows])
        return [bool(told[end - len(r) : end].all()) for r, end in zip(rows, ends, strict=True)]


def _only(probe: Probe, some: set[str]) -> Probe:
    """Of the neighbourhood questions those about some requests; of the edits' own questions all."""
    return probe if probe.name == "edit" else Probe(probe.name, tuple(e for e in probe.examples if e.group in some))
