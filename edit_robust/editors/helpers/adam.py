"""Adam for many runs side by side: each row is a run of its own, with its own learning rate and its own end.

torch.optim.Adam knows one learning rate a group and cannot let single rows of a tensor stand still.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

FIRST, SECOND, EPSILON = 0.9, 0.999, 1e-8


@dataclass
class Adam:
    """First and second moments of a tensor's gradient, whose first axis counts the runs.

    The two roundings are the same algorithm in other orders of arithmetic; results that were published with one are
    repeated bit for bit with it. `separate` divides by the bias corrections apart from each other, and makes new
    tensors; `fused` corrects the second moment under the root, and works in place.
    """

    first: Float[Tensor, "runs *shape"]
    second: Float[Tensor, "runs *shape"]
    rounding: Literal["separate", "fused"] = "separate"

    @staticmethod
    def like(values: Float[Tensor, "runs *shape"], rounding: Literal["separate", "fused"] = "separate") -> Adam:
        """No gradient has been seen yet."""
        return Adam(torch.zeros_like(values), torch.zeros_like(values), rounding)

    def move(
        self, gradient: Float[Tensor, "runs *shape"], step: int, lr: float | Tensor
    ) -> Float[Tensor, "runs *shape"]:
        """What to subtract from the values in step number `step` (from 1); `lr` is broadcast over the runs."""
        unbias_first, unbias_second = 1 - FIRST**step, 1 - SECOND**step
        if self.rounding == "fused":
            self.first.lerp_(gradient, 0.1)
            self.second.mul_(SECOND).addcmul_(gradient, gradient, value=0.001)
            root = (self.second / unbias_second).sqrt() + EPSILON
            return lr * (self.first / unbias_first) / root
        self.first = FIRST * self.first + 0.1 * gradient
        self.second = SECOND * self.second + 0.001 * gradient**2
        move = (lr / unbias_first) * self.first
        return move / (self.second.sqrt() / unbias_second**0.5 + EPSILON)

    def keep(self, runs: Tensor) -> None:
        """Go on with some of the runs: a mask or indices."""
        self.first, self.second = self.first[runs], self.second[runs]
