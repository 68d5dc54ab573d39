"""Parameters under training: those of half precision through copies in float32, others themselves.

A step of 5e-5 is less than half of the distance between neighbouring bfloat16 numbers around 0.02, and Adam's epsilon
of 1e-8 is zero in float16: trained in their own type, most weights would not move, or become NaN.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from edit_robust.core import Delta, Dense, Editable
from edit_robust.core.editable import Snapshot

HALF = (torch.float16, torch.bfloat16)


@dataclass(frozen=True)
class Masters:
    """What an optimiser moves: tensors shaped like the parameters, by parameter name.

    values: the parameter itself in float32 and float64 models, a float32 copy of a half-precision one.
    start:  what the values were before training.
    """

    model: Editable
    values: Mapping[str, Tensor]
    start: Mapping[str, Tensor]
    position: str

    @staticmethod
    def of(model: Editable, before: Snapshot) -> Masters:
        """Of the parameters in a snapshot of the model as it is now."""
        values, start = {}, {}
        for name, was in before.values.items():
            p, half = model.param(name), was.dtype in HALF
            start[name] = was.float() if half else was
            values[name] = start[name].clone().requires_grad_() if half else p
        return Masters(model, values, start, before.position)

    def take_gradients(self) -> None:
        """Give the copies the gradients of the parameters that they stand for."""
        for name, value in self.values.items():
            p = self.model.param(name)
            if value is not p and p.grad is not None:
                value.grad, p.grad = p.grad.float(), None

    @torch.no_grad()
    def write(self) -> None:
        """Round the copies into the parameters."""
        for name, value in self.values.items():
            p = self.model.param(name)
            if value is not p:
                p.copy_(value)

    def change(self) -> Delta:
        """What training has changed so far, not rounded to half precision: dense float32 matrices."""
        terms = {}
        for name, was in self.start.items():
            now = self.model.as_matrix(name, self.values[name].detach()).float()
            terms[name] = Dense((now - self.model.as_matrix(name, was).float()).contiguous())
        return Delta(terms, self.position)
