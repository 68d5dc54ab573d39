"""Perplexity on held-out text: what edits do to the model as a whole."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, cast

from edit_robust.core.data import Column, Example
from edit_robust.core.errors import UserError
from edit_robust.evaluate import columns_language as describe
from edit_robust.evaluate.base import Measure, Measured, Needs, Results, Setting
from edit_robust.evaluate.statistics.success import perplexity
from edit_robust.evaluate.statistics.walks import at_the_end

if TYPE_CHECKING:
    from edit_robust.models.base import Scores
    from edit_robust.tasks.base import HeldOut
    from edit_robust.trajectories import Point


def documents(model: Scores, texts: Iterable[str], tokens: int) -> list[Example]:
    """As many of the texts as have `tokens` tokens together, the first in any case, each to be read whole."""
    chosen: list[Example] = []
    used = 0
    for i, text in enumerate(texts):
        used += len(model.text.encode(text))
        if used > tokens and chosen:
            break
        chosen.append(Example(f"text/{i}", "", (text,)))
    return chosen


class Perplexity(Measure):
    """exp of the mean negative log-probability per token of the task's held-out text.

    tokens: how much of it is read, in tokens; the first document is always read.
    """

    needs = Needs(model=("scorer",), task=("held_out",))

    def __init__(self, tokens: int = 4096) -> None:
        if tokens < 1:
            raise UserError(f"text_tokens={tokens} must be at least 1")
        self.tokens = tokens

    def prepare(self, setting: Setting) -> None:
        super().prepare(setting)
        model, task = cast("Scores", setting.model), cast("HeldOut", setting.task)
        chosen = documents(model, task.held_out(), self.tokens)
        self._scorer = model.scorer(chosen, setting.changes) if chosen else None

    def at(self, point: Point, found: Mapping[str, Measured]) -> Measured:
        if not point.whole or self._scorer is None:
            return Measured()
        value, n = perplexity(self._scorer.score())
        return Measured([self.setting.recorder(point)("model", "text", "perplexity", value, n)])

    @classmethod
    def columns(cls, results: Results) -> list[Column]:
        """unedited_perplexity, and perplexity at the end of the walk (the mean over independent edits)."""
        text = results.records[results.records.metric == "perplexity"]
        text = text[text.scope == "model"]
        out: dict[str, float] = {}
        if len(text):
            before, later = text[text.step == 0].value, text[text.step > 0].value
            out = {"unedited_perplexity": float(before.iloc[0])} if len(before) else {}
            if len(later):
                out["perplexity"] = at_the_end(later, results.records)
        return describe.perplexity(out)
