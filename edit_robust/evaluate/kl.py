"""How far the model's predictions have moved from the unedited model's, on text that nobody edited."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, cast

from edit_robust.core.data import Column
from edit_robust.core.errors import UserError
from edit_robust.evaluate.base import Measure, Measured, Needs, Results, Setting
from edit_robust.evaluate.statistics.walks import at_the_end

if TYPE_CHECKING:
    from torch import Tensor

    from edit_robust.tasks.base import HeldOut
    from edit_robust.trajectories import Point

#: Padded tokens whose predictions are held at once: with 50,000 words they take 0.2 GB in float64.
BUDGET = 512


class ReadsLogits(Protocol):
    """A language model that shows its predictions."""

    max_tokens: int

    @property
    def text(self) -> Any: ...

    def tokens(self, rows: Sequence[Sequence[int]]) -> Tensor: ...

    def batches(self, lengths: Sequence[int], budget: int | None = None) -> list[list[int]]: ...

    def logits_at(self, ids: Tensor, at: tuple[Tensor, Tensor]) -> Tensor: ...


class Kl(Measure):
    """D(p_unedited || p_edited) in nats, mean over the positions of the task's held-out text; and the share of the
    positions at which both models find the same next token likeliest.

    tokens: how much of the text is read, in tokens; the first document is always read.
    """

    needs = Needs(model=("logits_at", "tokens"), task=("held_out",))

    def __init__(self, tokens: int = 4096) -> None:
        if tokens < 1:
            raise UserError(f"measure.kl.tokens={tokens} must be at least 1")
        self.tokens = tokens

    def prepare(self, setting: Setting) -> None:
        super().prepare(setting)
        model, task = cast("ReadsLogits", setting.model), cast("HeldOut", setting.task)
        self._rows: list[list[int]] = []
        for text in task.held_out():
            ids = model.text.encode(text)[: model.max_tokens]
            if self._rows and sum(map(len, self._rows)) + len(ids) > self.tokens:
                break
            if len(ids) > 1:  # a single token predicts nothing that is there
                self._rows.append(ids)

    def at(self, point: Point, found: Mapping[str, Measured]) -> Measured:
        if not point.whole or not self._rows:
            return Measured()
        kl, same, n = self._compared()
        record = self.setting.recorder(point)
        return Measured([record("model", "text", "kl", kl, n), record("model", "text", "same_argmax", same, n)])

    def _compared(self) -> tuple[float, float, int]:
        """Mean divergence, share of equal first choices, and the number of positions."""
        import torch

        model, before = cast("ReadsLogits", self.setting.model), self.setting.before
        total, equal, n = 0.0, 0.0, 0
        with torch.no_grad():
            for batch in model.batches([len(row) for row in self._rows], BUDGET):
                rows = [self._rows[i] for i in batch]
                at = (
                    torch.tensor([b for b, row in enumerate(rows) for _ in row[1:]]),
                    torch.tensor([p for row in rows for p in range(len(row) - 1)]),
                )
                ids = model.tokens(rows)
                edited = model.logits_at(ids, at).double().log_softmax(-1)
                with self.setting.model.at(before):
                    unedited = model.logits_at(ids, at).double().log_softmax(-1)
                total += float((unedited.exp() * (unedited - edited)).sum())
                equal += float((unedited.argmax(-1) == edited.argmax(-1)).sum())
                n += len(edited)
        return total / n, equal / n, n

    @classmethod
    def columns(cls, results: Results) -> list[Column]:
        """kl and same_argmax_pct at the end of the walk (the mean over independent edits)."""
        text = results.records[(results.records.scope == "model") & (results.records.step > 0)]
        out = []
        for metric, key, label, unit, scale in (
            ("kl", "kl", "KL on plain text (nats per token)", "number", 1.0),
            ("same_argmax", "same_argmax_pct", "next words of plain text kept (argmax)", "percent", 100.0),
        ):
            found = text[text.metric == metric].value
            if len(found):
                value = scale * at_the_end(found, results.records)
                out.append(Column(key, value, label, unit=unit, short="KL" if key == "kl" else ""))  # type: ignore[arg-type]
        return out
